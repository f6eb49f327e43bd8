"""What neighbours in a pipeline do to each other, seen from the dependency: how often is it called?

The provider's:   fallback › deadline › retry › hedge › breaker › bulkhead › attempt timeout › chaos
The specialist's:            deadline ›                 breaker › bulkhead › timeout › chaos
A tool's:                    deadline › retry › hedge › breaker › bulkhead › attempt timeout › chaos
"""

import asyncio
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from resilience.breaker import BreakerSettings, BreakerState
from resilience.bulkhead import BulkheadSettings
from resilience.context import CallContext
from resilience.deadline import Deadline
from resilience.errors import AttemptTimedOut, BulkheadFull, CircuitOpen, DeadlineExceeded, Throttled, TransientError
from resilience.fallback import Alternative, Fallback
from resilience.pipeline import Pipeline
from resilience.registry import PolicyName, PolicyRegistry, ResilienceSettings
from resilience.testing import fail_then_return
from tests.support.virtual_time import LoopClock


class Hanging:
    """A dependency that never answers, and counts who asked."""

    def __init__(self) -> None:
        self.attempts = 0

    async def __call__(self, ctx: CallContext) -> str:
        self.attempts += 1
        await asyncio.sleep(3600)
        return "never"


def registry(**rules) -> PolicyRegistry:
    """Two failures open, and there is room for two calls and one in the queue."""
    breakers = {"model": BreakerSettings(consecutive_failures=2), "specialist": BreakerSettings(consecutive_failures=2)}
    bulkheads = {"model": BulkheadSettings(2, 1), "specialist": BulkheadSettings(2, 1)}
    settings = ResilienceSettings(**{"breakers": breakers, "bulkheads": bulkheads, **rules})
    return PolicyRegistry(settings, clock=LoopClock(), rng=Random(7))


def within(seconds: float) -> CallContext:
    return CallContext("model:a", Deadline.after(seconds, LoopClock()))


def now() -> float:
    return asyncio.get_running_loop().time()


# --- the provider's pipeline --------------------------------------------------------------------------------------------


async def test_provider_fallback_and_deadline():
    """A first choice that hangs is called once and ended at 48 of 60 seconds; the alternative is called once and answers."""
    hanging, smaller = Hanging(), fail_then_return(0, Exception(), "smaller answer")
    models = registry()
    alternative = Alternative("model:b", lambda ctx: models.provider_pipeline("model:b").execute(smaller, ctx))
    pipeline = Pipeline(Fallback(alternative), models.provider_pipeline("model:a", timeout=100))

    assert await pipeline.execute(hanging, within(60)) == "smaller answer"

    assert (hanging.attempts, smaller.attempts) == (1, 1)
    assert now() == pytest.approx(48)


async def test_provider_fallback_and_open_breaker():
    """While the first choice is left alone, the alternative answers at once."""
    dead, smaller = fail_then_return(99, TransientError("503"), ""), fail_then_return(0, Exception(), "smaller answer")
    models = registry()
    alternative = Alternative("model:b", lambda ctx: models.provider_pipeline("model:b").execute(smaller, ctx))
    pipeline = Pipeline(Fallback(alternative), models.provider_pipeline("model:a"))

    answers = [await pipeline.execute(dead, within(60)) for _ in range(10)]

    assert answers == ["smaller answer"] * 10
    assert (dead.attempts, smaller.attempts) == (2, 10)


@pytest.mark.parametrize(("is_as_good", "attempts", "took"), [(True, 1, 20), (False, 2, 40)])
async def test_provider_fallback_and_retry(is_as_good: bool, attempts: int, took: float):
    """A first choice that hangs is tried again, unless the alternative is as good: then it has had its chance after one attempt."""
    hanging, other = Hanging(), fail_then_return(0, Exception(), "other answer")
    models = registry()
    alternative = Alternative("model:b", lambda ctx: models.provider_pipeline("model:b").execute(other, ctx), is_as_good=is_as_good)
    pipeline = Pipeline(Fallback(alternative), models.provider_pipeline("model:a", timeout=20))

    assert await pipeline.execute(hanging, within(600)) == "other answer"

    assert (hanging.attempts, other.attempts) == (attempts, 1)
    assert now() == pytest.approx(took, abs=1)


async def test_provider_deadline_and_retry():
    """Retry takes no wait that the deadline would cut: one attempt, and its own error at once."""
    throttled = fail_then_return(99, Throttled("429", retry_after=20), "")

    with pytest.raises(Throttled):
        await registry().provider_pipeline("model:a").execute(throttled, within(10))

    assert throttled.attempts == 1
    assert now() == 0


