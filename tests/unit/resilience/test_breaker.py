"""A dependency that keeps failing, or keeps everybody waiting, is left alone."""

from dataclasses import replace

import pytest

from resilience.breaker import Breaker, BreakerSettings, BreakerState
from resilience.context import CallContext, Output
from resilience.errors import AttemptTimedOut, TransientError
from resilience.events import EventKind, ResilienceEvent
from resilience.testing import FakeClock, fail_then_return
from tests.support.breaking import ILL, NEUTRAL, MakeBreaker, opened, play, refused, under_way

# --- closed -------------------------------------------------------------------------------------------------------------


async def test_five_failures_in_a_row_open(make: MakeBreaker, ctx: CallContext):
    """The sixth call never reaches the dependency; the error says when to come back."""
    breaker = make()
    await play(breaker, ctx, *[ILL] * 4)
    assert breaker.state is BreakerState.CLOSED

    await play(breaker, ctx, ILL)

    assert breaker.state is BreakerState.OPEN
    error = await refused(breaker, ctx)
    assert error.retry_after == 30
    assert "model:openai/gpt-x is open" in str(error)


async def test_a_timed_out_attempt_is_a_failure(make: MakeBreaker, ctx: CallContext):
    """A dependency that hangs is as ill as one that breaks."""
    breaker = make()

    await play(breaker, ctx, *[AttemptTimedOut("model:gpt-x", 5)] * 5)

    assert breaker.state is BreakerState.OPEN


async def test_a_success_ends_the_row(make: MakeBreaker, ctx: CallContext):
    """Four failures, a success and four failures are no five in a row."""
    breaker = make(minimum_calls=100)

    await play(breaker, ctx, *[ILL] * 4, None, *[ILL] * 4)

    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("error", NEUTRAL, ids=lambda error: type(error).__name__)
async def test_a_neutral_error_is_no_failure(make: MakeBreaker, ctx: CallContext, error: Exception):
    """Refusals, limits, our own mistakes and our own haste say nothing about the dependency."""
    breaker = make()

    await play(breaker, ctx, *[error] * 50)

    assert breaker.state is BreakerState.CLOSED
    assert breaker.snapshot().recent_calls == 0


@pytest.mark.parametrize("error", NEUTRAL, ids=lambda error: type(error).__name__)
async def test_a_neutral_error_is_no_success(make: MakeBreaker, ctx: CallContext, error: Exception):
    """It does not end a row of failures."""
    breaker = make()

    await play(breaker, ctx, *[ILL] * 4, error, ILL)

    assert breaker.state is BreakerState.OPEN


async def test_cancellation_is_neither(make: MakeBreaker, ctx: CallContext):
    """A customer who leaves opens nothing and heals nothing."""
    breaker = make()
    await play(breaker, ctx, *[ILL] * 4)
    for _ in range(10):
        await (await under_way(breaker, ctx)).cancel()
    assert breaker.state is BreakerState.CLOSED

    await play(breaker, ctx, ILL)

    assert breaker.state is BreakerState.OPEN


async def test_what_counts_is_a_setting(make: MakeBreaker, ctx: CallContext):
    """A specialist's breaker may count other errors than a provider's."""
    breaker = make(counts=lambda error: isinstance(error, ValueError))

    await play(breaker, ctx, *[ILL] * 5)
    assert breaker.state is BreakerState.CLOSED
    await play(breaker, ctx, *[ValueError("no answer")] * 5)

    assert breaker.state is BreakerState.OPEN


async def test_half_of_the_recent_calls_failing_opens(make: MakeBreaker, ctx: CallContext):
    """A steady error rate of one half opens at the tenth call, though no two failures follow each other."""
    breaker = make()

    await play(breaker, ctx, *[None, ILL] * 4, None)
    assert breaker.state is BreakerState.CLOSED
    await play(breaker, ctx, ILL)

    assert breaker.state is BreakerState.OPEN


async def test_a_lower_rate_opens_nothing(make: MakeBreaker, ctx: CallContext):
    """One failure in three is endured."""
    breaker = make()

    await play(breaker, ctx, *[None, None, ILL] * 50)

    assert breaker.state is BreakerState.CLOSED


async def test_too_few_calls_have_no_rate(make: MakeBreaker, ctx: CallContext):
    """Four failures in eight calls mean nothing yet."""
    breaker = make()

    await play(breaker, ctx, *[None, ILL] * 4)

    assert breaker.state is BreakerState.CLOSED


