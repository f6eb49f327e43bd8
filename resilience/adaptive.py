"""How many calls at once a dependency can take, learned from how long they take.

A dependency that has as many calls as it can work on lets the next ones wait inside, so they take longer while no more of them
are answered. The number beyond which that begins is what is looked for here:

    ratio = how long calls take now / how long they take when none waits
    all in use, and ratio < 1.05       more: twice as many until the first time that it was too many, then a tenth more
    in use, and ratio > 1.15           perhaps too many: a probe

A **probe** lets fewer calls be under way, a third less or what the ratio says. If that made them quicker they had been waiting,
it was right, and another third goes; if not, none waits now: that is the measure from here on, and the last step is taken back.
So the limit never falls because calls have become slow, only because fewer at once are quicker: a provider that is slow today, or noisy
by nature, is not strangled. Now and then, while all is in use, a probe begins without a reason, since a measure may be wrong or old.
While this process has little CPU to spare nothing is learned: what waits then waits for us.

That a latency gradient finds the limit is the idea of Netflix's concurrency-limits (Gradient2) and of TCP Vegas; that the unqueued
time has to be looked for again and again, by using less for a moment, is that of TCP BBR (Cardwell et al., "BBR: Congestion-Based
Congestion Control", ACM Queue 14(5), 2016). ADR-0020.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from math import sqrt

from resilience.clock import OURS

FEWEST_SAMPLES, MOST_SAMPLES = 40, 300
"""Calls that are looked at together, within these bounds: as many as may be under way, and as many as the next number needs."""
ONE_ROUND = 100
"""Most of them that are wanted only because so many are under way at once."""
PRECISION = 0.05
"""Standard error that the mean of those calls should have, as a share of it: the steadier a dependency, the fewer calls are enough."""
ENOUGH_SAMPLES, LONGEST_WINDOW = 20, 20.0
"""Calls that are enough if no more have begun within so many seconds."""
FEWEST_OF_A_KIND = 5
"""Calls of one kind below which their time is not looked at."""
STRAGGLERS = 0.1
"""Share of the calls, the slowest ones, that are not waited for: a straggler says nothing of the others."""
TOLERATED, UNQUEUED = 1.15, 1.05
"""Ratios above which calls seem to wait inside the dependency, and below which none does; between them nothing changes."""
SEVERE = 1.5
"""Ratio that is believed at once; one between it and the tolerated one must be seen twice in a row."""
QUICKER = 0.7
"""Ratio below which the dependency has become quicker, so that the old measure is void."""
HELPED = 0.85
"""What a step of a probe must bring the calls' time to, as a share of that before, for them to have been waiting."""
ALL_WAITED = 1.1
"""With a third less at once it is two thirds if all that went had been waiting; up to so much more, the next step follows."""
PROBE_STEP, DEEPEST_STEP = 2 / 3, 1 / 4
"""What a step of a probe leaves of the limit, usually and at least."""
MEASURE_GAIN = 0.5
"""Weight of a probe's measure against the one before that it confirms."""
FIRST_PROBE, PROBE_EVERY = 5.0, 60.0
"""Seconds between two probes while the limit is used: at first, doubling up to the second number as long as they confirm the measure."""
IN_USE, MATTERS = 0.8, 0.25
"""Shares of the limit that must have been used for it to grow because all went well, and for it to be blamed if not."""
GROWTH = 1.1
"""Growth by window, once the limit has been too high for the first time."""
THROTTLED_SHARE = 0.15
"""Share of refusals for too many calls (429) in a window above which the limit is cut. Single ones are every provider's noise."""
FLOODED_SHARE, FLOODED_CALLS = 0.5, 3
"""Share and number of such refusals in a window after which a `Retry-After` is obeyed by all calls, not only by the refused one."""
LONGEST_HOLD = 5.0
"""Most seconds that a `Retry-After` keeps all calls away: what a provider says of a minute's quota is often more than is true."""


@dataclass(frozen=True, slots=True)
class AdaptiveSettings:
    """Bounds of a limit that adapts, in calls at once.

    Args:
        start: The limit before anything is known.
        minimum: Never fewer; too few to find out that there could be more is a trap.
        maximum: Never more.
    """

    start: int = 64
    minimum: int = 4
    maximum: int = 512

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.start <= self.maximum:
            raise ValueError(f"an adaptive limit needs 1 <= minimum <= start <= maximum, not {self.minimum}, {self.start}, {self.maximum}")


Means = Mapping[Hashable, float]


