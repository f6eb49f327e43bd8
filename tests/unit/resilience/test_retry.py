"""What is tried again, when, and how often."""

import asyncio
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from resilience.clock import SystemClock
from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.errors import (
    AttemptTimedOut,
    BulkheadFull,
    CircuitOpen,
    DeadlineExceeded,
    PermanentError,
    RateLimited,
    Throttled,
    TransientError,
)
from resilience.events import EventKind, ResilienceEvent
from resilience.retry import Retry, backoff
from resilience.testing import FakeClock, ScriptedCall, fail_then_return
from tests.support.virtual_time import LoopClock


def retry(**options) -> Retry:
    return Retry(**{"clock": LoopClock(), "rng": Random(7), **options})


async def test_a_blip_is_healed(ctx: CallContext):
    """Two transient failures and a success are a success, after three attempts numbered from 1."""
    call = fail_then_return(2, TransientError("503"), "answer")

    assert await retry().execute(call, ctx) == "answer"
    assert [attempt.attempt for attempt in call.contexts] == [1, 2, 3]


async def test_a_dead_dependency_gets_no_more_than_the_attempts_allowed(ctx: CallContext):
    """The last error comes back as it was."""
    last = TransientError("third")
    call = ScriptedCall([TransientError("first"), TransientError("second"), last], "answer")

    with pytest.raises(TransientError) as caught:
        await retry(attempts=3).execute(call, ctx)

    assert caught.value is last
    assert call.attempts == 3


async def test_an_attempt_that_timed_out_is_tried_again(ctx: CallContext):
    """Slowness may pass like any other blip."""
    assert await retry().execute(fail_then_return(1, AttemptTimedOut("model:gpt-x", 5), "answer"), ctx) == "answer"


@pytest.mark.parametrize("error", [AttemptTimedOut("model:gpt-x", 5), Throttled("429", retry_after=0.26)], ids=["slow", "told to wait"])
async def test_beside_a_stand_in_nothing_slow_is_tried_again(ctx: CallContext, error: Exception):
    """Who stands ready answers sooner than another attempt would."""
    call = fail_then_return(1, error, "answer")

    with pytest.raises(type(error)):
        await retry().execute(call, replace(ctx, has_stand_in=True))

    assert call.attempts == 1


@pytest.mark.parametrize("error", [TransientError("503"), Throttled("429"), Throttled("429", retry_after=0.25)], ids=str)
async def test_beside_a_stand_in_quick_failures_are_tried_again(ctx: CallContext, error: Exception):
    """They cost next to nothing, and the first choice is the better one."""
    call = fail_then_return(1, error, "answer")

    assert await retry().execute(call, replace(ctx, has_stand_in=True)) == "answer"
    assert call.attempts == 2