async def test_provider_deadline_ends_an_attempt_and_no_other_begins():
    """The second attempt is cut by the deadline; there is no third."""
    hanging = Hanging()

    with pytest.raises(DeadlineExceeded):
        await registry().provider_pipeline("model:a", timeout=8).execute(hanging, within(12))

    assert hanging.attempts == 2
    assert now() == pytest.approx(12)


async def test_provider_retry_and_breaker():
    """Three messages of up to three attempts each, a threshold of two: a dead provider is called twice, not nine times."""
    dead, models = fail_then_return(99, TransientError("503"), ""), registry()

    for _ in range(3):
        with pytest.raises(CircuitOpen):
            await models.provider_pipeline("model:a").execute(dead, within(60))

    assert dead.attempts == 2


async def test_provider_retry_heals_what_the_breaker_endures():
    """One blip per call never opens."""
    models = registry(breakers={"model": BreakerSettings(consecutive_failures=2, failure_rate=0.6)})
    pipeline = models.provider_pipeline("model:a")

    for _ in range(10):
        assert await pipeline.execute(fail_then_return(1, TransientError("503"), "answer"), within(60)) == "answer"

    assert models.breaker("model:a").state is BreakerState.CLOSED


async def test_provider_retry_after_and_breaker():
    """Being told to slow down is retried and opens nothing."""
    throttled, models = fail_then_return(2, Throttled("429", retry_after=1), "answer"), registry()

    assert await models.provider_pipeline("model:a").execute(throttled, within(60)) == "answer"

    assert throttled.attempts == 3
    assert models.breaker("model:a").state is BreakerState.CLOSED


async def test_provider_retry_and_bulkhead():
    """A full room is not asked again: the refused call never reaches the dependency."""
    hanging, models = Hanging(), registry()
    pipeline = models.provider_pipeline("model:a")
    tasks = [asyncio.create_task(pipeline.execute(hanging, within(5))) for _ in range(3)]
    await asyncio.sleep(1)

    with pytest.raises(BulkheadFull):
        await pipeline.execute(hanging, within(60))

    assert now() == pytest.approx(1)
    await asyncio.wait(tasks)
    assert {type(task.exception()) for task in tasks} == {DeadlineExceeded}
    assert hanging.attempts == 2


async def test_provider_a_retry_waits_outside_the_bulkhead():
    """Who waits for a retry holds no place: another call gets it meanwhile."""
    models = registry(bulkheads={"model": BulkheadSettings(1, 0)})
    pipeline = models.provider_pipeline("model:a")
    throttled, other = fail_then_return(1, Throttled("429", retry_after=10), "first"), fail_then_return(0, Exception(), "other")
    waiting = asyncio.create_task(pipeline.execute(throttled, within(60)))
    await asyncio.sleep(5)

    assert await pipeline.execute(other, within(60)) == "other"
    assert await waiting == "first"


async def test_provider_breaker_and_bulkhead():
    """However often the room is full, the breaker stays closed."""
    hanging, models = Hanging(), registry()
    pipeline = models.provider_pipeline("model:a")
    tasks = [asyncio.create_task(pipeline.execute(hanging, within(5))) for _ in range(3)]
    await asyncio.sleep(1)

    for _ in range(20):
        with pytest.raises(BulkheadFull):
            await pipeline.execute(hanging, within(60))

    assert models.breaker("model:a").state is BreakerState.CLOSED
    await asyncio.wait(tasks)


async def test_a_full_bulkhead_makes_no_provider_slow():
    """Twelve callers share two places, the last waits five seconds for a call that takes one: it is our queue that was slow."""
    rules = BreakerSettings(slow_call=3.0, minimum_calls=2)
    models = registry(breakers={"model": rules}, bulkheads={"model": BulkheadSettings(2, 10)})

    async def lasting(ctx: CallContext) -> str:
        await asyncio.sleep(1.0)
        return "answer"

    callers = [asyncio.create_task(models.provider_pipeline("model:a").execute(lasting, within(60))) for _ in range(12)]
    assert await asyncio.gather(*callers) == ["answer"] * 12

    assert now() == 6.0
    assert models.breaker("model:a").snapshot().recent_slow == 0


async def test_provider_breaker_and_attempt_timeout():
    """Hanging counts: two timed out attempts open, the third is refused."""
    hanging, models = Hanging(), registry()

    with pytest.raises(CircuitOpen):
        await models.provider_pipeline("model:a", timeout=5).execute(hanging, within(60))

    assert hanging.attempts == 2