class AdaptiveLimit:
    """The number of calls that one dependency gets at once. Pure: it is told what happens and when.

    Instants are seconds of one monotonic clock. Calls of different kinds (long and short ones, whole answers and first tokens)
    are never compared with each other: each kind has its own measure, and the ratio is their mean, weighted by their numbers.

    Args:
        settings: Its bounds.
        cpu: CPU seconds that this process has used so far.
    """

    def __init__(self, settings: AdaptiveSettings | None = None, *, cpu: Callable[[], float] = lambda: 0.0) -> None:
        self._settings = settings or AdaptiveSettings()
        self._cpu = cpu
        self._limit = float(self._settings.start)
        self._measure: dict[Hashable, float] = {}
        self._has_been_too_high = self._was_too_slow = False
        self._noise = 0.0
        self._probe_wait = 0.0
        self._probed_at = float("-inf")
        self._probe: _Probe | None = None
        self._held_until = float("-inf")
        self._why = ""
        self._number = 0
        self._sample: _Sample | None = None
        self._open(0.0)

    @property
    def limit(self) -> int:
        """Calls at once, now."""
        return int(self._limit)

    @property
    def why(self) -> str:
        """Why the limit is what it is: `grown`, `queueing`, `probe`, `probed` or `throttled`; empty before it first moved."""
        return self._why

    def held_for(self, now: float) -> float:
        """Seconds for which the dependency asked to be left alone; 0: it did not."""
        return max(0.0, self._held_until - now)

    def began(self, now: float, active: int) -> int:
        """A call begins; with it `active` are under way.

        Returns:
            The number of the sample that it is part of; 0: of none. What becomes of it is told with that number.
        """
        sample = self._sample
        if sample is None or sample.is_full:
            return 0
        if sample.size == 0:
            sample.opened, sample.cpu = now, self._cpu()
        sample.began(active)
        wanted = max(FEWEST_SAMPLES, min(self.limit, ONE_ROUND), (self._noise / PRECISION) ** 2)
        is_late = now - sample.opened >= LONGEST_WINDOW
        sample.is_full = sample.size >= (ENOUGH_SAMPLES if is_late else min(MOST_SAMPLES, wanted))
        return sample.number

    def took(self, number: int, kind: Hashable, seconds: float, now: float) -> None:
        """A call gave its result or its first output after so many seconds, or was given up as too slow."""
        sample = self._of(number)
        if sample is not None:
            sample.times.setdefault(kind, []).append(seconds)
            self._close_if_done(sample, now)

    def was_throttled(self, number: int, retry_after: float | None, now: float) -> None:
        """A call was refused because there were too many (429), and told how many seconds to wait."""
        sample = self._of(number)
        if sample is None:
            return
        sample.throttled += 1
        if retry_after is not None and sample.throttled >= FLOODED_CALLS and sample.throttled >= sample.ended * FLOODED_SHARE:
            self._held_until = max(self._held_until, now + min(retry_after, LONGEST_HOLD))
        self._close_if_done(sample, now)

    def left(self, number: int, now: float, active: int, *, is_counted: bool) -> None:
        """A call is over, and `active` are still under way; unless it `is_counted`, it says nothing: an error, or the caller left."""
        sample = self._of(number)
        if sample is not None and not is_counted:
            sample.size -= 1
            self._close_if_done(sample, now)
        if self._sample is None and active <= self._limit:
            self._open(now)  # what was too many has left: from here on calls show what the new limit does

    def _of(self, number: int) -> _Sample | None:
        return self._sample if self._sample is not None and self._sample.number == number else None

    def _open(self, now: float) -> None:
        self._number += 1
        self._sample = _Sample(self._number, now)

    def _close_if_done(self, sample: _Sample, now: float) -> None:
        if not sample.is_full or sample.ended < sample.size * (1 - STRAGGLERS):
            return
        self._open(now)
        self._noise = sample.noise()
        throttled = sample.throttled / max(1, sample.ended)
        if throttled > THROTTLED_SHARE:
            self._probe = None
            self._has_been_too_high = True
            self._set(min(self._limit, sample.peak) * (1 - throttled / 2), "throttled", now)
        elif self._cpu() - sample.cpu >= OURS * (now - sample.opened) > 0.0:
            if self._probe is not None:
                probe, self._probe = self._probe, None
                self._set(probe.origin, "probed", now)
        elif self._probe is not None:
            self._judge(self._probe, sample, now)
        elif not self._measure:
            # A guess, and a low one, so that the first time that all is in use begins with a probe, which mends it.
            self._measure = {kind: sorted(sample.times[kind])[len(sample.times[kind]) // 10] for kind in sample.means()}
        else:
            self._adjust(sample, now)

    def _adjust(self, sample: _Sample, now: float) -> None:
        means, ratio = sample.means(), sample.ratio(self._measure)
        for kind in means.keys() - self._measure.keys():
            self._measure[kind] = means[kind] / ratio
        if ratio < QUICKER:
            self._measure = {**self._measure, **means}
        is_probe_due = now - self._probed_at >= self._probe_wait
        is_too_slow = ratio > TOLERATED and sample.peak >= self._limit * MATTERS
        was_too_slow, self._was_too_slow = self._was_too_slow, is_too_slow
        if is_too_slow:
            if was_too_slow or ratio > SEVERE:
                self._begin_probe(sample, ratio, now)
        elif sample.peak >= self._limit * IN_USE:
            if self._has_been_too_high and is_probe_due:
                self._begin_probe(sample, ratio, now)
            elif ratio <= UNQUEUED:
                self._set(max(self._limit + 1, self._limit * GROWTH) if self._has_been_too_high else self._limit * 2, "grown", now)

    def _begin_probe(self, sample: _Sample, ratio: float, now: float) -> None:
        self._was_too_slow = False
        used = min(self._limit, sample.peak)
        self._probe = _Probe(self._limit, ((used, sample.means()),))
        self._step_down(used * max(DEEPEST_STEP, PROBE_STEP * min(1.0, TOLERATED / ratio)), now)

    def _step_down(self, limit: float, now: float) -> None:
        self._set(limit, "probe", now)
        self._sample = None

    def _judge(self, probe: _Probe, sample: _Sample, now: float) -> None:
        """Go on if it helped; else this is how long calls take when none waits."""
        gain, step = sample.ratio(probe.before), self._limit / probe.limit
        if gain < HELPED:
            self._has_been_too_high = True
        if gain < min(HELPED, step * ALL_WAITED) and self._limit > self._settings.minimum:
            self._probe = probe.then(self._limit, sample.means())
            self._step_down(self._limit * PROBE_STEP, now)
            return
        change = sample.ratio(self._measure)
        is_confirmed = 1 / TOLERATED <= change <= TOLERATED
        has_helped = gain < HELPED or len(probe.steps) > 1
        # A kind that was too rare to be measured now follows with the next sample.
        self._measure = {
            kind: mean + (self._measure.get(kind, mean) - mean) * (1 - MEASURE_GAIN if is_confirmed else 0.0)
            for kind, mean in sample.means().items()
        }
        self._probe_wait = min(PROBE_EVERY, max(FIRST_PROBE, self._probe_wait * 2 if is_confirmed and not has_helped else 0.0))
        self._probed_at = now
        self._probe = None
        if has_helped:
            # So many of those that were under way were worked on, and the others waited.
            worked_on = max(limit / max(1.0, 1.0 / sample.ratio(before)) for limit, before in probe.steps)
            self._set(max(self._limit, worked_on), "probed", now)
        else:
            self._set(probe.origin, "probed", now)

    def _set(self, limit: float, why: str, now: float) -> None:
        bounded = min(float(self._settings.maximum), max(float(self._settings.minimum), limit))
        if bounded != self._limit:
            self._limit, self._why = bounded, why
            self._open(now)  # what is under way began under another limit, and says nothing of this one


@dataclass(slots=True)
class _Sample:
    """Calls that began one after the other: how many, how many were under way at most, and what became of them."""

    number: int
    opened: float
    cpu: float = 0.0
    size: int = 0
    peak: int = 0
    throttled: int = 0
    is_full: bool = False
    times: dict[Hashable, list[float]] = field(default_factory=dict)

    def began(self, active: int) -> None:
        self.size += 1
        self.peak = max(self.peak, active)

    @property
    def ended(self) -> int:
        """How many have ended."""
        return self.throttled + sum(map(len, self.times.values()))

    def means(self) -> Means:
        """How long each kind took."""
        return {kind: sum(times) / len(times) for kind, times in self.times.items() if len(times) >= FEWEST_OF_A_KIND}

    def noise(self) -> float:
        """How much calls of one kind differ: their standard deviation as a share of their mean."""
        means = self.means()
        squares = sum((seconds / mean - 1) ** 2 for kind, mean in means.items() if mean > 0 for seconds in self.times[kind])
        return sqrt(squares / max(1, sum(len(self.times[kind]) for kind in means)))

    def ratio(self, then: Means) -> float:
        """How much longer calls took than they did; 1.0 where they have no kind in common."""
        means = self.means()
        common = means.keys() & then.keys()
        total = sum(len(self.times[kind]) for kind in common)
        if not total:
            return 1.0
        return sum(len(self.times[kind]) * means[kind] / max(then[kind], 1e-9) for kind in common) / total


@dataclass(frozen=True, slots=True)
class _Probe:
    """A probe under way: the limit where it began; for each step how many were under way before it, and how long they took."""

    origin: float
    steps: tuple[tuple[float, Means], ...]

    @property
    def limit(self) -> float:
        """How many were under way before the last step."""
        return self.steps[-1][0]

    @property
    def before(self) -> Means:
        """How long they took."""
        return self.steps[-1][1]

    def then(self, limit: float, means: Means) -> _Probe:
        """With one more step."""
        return replace(self, steps=(*self.steps, (limit, means)))
