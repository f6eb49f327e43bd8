"""The loop that the other tests of this folder trust."""

import asyncio
import time

import pytest

from tests.support.virtual_time import LoopClock, VirtualTimeLoop


async def test_an_hour_of_sleep_takes_no_real_time():
    """Sleeping moves the loop's time exactly, and the wall's hardly at all."""
    began = time.monotonic()

    await asyncio.sleep(3600)

    assert asyncio.get_running_loop().time() == pytest.approx(3600)
    assert time.monotonic() - began < 5


async def test_timers_fire_in_their_order():
    """Whoever sleeps shorter wakes first, with the time it asked for."""
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await LoopClock().sleep(seconds)
        woken.append((name, LoopClock().monotonic()))

    await asyncio.gather(sleeper("late", 5), sleeper("early", 1), sleeper("middle", 3))

    assert woken == [("early", pytest.approx(1)), ("middle", pytest.approx(3)), ("late", pytest.approx(5))]


async def test_a_timeout_fires_before_a_longer_sleep():
    """`asyncio.timeout` lives in the same time."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await asyncio.sleep(11)

    assert asyncio.get_running_loop().time() == pytest.approx(10)


async def test_a_thread_can_still_wake_the_loop():
    """Waiting for a thread with no timer set is not mistaken for a deadlock."""
    assert await asyncio.to_thread(lambda: "done") == "done"


def test_every_loop_starts_at_zero():
    """No test sees the time of another."""
    loop = VirtualTimeLoop()
    try:
        assert loop.time() == 0.0
    finally:
        loop.close()


def test_waiting_for_what_cannot_happen_raises():
    """A test that would hang fails instead."""
    loop = VirtualTimeLoop(patience=0.01)
    never = loop.create_future()
    try:
        with pytest.raises(RuntimeError, match="nothing will ever happen"):
            loop.run_until_complete(never)
    finally:
        loop.close()
