"""A dependency that keeps failing is left alone for a while."""

import asyncio
from collections.abc import Callable

import pytest

from resilience.breaker import Breaker, BreakerSettings, BreakerState
from resilience.context import CallContext
from resilience.errors import (
    AttemptTimedOut,
    BulkheadFull,
    CircuitOpen,
    DeadlineExceeded,
    PermanentError,
    Throttled,
    TransientError,
)
from resilience.events import EventKind, ResilienceEvent
from resilience.testing import FakeClock, ScriptedCall, fail_then_return

ILL = TransientError("503")
NEUTRAL = [
    Throttled("429", retry_after=1),
    PermanentError("400"),
    DeadlineExceeded("model:gpt-x"),
    BulkheadFull("model:gpt-x", "full"),
    ValueError("a bug"),
]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make(clock: FakeClock, events: list[ResilienceEvent]) -> Callable[..., Breaker]:
    def make(**settings) -> Breaker:
        return Breaker("model:openai/gpt-x", BreakerSettings(**settings), clock=clock, listener=events.append)

    return make


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


async def opened(make: Callable[..., Breaker], ctx: CallContext, **settings) -> Breaker:
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


# --- closed -------------------------------------------------------------------------------------------------------------


async def test_five_failures_in_a_row_open(make: Callable[..., Breaker], ctx: CallContext):
    """The sixth call never reaches the dependency; the error says when to come back."""
    breaker = make()
    await play(breaker, ctx, *[ILL] * 4)
    assert breaker.state is BreakerState.CLOSED

    await play(breaker, ctx, ILL)

    assert breaker.state is BreakerState.OPEN
    error = await refused(breaker, ctx)
    assert error.retry_after == 30
    assert "model:openai/gpt-x is open" in str(error)


async def test_a_timed_out_attempt_is_a_failure(make: Callable[..., Breaker], ctx: CallContext):
    """A dependency that hangs is as ill as one that breaks."""
    breaker = make()

    await play(breaker, ctx, *[AttemptTimedOut("model:gpt-x", 5)] * 5)

    assert breaker.state is BreakerState.OPEN


async def test_a_success_ends_the_row(make: Callable[..., Breaker], ctx: CallContext):
    """Four failures, a success and four failures are no five in a row."""
    breaker = make(minimum_calls=100)

    await play(breaker, ctx, *[ILL] * 4, None, *[ILL] * 4)

    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("error", NEUTRAL, ids=lambda error: type(error).__name__)
async def test_a_neutral_error_is_no_failure(make: Callable[..., Breaker], ctx: CallContext, error: Exception):
    """Refusals, limits, our own mistakes and our own haste say nothing about the dependency."""
    breaker = make()

    await play(breaker, ctx, *[error] * 50)

    assert breaker.state is BreakerState.CLOSED
    assert breaker.snapshot().recent_calls == 0


@pytest.mark.parametrize("error", NEUTRAL, ids=lambda error: type(error).__name__)
async def test_a_neutral_error_is_no_success(make: Callable[..., Breaker], ctx: CallContext, error: Exception):
    """It does not end a row of failures."""
    breaker = make()

    await play(breaker, ctx, *[ILL] * 4, error, ILL)

    assert breaker.state is BreakerState.OPEN


async def test_cancellation_is_neither(make: Callable[..., Breaker], ctx: CallContext):
    """A customer who leaves opens nothing and heals nothing."""
    breaker = make()
    await play(breaker, ctx, *[ILL] * 4)
    for _ in range(10):
        await (await under_way(breaker, ctx)).cancel()
    assert breaker.state is BreakerState.CLOSED

    await play(breaker, ctx, ILL)

    assert breaker.state is BreakerState.OPEN


async def test_what_counts_is_a_setting(make: Callable[..., Breaker], ctx: CallContext):
    """A specialist's breaker may count other errors than a provider's."""
    breaker = make(counts=lambda error: isinstance(error, ValueError))

    await play(breaker, ctx, *[ILL] * 5)
    assert breaker.state is BreakerState.CLOSED
    await play(breaker, ctx, *[ValueError("no answer")] * 5)

    assert breaker.state is BreakerState.OPEN


async def test_half_of_the_recent_calls_failing_opens(make: Callable[..., Breaker], ctx: CallContext):
    """A steady error rate of one half opens at the tenth call, though no two failures follow each other."""
    breaker = make()

    await play(breaker, ctx, *[None, ILL] * 4, None)
    assert breaker.state is BreakerState.CLOSED
    await play(breaker, ctx, ILL)

    assert breaker.state is BreakerState.OPEN


async def test_a_lower_rate_opens_nothing(make: Callable[..., Breaker], ctx: CallContext):
    """One failure in three is endured."""
    breaker = make()

    await play(breaker, ctx, *[None, None, ILL] * 50)

    assert breaker.state is BreakerState.CLOSED