async def test_the_rate_looks_back_no_further_than_its_window(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """Failures of half a minute ago do not add up with those of now."""
    breaker = make()
    await play(breaker, ctx, *[None, ILL] * 4)

    clock.advance(31)
    await play(breaker, ctx, *[None, ILL] * 4)

    assert breaker.state is BreakerState.CLOSED
    assert (breaker.snapshot().recent_calls, breaker.snapshot().recent_failures) == (8, 4)


# --- slow ---------------------------------------------------------------------------------------------------------------


class Lasting:
    """A call that shows its first output after a while, if ever, and ends later."""

    def __init__(self, clock: FakeClock, seconds: float, first: float | None = None, held_back: float = 0.0) -> None:
        self._clock, self._seconds, self._first, self._held_back = clock, seconds, first, held_back

    async def __call__(self, ctx: CallContext) -> str:
        ctx.output.held_back += self._held_back
        if self._first is not None:
            self._clock.advance(self._first)
            ctx.output.start()
        self._clock.advance(self._seconds - (self._first or 0.0))
        return "answer"


def again(ctx: CallContext) -> CallContext:
    """The same call, made for another customer."""
    return replace(ctx, output=Output())


async def test_half_of_the_recent_calls_being_slow_opens(make: MakeBreaker, ctx: CallContext, clock: FakeClock, events):
    """Nothing failed, but everybody waited: the tenth call opens, if it is slow itself."""
    breaker = make(slow_call=2.0)
    for _ in range(4):
        await breaker.execute(Lasting(clock, 2.0), again(ctx))
        await breaker.execute(Lasting(clock, 0.125), again(ctx))
    await breaker.execute(Lasting(clock, 1.875), again(ctx))
    assert breaker.snapshot().recent_slow == 4
    assert breaker.state is BreakerState.CLOSED

    await breaker.execute(Lasting(clock, 2.0), again(ctx))

    assert breaker.state is BreakerState.OPEN
    assert events[-1].fields["why"] == "too_slow"
    assert breaker.snapshot().last_failure is None


async def test_fewer_slow_calls_are_endured(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """One slow call in three opens nothing."""
    breaker = make(slow_call=2.0)

    for seconds in [0.1, 0.1, 2.5] * 20:
        await breaker.execute(Lasting(clock, seconds), again(ctx))

    assert breaker.state is BreakerState.CLOSED


async def test_no_call_is_slow_unless_a_limit_is_set(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """The default measures nothing."""
    breaker = make(window=3600.0)

    for _ in range(20):
        await breaker.execute(Lasting(clock, 100.0), again(ctx))

    assert breaker.snapshot().recent_slow == 0
    assert breaker.state is BreakerState.CLOSED


async def test_a_stream_is_as_slow_as_its_first_output(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """A long answer that began at once is not slow; one that began late is."""
    breaker = make(slow_call=2.0, window=3600.0)

    await breaker.execute(Lasting(clock, 60.0, first=0.5), again(ctx))
    assert breaker.snapshot().recent_slow == 0
    await breaker.execute(Lasting(clock, 60.0, first=2.5), again(ctx))

    assert breaker.snapshot().recent_slow == 1


async def test_waiting_in_a_queue_of_ours_is_not_slowness(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """The dependency is judged by its own time."""
    breaker = make(slow_call=2.0)

    await breaker.execute(Lasting(clock, 3.0, held_back=2.5), again(ctx))
    await breaker.execute(Lasting(clock, 3.0, held_back=0.5), again(ctx))

    assert breaker.snapshot().recent_slow == 1


async def test_what_was_waited_before_is_no_excuse(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """A second attempt is judged by its own time, however long the first one was held back."""
    breaker = make(slow_call=2.0)
    later = again(ctx)
    later.output.held_back = 5.0

    await breaker.execute(Lasting(clock, 3.0), later)

    assert breaker.snapshot().recent_slow == 1


async def test_a_slow_failure_is_a_failure(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """It counts once."""
    breaker = make(slow_call=2.0)

    async def fail_late(ctx: CallContext) -> str:
        clock.advance(5.0)
        raise ILL

    with pytest.raises(TransientError):
        await breaker.execute(fail_late, ctx)

    assert (breaker.snapshot().recent_failures, breaker.snapshot().recent_slow) == (1, 0)


async def test_a_slow_probe_decides_nothing_and_makes_room(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """It works, so it does not open; it is slow, so it does not close. Three quick ones do."""
    breaker = await opened(make, ctx, slow_call=2.0)
    clock.advance(30)

    for _ in range(5):
        await breaker.execute(Lasting(clock, 2.5), again(ctx))
    assert (breaker.state, breaker.is_admitting) == (BreakerState.HALF_OPEN, True)
    for _ in range(3):
        await breaker.execute(Lasting(clock, 0.125), again(ctx))

    assert breaker.state is BreakerState.CLOSED


# --- what others see ----------------------------------------------------------------------------------------------------


async def test_every_transition_is_told_once(make: MakeBreaker, ctx: CallContext, clock: FakeClock, events: list[ResilienceEvent]):
    """With the states, the reason, and the operation that caused it."""
    breaker = await opened(make, ctx)
    clock.advance(30)
    await play(breaker, ctx, ILL)
    clock.advance(60)
    await play(breaker, ctx, None, None, None)
    breaker.isolate()
    breaker.release()

    assert all(event.kind is EventKind.BREAKER_TRANSITION and event.dependency == "model:openai/gpt-x" for event in events)
    assert [(event.operation, *event.fields.values()) for event in events] == [
        ("model:gpt-x", "closed", "open", 30, "dependency_unavailable", "here"),
        ("model:gpt-x", "open", "half_open", 0, "open_time_over", "here"),
        ("model:gpt-x", "half_open", "open", 60, "dependency_unavailable", "here"),
        ("model:gpt-x", "open", "half_open", 0, "open_time_over", "here"),
        ("model:gpt-x", "half_open", "closed", 0, "probes_succeeded", "here"),
        ("model:openai/gpt-x", "closed", "isolated", 0, "by_hand", "hand"),
        ("model:openai/gpt-x", "isolated", "closed", 0, "by_hand", "hand"),
    ]


async def test_a_refusal_is_told(make: MakeBreaker, ctx: CallContext, events: list[ResilienceEvent]):
    """One event per refused call."""
    breaker = make()
    breaker.isolate()
    events.clear()

    await refused(breaker, ctx)

    assert events == [ResilienceEvent(EventKind.REJECTED, "model:gpt-x", "model:openai/gpt-x", {"why": "circuit_open"})]


async def test_a_listener_that_raises_disturbs_no_transition(ctx: CallContext, clock: FakeClock):
    """The breaker opens, and the caller gets the dependency's error."""

    def broken(event: ResilienceEvent) -> None:
        raise RuntimeError("no room on the disk")

    breaker = Breaker("model:openai/gpt-x", clock=clock, listener=broken)

    await play(breaker, ctx, *[ILL] * 5)

    assert breaker.state is BreakerState.OPEN


async def test_a_snapshot_says_how_it_stands(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """State and since when, counts, time to wait and the last failure."""
    breaker = make(slow_call=5.0)
    await play(breaker, ctx, None, ILL, AttemptTimedOut("model:gpt-x", 5))
    clock.advance(2)

    snapshot = breaker.snapshot()
    assert (snapshot.since, snapshot.by, snapshot.why, snapshot.openings) == (2, "here", "", 0)

    assert (snapshot.dependency, snapshot.state, snapshot.is_admitting) == ("model:openai/gpt-x", BreakerState.CLOSED, True)
    assert (snapshot.consecutive_failures, snapshot.recent_calls, snapshot.recent_failures, snapshot.recent_slow) == (2, 3, 2, 0)
    assert (snapshot.retry_in, snapshot.last_failure) == (0, "attempt_timed_out")

    clock.advance(5)
    breaker.isolate()
    clock.advance(3)
    assert (breaker.snapshot().since, breaker.snapshot().by, breaker.snapshot().why) == (3, "hand", "by_hand")


async def test_the_error_of_the_call_is_handed_on_untouched(make: MakeBreaker, ctx: CallContext):
    """The failure that opens is the dependency's own, with no trace of the breaker's machinery in it."""
    breaker = make(consecutive_failures=1)
    error = TransientError("503")

    with pytest.raises(TransientError) as caught:
        await breaker.execute(fail_then_return(1, error, ""), ctx)

    assert caught.value is error
    assert error.__cause__ is error.__context__ is None
    assert all("pybreaker" not in str(entry.path) for entry in caught.traceback)


def test_a_fresh_breaker_knows_its_name_and_is_closed():
    """The defaults are ready to use."""
    breaker = Breaker("tool:find_order")

    assert breaker.dependency == "tool:find_order"
    assert breaker.is_admitting
    assert breaker.snapshot().last_failure is None


@pytest.mark.parametrize("nonsense", [{"probes": 0}, {"consecutive_failures": 0}, {"open_time": 0.0}, {"open_time": 301.0}], ids=str)
def test_rules_that_make_no_sense_are_refused(nonsense: dict[str, float]):
    """A breaker that could never open, or never close, is a mistake."""
    with pytest.raises(ValueError, match="a breaker needs"):
        BreakerSettings(**nonsense)