async def test_provider_breaker_and_short_deadlines():
    """Callers in a hurry open nothing, however many they are."""
    hanging, models = Hanging(), registry()

    for _ in range(10):
        with pytest.raises(DeadlineExceeded):
            await models.provider_pipeline("model:a", timeout=5).execute(hanging, within(1))

    assert hanging.attempts == 10
    assert models.breaker("model:a").state is BreakerState.CLOSED


async def test_provider_bulkhead_and_attempt_timeout():
    """The queue spends the deadline, not the attempt: a call that waited eight seconds still has its ten for the attempt."""
    models = registry(bulkheads={"model": BulkheadSettings(1, 1)})
    pipeline = models.provider_pipeline("model:a", timeout=10)
    attempts = 0

    async def slow(ctx: CallContext) -> str:
        nonlocal attempts
        attempts += 1
        await asyncio.sleep(8)
        return "answer"

    assert await asyncio.gather(*(pipeline.execute(slow, within(60)) for _ in range(2))) == ["answer", "answer"]
    assert attempts == 2
    assert now() == pytest.approx(16)


async def test_provider_a_timed_out_attempt_frees_its_place():
    """The next attempt of the same call finds room."""
    models = registry(bulkheads={"model": BulkheadSettings(1, 0)}, breakers={})
    hanging = Hanging()

    with pytest.raises(AttemptTimedOut):
        await models.provider_pipeline("model:a", timeout=5).execute(hanging, within(60))

    assert hanging.attempts == 3
    assert models.bulkhead("model:a").active == 0


# --- with a second call beside the first ---------------------------------------------------------------------------------


class Script:
    """A dependency that takes the seconds it is told, call by call, the last ones for ever, and then raises if it is told to."""

    def __init__(self, *acts: float | tuple[float, Exception]) -> None:
        self._acts = acts
        self.attempts = 0

    async def __call__(self, ctx: CallContext) -> int:
        self.attempts += 1
        number = self.attempts
        act = self._acts[min(number, len(self._acts)) - 1]
        seconds, error = act if isinstance(act, tuple) else (act, None)
        await asyncio.sleep(seconds)
        if error:
            raise error
        return number


def reading(seconds: float) -> CallContext:
    return replace(within(seconds), is_read_only=True)


async def used(pipeline: Pipeline, calls: int = 20) -> Pipeline:
    """The pipeline after so many calls of a second each, which earn one second call per twenty."""
    for _ in range(calls):
        await pipeline.execute(Script(1.0), reading(60))
    return pipeline


async def test_provider_deadline_and_hedge():
    """No second call begins that the deadline would cut, and both of those that run are ended by it."""
    pipeline = await used(registry().provider_pipeline("model:a"), calls=40)
    hurried, hanging = Script(60.0), Script(60.0)

    for call, seconds in ((hurried, 1.5), (hanging, 4.0)):
        with pytest.raises(DeadlineExceeded):
            await pipeline.execute(call, reading(seconds))

    assert (hurried.attempts, hanging.attempts) == (1, 2)
    assert now() == pytest.approx(40 + 1.5 + 4)


async def test_provider_retry_and_hedge():
    """The first attempt alone is made twice: three attempts that all hang are four calls, not six."""
    models = registry(breakers={})
    pipeline = await used(models.provider_pipeline("model:a", timeout=5), calls=100)
    hanging = Hanging()

    with pytest.raises(AttemptTimedOut):
        await pipeline.execute(hanging, reading(60))

    assert hanging.attempts == 4


async def test_provider_retry_and_a_hedge_that_heals():
    """A first that fails while the second still runs is no reason for a retry."""
    pipeline = await used(registry().provider_pipeline("model:a"))
    script = Script((2.0, TransientError("503")), 3.0)

    assert await pipeline.execute(script, reading(60)) == 2
    assert script.attempts == 2


async def test_provider_hedge_and_breaker():
    """Both calls are counted: two that fail beside each other are two failures, and open."""
    models = registry()
    pipeline = await used(models.provider_pipeline("model:a"))
    dead = Script((2.0, TransientError("503")))

    with pytest.raises(CircuitOpen):
        await pipeline.execute(dead, reading(60))

    assert dead.attempts == 2
    assert models.breaker("model:a").state is BreakerState.OPEN


async def test_provider_a_breaker_that_opened_meanwhile_lets_no_second_call_through():
    """The first is waited for, and answers."""
    models = registry()
    pipeline = await used(models.provider_pipeline("model:a"))
    slow = Script(5.0)
    running = asyncio.create_task(pipeline.execute(slow, reading(60)))
    await asyncio.sleep(0.5)
    models.breaker("model:a").isolate()

    assert await running == 1
    assert slow.attempts == 1


