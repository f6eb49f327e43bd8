"""How much load retries add, whatever happens to the dependency."""

import asyncio
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.errors import PermanentError, Throttled, TransientError
from resilience.events import EventKind, ResilienceEvent
from resilience.registry import PolicyName, PolicyRegistry, ResilienceSettings
from resilience.retry import Retry
from resilience.retry_budget import RetryBudget, RetryBudgetSettings
from resilience.testing import FakeClock, ScriptedCall, fail_then_return
from tests.support.virtual_time import LoopClock

FLOOR, WINDOW = 10, 10.0
"""What the defaults allow on top of a tenth, and per how many seconds."""


async def traffic(policies: PolicyRegistry, call: ScriptedCall, requests: int, every: float) -> list[object]:
    """`requests` calls of one model, one begun `every` so many seconds; how each of them ended."""

    async def request() -> object:
        return await policies.provider_pipeline("model:a").execute(call, CallContext("model:a", Deadline.after(60, LoopClock())))

    running = []
    for _ in range(requests):
        running.append(asyncio.create_task(request()))
        await asyncio.sleep(every)
    return await asyncio.gather(*running, return_exceptions=True)


def without(*off: PolicyName, **more) -> PolicyRegistry:
    return PolicyRegistry(ResilienceSettings(off=frozenset(off)), clock=LoopClock(), rng=Random(7), **more)


@pytest.mark.parametrize("seconds", [1, 10, 100, 1000])
async def test_a_dead_provider_gets_a_tenth_more_load_and_the_floor(seconds: int):
    """All of 1,000 calls fail and no breaker helps, in a burst or over a quarter of an hour: 1.1 times the calls and 10 per 10 s."""
    dead = fail_then_return(10_000, TransientError("503"), "")

    outcomes = await traffic(without(PolicyName.BREAKER), dead, 1000, every=seconds / 1000)

    assert {type(outcome) for outcome in outcomes} == {TransientError}
    windows = seconds // WINDOW + 2  # the last retries come a little after the last call
    assert dead.attempts <= 1.1 * 1000 + FLOOR * windows


async def test_without_the_budget_a_dead_provider_gets_three_times_the_load():
    """What the budget is for."""
    dead = fail_then_return(10_000, TransientError("503"), "")

    await traffic(without(PolicyName.BREAKER, PolicyName.RETRY_BUDGET), dead, 1000, every=0.1)

    assert dead.attempts == 3000


async def test_ordinary_blips_are_all_retried():
    """One call in twenty fails: every caller is served, nobody is refused a retry."""
    events: list[ResilienceEvent] = []
    blips = ScriptedCall([], "answer")
    number = 0

    async def call(ctx: CallContext) -> str:
        nonlocal number
        number += 1
        if number % 20 == 0:
            raise TransientError("503")
        return await blips(ctx)

    outcomes = await traffic(without(listeners=[events.append]), call, 1000, every=0.01)

    assert set(outcomes) == {"answer"}
    assert EventKind.RETRY_REFUSED not in {event.kind for event in events}


async def test_who_is_refused_gets_the_error_itself_at_once(ctx: CallContext, events: list[ResilienceEvent]):
    """Not after the wait of a retry that will not be; and the listener hears of it."""
    error = Throttled("429", retry_after=20)
    budget = RetryBudget(RetryBudgetSettings(ratio=0.0, floor=0), clock=LoopClock())
    call = fail_then_return(9, error, "answer")

    with pytest.raises(Throttled) as caught:
        await Retry(budget=budget, clock=LoopClock(), dependency="model:a", listener=events.append).execute(call, ctx)

    assert caught.value is error
    assert (call.attempts, asyncio.get_running_loop().time()) == (1, 0)
    fields = {"attempt": 1, "why": "dependency_throttled"}
    assert events == [ResilienceEvent(EventKind.RETRY_REFUSED, "model:gpt-x", "model:a", fields)]


