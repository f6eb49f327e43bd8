"""One breaker and one bulkhead per dependency, shared by every pipeline that needs them."""

import asyncio
from random import Random

import pytest

from resilience.adaptive import AdaptiveSettings
from resilience.breaker import BreakerSettings, BreakerState
from resilience.bulkhead import BulkheadSettings
from resilience.clock import SystemClock
from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.errors import AttemptTimedOut, BulkheadFull, CircuitOpen, RateLimited, TransientError
from resilience.events import EventKind, ResilienceEvent
from resilience.hedge import HedgeSettings
from resilience.rate_limit import Grant
from resilience.registry import PolicyName, PolicyRegistry, ResilienceSettings
from resilience.retry_budget import RetryBudgetSettings
from resilience.testing import FakeClock, fail_then_return
from tests.support.virtual_time import LoopClock


def test_a_dependency_has_one_breaker_and_one_bulkhead():
    """Asking twice is asking for the same."""
    registry = PolicyRegistry()

    assert registry.breaker("model:a") is registry.breaker("model:a")
    assert registry.bulkhead("model:a") is registry.bulkhead("model:a")
    assert registry.breaker("model:a") is not registry.breaker("model:b")


def test_listings_are_sorted():
    """Whatever the order in which they were made."""
    registry = PolicyRegistry()
    for name in ("tool:x", "model:b", "specialist:y", "model:a"):
        registry.breaker(name)
        registry.bulkhead(name)

    names = ["model:a", "model:b", "specialist:y", "tool:x"]
    assert [breaker.dependency for breaker in registry.breakers()] == names
    assert [bulkhead.dependency for bulkhead in registry.bulkheads()] == names


async def test_rules_are_those_of_the_dependency_else_of_its_kind_else_the_defaults(ctx: CallContext):
    """The longer name wins."""
    rules = {"model": BreakerSettings(consecutive_failures=2), "model:b": BreakerSettings(consecutive_failures=1)}
    registry = PolicyRegistry(ResilienceSettings(breakers=rules, bulkheads={"tool": BulkheadSettings(1, 0)}), clock=LoopClock())

    async def failures_until_open(dependency: str) -> int:
        breaker, failures = registry.breaker(dependency), 0
        while breaker.state is BreakerState.CLOSED:
            failures += 1
            with pytest.raises(TransientError):
                await breaker.execute(fail_then_return(1, TransientError("503"), ""), ctx)
        return failures

    assert [await failures_until_open(name) for name in ("model:a", "model:b", "tool:x")] == [2, 1, 5]
    running = asyncio.create_task(registry.bulkhead("tool:x").execute(lambda _: asyncio.sleep(1), ctx))
    await asyncio.sleep(0)
    with pytest.raises(BulkheadFull):
        await registry.bulkhead("tool:x").execute(lambda _: asyncio.sleep(1), ctx)
    await running


async def test_pipelines_of_one_dependency_share_its_state(ctx: CallContext):
    """What one caller learned, the other knows."""
    registry = PolicyRegistry(clock=LoopClock(), rng=Random(7))
    dead = fail_then_return(99, TransientError("503"), "")
    with pytest.raises(TransientError):
        await registry.provider_pipeline("model:a").execute(dead, ctx)
    with pytest.raises(CircuitOpen):
        await registry.provider_pipeline("model:a").execute(dead, ctx)

    with pytest.raises(CircuitOpen):
        await registry.provider_pipeline("model:a", timeout=5).execute(dead, ctx)

    assert dead.attempts == 5
    assert await registry.provider_pipeline("model:b").execute(fail_then_return(0, Exception(), "well"), ctx) == "well"


async def test_every_policy_tells_every_listener(ctx: CallContext, events: list[ResilienceEvent]):
    """A dead dependency is told as retries, an opening and a refusal, to each listener."""
    also: list[ResilienceEvent] = []
    registry = PolicyRegistry(clock=LoopClock(), rng=Random(7), listeners=[events.append, also.append])
    pipeline = registry.provider_pipeline("model:a", timeout=1)

    async def hang(ctx: CallContext) -> None:
        await asyncio.sleep(3600)

    with pytest.raises(AttemptTimedOut):
        await pipeline.execute(hang, ctx)
    with pytest.raises(CircuitOpen):
        await pipeline.execute(hang, ctx)
    registry.listener(events[0])

    kinds = [str(event.kind) for event in events[:-1]]
    first = ["attempt_timed_out", "retry_scheduled"] * 2 + ["attempt_timed_out"]
    second = ["attempt_timed_out", "retry_scheduled", "attempt_timed_out", "breaker_transition", "retry_scheduled", "rejected"]
    assert kinds == first + second
    assert {event.dependency for event in events} == {"model:a"}
    assert also == events


async def test_specialists_and_tools_are_dependencies_by_their_names(ctx: CallContext):
    """Breakers are listed as `specialist:<name>` and `tool:<name>`."""
    registry = PolicyRegistry()
    registry.specialist_pipeline("billing_support", 15)
    registry.tool_pipeline("find_order", 2, is_idempotent=True)

    assert [breaker.dependency for breaker in registry.breakers()] == ["specialist:billing_support", "tool:find_order"]


@pytest.mark.parametrize(("is_idempotent", "attempts"), [(True, 3), (False, 1)])
async def test_a_tool_is_tried_again_only_if_that_is_harmless(ctx: CallContext, is_idempotent: bool, attempts: int):
    """A tool that changes the world gets one attempt."""
    registry = PolicyRegistry(clock=LoopClock(), rng=Random(7))
    dead = fail_then_return(99, TransientError("503"), "")

    with pytest.raises(TransientError):
        await registry.tool_pipeline("find_order", 2, is_idempotent=is_idempotent).execute(dead, ctx)

    assert dead.attempts == attempts


