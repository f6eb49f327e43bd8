"""The stand-ins do what their users rely on."""

import asyncio

import pytest

from resilience.context import CallContext
from resilience.testing import FakeClock, fail_then_return


async def test_sleepers_wake_when_their_time_has_come():
    """Advancing wakes those that are due, earliest first, and leaves the others asleep."""
    clock = FakeClock()
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    tasks = [asyncio.create_task(sleeper(name, seconds)) for name, seconds in (("b", 2), ("a", 1), ("c", 10))]
    await asyncio.sleep(0)
    clock.advance(5)
    await asyncio.gather(tasks[0], tasks[1])

    assert woken == ["a", "b"]
    assert clock.monotonic() == 5
    clock.advance(5)
    await tasks[2]


async def test_a_cancelled_sleeper_disturbs_nobody():
    """Its time comes and nothing happens."""
    clock = FakeClock()
    task = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    clock.advance(2)

    assert clock.monotonic() == 2


async def test_sleeping_for_nothing_returns_at_once():
    """Zero seconds have always passed."""
    await FakeClock().sleep(0)


async def test_a_call_fails_as_often_as_told_and_then_returns(ctx: CallContext):
    """Attempts are counted, failed ones included."""
    call = fail_then_return(1, ValueError("once"), "answer")

    with pytest.raises(ValueError, match="once"):
        await call(ctx)

    assert await call(ctx) == "answer"
    assert await call(ctx) == "answer"
    assert call.attempts == 3
