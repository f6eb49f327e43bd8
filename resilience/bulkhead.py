"""How many calls one dependency may have at once, and who waits how long for one of the others to end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from resilience.clock import Clock, SystemClock
from resilience.context import CallContext, Standing
from resilience.errors import AttemptTimedOut, BulkheadFull, DeadlineExceeded, Overloaded, Rejected, Throttled
from resilience.events import Broadcast, EventKind, Listener, ResilienceEvent
from resilience.fair_queue import FairQueue
from resilience.policy import Call, T

MEMORY = 50
"""Calls that the running means look back on, roughly."""
SHORT_HOLD = 0.5
"""Longest time that a dependency may have asked to be left alone for calls to wait for its end, seconds; else they are refused, so
that a fallback need not wait."""
ON_THE_WAY = 5.0
"""Longest time between the acceptance of a request and its first call, seconds; after that it is not expected any more."""


@dataclass(frozen=True, slots=True)
class BulkheadSettings:
    """Room for one dependency in one process.

    Args:
        limit: Most calls under way; where the limit adapts, that is the limit instead.
        queue: Most calls waiting for one of those to end; 0: none waits. Calls of requests under way wait whatever this says.
    """

    limit: int = 256
    queue: int = 256

    def __post_init__(self) -> None:
        if self.limit < 1 or self.queue < 0:
            raise ValueError(f"a bulkhead needs limit >= 1 and queue >= 0, not {self.limit} and {self.queue}")


class Limit(Protocol):
    """A number of calls at once that follows from what happens to them; instants are seconds of the bulkhead's clock."""

    @property
    def limit(self) -> int:
        """Calls at once, now."""
        ...

    @property
    def why(self) -> str:
        """Why it last moved."""
        ...

    def held_for(self, now: float) -> float:
        """Seconds for which the dependency asked to be left alone."""
        ...

    def began(self, now: float, active: int) -> int:
        """A call begins; with it `active` are under way. What becomes of it is told with the number that this returns."""
        ...

    def took(self, number: int, kind: tuple[bool, bool], seconds: float, now: float) -> None:
        """A call gave its result or its first output after so many seconds, or was given up as too slow."""
        ...

    def was_throttled(self, number: int, retry_after: float | None, now: float) -> None:
        """The dependency refused a call because there were too many."""
        ...

    def left(self, number: int, now: float, active: int, *, is_counted: bool) -> None:
        """A call is over; `active` are still under way. Whether one of the two above was told of it."""
        ...


