"""One attempt takes no longer than it may."""

import asyncio
from dataclasses import replace

import pytest

from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.errors import AttemptTimedOut, DeadlineExceeded
from resilience.events import EventKind, ResilienceEvent
from resilience.testing import fail_then_return
from resilience.timeout import AttemptTimeout
from tests.support.virtual_time import LoopClock


async def hang(ctx: CallContext) -> None:
    await asyncio.sleep(3600)


async def test_an_attempt_is_cancelled_when_its_time_is_up(ctx: CallContext):
    """After the seconds allowed the caller gets `AttemptTimedOut`, which says how many there were."""
    with pytest.raises(AttemptTimedOut, match="no result within 5 s") as caught:
        await AttemptTimeout(5).execute(hang, ctx)

    assert (caught.value.operation, caught.value.seconds) == ("model:gpt-x", 5)
    assert asyncio.get_running_loop().time() == pytest.approx(5)


async def test_a_deadline_that_comes_first_is_not_held_against_the_dependency(ctx: CallContext):
    """With less time left than an attempt may take, running out of it is `DeadlineExceeded`."""
    short = ctx.with_deadline(Deadline.after(2, LoopClock()))

    with pytest.raises(DeadlineExceeded) as caught:
        await AttemptTimeout(5).execute(hang, short)

    assert caught.value.operation == "model:gpt-x"
    assert asyncio.get_running_loop().time() == pytest.approx(2)


async def test_a_deadline_at_the_same_moment_is_not_held_against_the_dependency_either(ctx: CallContext):
    """With exactly as much time left as an attempt may take it is the deadline that ends it."""
    with pytest.raises(DeadlineExceeded):
        await AttemptTimeout(60).execute(hang, ctx)


async def test_nothing_starts_with_nothing_left(ctx: CallContext):
    """Time may run out between admission and attempt; the dependency is then not called."""
    call = fail_then_return(0, Exception(), "answer")
    await asyncio.sleep(60)

    with pytest.raises(DeadlineExceeded, match="model:gpt-x"):
        await AttemptTimeout(5).execute(call, ctx)

    assert call.attempts == 0


async def test_the_limit_ends_when_the_output_starts(ctx: CallContext):
    """A stream whose first token came in time may go on for longer than an attempt."""

    async def stream(ctx: CallContext) -> str:
        await asyncio.sleep(4)
        ctx.output.start()
        await asyncio.sleep(50)
        return "whole"

    assert await AttemptTimeout(5).execute(stream, ctx) == "whole"


async def test_a_started_output_still_ends_at_the_deadline(ctx: CallContext):
    """The stream's limit is the deadline, and missing it is not a timed out attempt."""

    async def stream(ctx: CallContext) -> None:
        ctx.output.start()
        await asyncio.sleep(3600)

    with pytest.raises(DeadlineExceeded):
        await AttemptTimeout(5).execute(stream, ctx)

    assert asyncio.get_running_loop().time() == pytest.approx(60)


async def test_a_stream_that_has_begun_is_bounded_by_its_ending(ctx: CallContext):
    """Which may be later than the deadline by which it had to begin."""
    ctx = replace(ctx, ending=Deadline.after(100.0, LoopClock()))

    async def stream(ctx: CallContext) -> None:
        ctx.output.start()
        await asyncio.sleep(3600)

    with pytest.raises(DeadlineExceeded):
        await AttemptTimeout(5).execute(stream, ctx)

    assert asyncio.get_running_loop().time() == pytest.approx(100)


async def test_a_call_that_begins_after_the_output_has_only_the_deadline(ctx: CallContext):
    """The second call of an operation whose reader already reads is not an attempt that may be given up."""
    ctx.output.start()

    with pytest.raises(DeadlineExceeded):
        await AttemptTimeout(5).execute(hang, ctx)

    assert asyncio.get_running_loop().time() == pytest.approx(60)


async def test_output_that_starts_while_the_attempt_is_being_cancelled_saves_nothing(ctx: CallContext):
    """The decision has fallen: the attempt timed out."""

    async def late(ctx: CallContext) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ctx.output.start()

    with pytest.raises(AttemptTimedOut):
        await AttemptTimeout(5).execute(late, ctx)


async def test_an_attempt_that_is_over_no_longer_listens(ctx: CallContext):
    """Output that starts after the attempt has ended touches nothing."""
    await AttemptTimeout(5).execute(fail_then_return(0, Exception(), "answer"), ctx)

    ctx.output.start()

    assert ctx.output.has_started


async def test_a_timeout_error_of_the_call_itself_passes_through(ctx: CallContext):
    """Only our own expiry is a timed out attempt."""
    with pytest.raises(TimeoutError, match="socket"):
        await AttemptTimeout(5).execute(fail_then_return(1, TimeoutError("socket"), None), ctx)


async def test_a_listener_hears_which_attempt_timed_out(ctx: CallContext, events: list[ResilienceEvent]):
    """One event, with the attempt's number and limit; none for a passed deadline."""
    policy = AttemptTimeout(5, dependency="model:openai/gpt-x", listener=events.append)

    with pytest.raises(AttemptTimedOut):
        await policy.execute(hang, ctx.with_attempt(2))
    with pytest.raises(DeadlineExceeded):
        await policy.execute(hang, ctx.with_deadline(Deadline.after(1, LoopClock())))

    fields = {"attempt": 2, "seconds": 5}
    assert events == [ResilienceEvent(EventKind.ATTEMPT_TIMED_OUT, "model:gpt-x", "model:openai/gpt-x", fields)]


async def test_without_a_name_its_events_name_no_dependency(ctx: CallContext, events: list[ResilienceEvent]):
    """The operation still says whose attempt it was."""
    with pytest.raises(AttemptTimedOut):
        await AttemptTimeout(5, listener=events.append).execute(hang, ctx)

    assert [(event.operation, event.dependency) for event in events] == [("model:gpt-x", "")]
