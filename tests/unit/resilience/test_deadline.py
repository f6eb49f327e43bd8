"""One instant, and the guard that keeps a call within it."""

import asyncio
from dataclasses import replace

import pytest

from resilience.clock import SystemClock
from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.deadline_guard import DeadlineGuard
from resilience.errors import DeadlineExceeded
from resilience.testing import FakeClock, fail_then_return
from tests.support.virtual_time import LoopClock


def test_a_deadline_is_spent_by_time_and_never_negative():
    """What is left shrinks with the clock and ends at nothing."""
    clock = FakeClock()
    deadline = Deadline.after(10, clock)

    clock.advance(4)
    assert deadline.remaining() == 6
    clock.advance(7)

    assert deadline.remaining() == 0
    assert deadline.is_over


def test_reserving_leaves_a_share_of_what_is_left_now():
    """A fifth of the eight seconds left is kept for plan B."""
    clock = FakeClock()
    deadline = Deadline.after(10, clock)
    clock.advance(2)

    assert deadline.reserving(0.25).remaining() == 6


def test_without_a_clock_the_machine_tells_the_time():
    """The default clock is the monotonic one of the machine."""
    assert 59 < Deadline.after(60).remaining() <= 60


async def test_the_clock_of_the_machine_sleeps_in_the_loop():
    """Sleeping on it is sleeping in the event loop."""
    before = asyncio.get_running_loop().time()

    await SystemClock().sleep(5)

    assert asyncio.get_running_loop().time() - before == pytest.approx(5)


async def test_nothing_starts_with_nothing_left(ctx: CallContext):
    """A call whose deadline has passed never reaches the dependency."""
    call = fail_then_return(0, Exception(), "answer")
    await asyncio.sleep(60)

    with pytest.raises(DeadlineExceeded, match="model:gpt-x: the deadline has passed"):
        await DeadlineGuard().execute(call, ctx)

    assert call.attempts == 0


async def test_a_call_ends_at_the_deadline(ctx: CallContext):
    """The dependency is cancelled at the instant, not later."""

    async def hang(ctx: CallContext) -> None:
        await asyncio.sleep(3600)

    with pytest.raises(DeadlineExceeded, match="model:gpt-x: the deadline has passed"):
        await DeadlineGuard().execute(hang, ctx)

    assert asyncio.get_running_loop().time() == pytest.approx(60)


async def test_a_call_ends_at_the_deadline_though_its_output_has_started(ctx: CallContext):
    """A stream is not exempt from the deadline."""

    async def stream(ctx: CallContext) -> None:
        ctx.output.start()
        await asyncio.sleep(3600)

    with pytest.raises(DeadlineExceeded):
        await DeadlineGuard().execute(stream, ctx)


async def test_output_that_began_in_time_may_flow_until_its_ending(ctx: CallContext):
    """The deadline bounds the wait for its beginning; whoever comes later in the same operation has the ending too."""
    ctx = replace(ctx, ending=Deadline.after(100.0, LoopClock()))

    async def stream(ctx: CallContext) -> None:
        await asyncio.sleep(59)
        ctx.output.start()
        await asyncio.sleep(3600)

    with pytest.raises(DeadlineExceeded):
        await DeadlineGuard().execute(stream, ctx)
    assert asyncio.get_running_loop().time() == pytest.approx(100)
    with pytest.raises(DeadlineExceeded):
        await DeadlineGuard().execute(stream, ctx)


async def test_output_that_does_not_begin_has_only_the_deadline(ctx: CallContext):
    """An ending is no second deadline, and output that begins while the call is being cancelled saves nothing."""

    async def late(ctx: CallContext) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ctx.output.start()

    with pytest.raises(DeadlineExceeded):
        await DeadlineGuard().execute(late, replace(ctx, ending=Deadline.after(100.0, LoopClock())))
    assert asyncio.get_running_loop().time() == pytest.approx(60)


async def test_a_call_in_time_is_left_alone(ctx: CallContext):
    """Its result comes back unchanged."""
    assert await DeadlineGuard().execute(fail_then_return(0, Exception(), "answer"), ctx) == "answer"


async def test_a_timeout_error_of_the_call_itself_passes_through(ctx: CallContext):
    """Only our own expiry is a passed deadline."""
    with pytest.raises(TimeoutError, match="socket"):
        await DeadlineGuard().execute(fail_then_return(1, TimeoutError("socket"), None), ctx)


async def test_cancellation_passes_through(ctx: CallContext):
    """A cancelled call is cancelled, not late."""

    async def hang(ctx: CallContext) -> None:
        await asyncio.sleep(3600)

    task = asyncio.create_task(DeadlineGuard().execute(hang, ctx))
    await asyncio.sleep(1)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


def test_within_is_the_earlier_of_two_deadlines():
    """Time can be taken away, never added."""
    deadline = Deadline.after(10, FakeClock())

    assert deadline.within(4).remaining() == 4
    assert deadline.within(40).remaining() == 10
