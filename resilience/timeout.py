"""Longest one attempt may take."""

from __future__ import annotations

import asyncio

from resilience.context import CallContext
from resilience.errors import AttemptTimedOut, DeadlineExceeded
from resilience.events import Broadcast, EventKind, Listener, ResilienceEvent
from resilience.policy import Call, T


class AttemptTimeout:
    """Bounds the wait of one attempt for its first output.

    Once `ctx.output` has started only the deadline bounds the attempt. A `TimeoutError` of the call itself passes through.

    Args:
        seconds: Longest one attempt may take.
        dependency: Name in events.
        listener: Hears of attempts that timed out.

    Raises:
        AttemptTimedOut: The attempt took longer than `seconds`.
        DeadlineExceeded: The deadline left less than `seconds`, and that is over. This says nothing about the dependency,
            so no breaker counts it.
    """

    def __init__(self, seconds: float, *, dependency: str = "", listener: Listener | None = None) -> None:
        self._seconds = seconds
        self._dependency = dependency
        self._tell = Broadcast(listener)

    async def execute(self, call: Call[T], ctx: CallContext) -> T:
        """Run one attempt."""
        left = ctx.due.remaining()
        if left <= 0.0:
            raise DeadlineExceeded(ctx.operation)
        is_deadline = left <= self._seconds or ctx.output.has_started

        def wait_for_the_deadline() -> None:
            nonlocal is_deadline
            if not scope.expired():
                is_deadline = True
                scope.reschedule(asyncio.get_running_loop().time() + ctx.due.remaining())

        stop_listening = ctx.output.on_start(wait_for_the_deadline)
        try:
            async with asyncio.timeout(left if is_deadline else self._seconds) as scope:
                return await call(ctx)
        except TimeoutError as exc:
            if not scope.expired():
                raise
            if is_deadline:
                raise DeadlineExceeded(ctx.operation) from exc
            fields = {"attempt": ctx.attempt, "seconds": self._seconds}
            self._tell(ResilienceEvent(EventKind.ATTEMPT_TIMED_OUT, ctx.operation, self._dependency, fields))
            raise AttemptTimedOut(ctx.operation, self._seconds) from exc
        finally:
            stop_listening()