async def test_too_few_calls_have_no_rate(make: Callable[..., Breaker], ctx: CallContext):
    """Four failures in eight calls mean nothing yet."""
    breaker = make()

    await play(breaker, ctx, *[None, ILL] * 4)

    assert breaker.state is BreakerState.CLOSED


async def test_the_rate_looks_back_no_further_than_its_window(make: Callable[..., Breaker], ctx: CallContext, clock: FakeClock):
    """Failures of half a minute ago do not add up with those of now."""
    breaker = make()
    await play(breaker, ctx, *[None, ILL] * 4)

    clock.advance(31)
    await play(breaker, ctx, *[None, ILL] * 4)

    assert breaker.state is BreakerState.CLOSED
    assert (breaker.snapshot().recent_calls, breaker.snapshot().recent_failures) == (8, 4)


# --- open and half open -------------------------------------------------------------------------------------------------


async def test_open_counts_down(make: Callable[..., Breaker], ctx: CallContext, clock: FakeClock):
    """`retry_in` and the error's `retry_after` shrink with time; a breaker whose time has come admits again."""
    breaker = await opened(make, ctx)

    clock.advance(12)

    assert breaker.retry_in() == 18
    assert (await refused(breaker, ctx)).retry_after == 18
    assert not breaker.is_admitting
    clock.advance(18)
    assert breaker.is_admitting
    assert breaker.retry_in() == 0


async def test_a_probe_that_succeeds_closes(make: Callable[..., Breaker], ctx: CallContext, clock: FakeClock):
    """Afterwards everything starts from zero: it takes five new failures to open again."""
    breaker = await opened(make, ctx)
    clock.advance(30)

    await play(breaker, ctx, None)

    assert breaker.state is BreakerState.CLOSED
    assert breaker.snapshot().recent_calls == 0
    await play(breaker, ctx, *[ILL] * 4)
    assert breaker.state is BreakerState.CLOSED


async def test_a_probe_that_fails_opens_for_the_whole_time_again(make: Callable[..., Breaker], ctx: CallContext, clock: FakeClock):
    """One probe, one failure, another half minute."""
    breaker = await opened(make, ctx)
    clock.advance(30)

    await play(breaker, ctx, ILL)

    assert breaker.state is BreakerState.OPEN
    assert breaker.retry_in() == 30


@pytest.mark.parametrize("probes", [1, 3])
async def test_only_so_many_probes_are_under_way(make: Callable[..., Breaker], ctx: CallContext, clock: FakeClock, probes: int):
    """Of ten calls that arrive together, the others are refused; nobody can tell them when to come back."""
    breaker = await opened(make, ctx, probes=probes)
    clock.advance(30)
    admitted = [await under_way(breaker, ctx) for _ in range(probes)]

    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.is_admitting
    for _ in range(10 - probes):
        assert (await refused(breaker, ctx)).retry_after is None

    for probe in admitted:
        await probe.succeed()
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("error", NEUTRAL, ids=lambda error: type(error).__name__)
async def test_a_neutral_probe_decides_nothing_and_makes_room(
    make: Callable[..., Breaker], ctx: CallContext, clock: FakeClock, error: Exception
):
    """Still half open, and the next call is the probe."""
    breaker = await opened(make, ctx)
    clock.advance(30)

    await play(breaker, ctx, error)

    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.is_admitting
    await play(breaker, ctx, None)
    assert breaker.state is BreakerState.CLOSED


async def test_a_cancelled_probe_decides_nothing_and_makes_room(make: Callable[..., Breaker], ctx: CallContext, clock: FakeClock):
    """However many customers leave, the breaker neither closes nor gets stuck."""
    breaker = await opened(make, ctx)
    clock.advance(30)
    for _ in range(10):
        await (await under_way(breaker, ctx)).cancel()

    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.is_admitting


# --- late results -------------------------------------------------------------------------------------------------------


async def test_a_late_success_does_not_close(make: Callable[..., Breaker], ctx: CallContext, clock: FakeClock):
    """A call admitted before the opening says nothing about now, not even while a probe is due."""
    breaker = make()
    late = await under_way(breaker, ctx)
    also_late = await under_way(breaker, ctx)
    await play(breaker, ctx, *[ILL] * 5)

    await late.succeed()
    assert breaker.state is BreakerState.OPEN

    clock.advance(30)
    probe = await under_way(breaker, ctx)
    await also_late.succeed()
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.is_admitting, "the late call must not free the probe's place"
    await probe.succeed()


async def test_a_late_failure_does_not_open_again(make: Callable[..., Breaker], ctx: CallContext, clock: FakeClock):
    """Failures of calls admitted before do not touch a breaker that has closed since."""
    breaker = make()
    late = [await under_way(breaker, ctx) for _ in range(5)]
    await play(breaker, ctx, *[ILL] * 5)
    clock.advance(30)
    await play(breaker, ctx, None)

    for call in late:
        await call.fail(ILL)

    assert breaker.state is BreakerState.CLOSED
    assert breaker.snapshot().recent_calls == 0