@pytest.mark.parametrize(
    "error",
    [
        CircuitOpen("model:gpt-x", "open", retry_after=0.1),
        BulkheadFull("model:gpt-x", "full"),
        RateLimited("model:gpt-x", "later", retry_after=0.1),
        PermanentError("400"),
        DeadlineExceeded("model:gpt-x"),
        ValueError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_cannot_pass_is_not_tried_again(ctx: CallContext, error: Exception):
    """Refusals, permanent errors, a passed deadline and bugs get one attempt."""
    call = fail_then_return(1, error, "answer")

    with pytest.raises(type(error)):
        await retry().execute(call, ctx)

    assert call.attempts == 1


@pytest.mark.parametrize(
    "error",
    [CircuitOpen("model:gpt-x", "open"), PermanentError("400"), DeadlineExceeded("model:gpt-x")],
    ids=lambda error: type(error).__name__,
)
async def test_a_careless_list_of_errors_changes_nothing_about_that(ctx: CallContext, error: Exception):
    """`on=Exception` does not mean refusals, permanent errors or deadlines."""
    call = fail_then_return(1, error, "answer")

    with pytest.raises(type(error)):
        await retry(on=(Exception,)).execute(call, ctx)

    assert call.attempts == 1


async def test_a_cancelled_attempt_is_not_tried_again(ctx: CallContext):
    """Cancellation passes through at once."""
    attempts = 0

    async def cancelled(ctx: CallContext) -> None:
        nonlocal attempts
        attempts += 1
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await retry(on=(Exception,)).execute(cancelled, ctx)

    assert attempts == 1


async def test_cancelling_between_two_attempts_ends_the_wait(ctx: CallContext):
    """Nobody wakes up later to make a call that nobody wants."""
    call = fail_then_return(9, TransientError("503", retry_after=20), "answer")
    task = asyncio.create_task(retry().execute(call, ctx))
    await asyncio.sleep(1)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(60)

    assert call.attempts == 1


async def test_nothing_is_tried_again_after_the_first_output(ctx: CallContext):
    """The reader would see the beginning twice."""
    attempts = 0

    async def breaks_in_the_middle(ctx: CallContext) -> None:
        nonlocal attempts
        attempts += 1
        ctx.output.start()
        raise TransientError("connection lost")

    with pytest.raises(TransientError):
        await retry().execute(breaks_in_the_middle, ctx)

    assert attempts == 1


async def test_the_wait_that_the_dependency_asks_for_wins(ctx: CallContext):
    """`retry_after` replaces the backoff; a little jitter is added, never taken off."""
    await retry(base=0.5).execute(fail_then_return(1, Throttled("429", retry_after=7), "answer"), ctx)

    assert 7 <= asyncio.get_running_loop().time() <= 7.5


async def test_the_wait_that_the_dependency_asks_for_is_capped(ctx: CallContext):
    """An absurd `retry_after` does not hold the call for longer than we allow."""
    await retry(base=0.5, retry_after_cap=10).execute(fail_then_return(1, Throttled("429", retry_after=3000), "answer"), ctx)

    assert 10 <= asyncio.get_running_loop().time() <= 10.5


async def test_a_retry_after_in_the_past_means_at_once(ctx: CallContext, events: list[ResilienceEvent]):
    """A negative hint is no wait and no negative wait."""
    await retry(base=0.0, listener=events.append).execute(fail_then_return(1, Throttled("429", retry_after=-3), "answer"), ctx)

    assert [event.fields["wait"] for event in events] == [0]
    assert asyncio.get_running_loop().time() == 0


async def test_no_wait_passes_the_deadline(ctx: CallContext):
    """When the next attempt would begin too late, the cause comes back at once instead of a passed deadline later."""
    call = fail_then_return(1, Throttled("429", retry_after=20), "answer")

    with pytest.raises(Throttled):
        await retry().execute(call, ctx.with_deadline(Deadline.after(15, LoopClock())))

    assert call.attempts == 1
    assert asyncio.get_running_loop().time() == 0


async def test_the_listener_hears_of_a_retry_before_its_wait(events: list[ResilienceEvent]):
    """The event carries the failed attempt, the wait and the reason; nothing is told of the attempt that gave up."""
    clock = FakeClock()
    call = fail_then_return(2, TransientError("503", retry_after=4), "answer")
    policy = Retry(2, clock=clock, rng=Random(7), base=0.0, dependency="model:openai/gpt-x", listener=events.append)
    task = asyncio.create_task(policy.execute(call, CallContext("model:gpt-x", Deadline.after(60, clock))))
    await asyncio.sleep(0.1)

    fields = {"attempt": 1, "wait": 4, "why": "dependency_unavailable"}
    assert events == [ResilienceEvent(EventKind.RETRY_SCHEDULED, "model:gpt-x", "model:openai/gpt-x", fields)]
    assert call.attempts == 1

    clock.advance(4)
    with pytest.raises(TransientError):
        await task
    assert len(events) == 1


def test_backoff_is_drawn_from_zero_up_to_a_doubling_bound():
    """Full jitter: each bound is twice the one before, until the cap, and waits fill the whole range below it."""
    rng = Random(7)
    waits = [[backoff(attempt, base=1, cap=5, rng=rng) for _ in range(500)] for attempt in (1, 2, 3, 4)]

    bounds = [1, 2, 4, 5]
    assert all(0 <= wait <= bound for bound, drawn in zip(bounds, waits, strict=True) for wait in drawn)
    assert all(max(drawn) > 0.95 * bound and min(drawn) < 0.05 * bound for bound, drawn in zip(bounds, waits, strict=True))
    assert all(sum(before) < sum(after) for before, after in pairwise(waits))


async def test_concurrent_calls_count_their_attempts_apart(ctx: CallContext):
    """One policy object serves many calls at once."""
    policy = retry()
    calls = [fail_then_return(times, TransientError("503"), times) for times in (0, 1, 2)]

    results = await asyncio.gather(*(policy.execute(call, ctx) for call in calls))

    assert results == [0, 1, 2]
    assert [call.attempts for call in calls] == [1, 2, 3]


async def test_without_arguments_it_is_ready_to_use():
    """The defaults are a clock, a jitter and three attempts."""
    call = fail_then_return(3, TransientError("503"), "answer")

    with pytest.raises(TransientError):
        await Retry().execute(call, CallContext("model:gpt-x", Deadline.after(60, SystemClock())))

    assert call.attempts == 3


class Unlucky(Random):
    """Draws the upper bound every time."""

    def uniform(self, a: float, b: float) -> float:
        return b


async def test_waits_without_arguments_are_those_of_the_page(ctx: CallContext, events: list[ResilienceEvent]):
    """At most a quarter of a second, doubling up to five; at most thirty when asked, and the jitter on top (docs/resilience/retry.md)."""
    patient = ctx.with_deadline(Deadline.after(600, LoopClock()))
    policy = Retry(8, rng=Unlucky(), clock=LoopClock(), listener=events.append)

    await policy.execute(fail_then_return(7, TransientError("503"), "answer"), patient)
    await policy.execute(fail_then_return(1, TransientError("503", retry_after=100), "answer"), patient)

    assert [event.fields["wait"] for event in events] == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 30.25]
    assert {event.dependency for event in events} == {""}
    assert asyncio.get_running_loop().time() == 48.0


async def test_a_wait_that_takes_all_that_is_left_is_not_begun(ctx: CallContext):
    """There would be no time for the attempt."""
    call = fail_then_return(1, TransientError("503"), "answer")
    short = ctx.with_deadline(Deadline.after(0.25, LoopClock()))

    with pytest.raises(TransientError):
        await Retry(rng=Unlucky(), clock=LoopClock()).execute(call, short)

    assert (call.attempts, asyncio.get_running_loop().time()) == (1, 0)


async def test_it_sleeps_on_its_clock():
    """Whatever clock it was given."""
    clock = FakeClock()
    call = fail_then_return(1, TransientError("503"), "answer")
    ctx = CallContext("model:gpt-x", Deadline.after(60, clock))
    trying = asyncio.create_task(Retry(rng=Unlucky(), clock=clock).execute(call, ctx))

    await asyncio.sleep(10)
    assert call.attempts == 1
    clock.advance(0.25)

    assert await trying == "answer"
