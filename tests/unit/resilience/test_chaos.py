"""Which faults befall whom, when, and how often."""

import asyncio
from collections import Counter
from random import Random
from statistics import median
from typing import Any

import pytest
from pydantic import ValidationError

from resilience.chaos import Chaos, ChaosPlan, Fault
from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.errors import AttemptTimedOut, CircuitOpen, DeadlineExceeded, PermanentError, Throttled, TransientError
from resilience.events import EventKind, ResilienceEvent
from resilience.registry import PolicyName, PolicyRegistry, ResilienceSettings
from resilience.testing import FakeClock, fail_then_return
from tests.support.virtual_time import LoopClock

HANGS = "hangs"


def now() -> float:
    return asyncio.get_running_loop().time()


def chaos(*faults: dict[str, Any], dependency: str = "model:openai/gpt-x", **options: Any) -> Chaos:
    plan = ChaosPlan.model_validate({"faults": [{"dependency": "*", **fault} for fault in faults]})
    return Chaos(dependency, plan.faults, **{"clock": LoopClock(), **options})


def well() -> Any:
    return fail_then_return(0, Exception(), "answer")


async def outcome(policy: Chaos, ctx: CallContext, call: Any = None) -> str:
    """What becomes of one call, in a word."""
    try:
        async with asyncio.timeout(1000):
            return await policy.execute(call or well(), ctx)
    except TimeoutError:
        return HANGS
    except Exception as exc:
        return type(exc).__name__


async def outcomes(policy: Chaos, ctx: CallContext, calls: int = 2000) -> Counter[str]:
    return Counter(await asyncio.gather(*(outcome(policy, ctx) for _ in range(calls))))


async def test_shares_are_met(ctx: CallContext):
    """Of two thousand calls about as many hang, fail and answer garbage as planned; the others are left alone."""
    counted = await outcomes(chaos({"hangs": 0.1, "errors": 0.2, "garbage": 0.05}), ctx)

    assert counted[HANGS] == pytest.approx(200, rel=0.25)
    assert counted["TransientError"] == pytest.approx(400, rel=0.25)
    assert counted["PermanentError"] == pytest.approx(100, rel=0.25)
    assert counted.total() - counted["answer"] == counted[HANGS] + counted["TransientError"] + counted["PermanentError"]


@pytest.mark.parametrize(("error", "kind"), [("unavailable", TransientError), ("connection", TransientError), ("throttled", Throttled)])
async def test_an_error_is_of_the_kind_that_real_ones_are(
    ctx: CallContext, events: list[ResilienceEvent], error: str, kind: type[Exception]
):
    """The dependency is not called, and the listener hears which fault it was."""
    call = well()

    with pytest.raises(TransientError, match=f"chaos: model:openai/gpt-x failed .{error}.") as caught:
        await chaos({"errors": 1.0, "error": error, "retry_after": 3.0}, listener=events.append).execute(call, ctx)

    assert (type(caught.value), caught.value.retry_after, call.attempts) == (kind, 3.0, 0)
    assert events == [ResilienceEvent(EventKind.FAULT_INJECTED, "model:gpt-x", "model:openai/gpt-x", {"fault": error})]


async def test_a_hanging_call_ends_when_it_is_cancelled(ctx: CallContext, events: list[ResilienceEvent]):
    """Not before, and the dependency is never called."""
    call = well()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(500):
            await chaos({"hangs": 1.0}, listener=events.append).execute(call, ctx)

    assert (now(), call.attempts) == (500, 0)
    assert [event.fields for event in events] == [{"fault": "hang"}]


async def test_garbage_is_what_the_caller_says_it_is(ctx: CallContext, events: list[ResilienceEvent]):
    """An error of the caller's making for this dependency; else one that no retry mends."""
    with pytest.raises(PermanentError, match="garbage"):
        await chaos({"garbage": 1.0}).execute(well(), ctx)
    with pytest.raises(ValueError, match="nonsense from model:openai/gpt-x"):
        await chaos({"garbage": 1.0}, garbage=lambda name: ValueError(f"nonsense from {name}"), listener=events.append).execute(well(), ctx)

    assert [event.fields for event in events] == [{"fault": "garbage"}]


async def test_fixed_latency_comes_before_the_call(ctx: CallContext, events: list[ResilienceEvent]):
    """Without a width every call is held up for the same time, and is then made."""
    policy, call = chaos({"latency": {"median": 2.0}}, listener=events.append), well()

    assert [await policy.execute(call, ctx) for _ in range(3)] == ["answer"] * 3

    assert now() == pytest.approx(6.0)
    assert [event.fields for event in events] == [{"fault": "latency"}] * 3


async def test_latency_has_a_long_tail(ctx: CallContext):
    """Lognormal: half of the calls are above the median, and one in a hundred 3.2 times as high with a width of 0.5."""
    policy, took = chaos({"latency": {"median": 1.0, "sigma": 0.5}}), []

    async def one() -> None:
        begun = now()
        await policy.execute(well(), ctx)
        took.append(now() - begun)

    await asyncio.gather(*(one() for _ in range(4000)))

    assert median(took) == pytest.approx(1.0, rel=0.05)
    assert sorted(took)[int(0.99 * 4000)] == pytest.approx(3.2, rel=0.15)