async def test_provider_a_cancelled_loser_is_neutral():
    """Slowness that the second call made up for is neither failure nor success."""
    models = registry()
    pipeline = await used(models.provider_pipeline("model:a"), calls=100)

    for _ in range(3):
        assert await pipeline.execute(Script(60.0, 0.5), reading(60)) == 2

    snapshot = models.breaker("model:a").snapshot()
    assert (snapshot.state, snapshot.consecutive_failures) == (BreakerState.CLOSED, 0)


async def test_provider_hedge_and_bulkhead():
    """Both calls take a place; without room for the second the first is waited for, and no place stays taken."""
    models = registry(bulkheads={"model": BulkheadSettings(1, 0)})
    pipeline = await used(models.provider_pipeline("model:a"))
    slow = Script(5.0)

    assert await pipeline.execute(slow, reading(60)) == 1
    assert slow.attempts == 1
    assert models.bulkhead("model:a").active == 0


async def test_provider_hedge_and_attempt_timeout():
    """Each call has the time of an attempt for itself: the second outlives the first."""
    pipeline = await used(registry().provider_pipeline("model:a", timeout=5))
    slow = Script(60.0, 4.5)

    assert await pipeline.execute(slow, reading(60)) == 2
    assert slow.attempts == 2


async def test_provider_a_call_that_is_not_read_only_is_made_once():
    """A call that shows its output is made once by this pipeline, however slow it is."""
    pipeline = await used(registry().provider_pipeline("model:a", timeout=20))
    slow = Script(5.0)

    assert await pipeline.execute(slow, within(60)) == 1
    assert slow.attempts == 1


async def test_tool_retry_and_hedge():
    """A reading tool is hedged; one that has an effect is not, and one that may not be repeated has neither."""
    models = registry()
    reads = await used(models.tool_pipeline("find_order", 5, is_idempotent=True))
    once = await used(models.tool_pipeline("send_letter", 5, is_idempotent=False))
    looked_up, sent = Script(3.0, 0.5), Script(3.0, 0.5)

    assert await reads.execute(looked_up, reading(60)) == 2
    assert await once.execute(sent, reading(60)) == 1
    assert (looked_up.attempts, sent.attempts) == (2, 1)


async def test_retry_budget_and_hedge():
    """A dependency that hangs for everybody: second calls and further attempts together stay below 1.1 times, the floor and the burst."""
    models = registry(off=frozenset({PolicyName.BREAKER, PolicyName.BULKHEAD}))
    pipeline = await used(models.provider_pipeline("model:a", timeout=5), calls=200)
    hanging, begun = Hanging(), now()
    running = []
    for _ in range(1000):
        running.append(asyncio.create_task(pipeline.execute(hanging, reading(60))))
        await asyncio.sleep(0.1)

    outcomes = await asyncio.gather(*running, return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} == {AttemptTimedOut}
    windows = (now() - begun) // 10 + 1
    assert hanging.attempts <= 1.1 * 1000 + 10 * windows + 5


@pytest.mark.parametrize("seed", range(5))
async def test_a_storm_leaves_nothing_behind(seed: int):
    """Slow, failing and hanging calls whose callers leave, are cancelled or wait: no call, task or place is left, nor a cancellation."""
    rng = Random(seed)
    models = registry(
        breakers={"model": BreakerSettings(consecutive_failures=50, failure_rate=1.0)}, bulkheads={"model": BulkheadSettings(40, 40)}
    )
    pipeline = models.provider_pipeline("model:a", timeout=5)
    before, under_way, doubled = asyncio.all_tasks(), 0, 0

    async def request() -> str:
        running = cancelled = 0

        async def call(ctx: CallContext) -> str:
            nonlocal running, under_way, doubled
            running, under_way = running + 1, under_way + 1
            doubled += running == 2
            assert running <= 2
            try:
                await asyncio.sleep(rng.choice([rng.lognormvariate(0.0, 0.3)] * 8 + [3.0, 60.0]))
                if rng.random() < 0.1:
                    raise TransientError("503")
                return "answer"
            finally:
                running, under_way = running - 1, under_way - 1

        try:
            async with asyncio.timeout(rng.choice([2.5, 100.0, 100.0, 100.0])):
                return await pipeline.execute(call, reading(30.0))
        except TimeoutError:
            return "left"
        except (AttemptTimedOut, DeadlineExceeded, TransientError, BulkheadFull, CircuitOpen) as exc:
            return type(exc).__name__
        except asyncio.CancelledError:
            cancelled = 1
            raise
        finally:
            assert (running, asyncio.current_task().cancelling()) == (0, cancelled)

    requests = []
    for _ in range(1000):
        requests.append(asyncio.create_task(request()))
        await asyncio.sleep(rng.expovariate(10))
        if rng.random() < 0.1:
            rng.choice(requests[-10:]).cancel()
    await asyncio.wait(requests)

    outcomes = Counter("cancelled" if task.cancelled() else task.result() for task in requests)
    assert outcomes["answer"] > 600
    assert outcomes["left"] > 10
    assert outcomes["cancelled"] > 10
    assert doubled > 10
    assert (under_way, models.bulkhead("model:a").active, models.bulkhead("model:a").waiting) == (0, 0, 0)
    assert asyncio.all_tasks() == before


