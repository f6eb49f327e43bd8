"""A breaker under calls whose ends the test decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from resilience.breaker import Breaker, BreakerState
from resilience.context import CallContext
from resilience.errors import BulkheadFull, CircuitOpen, DeadlineExceeded, PermanentError, Throttled, TransientError
from resilience.testing import ScriptedCall, fail_then_return

ILL = TransientError("503")
NEUTRAL = [
    Throttled("429", retry_after=1),
    PermanentError("400"),
    DeadlineExceeded("model:gpt-x"),
    BulkheadFull("model:gpt-x", "full"),
    ValueError("a bug"),
]
MakeBreaker = Callable[..., Breaker]


async def play(breaker: Breaker, ctx: CallContext, *outcomes: Exception | None) -> None:
    """One call after the other: None succeeds, an error is raised."""
    for outcome in outcomes:
        running = breaker.execute(ScriptedCall([outcome] if outcome else [], "answer"), ctx)
        if outcome is None:
            assert await running == "answer"
        else:
            with pytest.raises(type(outcome)) as caught:
                await running
            assert caught.value is outcome, "the breaker must hand the call's own error on"


async def opened(make: MakeBreaker, ctx: CallContext, **settings) -> Breaker:
    breaker = make(**settings)
    await play(breaker, ctx, *[ILL] * 5)
    assert breaker.state is BreakerState.OPEN
    return breaker


async def refused(breaker: Breaker, ctx: CallContext) -> CircuitOpen:
    call = fail_then_return(0, Exception(), "answer")
    with pytest.raises(CircuitOpen) as caught:
        await breaker.execute(call, ctx)
    assert call.attempts == 0
    return caught.value


class Running:
    """A call under way whose end the test decides."""

    def __init__(self, breaker: Breaker, ctx: CallContext) -> None:
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(breaker.execute(self._call, ctx))

    async def _call(self, ctx: CallContext) -> str:
        return await self.end

    async def fail(self, error: Exception) -> None:
        self.end.set_exception(error)
        with pytest.raises(type(error)):
            await self.task

    async def succeed(self) -> None:
        self.end.set_result("answer")
        assert await self.task == "answer"

    async def cancel(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task


async def under_way(breaker: Breaker, ctx: CallContext) -> Running:
    running = Running(breaker, ctx)
    await asyncio.sleep(0)
    return running