async def test_a_fault_has_its_time(ctx: CallContext):
    """From the first instant of its window to the last before its end, counted from the start."""
    clock = FakeClock()
    policy = chaos({"errors": 1.0, "from": 10, "to": 20}, clock=clock)

    seen = []
    for step in (0.0, 9.5, 0.5, 9.5, 0.5):  # exact in binary, so that the edges are met
        clock.advance(step)
        seen.append((clock.monotonic(), await outcome(policy, ctx)))

    assert seen == [(0.0, "answer"), (9.5, "answer"), (10.0, "TransientError"), (19.5, "TransientError"), (20.0, "answer")]


async def test_its_time_is_counted_from_when_it_was_made(ctx: CallContext):
    """Whatever the clock said then; a call that nothing befalls is given what its caller gave."""
    clock = FakeClock()
    clock.advance(100)
    policy, call = chaos({"errors": 1.0, "from": 10, "to": 20}, clock=clock), well()

    assert await outcome(policy, ctx, call) == "answer"
    assert call.contexts == [ctx]
    clock.advance(10)
    assert await outcome(policy, ctx) == "TransientError"


async def test_a_fault_without_an_end_has_none(ctx: CallContext):
    """It befalls for ever."""
    clock = FakeClock()
    policy = chaos({"errors": 1.0, "from": 10}, clock=clock)
    clock.advance(1e6)

    assert await outcome(policy, ctx) == "TransientError"


async def test_all_faults_that_match_befall_a_call_in_order(ctx: CallContext):
    """Slow, and then failing."""
    policy = chaos({"latency": {"median": 2.0}}, {"dependency": "model:*", "errors": 1.0}, {"dependency": "tool:*", "hangs": 1.0})

    assert await outcome(policy, ctx) == "TransientError"
    assert now() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [("model:openai/*", True), ("model:openai/gpt-?", True), ("*", True), ("model:openai", False), ("MODEL:*", False), ("tool:*", False)],
)
def test_a_pattern_names_its_dependencies(pattern: str, matches: bool):
    """Whole names, upper and lower case apart."""
    assert chaos({"dependency": pattern, "hangs": 1.0}, clock=FakeClock()).has_faults is matches


async def test_the_same_seed_and_the_same_calls_meet_the_same_faults(ctx: CallContext):
    """Another seed or another dependency has another luck."""
    fault = {"hangs": 0.2, "errors": 0.2, "garbage": 0.2, "latency": {"median": 1.0, "sigma": 0.5}}

    async def history(**options: Any) -> list[str]:
        policy = chaos(fault, **options)
        return [await outcome(policy, ctx) for _ in range(50)]

    same = await history(seed=1)
    assert same == await history(seed=1)
    assert same != await history(seed=2)
    assert same != await history(seed=1, dependency="model:openai/gpt-y")


async def test_luck_does_not_depend_on_how_calls_overlap(ctx: CallContext):
    """One after the other or all at once: the n-th call is hit by the same."""
    fault = {"errors": 0.5, "latency": {"median": 1.0, "sigma": 0.5}}
    one, other = chaos(fault, seed=1), chaos(fault, seed=1)

    assert [await outcome(one, ctx) for _ in range(50)] == await asyncio.gather(*(outcome(other, ctx) for _ in range(50)))


async def test_changing_one_share_leaves_the_luck_of_others_alone(ctx: CallContext):
    """Whoever failed at one in ten fails at two in ten as well, whatever the latency."""
    few = chaos({"errors": 0.1}, {"dependency": "*", "latency": {"median": 0.1}}, seed=1)
    many = chaos({"errors": 0.2, "latency": {"median": 1.0, "sigma": 1.0}}, {"dependency": "*", "latency": {"median": 0.1}}, seed=1)

    both = [(await outcome(few, ctx), await outcome(many, ctx)) for _ in range(200)]

    assert ("TransientError", "answer") not in both


async def test_without_arguments_it_is_ready_to_use(ctx: CallContext):
    """The machine's clock, and nobody who listens."""
    assert await Chaos("model:a", ()).execute(well(), ctx) == "answer"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"dependency": "*"}, "does nothing"),
        ({"dependency": "*", "errors": 0.6, "hangs": 0.6}, "more than 1"),
        ({"dependency": "*", "errors": 1.1}, "less than or equal to 1"),
        ({"dependency": "*", "hangs": -0.1}, "greater than or equal to 0"),
        ({"dependency": "*", "garbage": float("nan")}, "finite"),
        ({"dependency": "*", "errors": 0.1, "from": 5, "to": 5}, "later than from"),
        ({"dependency": "*", "errors": 0.1, "error": "wrong"}, "'unavailable', 'throttled' or 'connection'"),
        ({"dependency": "", "errors": 0.1}, "at least 1 character"),
        ({"errors": 0.1}, "Field required"),
        ({"dependency": "*", "eror": 0.1}, "Extra inputs"),
        ({"dependency": "*", "latency": {"median": -1}}, "greater than or equal to 0"),
    ],
    ids=str,
)
def test_a_plan_that_makes_no_sense_is_refused(fault: dict[str, Any], says: str):
    """With words that say why."""
    with pytest.raises(ValidationError, match=says):
        ChaosPlan.model_validate({"faults": [fault]})