# --- the specialist's pipeline ------------------------------------------------------------------------------------------


async def test_specialist_deadline_and_breaker():
    """A specialist that the deadline ended is not ill."""
    hanging, models = Hanging(), registry()

    for _ in range(5):
        with pytest.raises(DeadlineExceeded):
            await models.specialist_pipeline("billing_support", 15).execute(hanging, within(1))

    assert hanging.attempts == 5
    assert models.breaker("specialist:billing_support").state is BreakerState.CLOSED


async def test_specialist_breaker_and_bulkhead():
    """A specialist without room is busy, not ill; others are not touched."""
    hanging, models = Hanging(), registry()
    pipeline = models.specialist_pipeline("billing_support", 15)
    tasks = [asyncio.create_task(pipeline.execute(hanging, within(10))) for _ in range(3)]
    await asyncio.sleep(1)

    for _ in range(5):
        with pytest.raises(BulkheadFull):
            await pipeline.execute(hanging, within(60))

    other = fail_then_return(0, Exception(), "answer")
    assert await models.specialist_pipeline("technical_support", 15).execute(other, within(60)) == "answer"
    assert models.breaker("specialist:billing_support").state is BreakerState.CLOSED
    await asyncio.wait(tasks)
    assert hanging.attempts == 2


async def test_specialist_bulkhead_and_timeout():
    """Waiting for a place spends the deadline; the specialist's own time begins with its work."""
    models = registry(bulkheads={"specialist": BulkheadSettings(1, 1)})
    pipeline = models.specialist_pipeline("billing_support", 15)

    async def works(ctx: CallContext) -> str:
        await asyncio.sleep(12)
        return "answer"

    assert await asyncio.gather(*(pipeline.execute(works, within(60)) for _ in range(2))) == ["answer", "answer"]
    assert now() == pytest.approx(24)


async def test_specialist_breaker_and_timeout():
    """No retry: each message is one call; the second that times out opens, and the third is refused at once."""
    hanging, models = Hanging(), registry()
    pipeline = models.specialist_pipeline("billing_support", 15)

    for error in (AttemptTimedOut, AttemptTimedOut, CircuitOpen):
        with pytest.raises(error):
            await pipeline.execute(hanging, within(60))

    assert hanging.attempts == 2
    assert now() == pytest.approx(30)


# --- one inside the other -----------------------------------------------------------------------------------------------


async def test_a_provider_that_is_left_alone_does_not_open_its_specialists():
    """What the specialist sees of an open provider is a refusal, and that is neutral."""
    dead, models = fail_then_return(99, TransientError("503"), ""), registry()
    provider, specialist = models.provider_pipeline("model:a"), models.specialist_pipeline("billing_support", 15)

    async def work(ctx: CallContext) -> str:
        return await provider.execute(dead, ctx)

    for _ in range(10):
        with pytest.raises(CircuitOpen):
            await specialist.execute(work, within(60))

    assert dead.attempts == 2
    assert models.breaker("model:a").state is BreakerState.OPEN
    assert models.breaker("specialist:billing_support").state is BreakerState.CLOSED


async def test_cancelling_the_message_cancels_the_attempt_and_leaves_no_trace():
    """Through both pipelines: the dependency is told, no place stays taken, nothing is counted, nothing is tried again."""
    hanging, models = Hanging(), registry()
    provider, specialist = models.provider_pipeline("model:a"), models.specialist_pipeline("billing_support", 15)

    async def work(ctx: CallContext) -> str:
        return await provider.execute(hanging, ctx)

    for _ in range(5):
        task = asyncio.create_task(specialist.execute(work, within(60)))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert hanging.attempts == 5
    assert {breaker.state for breaker in models.breakers()} == {BreakerState.CLOSED}
    assert {bulkhead.active for bulkhead in models.bulkheads()} == {0}
