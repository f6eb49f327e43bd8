"""When a rate limit lets a call through, makes it wait, or rejects it; and what it tells its limiter afterwards."""

import asyncio
from dataclasses import replace

import pytest

from resilience.breaker import BreakerSettings
from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.errors import AttemptTimedOut, CircuitOpen, DeadlineExceeded, RateLimited, Throttled, TransientError
from resilience.events import EventKind, ResilienceEvent
from resilience.fallback import Alternative, Fallback
from resilience.pipeline import Pipeline
from resilience.rate_limit import LONGEST_WAIT, Grant, RateLimit
from resilience.registry import PolicyName, PolicyRegistry, ResilienceSettings
from resilience.testing import fail_then_return
from resilience.token_bucket import Charge, LocalBuckets, Rate
from tests.support.virtual_time import LoopClock


class CallsPerMinute:
    """A limiter of calls only, in virtual time, that remembers what it was told.

    Args:
        allowance: Calls per minute.
    """

    def __init__(self, allowance: int) -> None:
        self._buckets = LocalBuckets(LoopClock())
        self._rate = Rate(allowance)
        self.weights: list[int] = []
        self.settled: list[object] = []
        self.given_back = 0
        self.throttled_for: list[float] = []

    async def take(self, ctx: CallContext, *, patience: float) -> Grant:
        self.weights.append(ctx.weigh())
        taken = self._buckets.take([Charge("calls", self._rate, 1)], patience=patience)
        return Grant(taken.is_allowed, taken.wait, self.weights[-1])

    def settle(self, grant: Grant, result: object) -> None:
        self.settled.append(result)

    def throttled(self, retry_after: float) -> None:
        self.throttled_for.append(retry_after)

    def give_back(self, grant: Grant) -> None:
        self.given_back += 1
        self._buckets.settle([Charge("calls", self._rate, -1)])


def now() -> float:
    return asyncio.get_running_loop().time()


async def answer(ctx: CallContext) -> str:
    return "answer"


def limited(limiter: CallsPerMinute, events: list[ResilienceEvent] | None = None) -> RateLimit:
    return RateLimit(limiter, clock=LoopClock(), dependency="model:a", listener=events.append if events is not None else None)


async def test_within_the_allowance_nothing_waits(ctx: CallContext):
    """The result goes through, and to the limiter."""
    limiter = CallsPerMinute(2)
    policy = limited(limiter)

    assert [await policy.execute(answer, ctx) for _ in range(2)] == ["answer", "answer"]
    assert (now(), limiter.settled, limiter.given_back) == (0.0, ["answer", "answer"], 0)


async def test_the_weight_of_a_call_is_asked_of_its_context(ctx: CallContext):
    """Once per attempt."""
    limiter = CallsPerMinute(2)

    await limited(limiter).execute(answer, replace(ctx, weigh=lambda: 123))
    assert limiter.weights == [123]


async def test_a_short_wait_is_waited_for(ctx: CallContext):
    """At 120 per minute the next call may come half a second later."""
    policy = limited(CallsPerMinute(120))
    for _ in range(120):
        await policy.execute(answer, ctx)

    assert await policy.execute(answer, ctx) == "answer"
    assert now() == pytest.approx(0.5)


@pytest.mark.parametrize(("per_minute", "is_waited_for"), [(300, True), (200, False)], ids=["0.2 s", "0.3 s"])
async def test_beside_a_stand_in_only_a_moment_is_waited_for(ctx: CallContext, per_minute: int, is_waited_for: bool):
    """A quarter of a second; whoever stands ready answers sooner than a turn that is further off."""
    policy, ctx = limited(CallsPerMinute(per_minute)), replace(ctx, has_stand_in=True)
    for _ in range(per_minute):
        await policy.execute(answer, ctx)

    if is_waited_for:
        assert await policy.execute(answer, ctx) == "answer"
    else:
        with pytest.raises(RateLimited):
            await policy.execute(answer, ctx)