@pytest.mark.parametrize(
    ("error", "seconds"), [(PermanentError("400"), 60.0), (Throttled("429", retry_after=20), 15.0)], ids=["permanent", "too late"]
)
async def test_what_would_not_be_tried_again_spends_nothing(ctx: CallContext, error: Exception, seconds: float):
    """The only retry of the budget is still there."""
    budget = RetryBudget(RetryBudgetSettings(ratio=0.0, floor=1), clock=LoopClock())

    with pytest.raises(type(error)):
        await Retry(budget=budget, clock=LoopClock()).execute(
            fail_then_return(1, error, ""), ctx.with_deadline(Deadline.after(seconds, LoopClock()))
        )

    assert budget.take()


async def test_the_last_attempt_spends_nothing(ctx: CallContext):
    """Two attempts spend one retry."""
    budget = RetryBudget(RetryBudgetSettings(ratio=0.0, floor=2), clock=LoopClock())

    with pytest.raises(TransientError):
        await Retry(2, budget=budget, clock=LoopClock()).execute(fail_then_return(9, TransientError("503"), ""), ctx)

    assert (budget.take(), budget.take()) == (True, False)


async def test_all_pipelines_of_a_dependency_share_one_budget(ctx: CallContext):
    """What one caller has spent, the other lacks; another dependency has its own."""
    rules = {"model": RetryBudgetSettings(ratio=0.0, floor=2)}
    policies = PolicyRegistry(ResilienceSettings(retry_budgets=rules), clock=LoopClock(), rng=Random(7))
    first, second, other = (fail_then_return(9, TransientError("503"), "") for _ in range(3))

    for dependency, call in (("model:a", first), ("model:a", second), ("model:b", other)):
        with pytest.raises(TransientError):
            await policies.provider_pipeline(dependency).execute(call, ctx)

    assert (first.attempts, second.attempts, other.attempts) == (3, 1, 3)


def test_the_floor_comes_back_after_the_window():
    """Ten at once, none for ten seconds, then ten again."""
    clock = FakeClock()
    budget = RetryBudget(clock=clock)

    def taken() -> int:
        return sum(budget.take() for _ in range(50))

    assert taken() == FLOOR
    clock.advance(WINDOW - 0.001)
    assert taken() == 0
    clock.advance(0.001)
    assert taken() == FLOOR


def test_calls_are_forgotten_after_the_window():
    """A busy minute does not pay for the retries of the quiet one after it."""
    clock = FakeClock()
    budget = RetryBudget(clock=clock)
    for _ in range(1000):
        budget.note_call()
    clock.advance(WINDOW)

    assert sum(budget.take() for _ in range(500)) == FLOOR


@given(
    steps=st.lists(st.tuples(st.floats(0.0, 4.0), st.integers(0, 60), st.integers(0, 30)), max_size=60),
    ratio=st.sampled_from([0.0, 0.1, 0.5]),
    floor=st.integers(0, 12),
)
def test_no_traffic_gets_more_than_its_share(steps: list[tuple[float, int, int]], ratio: float, floor: int):
    """Calls and wishes for retries in any pattern: in no stretch of any ten seconds is there more than the share and the floor."""
    clock = FakeClock()
    budget = RetryBudget(RetryBudgetSettings(ratio, floor, WINDOW), clock=clock)
    calls: list[float] = []
    retries: list[float] = []
    for wait, made, wanted in steps:
        clock.advance(wait)
        for _ in range(made):
            budget.note_call()
            calls.append(clock.monotonic())
        retries += [clock.monotonic() for _ in range(wanted) if budget.take()]

    for end in retries:
        paid = sum(end - WINDOW < at <= end for at in calls)
        assert sum(end - WINDOW < at <= end for at in retries) <= floor + ratio * paid


@pytest.mark.parametrize("wrong", [{"ratio": -0.1}, {"ratio": 1.1}, {"floor": -1}, {"window": 0.0}])
def test_nonsense_is_refused(wrong: dict[str, float]):
    """A budget that could not work is not made."""
    with pytest.raises(ValueError, match="a retry budget needs"):
        RetryBudgetSettings(**wrong)


@pytest.mark.parametrize("edge", [{"ratio": 0.0}, {"ratio": 1.0}, {"floor": 0}, {"window": 0.5}])
def test_the_edges_of_sense_are_accepted(edge: dict[str, float]):
    """No retry but the floor, one per call, none but the share; and windows may be short."""
    assert RetryBudgetSettings(**edge)