class Bulkhead:
    """Bounds the calls under way and those that wait; who waits goes in the order of the calls' standing.

    Waiting spends the deadline. A call holds its place until it has returned, streams included. For one event loop.

    Args:
        dependency: Whose calls these are.
        settings: How many.
        adaptive: A limit that moves, instead of the one of the settings.
        clock: Measures how long calls take.
        listener: Hears of rejections and of changes of the limit.

    Raises:
        BulkheadFull: The queue is full too.
        Overloaded: A call that begins a request would have to wait longer than its deadline, or the dependency asked to be left alone.
        DeadlineExceeded: The deadline passed in the queue.
    """

    def __init__(
        self,
        dependency: str,
        settings: BulkheadSettings | None = None,
        *,
        adaptive: Limit | None = None,
        clock: Clock | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._dependency = dependency
        self._settings = settings or BulkheadSettings()
        self._adaptive = adaptive
        self._clock = clock or SystemClock()
        self._tell = Broadcast(listener)
        self._active = 0
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue()
        self._expected: dict[str, tuple[float, Standing]] = {}  # by request, in the order of their coming
        self._service = _Mean()
        self._continuing = _Mean()
        self._wake_up: asyncio.TimerHandle | None = None
        self._last_limit = self.limit

    @property
    def dependency(self) -> str:
        """Whose calls these are."""
        return self._dependency

    @property
    def limit(self) -> int:
        """Most calls under way, now."""
        return self._settings.limit if self._adaptive is None else self._adaptive.limit

    @property
    def active(self) -> int:
        """Calls under way."""
        return self._active

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return len(self._queue)

    @property
    def is_refusing(self) -> bool:
        """Whether the dependency asked to be left alone, and every call is refused until then."""
        return self._held() > SHORT_HOLD

    @property
    def expected(self) -> int:
        """Calls that were announced and have not come yet."""
        self._forget_expected()
        return len(self._expected)

    def expect(self, standing: Standing) -> None:
        """A request was accepted whose first call, of that standing, will be here soon; predictions count it from now on."""
        self._expected[standing.request] = (self._clock.monotonic() + ON_THE_WAY, standing)

    def expect_no_longer(self, request: str) -> None:
        """The call of that request has come, or will not come."""
        self._expected.pop(request, None)

    def is_next_of_its_tenant(self, standing: Standing) -> bool:
        """Whether nobody of the same priority and tenant waits or is expected who would go before a call of that standing."""
        self._forget_expected()
        mine = (standing.tenant, standing.priority)
        return not self._queue.has(standing) and all((other.tenant, other.priority) != mine for _, other in self._expected.values())

    def predicted_wait(self, standing: Standing, *, more: int = 0) -> float:
        """Seconds that a call of that standing would wait if it came now, from the time that recent calls have held their places.

        Args:
            standing: Where the call belongs in the queue.
            more: Further calls that would be served before it.
        """
        self._forget_expected()
        held = self._held()
        under_way, beginning = self._queue.ahead(standing, (other for _, other in self._expected.values()))
        rounds: float = under_way + beginning + more + 1 - max(0, self.limit - self._active)
        if rounds <= 0:
            return held
        if not standing.is_under_way and beginning:
            # Whoever begins makes further calls, and those go first: a part of all places is never offered to the queue.
            rounds += beginning * self._continuing.value / (1.0 - min(0.9, self._continuing.value))
        return held + rounds * self._service.value / self.limit

    async def execute(self, call: Call[T], ctx: CallContext) -> T:
        """Run the call as soon as there is room."""
        standing = ctx.standing
        self.expect_no_longer(standing.request)
        if self.is_refusing:
            self._refuse(Overloaded(ctx.operation, "it asked to be left alone", self._held()))
        if self._has_room() and not self._queue:
            self._active += 1
        else:
            self._check_queue(ctx)
            await self._wait(ctx)
        self._continuing.add(standing.is_under_way)
        begun = self._clock.monotonic()
        try:
            return await (call(ctx) if self._adaptive is None else self._watched(self._adaptive, call, ctx, begun))
        finally:
            self._active -= 1
            self._service.add(self._clock.monotonic() - begun)
            self._let_in()

    async def _watched(self, adaptive: Limit, call: Call[T], ctx: CallContext, begun: float) -> T:
        """The call, and how it went told to the limit: what counts is its first output, if it shows one before it ends."""
        number = adaptive.began(begun, self._active)
        is_counted = False

        def took(*, is_shown: bool) -> None:
            nonlocal is_counted
            if not is_counted:
                is_counted = True
                now = self._clock.monotonic()
                adaptive.took(number, (ctx.standing.is_under_way, is_shown), now - begun, now)

        stop_listening = ctx.output.on_start(partial(took, is_shown=True))
        try:
            result = await call(ctx)
            took(is_shown=False)
            return result
        except AttemptTimedOut:
            took(is_shown=False)
            raise
        except Throttled as exc:
            is_counted = True
            adaptive.was_throttled(number, exc.retry_after, self._clock.monotonic())
            raise
        finally:
            stop_listening()
            adaptive.left(number, self._clock.monotonic(), self._active - 1, is_counted=is_counted)
            if adaptive.limit != self._last_limit:
                fields = {"old": self._last_limit, "new": adaptive.limit, "why": adaptive.why}
                self._last_limit = adaptive.limit
                self._tell(ResilienceEvent(EventKind.LIMIT_CHANGED, ctx.operation, self._dependency, fields))

    def _check_queue(self, ctx: CallContext) -> None:
        """Refuse a call at once that could not be served; one of a request under way waits, since it goes before all new ones."""
        if ctx.standing.is_under_way:
            return
        if len(self._queue) >= self._settings.queue:
            self._refuse(BulkheadFull(ctx.operation, f"{self._active} calls under way and {len(self._queue)} waiting"))
        wait = self.predicted_wait(ctx.standing)
        if wait > ctx.deadline.remaining():
            self._refuse(Overloaded(ctx.operation, f"a place is free in {wait:.3g} s, and that is too late", wait))

    def _refuse(self, error: Rejected) -> None:
        self._tell(ResilienceEvent(EventKind.REJECTED, error.operation, self._dependency, {"why": error.code}))
        raise error

    async def _wait(self, ctx: CallContext) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put(waiter, ctx.standing)
        begun = self._clock.monotonic()
        self._let_in()
        left = ctx.deadline.remaining()
        try:
            async with asyncio.timeout(left):
                await waiter
            ctx.output.held_back += left - ctx.deadline.remaining()
        except BaseException as exc:
            if not self._queue.remove(waiter, ctx.standing) and not waiter.cancelled():
                # The place was handed over, but we were ended before we could take it.
                self._active -= 1
                self._let_in()
            if isinstance(exc, TimeoutError):
                raise DeadlineExceeded(ctx.operation) from exc
            raise
        seconds = self._clock.monotonic() - begun
        self._tell(ResilienceEvent(EventKind.WAITED, ctx.operation, self._dependency, {"seconds": seconds}))

    def _let_in(self) -> None:
        """Hand free places to those whose turn it is, so that nobody can overtake them."""
        while self._queue and self._has_room():
            waiter = self._queue.pop()
            if not waiter.done():
                self._active += 1
                waiter.set_result(None)
        if self._queue and self._held() and self._wake_up is None:
            self._wake_up = asyncio.get_running_loop().call_later(self._held(), self._hold_is_over)

    def _hold_is_over(self) -> None:
        self._wake_up = None
        self._let_in()

    def _has_room(self) -> bool:
        return self._active < self.limit and not self._held()

    def _held(self) -> float:
        return 0.0 if self._adaptive is None else self._adaptive.held_for(self._clock.monotonic())

    def _forget_expected(self) -> None:
        now = self._clock.monotonic()
        while self._expected and (oldest := next(iter(self._expected.items())))[1][0] <= now:
            del self._expected[oldest[0]]


class _Mean:
    """A running mean that forgets; 0 before the first value."""

    def __init__(self) -> None:
        self.value = 0.0
        self._count = 0

    def add(self, value: float) -> None:
        self._count = min(self._count + 1, MEMORY)
        self.value += (value - self.value) / self._count