async def test_a_long_wait_is_a_rejection_that_says_how_long(ctx: CallContext, events: list[ResilienceEvent]):
    """At six per minute the seventh is ten seconds off, and the dependency does not hear of it."""
    limiter = CallsPerMinute(6)
    policy = limited(limiter, events)
    for _ in range(6):
        await policy.execute(answer, ctx)

    with pytest.raises(RateLimited) as refused:
        await policy.execute(answer, ctx)
    assert refused.value.retry_after == pytest.approx(10)
    assert "model:a" in str(refused.value)
    assert (now(), len(limiter.settled), limiter.given_back) == (0.0, 6, 0)
    assert events == [ResilienceEvent(EventKind.REJECTED, ctx.operation, "model:a", {"why": "rate_limited"})]


async def test_nobody_waits_for_longer_than_the_deadline_leaves():
    """A turn that comes after the deadline is a rejection now."""
    limiter = CallsPerMinute(120)
    policy = limited(limiter)
    for _ in range(120):
        await policy.execute(answer, CallContext("model:a", Deadline.after(60, LoopClock())))

    with pytest.raises(RateLimited):
        await policy.execute(answer, CallContext("model:a", Deadline.after(0.4, LoopClock())))
    assert now() == 0.0


async def test_no_more_wait_than_fits_into_the_longest_wait(ctx: CallContext):
    """Of a crowd those get a turn whose turn comes in time; each in its own."""
    policy = limited(CallsPerMinute(500))
    for _ in range(500):
        await policy.execute(answer, ctx)
    done: list[float] = []

    async def note(ctx: CallContext) -> None:
        done.append(now())

    crowd = await asyncio.gather(*(policy.execute(note, ctx) for _ in range(50)), return_exceptions=True)
    assert sum(isinstance(result, RateLimited) for result in crowd) == 42
    assert done == [pytest.approx(0.12 * n) for n in range(1, 9)]
    assert done[-1] <= LONGEST_WAIT < done[-1] + 0.12


async def test_who_leaves_while_waiting_gives_the_turn_back(ctx: CallContext):
    """And is not served."""
    limiter = CallsPerMinute(120)
    policy = limited(limiter)
    for _ in range(120):
        await policy.execute(answer, ctx)
    waiting = asyncio.create_task(policy.execute(answer, ctx))
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert (limiter.given_back, len(limiter.settled)) == (1, 120)


