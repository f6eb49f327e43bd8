"""A dependency that keeps failing, or keeps everybody waiting, is left alone for a while."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pybreaker

from resilience.breaker_rules import BreakerSettings, BreakerSnapshot, BreakerState, MovedBy
from resilience.clock import Clock, SystemClock
from resilience.context import CallContext, Output
from resilience.errors import CircuitOpen
from resilience.events import Broadcast, EventKind, Listener, ResilienceEvent, why
from resilience.policy import Call, T
from resilience.rolling import RollingCounts

__all__ = ["Breaker", "BreakerSettings", "BreakerSnapshot", "BreakerState", "MovedBy"]

_MAX_DOUBLINGS = 30
"""Beyond this the cap has long won, and the power would only grow."""


class Breaker:
    """Refuses calls while their dependency is ill, and finds out by a few probes when it is well again.

    Deciding costs microseconds and never waits. Results of calls admitted before the last change of state are ignored, and
    cancellation is neutral. For one event loop.

    Args:
        dependency: Whose breaker it is.
        settings: Its rules.
        clock: Measures calls, window and open time.
        rng: Source of the jitter.
        listener: Hears of transitions and rejections.

    Raises:
        CircuitOpen: Not admitted; `retry_after` is set while open and None where nobody can know.

    Source: ADR-0004 (why pybreaker's state machine, driven from outside), ADR-0017 (what processes tell each other).
    """

    def __init__(
        self,
        dependency: str,
        settings: BreakerSettings | None = None,
        *,
        clock: Clock | None = None,
        rng: Random | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._dependency = dependency
        self._settings = settings = settings or BreakerSettings()
        self._clock = clock or SystemClock()
        self._rng = rng or Random()
        self._tell = Broadcast(listener)
        self._machine = pybreaker.CircuitBreaker(
            fail_max=settings.consecutive_failures, success_threshold=settings.probes, throw_new_error_on_trip=False
        )
        self._recent = RollingCounts(settings.window)
        self._state = BreakerState.CLOSED
        self._by = MovedBy.HERE
        self._why = ""
        self._era = 0  # grows with every change of state; a call's result counts only in the era that admitted it
        self._moved_at = self._clock.monotonic()
        self._until = 0.0
        self._openings = 0
        self._probing = 0
        self._last_failure: str | None = None

    @property
    def dependency(self) -> str:
        """Whose breaker it is."""
        return self._dependency

    @property
    def state(self) -> BreakerState:
        """The state; open turns into half_open when a call arrives, not by itself: ask `is_admitting` before offering a dependency."""
        return self._state

    @property
    def is_admitting(self) -> bool:
        """Whether a call would be let through now."""
        if self._state is BreakerState.OPEN:
            return self.retry_in() <= 0.0
        if self._state is BreakerState.HALF_OPEN:
            return self._probing < self._settings.probes
        return self._state is BreakerState.CLOSED

    def retry_in(self) -> float:
        """Seconds until a probe may pass; 0.0 unless open."""
        if self._state is not BreakerState.OPEN:
            return 0.0
        return max(0.0, self._until - self._clock.monotonic())

    def snapshot(self) -> BreakerSnapshot:
        """How it stands now."""
        now = self._clock.monotonic()
        recent = self._recent.totals(now)
        return BreakerSnapshot(
            dependency=self._dependency,
            state=self._state,
            since=now - self._moved_at,
            by=self._by,
            why=self._why,
            is_admitting=self.is_admitting,
            consecutive_failures=self._machine.fail_counter,
            recent_calls=recent.calls,
            recent_failures=recent.failures,
            recent_slow=recent.slow,
            retry_in=self.retry_in(),
            openings=self._openings,
            last_failure=self._last_failure,
        )

    def isolate(self) -> None:
        """Refuse every call until `release`."""
        self._isolate(MovedBy.HAND, "by_hand")

    def release(self) -> None:
        """Let calls through again, whether isolated, open or half_open, and forget how often it has opened."""
        self._close(MovedBy.HAND, "by_hand", 0)

    def adopt(self, state: BreakerState, *, seconds: float = 0.0, openings: int = 0, reason: str = "") -> None:
        """Go where another process of the fleet has gone.

        Args:
            state: Closed, open or isolated. Half open is each process's own: nothing happens.
            seconds: For how much longer an open breaker refuses; none left: nothing happens.
            openings: How many openings in a row the other has counted.
            reason: Why the other moved.
        """
        if state is BreakerState.ISOLATED:
            self._isolate(MovedBy.FLEET, reason)
        elif state is BreakerState.CLOSED:
            self._close(MovedBy.FLEET, reason, openings)
        elif state is BreakerState.OPEN and seconds > 0.0:
            self._openings = openings
            self._until = self._clock.monotonic() + self._jittered(min(seconds, self._settings.open_time_cap))
            if self._state is not BreakerState.OPEN:
                self._machine.open()
                self._move(BreakerState.OPEN, self._dependency, reason, MovedBy.FLEET)

    async def execute(self, call: Call[T], ctx: CallContext) -> T:
        """Run the call if it is admitted, and learn from how it ends."""
        era = self._admit(ctx)
        limit = self._settings.slow_call
        watch = _Stopwatch(self._clock, ctx.output, limit) if limit is not None else None
        try:
            result = await call(ctx)
        except Exception as exc:
            if era == self._era and self._settings.counts(exc):
                self._fail(exc, ctx)
            raise
        else:
            if era == self._era:
                self._succeed(ctx, is_slow=watch is not None and watch.is_over())
            return result
        finally:
            if watch is not None:
                watch.stop()
            if era == self._era and self._state is BreakerState.HALF_OPEN:
                self._probing -= 1

    def _admit(self, ctx: CallContext) -> int:
        if self._state is not BreakerState.CLOSED:
            if not self.is_admitting:
                self._tell(ResilienceEvent(EventKind.REJECTED, ctx.operation, self._dependency, {"why": CircuitOpen.code}))
                raise CircuitOpen(ctx.operation, f"breaker of {self._dependency} is {self._state}", self.retry_in() or None)
            if self._state is BreakerState.OPEN:
                self._machine.half_open()
                self._move(BreakerState.HALF_OPEN, ctx.operation, "open_time_over")
            self._probing += 1
        return self._era

    def _succeed(self, ctx: CallContext, *, is_slow: bool) -> None:
        if is_slow and self._state is BreakerState.HALF_OPEN:
            return  # neither well nor ill: the place is free for another probe
        now = self._clock.monotonic()
        self._recent.add(now, is_slow=is_slow)
        self._machine.call(_nothing)
        if is_slow:
            recent = self._recent.totals(now)
            if recent.calls >= self._settings.minimum_calls and recent.slow >= self._settings.slow_rate * recent.calls:
                self._machine.open()
        self._follow(ctx, "too_slow" if is_slow else "probes_succeeded")

    def _fail(self, error: Exception, ctx: CallContext) -> None:
        self._last_failure = why(error)
        now = self._clock.monotonic()
        self._recent.add(now, is_failure=True)
        # pybreaker gets an error of ours, so that the caller's keeps its own traceback.
        with suppress(_Failure):
            self._machine.call(_fail)
        recent = self._recent.totals(now)
        if recent.calls >= self._settings.minimum_calls and recent.failures >= self._settings.failure_rate * recent.calls:
            self._machine.open()
        self._follow(ctx, self._last_failure)

    def _follow(self, ctx: CallContext, reason: str) -> None:
        state = _STATES[self._machine.current_state]
        if state is self._state:
            return
        if state is BreakerState.OPEN:
            now = self._clock.monotonic()
            is_forgotten = self._state is BreakerState.CLOSED and now - self._moved_at >= self._open_time()
            self._openings = 1 if is_forgotten else self._openings + 1
            self._until = now + self._jittered(self._open_time())
        self._move(state, ctx.operation, reason)

    def _open_time(self) -> float:
        """How long it refuses at this number of openings in a row, seconds, before jitter."""
        doublings = min(max(0, self._openings - 1), _MAX_DOUBLINGS)
        return min(self._settings.open_time_cap, self._settings.open_time * 2.0**doublings)

    def _jittered(self, seconds: float) -> float:
        return seconds * (1.0 - self._settings.jitter * self._rng.random())

    def _isolate(self, by: MovedBy, reason: str) -> None:
        if self._state is not BreakerState.ISOLATED:
            self._machine.open()
            self._move(BreakerState.ISOLATED, self._dependency, reason, by)

    def _close(self, by: MovedBy, reason: str, openings: int) -> None:
        self._openings = openings
        if self._state is not BreakerState.CLOSED:
            self._machine.close()
            self._move(BreakerState.CLOSED, self._dependency, reason, by)

    def _move(self, state: BreakerState, operation: str, reason: str, by: MovedBy = MovedBy.HERE) -> None:
        old, self._state = self._state, state
        self._by, self._why = by, reason
        self._era += 1
        self._probing = 0
        self._moved_at = self._clock.monotonic()
        if state is BreakerState.CLOSED:
            self._recent = RollingCounts(self._settings.window)
        fields = {"old": old.value, "new": state.value, "retry_in": self.retry_in(), "why": reason, "by": by.value}
        self._tell(ResilienceEvent(EventKind.BREAKER_TRANSITION, operation, self._dependency, fields))


class _Stopwatch:
    """Measures whether a call takes `limit` seconds to its first output, queues of ours left out."""

    __slots__ = ("_begun", "_clock", "_first", "_held_back", "_limit", "_output", "stop")

    def __init__(self, clock: Clock, output: Output, limit: float) -> None:
        self._clock = clock
        self._limit = limit
        self._output = output
        self._held_back = output.held_back
        self._first: float | None = None
        self.stop = output.on_start(self._mark)
        self._begun = clock.monotonic()

    def _mark(self) -> None:
        self._first = self._clock.monotonic()

    def is_over(self) -> bool:
        """Whether it took as long, until its first output, else until now."""
        end = self._first if self._first is not None else self._clock.monotonic()
        return end - self._begun - (self._output.held_back - self._held_back) >= self._limit


_STATES = {
    pybreaker.STATE_CLOSED: BreakerState.CLOSED,
    pybreaker.STATE_OPEN: BreakerState.OPEN,
    pybreaker.STATE_HALF_OPEN: BreakerState.HALF_OPEN,
}


class _Failure(Exception):
    """What pybreaker is shown of a failure."""


def _nothing() -> None:
    """What pybreaker is shown of a success."""


def _fail() -> None:
    raise _Failure
