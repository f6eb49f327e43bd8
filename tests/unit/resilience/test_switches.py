"""Policies that are switched off are left out of every pipeline; what is left does its work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from resilience.context import CallContext
from resilience.errors import AttemptTimedOut, CircuitOpen, DeadlineExceeded, TransientError
from resilience.pipeline import Pipeline
from resilience.registry import PolicyName, PolicyRegistry, ResilienceSettings
from resilience.testing import fail_then_return
from tests.support.virtual_time import LoopClock

PIPELINES: dict[str, Callable[[PolicyRegistry], Pipeline]] = {
    "provider": lambda registry: registry.provider_pipeline("model:a", timeout=5),
    "specialist": lambda registry: registry.specialist_pipeline("billing_support", 5),
    "tool": lambda registry: registry.tool_pipeline("find_order", 5, is_idempotent=True),
}
EVERY = frozenset(PolicyName)


@pytest.fixture(params=PIPELINES)
def pipeline_without(request: pytest.FixtureRequest) -> Callable[..., Pipeline]:
    """Each of the pipelines, without the named policies."""

    def make(*off: PolicyName) -> Pipeline:
        registry = PolicyRegistry(ResilienceSettings(off=frozenset(off)), clock=LoopClock(), rng=Random(7))
        return PIPELINES[request.param](registry)

    return make


async def hang(ctx: CallContext) -> None:
    await asyncio.sleep(3600)


async def test_without_any_policy_a_pipeline_is_the_call_alone(ctx: CallContext, pipeline_without: Callable[..., Pipeline]):
    """One attempt, whose error and whose result come back unchanged, however late and however often."""
    pipeline = pipeline_without(*EVERY)
    error = TransientError("503")
    dead = fail_then_return(20, error, "answer")

    for attempts in range(1, 21):
        with pytest.raises(TransientError) as caught:
            await pipeline.execute(dead, ctx)
        assert (caught.value, dead.attempts) == (error, attempts)
    assert await pipeline.execute(dead, ctx) == "answer"
    await pipeline.execute(hang, ctx)
    assert asyncio.get_running_loop().time() >= 3600


async def test_the_deadline_alone_ends_what_hangs(ctx: CallContext, pipeline_without: Callable[..., Pipeline]):
    """Every pipeline keeps it by itself, whatever else is off."""
    with pytest.raises(DeadlineExceeded):
        await pipeline_without(*EVERY - {PolicyName.DEADLINE}).execute(hang, ctx)

    assert asyncio.get_running_loop().time() == pytest.approx(60)


async def test_the_timeout_alone_ends_an_attempt(ctx: CallContext, pipeline_without: Callable[..., Pipeline]):
    """After its own seconds."""
    with pytest.raises(AttemptTimedOut):
        await pipeline_without(*EVERY - {PolicyName.TIMEOUT}).execute(hang, ctx)

    assert asyncio.get_running_loop().time() == pytest.approx(5)


async def test_the_breaker_alone_opens(ctx: CallContext, pipeline_without: Callable[..., Pipeline]):
    """After five failures in a row."""
    pipeline = pipeline_without(*EVERY - {PolicyName.BREAKER})
    dead = fail_then_return(99, TransientError("503"), "")
    for _ in range(5):
        with pytest.raises(TransientError):
            await pipeline.execute(dead, ctx)

    with pytest.raises(CircuitOpen) as caught:
        await pipeline.execute(dead, ctx)

    assert caught.value.operation == "model:gpt-x"
    assert dead.attempts == 5


async def test_without_the_breaker_nothing_opens(ctx: CallContext, pipeline_without: Callable[..., Pipeline]):
    """However many calls fail, the next one is made."""
    pipeline = pipeline_without(PolicyName.BREAKER)
    dead = fail_then_return(99, TransientError("503"), "")
    for _ in range(20):
        with pytest.raises(TransientError):
            await pipeline.execute(dead, ctx)

    assert dead.attempts >= 20


async def test_without_retry_there_is_one_attempt(ctx: CallContext, pipeline_without: Callable[..., Pipeline]):
    """Also where three would be allowed."""
    dead = fail_then_return(99, TransientError("503"), "")

    with pytest.raises(TransientError):
        await pipeline_without(PolicyName.RETRY).execute(dead, ctx)

    assert dead.attempts == 1


@pytest.mark.parametrize("off", PolicyName)
async def test_a_good_call_does_not_notice(ctx: CallContext, pipeline_without: Callable[..., Pipeline], off: PolicyName):
    """Whichever policy is missing."""
    assert await pipeline_without(off).execute(fail_then_return(0, Exception(), "answer"), ctx) == "answer"
