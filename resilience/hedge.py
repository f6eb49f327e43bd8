"""A second call beside one that is slower than usual."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

from resilience.clock import OURS, Clock, SystemClock
from resilience.context import CallContext
from resilience.events import Broadcast, EventKind, Listener, ResilienceEvent
from resilience.policy import Call, T
from resilience.quantile import RollingQuantile

LATE, LOOK_AGAIN = 0.01, 0.05
"""Seconds by which the timer of a second call may be late before this process itself is taken for what is slow, as it is if it used `OURS`
of a core meanwhile: then a second call would only be more of what it has too much of. And seconds until it is looked again whether it
still is."""


@dataclass(frozen=True, slots=True)
class HedgeSettings:
    """When a call is slow enough for a second one, and how many second calls there may be.

    Args:
        quantile: A call is slow when it takes longer than this share (0..1) of the recent ones.
        minimum_calls: Fewest recent calls for the quantile to mean anything.
        floor: Shortest wait before a second call, seconds: a dependency this quick has nothing to win.
        ratio: Second calls per call that succeeded, 0..1.
        burst: Most second calls that can be saved up.
        memory: How many calls are recent.
    """

    quantile: float = 0.95
    minimum_calls: int = 20
    floor: float = 0.05
    ratio: float = 0.05
    burst: float = 5.0
    memory: int = 256

    def __post_init__(self) -> None:
        if not (0.0 < self.quantile < 1.0 and 1 <= self.minimum_calls <= self.memory and self.floor >= 0.0):
            raise ValueError(f"a hedge needs 0 < quantile < 1, 1 <= minimum_calls <= memory and floor >= 0, not {self}")
        if not 0.0 <= self.ratio <= 1.0 or self.burst < 1.0:
            raise ValueError(f"a hedge needs 0 <= ratio <= 1 and burst >= 1, not {self}")


class Hedge:
    """Makes a read-only call a second time when the first is slow; who succeeds first wins, and the other is cancelled.

    The second begins once the first has taken longer than the quantile of this dependency's recent calls. If one fails the other is
    waited for; if both fail the first one's error is raised. Returns only when neither runs any more. Calls that are not read-only,
    further attempts of a retry (they have a budget of their own) and calls whose output has started are never made twice; nor is one
    whose deadline leaves less than a typical call takes, or that is slow because this process is. Cancelling the caller cancels both.

    Second calls are paid for by successes: each success earns `ratio` of one. So there are never more than that share of the calls, and
    a dependency that fails for everybody soon gets none.

    What counts as recent are first calls. One that succeeded counts with its time. One that was cancelled because the second won counts
    with the time until then: the truth is longer, but both are beyond the quantile, so its rank is right; without it the stragglers
    would vanish from the measure and the quantile would sink until ordinary calls were hedged. Second calls do not count, since only
    the quick ones among them are ever known; nor do failures and callers who left.

    One object per dependency, for one event loop.

    Args:
        settings: Its rules.
        clock: Measures calls.
        dependency: Name in events.
        listener: Hears of second calls and of their victories.

    Source: ADR-0018.
    """

    def __init__(
        self,
        settings: HedgeSettings | None = None,
        *,
        clock: Clock | None = None,
        dependency: str = "",
        listener: Listener | None = None,
    ) -> None:
        self._settings = settings = settings or HedgeSettings()
        self._clock = clock or SystemClock()
        self._dependency = dependency
        self._tell = Broadcast(listener)
        self._recent = RollingQuantile(settings.memory)
        self._earned = 0.0

    async def execute(self, call: Call[T], ctx: CallContext) -> T:
        """Run the call, twice if that may help."""
        if not ctx.is_read_only or ctx.attempt > 1:
            return await call(ctx)
        begun, used = self._clock.monotonic(), self._clock.cpu()
        after = self._patience(ctx)
        if after is None:
            result = await call(ctx)
            self._recent.add(self._clock.monotonic() - begun)
            self._earn()
            return result

        def is_ours() -> bool:
            return self._clock.cpu() - used >= OURS * (self._clock.monotonic() - begun) > 0.0

        def may_start() -> bool:
            if ctx.output.has_started or not self._pay():
                return False
            self._tell(ResilienceEvent(EventKind.HEDGE_STARTED, ctx.operation, self._dependency, {"after": after}))
            return True

        race = _Race(call, ctx, is_ours, may_start)
        result = await race.run(after)
        took = self._clock.monotonic() - begun
        self._earn()
        if race.first_succeeded or race.second_won:
            self._recent.add(took)
        if not race.first_succeeded:
            self._tell(ResilienceEvent(EventKind.HEDGE_WON, ctx.operation, self._dependency, {"after": took}))
        return result

    def _patience(self, ctx: CallContext) -> float | None:
        """Seconds until a second call would begin; None: there will be none."""
        if len(self._recent) < self._settings.minimum_calls:
            return None
        after = max(self._recent.at(self._settings.quantile), self._settings.floor)
        return after if after + self._recent.at(0.5) <= ctx.deadline.remaining() else None

    def _earn(self) -> None:
        self._earned = min(self._settings.burst, self._earned + self._settings.ratio)

    def _pay(self) -> bool:
        # The sum of twenty twentieths is a little less than one.
        if self._earned < 1.0 - 1e-9:
            return False
        self._earned -= 1.0
        return True


class _Race(Generic[T]):
    """One call that may be made twice.

    The first runs in the caller's own task, so that a call that is not slow costs a timer and nothing else; when the second wins, that
    task is cancelled and the cancellation taken back, as `asyncio.timeout` does it. The second has a task of its own, in a copy of the
    caller's context.

    Attributes:
        first_succeeded: Whether the result is the first one's.
        second_won: Whether the second was quicker than a first that was still running.

    Raises:
        Exception: The first one's error: it failed, and so did the second, if there was one.
    """

    def __init__(self, call: Call[T], ctx: CallContext, is_ours: Callable[[], bool], may_start: Callable[[], bool]) -> None:
        self._call = call
        self._ctx = ctx
        self._is_ours = is_ours
        self._may_start = may_start
        caller = asyncio.current_task()
        assert caller is not None  # coroutines run in tasks
        self._caller = caller
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle
        self._second: asyncio.Task[T] | None = None
        self._is_first_running = True
        self.first_succeeded = False
        self.second_won = False

    async def run(self, after: float) -> T:
        """The result of whichever succeeds first; the second may start after so many seconds."""
        cancelling = self._caller.cancelling()
        self._start_in(after)
        try:
            try:
                result = await self._call(self._ctx)
                self.first_succeeded = True
                return result
            finally:
                self._is_first_running = False
                self._timer.cancel()
                is_ours = self.second_won and self._caller.uncancel() <= cancelling
        except asyncio.CancelledError:
            if not is_ours:  # somebody else cancels us, perhaps as well
                raise
        except Exception:
            if not await self._second_succeeds():
                raise
        finally:
            if self._second is not None and not self._second.done():
                self._second.cancel()
                await asyncio.wait([self._second])
        assert self._second is not None  # it won, or has made up for the first
        return self._second.result()

    async def _second_succeeds(self) -> bool:
        if self._second is None:
            return False
        await asyncio.wait([self._second])
        return not self._second.cancelled() and self._second.exception() is None

    def _start_in(self, seconds: float) -> None:
        due = self._loop.time() + seconds
        self._timer = self._loop.call_at(due, self._start, due)

    def _start(self, due: float) -> None:
        if self._loop.time() > due + LATE or self._is_ours():
            self._start_in(LOOK_AGAIN)
        elif self._may_start():
            self._second = self._loop.create_task(self._again(), name=f"hedge of {self._ctx.operation}")
            self._second.add_done_callback(self._end)

    async def _again(self) -> T:
        return await self._call(self._ctx)

    def _end(self, second: asyncio.Task[T]) -> None:
        # Asking for the exception is also what keeps asyncio from complaining that nobody did.
        is_success = not second.cancelled() and second.exception() is None
        if is_success and self._is_first_running:
            self.second_won = True
            self._caller.cancel()