async def test_a_probe_of_an_earlier_half_open_is_late_too(make: Callable[..., Breaker], ctx: CallContext, clock: FakeClock):
    """It neither decides nor takes or frees a place in the next half open."""
    breaker = await opened(make, ctx, probes=2)
    clock.advance(30)
    slow = await under_way(breaker, ctx)
    await play(breaker, ctx, ILL)
    clock.advance(30)
    first, second = await under_way(breaker, ctx), await under_way(breaker, ctx)

    await slow.fail(ILL)

    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.is_admitting
    await first.succeed()
    await second.succeed()


# --- by hand ------------------------------------------------------------------------------------------------------------


async def test_an_isolated_breaker_refuses_until_it_is_released(make: Callable[..., Breaker], ctx: CallContext, clock: FakeClock):
    """No time ends it, and nobody can say when it will."""
    breaker = make()
    breaker.isolate()
    clock.advance(3600)

    assert breaker.state is BreakerState.ISOLATED
    assert not breaker.is_admitting
    assert breaker.retry_in() == 0
    assert (await refused(breaker, ctx)).retry_after is None

    breaker.release()
    await play(breaker, ctx, None)
    assert breaker.state is BreakerState.CLOSED


async def test_a_call_under_way_does_not_end_isolation(make: Callable[..., Breaker], ctx: CallContext):
    """Its result is late, whatever it is."""
    breaker = make(consecutive_failures=1)
    first, second = await under_way(breaker, ctx), await under_way(breaker, ctx)
    breaker.isolate()

    await first.succeed()
    await second.fail(ILL)

    assert breaker.state is BreakerState.ISOLATED


async def test_an_open_breaker_can_be_isolated_and_released(make: Callable[..., Breaker], ctx: CallContext):
    """By hand beats by rule, in both directions."""
    breaker = await opened(make, ctx)

    breaker.isolate()
    assert breaker.state is BreakerState.ISOLATED
    breaker.release()

    assert breaker.state is BreakerState.CLOSED
    await play(breaker, ctx, *[ILL] * 4)
    assert breaker.state is BreakerState.CLOSED


def test_doing_by_hand_what_is_done_tells_nobody(make: Callable[..., Breaker], events: list[ResilienceEvent]):
    """Releasing a closed breaker and isolating an isolated one change nothing."""
    breaker = make()

    breaker.release()
    breaker.isolate()
    breaker.isolate()

    assert [event.fields["new"] for event in events] == ["isolated"]


# --- what others see ----------------------------------------------------------------------------------------------------


async def test_every_transition_is_told_once(
    make: Callable[..., Breaker], ctx: CallContext, clock: FakeClock, events: list[ResilienceEvent]
):
    """With the states, the reason, and the operation that caused it."""
    breaker = await opened(make, ctx)
    clock.advance(30)
    await play(breaker, ctx, ILL)
    clock.advance(30)
    await play(breaker, ctx, None)
    breaker.isolate()
    breaker.release()

    assert all(event.kind is EventKind.BREAKER_TRANSITION and event.dependency == "model:openai/gpt-x" for event in events)
    assert [(event.operation, *event.fields.values()) for event in events] == [
        ("model:gpt-x", "closed", "open", 30, "dependency_unavailable"),
        ("model:gpt-x", "open", "half_open", 0, "open_time_over"),
        ("model:gpt-x", "half_open", "open", 30, "dependency_unavailable"),
        ("model:gpt-x", "open", "half_open", 0, "open_time_over"),
        ("model:gpt-x", "half_open", "closed", 0, "probe_succeeded"),
        ("model:openai/gpt-x", "closed", "isolated", 0, "by_hand"),
        ("model:openai/gpt-x", "isolated", "closed", 0, "by_hand"),
    ]


async def test_a_refusal_is_told(make: Callable[..., Breaker], ctx: CallContext, events: list[ResilienceEvent]):
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


async def test_a_snapshot_says_how_it_stands(make: Callable[..., Breaker], ctx: CallContext, clock: FakeClock):
    """State, counts, time to wait and the last failure."""
    breaker = make()
    await play(breaker, ctx, None, ILL, AttemptTimedOut("model:gpt-x", 5))

    snapshot = breaker.snapshot()

    assert (snapshot.dependency, snapshot.state, snapshot.is_admitting) == ("model:openai/gpt-x", BreakerState.CLOSED, True)
    assert (snapshot.consecutive_failures, snapshot.recent_calls, snapshot.recent_failures) == (2, 3, 2)
    assert (snapshot.retry_in, snapshot.last_failure) == (0, "attempt_timed_out")


async def test_the_error_of_the_call_is_handed_on_untouched(make: Callable[..., Breaker], ctx: CallContext):
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
