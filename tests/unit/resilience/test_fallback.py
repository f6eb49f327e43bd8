"""Something else instead, while that still helps."""

import asyncio

import pytest

from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.deadline_guard import DeadlineGuard
from resilience.errors import CircuitOpen, DeadlineExceeded, PermanentError, TransientError
from resilience.events import EventKind, ResilienceEvent
from resilience.fallback import Alternative, Fallback
from resilience.testing import ScriptedCall, fail_then_return
from tests.support.virtual_time import LoopClock


@pytest.mark.parametrize(
    "error",
    [TransientError("503"), PermanentError("400"), CircuitOpen("model:gpt-x", "open"), DeadlineExceeded("model:gpt-x")],
    ids=lambda error: type(error).__name__,
)
async def test_the_alternative_answers_when_the_first_choice_fails(ctx: CallContext, error: Exception):
    """Any error of a policy or a dependency leads to the alternative, which is told its own name."""
    smaller = fail_then_return(0, Exception(), "smaller answer")

    result = await Fallback(Alternative("model:gpt-mini", smaller)).execute(fail_then_return(1, error, "answer"), ctx)

    assert result == "smaller answer"
    assert smaller.contexts[0].operation == "model:gpt-mini"


async def test_a_first_choice_that_works_is_the_only_one_called(ctx: CallContext):
    """The alternative costs nothing while it is not needed."""
    smaller = fail_then_return(0, Exception(), "smaller answer")

    assert await Fallback(Alternative("model:gpt-mini", smaller)).execute(fail_then_return(0, Exception(), "answer"), ctx) == "answer"
    assert smaller.attempts == 0


async def test_a_bug_leads_to_no_alternative(ctx: CallContext):
    """Only named errors do."""
    smaller = fail_then_return(0, Exception(), "smaller answer")

    with pytest.raises(ValueError, match="a bug"):
        await Fallback(Alternative("model:gpt-mini", smaller)).execute(fail_then_return(1, ValueError("a bug"), "answer"), ctx)

    assert smaller.attempts == 0


async def test_named_errors_can_be_fewer(ctx: CallContext):
    """`on` narrows what leads to the alternative."""
    smaller = fail_then_return(0, Exception(), "smaller answer")
    policy = Fallback(Alternative("model:gpt-mini", smaller), on=(TransientError,))

    with pytest.raises(PermanentError):
        await policy.execute(fail_then_return(1, PermanentError("400"), "answer"), ctx)


async def test_nothing_is_replaced_after_the_first_output(ctx: CallContext):
    """The reader has seen the beginning of another answer."""
    smaller = fail_then_return(0, Exception(), "smaller answer")

    async def breaks_in_the_middle(ctx: CallContext) -> str:
        ctx.output.start()
        raise TransientError("connection lost")

    with pytest.raises(TransientError):
        await Fallback(Alternative("model:gpt-mini", smaller)).execute(breaks_in_the_middle, ctx)

    assert smaller.attempts == 0


async def test_a_fifth_of_the_time_is_kept_for_the_alternative(ctx: CallContext):
    """A first choice that hangs ends after 48 of 60 seconds; the alternative has the other 12."""
    smaller = fail_then_return(0, Exception(), "smaller answer")

    async def hang(ctx: CallContext) -> str:
        await asyncio.sleep(3600)
        return "never"

    async def guarded(ctx: CallContext) -> str:
        return await DeadlineGuard().execute(hang, ctx)

    assert await Fallback(Alternative("model:gpt-mini", smaller)).execute(guarded, ctx) == "smaller answer"
    assert asyncio.get_running_loop().time() == pytest.approx(48)
    assert smaller.contexts[0].deadline.remaining() == pytest.approx(12)


async def test_every_way_but_the_last_leaves_time_to_the_next(ctx: CallContext):
    """With half reserved: 30 of 60 seconds, then 30 of 60, then all."""
    first, second = (fail_then_return(1, TransientError("503"), "answer") for _ in range(2))
    third = fail_then_return(0, Exception(), "answer")
    policy = Fallback(Alternative("model:b", second), Alternative("model:c", third), reserve=0.5)

    await policy.execute(first, ctx)

    assert [call.contexts[0].deadline.remaining() for call in (first, second, third)] == pytest.approx([30, 30, 60])


async def test_every_way_is_told_whether_something_as_good_stands_behind_it(ctx: CallContext):
    """The last one has nobody behind it, and one that is less than the way before it does not count."""
    ways = [ScriptedCall([TransientError("503")], "") for _ in range(2)]
    last = fail_then_return(0, Exception(), "answer")
    first, second = Alternative("model:b", ways[1], is_as_good=True), Alternative("rules", last)

    await Fallback(first, second).execute(ways[0], ctx)

    assert [call.contexts[0].has_stand_in for call in (*ways, last)] == [True, False, False]


async def test_with_no_time_left_there_is_no_alternative(ctx: CallContext):
    """A call that overran the whole deadline fails with its own error."""
    smaller = fail_then_return(0, Exception(), "smaller answer")

    async def overrun(ctx: CallContext) -> str:
        await asyncio.sleep(61)
        raise TransientError("503")

    with pytest.raises(TransientError):
        await Fallback(Alternative("model:gpt-mini", smaller)).execute(overrun, ctx)

    assert smaller.attempts == 0


async def test_when_all_fail_the_last_error_leads_to_the_earlier_ones(ctx: CallContext):
    """The type of the last error is kept; its context holds the others, newest first."""
    first, second, third = TransientError("first"), PermanentError("second"), TransientError("third")
    policy = Fallback(Alternative("model:b", fail_then_return(1, second, "")), Alternative("model:c", fail_then_return(1, third, "")))

    with pytest.raises(TransientError) as caught:
        await policy.execute(fail_then_return(1, first, ""), ctx)

    assert caught.value is third
    assert third.__context__ is second
    assert second.__context__ is first


async def test_the_listener_hears_from_where_to_where_and_why(ctx: CallContext, events: list[ResilienceEvent]):
    """One event per step."""
    second = Alternative("model:b", fail_then_return(1, TransientError("503"), ""))
    third = Alternative("model:c", fail_then_return(0, Exception(), "answer"))
    policy = Fallback(second, third, dependency="reasoning", listener=events.append)

    await policy.execute(fail_then_return(1, CircuitOpen("model:gpt-x", "open"), ""), ctx)

    taken = EventKind.FALLBACK_TAKEN
    assert events == [
        ResilienceEvent(taken, "model:gpt-x", "reasoning", {"from": "model:gpt-x", "to": "model:b", "why": "circuit_open"}),
        ResilienceEvent(taken, "model:b", "reasoning", {"from": "model:b", "to": "model:c", "why": "dependency_unavailable"}),
    ]


async def test_without_a_name_its_events_name_no_dependency(ctx: CallContext, events: list[ResilienceEvent]):
    """From where to where is in the fields."""
    policy = Fallback(Alternative("model:b", fail_then_return(0, Exception(), "answer")), listener=events.append)

    await policy.execute(fail_then_return(1, TransientError("503"), ""), ctx)

    assert [event.dependency for event in events] == [""]


async def test_without_alternatives_the_call_has_all_the_time(ctx: CallContext):
    """Nothing is reserved for nobody."""
    call = fail_then_return(0, Exception(), "answer")

    await Fallback().execute(call, ctx.with_deadline(Deadline.after(10, LoopClock())))

    assert call.contexts[0].deadline.remaining() == pytest.approx(10)