async def test_attempts_of_a_provider_can_be_fewer(ctx: CallContext):
    """A routing call may have less patience than a reasoning call."""
    registry = PolicyRegistry(clock=SystemClock())
    dead = fail_then_return(99, TransientError("503"), "")

    with pytest.raises(TransientError):
        await registry.provider_pipeline("model:a", attempts=1).execute(dead, ctx)

    assert dead.attempts == 1


async def test_only_what_a_rule_names_has_a_limit_that_adapts(ctx: CallContext):
    """And nothing while the policy is switched off; then the fixed limit is back."""
    rules = {"model": AdaptiveSettings(start=32)}
    fixed = {"model": BulkheadSettings(limit=5)}
    registry = PolicyRegistry(ResilienceSettings(adaptive=rules, bulkheads=fixed), clock=LoopClock())
    without = PolicyRegistry(
        ResilienceSettings(off=frozenset({PolicyName.ADAPTIVE_LIMIT}), adaptive=rules, bulkheads=fixed), clock=LoopClock()
    )

    assert [registry.bulkhead(name).limit for name in ("model:a", "tool:x", "specialist:y")] == [32, 256, 256]
    assert without.bulkhead("model:a").limit == 5


def test_a_hanging_specialist_leaves_half_of_the_runs_to_others():
    """What one specialist's room and queue can hold is far less than the runs of a process."""
    room = BulkheadSettings()

    assert room.limit + room.queue <= 1_000 * 0.6


class Unlucky(Random):
    """Draws the upper bound every time."""

    def uniform(self, a: float, b: float) -> float:
        return b


async def test_retries_have_the_registrys_clock_and_luck(events: list[ResilienceEvent]):
    """The wait is drawn from its luck and slept on its clock."""
    clock = FakeClock()
    pipeline = PolicyRegistry(clock=clock, rng=Unlucky(), listeners=[events.append]).provider_pipeline("model:a")
    call = fail_then_return(1, TransientError("503"), "answer")
    trying = asyncio.create_task(pipeline.execute(call, CallContext("model:a", Deadline.after(60, clock))))
    await asyncio.sleep(5)

    assert [event.fields["wait"] for event in events] == [0.25]
    assert call.attempts == 1
    clock.advance(0.25)
    assert await trying == "answer"


def test_a_retry_budget_has_the_registrys_clock():
    """What is spent comes back when that clock says so."""
    clock = FakeClock()
    budget = PolicyRegistry(ResilienceSettings(retry_budgets={"model": RetryBudgetSettings(floor=1)}), clock=clock).retry_budget("model:a")

    assert [budget.take(), budget.take()] == [True, False]
    clock.advance(10)
    assert budget.take()


async def test_a_hedge_has_the_rules_of_its_dependency_and_says_whose_it_is(events: list[ResilienceEvent]):
    """By the longer name, else by the kind."""
    settings = ResilienceSettings(hedges={"model": HedgeSettings(minimum_calls=1, floor=2.0)})
    pipeline = PolicyRegistry(settings, clock=LoopClock(), listeners=[events.append]).provider_pipeline("model:a")
    read = CallContext("routing", Deadline.after(60, LoopClock()), is_read_only=True)
    for _ in range(20):
        await pipeline.execute(fail_then_return(0, Exception(), "answer"), read)
    begun, calls = asyncio.get_running_loop().time(), iter([3600.0, 0.0])

    async def slow_at_first(ctx: CallContext) -> str:
        await asyncio.sleep(next(calls))
        return "answer"

    assert await pipeline.execute(slow_at_first, read) == "answer"
    assert asyncio.get_running_loop().time() - begun == pytest.approx(2.0)
    assert [(event.kind, event.dependency) for event in events] == [(EventKind.HEDGE_STARTED, "model:a"), (EventKind.HEDGE_WON, "model:a")]


class Allowance:
    """A limiter that lets the first call wait for a second, and no other call through."""

    def __init__(self) -> None:
        self._grants = iter([Grant(True, 1.0, 0)])

    async def take(self, ctx: CallContext, *, patience: float) -> Grant:
        return next(self._grants, Grant(False, 60.0, 0))

    def settle(self, grant: Grant, result: object) -> None: ...

    def throttled(self, retry_after: float) -> None: ...

    def give_back(self, grant: Grant) -> None: ...


async def test_a_rate_limit_has_the_registrys_clock_and_says_whose_it_is(events: list[ResilienceEvent]):
    """It sleeps on that clock; its refusal names the dependency."""
    clock = FakeClock()
    registry = PolicyRegistry(clock=clock, limiters={"model:a": Allowance()}, listeners=[events.append])
    pipeline, ctx = registry.provider_pipeline("model:a"), CallContext("routing", Deadline.after(60, clock))
    call = fail_then_return(0, Exception(), "answer")
    waiting = asyncio.create_task(pipeline.execute(call, ctx))
    await asyncio.sleep(5)
    assert call.attempts == 0
    clock.advance(1)
    assert await waiting == "answer"

    with pytest.raises(RateLimited, match="model:a"):
        await pipeline.execute(call, ctx)
    assert [(event.kind, event.operation, event.dependency) for event in events] == [(EventKind.REJECTED, "routing", "model:a")]
