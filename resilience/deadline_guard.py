"""The policy that keeps a call within its deadline."""

from __future__ import annotations

import asyncio

from resilience.context import CallContext
from resilience.errors import DeadlineExceeded
from resilience.policy import Call, T


class DeadlineGuard:
    """Starts nothing with nothing left, and ends the whole call at the deadline, or at `ctx.ending` if its output has begun by then.

    Raises:
        DeadlineExceeded: Nothing is left. A `TimeoutError` of the call itself passes through.
    """

    async def execute(self, call: Call[T], ctx: CallContext) -> T:
        """Run the call until the deadline."""
        left = ctx.due.remaining()
        if left <= 0.0:
            raise DeadlineExceeded(ctx.operation)

        def wait_for_the_ending() -> None:
            if not scope.expired():
                scope.reschedule(asyncio.get_running_loop().time() + ctx.due.remaining())

        stop_listening = ctx.output.on_start(wait_for_the_ending)
        try:
            async with asyncio.timeout(left) as scope:
                return await call(ctx)
        except TimeoutError as exc:
            if not scope.expired():
                raise
            raise DeadlineExceeded(ctx.operation) from exc
        finally:
            stop_listening()
