"""How many calls one dependency may have at once."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from resilience.context import CallContext
from resilience.errors import BulkheadFull, DeadlineExceeded
from resilience.events import Broadcast, EventKind, Listener, ResilienceEvent
from resilience.policy import Call, T


@dataclass(frozen=True, slots=True)
class BulkheadSettings:
    """Room for one dependency in one process.

    Args:
        limit: Most calls under way.
        queue: Most calls waiting for one of those to end; 0: none waits.
    """

    limit: int = 256
    queue: int = 256

    def __post_init__(self) -> None:
        if self.limit < 1 or self.queue < 0:
            raise ValueError(f"a bulkhead needs limit >= 1 and queue >= 0, not {self.limit} and {self.queue}")


class Bulkhead:
    """Bounds the calls under way and those that wait, first come first served.

    Waiting spends the deadline. A call holds its place until it has returned, streams included. For one event loop.

    Args:
        dependency: Whose calls these are.
        settings: How many.
        listener: Hears of rejections.

    Raises:
        BulkheadFull: The queue is full too.
        DeadlineExceeded: The deadline passed in the queue.
    """

    def __init__(self, dependency: str, settings: BulkheadSettings | None = None, *, listener: Listener | None = None) -> None:
        self._dependency = dependency
        self._settings = settings or BulkheadSettings()
        self._tell = Broadcast(listener)
        self._active = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def dependency(self) -> str:
        """Whose calls these are."""
        return self._dependency

    @property
    def active(self) -> int:
        """Calls under way."""
        return self._active

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return len(self._waiters)

    async def execute(self, call: Call[T], ctx: CallContext) -> T:
        """Run the call as soon as there is room."""
        if self._active < self._settings.limit:
            self._active += 1
        elif len(self._waiters) < self._settings.queue:
            await self._queue(ctx)
        else:
            self._tell(ResilienceEvent(EventKind.REJECTED, ctx.operation, self._dependency, {"why": BulkheadFull.code}))
            raise BulkheadFull(ctx.operation, f"{self._active} calls under way and {len(self._waiters)} waiting")
        try:
            return await call(ctx)
        finally:
            self._leave()

    async def _queue(self, ctx: CallContext) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        left = ctx.deadline.remaining()
        try:
            async with asyncio.timeout(left):
                await waiter
            ctx.output.held_back += left - ctx.deadline.remaining()
        except BaseException as exc:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif not waiter.cancelled():  # the place was handed over, but we were ended before we could take it
                self._leave()
            if isinstance(exc, TimeoutError):
                raise DeadlineExceeded(ctx.operation) from exc
            raise

    def _leave(self) -> None:
        """Hand the place to the first that still waits, so that nobody can overtake; else give it back."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._active -= 1