@pytest.mark.parametrize(
    ("error", "given_back"),
    [
        (CircuitOpen("model:a", "open"), 1),
        (TransientError("500"), 0),
        (AttemptTimedOut("model:a", 7.0), 0),
        (DeadlineExceeded("model:a"), 0),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_only_what_never_reached_the_dependency_is_given_back(ctx: CallContext, error: Exception, given_back: int):
    """A failed call has been counted by the provider too. Errors pass through unchanged."""
    limiter = CallsPerMinute(2)

    with pytest.raises(type(error)) as raised:
        await limited(limiter).execute(fail_then_return(1, error, ""), ctx)
    assert raised.value is error
    assert (limiter.given_back, limiter.settled) == (given_back, [])


@pytest.mark.parametrize(("retry_after", "told"), [(7.0, 7.0), (None, 0.0)])
async def test_a_dependency_that_wants_no_more_calls_is_believed(ctx: CallContext, retry_after: float | None, told: float):
    """The limiter is told for how long; the charge is kept, since the dependency has counted the call."""
    limiter = CallsPerMinute(2)

    with pytest.raises(Throttled):
        await limited(limiter).execute(fail_then_return(1, Throttled("429", retry_after), ""), ctx)
    assert (limiter.throttled_for, limiter.given_back, limiter.settled) == ([told], 0, [])


# --- with its neighbours: retry › rate limit › breaker ------------------------------------------------------------------


def registry(limiter: CallsPerMinute, **rules) -> PolicyRegistry:
    settings = ResilienceSettings(breakers={"model": BreakerSettings(consecutive_failures=2)}, **rules)
    return PolicyRegistry(settings, clock=LoopClock(), limiters={"model:a": limiter})


async def test_retry_and_rate_limit(ctx: CallContext):
    """Every attempt takes from the allowance, and a rejection is not tried again."""
    limiter, failing = CallsPerMinute(2), fail_then_return(9, TransientError("500"), "answer")
    models = PolicyRegistry(clock=LoopClock(), limiters={"model:a": limiter})

    with pytest.raises(RateLimited):
        await models.provider_pipeline("model:a").execute(failing, ctx)
    assert (failing.attempts, len(limiter.weights)) == (2, 3)


async def test_rate_limit_and_breaker(ctx: CallContext):
    """A rejection by the limit does not count against the provider."""
    limiter, healthy = CallsPerMinute(2), fail_then_return(0, Exception(), "answer")
    models = registry(limiter)
    pipeline = models.provider_pipeline("model:a")
    for _ in range(2):
        await pipeline.execute(healthy, ctx)
    for _ in range(5):
        with pytest.raises(RateLimited):
            await pipeline.execute(healthy, ctx)
    assert models.breaker("model:a").is_admitting


async def test_an_open_breaker_costs_no_allowance(ctx: CallContext):
    """What it rejects is given back, so that the allowance is whole when it closes."""
    limiter, dead = CallsPerMinute(60), fail_then_return(99, TransientError("500"), "")
    pipeline = registry(limiter).provider_pipeline("model:a", attempts=2)
    with pytest.raises(TransientError):
        await pipeline.execute(dead, ctx)

    for _ in range(20):
        with pytest.raises(CircuitOpen):
            await pipeline.execute(dead, ctx)
    assert (dead.attempts, limiter.given_back) == (2, 20)


async def test_fallback_and_rate_limit(ctx: CallContext):
    """The next model answers at once while the first has no allowance."""
    models = registry(CallsPerMinute(1))
    first, second = fail_then_return(0, Exception(), "first"), fail_then_return(0, Exception(), "second")
    alternative = Alternative("model:b", lambda ctx: models.provider_pipeline("model:b").execute(second, ctx))
    pipeline = Pipeline(Fallback(alternative), models.provider_pipeline("model:a"))

    assert [await pipeline.execute(first, ctx) for _ in range(3)] == ["first", "second", "second"]
    assert (first.attempts, second.attempts, now()) == (1, 2, 0.0)


async def test_without_a_limiter_or_switched_off_there_is_no_limit(ctx: CallContext):
    """Other dependencies are not asked for their weight; `RESILIENCE_OFF=rate_limit` leaves the policy out."""
    limiter = CallsPerMinute(1)

    def weigh() -> int:
        raise AssertionError("nobody needs to know")

    weighty = replace(ctx, weigh=weigh)
    off = registry(limiter, off=frozenset({PolicyName.RATE_LIMIT}))
    for pipeline in (registry(limiter).provider_pipeline("model:b"), off.provider_pipeline("model:a")):
        assert [await pipeline.execute(answer, weighty) for _ in range(5)] == ["answer"] * 5
    assert limiter.weights == []


class Remembering(CallsPerMinute):
    """Remembers which grants it was told of."""

    def __init__(self, allowance: int) -> None:
        super().__init__(allowance)
        self.granted: list[Grant] = []
        self.heard: list[Grant] = []

    async def take(self, ctx: CallContext, *, patience: float) -> Grant:
        self.granted.append(await super().take(ctx, patience=patience))
        return self.granted[-1]

    def settle(self, grant: Grant, result: object) -> None:
        self.heard.append(grant)

    def give_back(self, grant: Grant) -> None:
        self.heard.append(grant)


async def test_the_limiter_is_told_of_the_very_grant_that_it_gave(ctx: CallContext):
    """Settled or given back; another one's would correct another one's account."""
    limiter = Remembering(2)
    await limited(limiter).execute(answer, ctx)
    with pytest.raises(CircuitOpen):
        await limited(limiter).execute(fail_then_return(1, CircuitOpen("model:a", "open"), ""), ctx)

    assert [id(grant) for grant in limiter.heard] == [id(grant) for grant in limiter.granted]


async def test_a_rejection_names_the_call(ctx: CallContext, events: list[ResilienceEvent]):
    """The operation, whoever's allowance it was; and the event, the dependency if it was given one."""
    limiter = CallsPerMinute(1)
    policy = RateLimit(limiter, longest_wait=0.0, listener=events.append)
    await policy.execute(answer, ctx)

    with pytest.raises(RateLimited) as caught:
        await policy.execute(answer, ctx)

    assert caught.value.operation == "model:gpt-x"
    assert [(event.operation, event.dependency) for event in events] == [("model:gpt-x", "")]