def test_a_plan_has_faults():
    """An empty one is a mistake."""
    with pytest.raises(ValidationError, match="at least 1 item"):
        ChaosPlan.model_validate({"faults": []})


# --- inside the pipelines: chaos is the innermost policy ----------------------------------------------------------------


def registry(events: list[ResilienceEvent], *faults: dict[str, Any], **options: Any) -> PolicyRegistry:
    plan = ChaosPlan(faults=tuple(Fault.model_validate(fault) for fault in faults)) if faults else None
    return PolicyRegistry(ResilienceSettings(chaos=plan, **options), clock=LoopClock(), rng=Random(7), listeners=[events.append])


def within(seconds: float) -> CallContext:
    return CallContext("model:a", Deadline.after(seconds, LoopClock()))


def injected(events: list[ResilienceEvent]) -> int:
    return sum(event.kind is EventKind.FAULT_INJECTED for event in events)


async def test_attempt_timeout_and_chaos(events: list[ResilienceEvent]):
    """A hang is ended and counted like a real one: attempts, then an open breaker; the dependency is never called."""
    call = well()
    pipeline = registry(events, {"dependency": "model:*", "hangs": 1.0}).provider_pipeline("model:a", timeout=5)

    for error in (AttemptTimedOut, CircuitOpen):
        with pytest.raises(error):
            await pipeline.execute(call, within(60))

    assert (injected(events), call.attempts) == (5, 0)


async def test_retry_and_chaos(events: list[ResilienceEvent]):
    """Each attempt meets its own fault."""
    call = well()
    pipeline = registry(events, {"dependency": "model:*", "errors": 1.0, "to": 0.001}).provider_pipeline("model:a")

    assert await pipeline.execute(call, within(60)) == "answer"
    assert (injected(events), call.attempts) == (1, 1)


async def test_specialist_timeout_and_chaos(events: list[ResilienceEvent]):
    """A specialist hangs as a whole; another is left alone."""
    models, call = registry(events, {"dependency": "specialist:billing_*", "hangs": 1.0}), well()

    with pytest.raises(AttemptTimedOut):
        await models.specialist_pipeline("billing_support", 15).execute(call, within(60))
    assert await models.specialist_pipeline("technical_support", 15).execute(call, within(60)) == "answer"

    assert (injected(events), call.attempts) == (1, 1)


async def test_tools_share_their_luck_over_pipelines(events: list[ResilienceEvent]):
    """A tool's pipeline is made anew for each call; its chaos goes on where it was."""
    models = registry(events, {"dependency": "tool:*", "errors": 0.5}, off=frozenset({PolicyName.BREAKER}))

    async def use() -> str:
        try:
            return await models.tool_pipeline("find_order", 2, is_idempotent=False).execute(well(), within(60))
        except TransientError:
            return "failed"

    assert Counter([await use() for _ in range(100)])["failed"] == pytest.approx(50, abs=20)


async def test_faults_befall_with_every_policy_switched_off(events: list[ResilienceEvent]):
    """Chaos is no protection and cannot be switched off like one."""
    models = registry(events, {"dependency": "*", "errors": 1.0}, off=frozenset(PolicyName))

    with pytest.raises(TransientError):
        await models.provider_pipeline("model:a").execute(well(), within(60))

    assert injected(events) == 1


async def test_without_a_plan_there_is_no_chaos(events: list[ResilienceEvent]):
    """Nothing is injected, and what does not match is not even asked."""
    call = well()

    assert await registry(events).provider_pipeline("model:a").execute(call, within(60)) == "answer"
    other = registry(events, {"dependency": "tool:*", "errors": 1.0})
    assert await other.provider_pipeline("model:a").execute(call, within(60)) == "answer"
    assert events == []


async def test_windows_count_from_the_start_of_the_service(events: list[ResilienceEvent]):
    """Not from the first call of a dependency."""
    models = registry(events, {"dependency": "*", "errors": 1.0, "to": 10})
    await asyncio.sleep(10)

    assert await models.provider_pipeline("model:a").execute(well(), within(60)) == "answer"


async def test_a_hang_spends_the_deadline(events: list[ResilienceEvent]):
    """It is no way around it."""
    with pytest.raises(DeadlineExceeded):
        await registry(events, {"dependency": "*", "hangs": 1.0}).provider_pipeline("model:a").execute(well(), within(3))

    assert now() == pytest.approx(3)
