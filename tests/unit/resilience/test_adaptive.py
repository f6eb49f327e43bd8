"""How many calls at once a dependency can take, learned from how long they take: a simulated provider in virtual time."""

import asyncio
from collections.abc import Callable
from random import Random
from statistics import median

import pytest

from resilience.adaptive import LONGEST_HOLD, AdaptiveLimit, AdaptiveSettings
from resilience.bulkhead import Bulkhead, BulkheadSettings
from resilience.context import CallContext, Output, Standing
from resilience.deadline import Deadline
from resilience.errors import AttemptTimedOut, Overloaded, Throttled, TransientError
from resilience.events import EventKind, ResilienceEvent
from tests.support.simulated_provider import SimulatedProvider, lognormal
from tests.support.virtual_time import LoopClock


def now() -> float:
    return asyncio.get_running_loop().time()


def room(settings: AdaptiveSettings | None = None, **options) -> Bulkhead:
    return Bulkhead("model:x", BulkheadSettings(queue=10_000), adaptive=AdaptiveLimit(settings), clock=LoopClock(), **options)


def call_context(**options) -> CallContext:
    return CallContext("model:x", Deadline.after(600.0, LoopClock()), **{"standing": Standing(is_under_way=True), **options})


async def limits(provider, clients: int, seconds: float, *, start: int = 64, at: dict[float, Callable[[], None]] | None = None):
    """The limit at every second of a closed loop of so many clients."""
    bulkhead, seen = room(AdaptiveSettings(start=start)), []

    async def client() -> None:
        while now() < seconds:
            await bulkhead.execute(provider, call_context())

    async def watch() -> None:
        for second in range(int(seconds)):
            (at or {}).get(second, lambda: None)()
            await asyncio.sleep(1)
            seen.append(bulkhead.limit)

    await asyncio.gather(watch(), *(client() for _ in range(clients)))
    return seen


@pytest.mark.parametrize("start", [4, 64, 512])
@pytest.mark.parametrize(("slots", "clients"), [(8, 150), (32, 150)])
async def test_it_finds_what_a_steady_provider_can_take_from_below_and_from_above(slots: int, clients: int, start: int):
    """The limit ends near the number of calls that the provider works on at once."""
    seen = await limits(SimulatedProvider(slots, lambda: 0.25), clients, 120, start=start)

    assert slots * 0.9 <= median(seen[80:]) <= slots * 1.3


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("slots", "sigma", "stragglers"), [(8, 0.5, 0.0), (32, 0.8, 0.05)])
async def test_noise_does_not_strangle_it(slots: int, sigma: float, stragglers: float, seed: int):
    """Latencies that differ by nature cost less than a quarter of what the provider can do, and do not let the queue grow inside."""
    provider = SimulatedProvider(slots, lognormal(Random(seed), 0.25, sigma, stragglers))
    bare = SimulatedProvider(slots, lognormal(Random(seed), 0.25, sigma, stragglers))

    seen = await limits(provider, slots * 5, 120)

    begun = now()
    done_by_then = provider.done / begun

    async def unlimited() -> None:
        while now() < begun + 60:
            await bare(call_context())

    await asyncio.gather(*(unlimited() for _ in range(slots * 5)))
    assert done_by_then >= 0.75 * bare.done / (now() - begun)
    assert median(seen[60:]) <= slots * 1.5


async def test_a_provider_that_is_never_full_keeps_its_limit():
    """Forty noisy calls at a time are less than the provider and the limit can take: the limit stays out of their way."""
    seen = await limits(SimulatedProvider(64, lognormal(Random(3), 0.25, 0.8, 0.05)), 40, 120)

    assert median(seen[60:]) >= 40


@pytest.mark.parametrize(("before", "after"), [(32, 8), (8, 32)])
async def test_it_follows_a_provider_whose_capacity_changes(before: int, after: int):
    """A minute after the change it is near the new capacity."""
    provider = SimulatedProvider(before, lambda: 0.25)

    def change() -> None:
        provider.slots = after

    seen = await limits(provider, 150, 180, at={60.0: change})

    assert before * 0.8 <= median(seen[40:60]) <= before * 1.5
    assert after * 0.8 <= median(seen[120:]) <= after * 1.5


async def test_a_provider_that_becomes_slower_for_everybody_is_not_strangled():
    """That calls take three times as long is no reason to make fewer: fewer are not quicker."""
    pace = 0.25
    provider = SimulatedProvider(64, lambda: pace)

    def slower() -> None:
        nonlocal pace
        pace = 0.75

    seen = await limits(provider, 60, 180, at={60.0: slower})

    assert median(seen[120:]) >= 50


@pytest.mark.parametrize(("share", "is_ours"), [(0.7, False), (0.8, True)])
async def test_a_process_without_cpu_to_spare_does_not_blame_the_dependency(share: float, is_ours: bool):
    """A full provider of 8 places is found out, unless this process is so busy that its calls may as well wait for itself."""
    adaptive = AdaptiveLimit(AdaptiveSettings(start=64), cpu=lambda: now() * share)
    provider = SimulatedProvider(8, lambda: 0.25)
    bulkhead = Bulkhead("model:x", BulkheadSettings(queue=10_000), adaptive=adaptive, clock=LoopClock())

    async def client() -> None:
        while now() < 60:
            await bulkhead.execute(provider, call_context())

    await asyncio.gather(*(client() for _ in range(100)))

    assert (adaptive.limit == 64) is is_ours
    assert is_ours or adaptive.limit <= 12


async def test_a_probe_ends_as_if_it_had_not_been_when_the_process_gets_busy():
    """The limit is what it was before."""
    seen: list[int] = []
    adaptive = AdaptiveLimit(AdaptiveSettings(start=64), cpu=lambda: now() if seen else 0.0)  # busy from the first probe on
    provider = SimulatedProvider(8, lambda: 0.25)
    bulkhead = Bulkhead("model:x", BulkheadSettings(queue=10_000), adaptive=adaptive, clock=LoopClock())

    async def client() -> None:
        while now() < 30:
            await bulkhead.execute(provider, call_context())
            if adaptive.limit < 64:
                seen.append(adaptive.limit)

    await asyncio.gather(*(client() for _ in range(100)))

    assert seen
    assert (adaptive.limit, adaptive.why) == (64, "probed")


async def test_what_counts_for_a_stream_is_its_first_output():
    """Answers of ten seconds whose first token comes at once do not look like a queue, also among short calls."""
    bulkhead, seen = room(), []

    async def answer(ctx: CallContext) -> None:
        await asyncio.sleep(0.3)
        ctx.output.start()
        await asyncio.sleep(Random(int(now() * 10)).uniform(1, 10))

    async def route(ctx: CallContext) -> None:
        await asyncio.sleep(0.2)

    async def client() -> None:
        while now() < 120:
            await bulkhead.execute(route, call_context(standing=Standing()))
            await bulkhead.execute(answer, call_context(output=Output()))
            seen.append(bulkhead.limit)

    await asyncio.gather(*(client() for _ in range(60)))
    assert min(seen[len(seen) // 2 :]) >= 40


async def test_refusals_for_too_many_calls_cut_the_limit_and_single_ones_do_not(events: list[ResilienceEvent]):
    """One 429 in twenty is noise; a provider that takes only ten at once gets little more."""
    under_way = 0

    async def takes_ten(ctx: CallContext) -> None:
        nonlocal under_way
        if under_way >= 10:
            raise Throttled("429")
        under_way += 1
        try:
            await asyncio.sleep(0.5)
        finally:
            under_way -= 1

    async def noisy(ctx: CallContext) -> None:
        await asyncio.sleep(0.5)
        if rng.random() < 0.05:
            raise Throttled("429", retry_after=20)

    async def load(bulkhead: Bulkhead, call, seconds: float) -> None:
        end = now() + seconds

        async def client() -> None:
            while now() < end:
                try:
                    await bulkhead.execute(call, call_context())
                except Throttled:
                    await asyncio.sleep(0.5)

        await asyncio.gather(*(client() for _ in range(40)))

    rng = Random(5)
    steady, strict = room(), room(listener=events.append)
    await load(steady, noisy, 60)
    await load(strict, takes_ten, 60)

    assert steady.limit == 64
    assert 4 <= strict.limit <= 15
    assert "throttled" in {event.fields["why"] for event in events if event.kind is EventKind.LIMIT_CHANGED}


async def test_a_flood_of_refusals_keeps_everybody_away_for_as_long_as_was_asked():
    """During that time calls are refused at once, so that a fallback can take them, and at most for the bound."""
    bulkhead = room()

    async def full(ctx: CallContext) -> None:
        raise Throttled("429", retry_after=60)

    for _ in range(3):
        with pytest.raises(Throttled):
            await bulkhead.execute(full, call_context())

    with pytest.raises(Overloaded) as refused:
        await bulkhead.execute(full, call_context())
    assert refused.value.retry_after == pytest.approx(LONGEST_HOLD)
    assert bulkhead.is_refusing
    await asyncio.sleep(LONGEST_HOLD - 0.3)

    begun = now()
    await bulkhead.execute(lambda _: asyncio.sleep(0), call_context())
    assert now() - begun == pytest.approx(0.3)  # what is left is short enough to be waited for


async def test_timeouts_count_as_slow_calls_and_other_errors_as_nothing():
    """Half of the calls timing out is too many at once; half of them failing at once is no sign of it."""
    timing_out, failing = room(), room()

    def overloaded_over(most: int, error: Exception, seconds: float):
        under_way = 0

        async def call(ctx: CallContext) -> None:
            nonlocal under_way
            under_way += 1
            try:
                if under_way > most:
                    await asyncio.sleep(seconds)
                    raise error
                await asyncio.sleep(0.25)
            finally:
                under_way -= 1

        return call

    async def load(bulkhead: Bulkhead, call) -> None:
        async def client() -> None:
            while now() < end:
                try:
                    await bulkhead.execute(call, call_context())
                except (AttemptTimedOut, TransientError):
                    continue

        end = now() + 120
        await asyncio.gather(*(client() for _ in range(60)))

    await load(timing_out, overloaded_over(20, AttemptTimedOut("model:x", 7.0), 7.0))
    await load(failing, overloaded_over(20, TransientError("503"), 0.25))

    assert timing_out.limit <= 40
    assert failing.limit >= 64


@pytest.mark.parametrize("bounds", [(0, 1, 1), (4, 8, 16), (64, 4, 32)])
def test_nonsense_is_refused(bounds: tuple[int, int, int]):
    """Bounds that exclude each other are a mistake of the configuration."""
    start, minimum, maximum = bounds
    with pytest.raises(ValueError, match="an adaptive limit needs"):
        AdaptiveSettings(start, minimum, maximum)


def window(limit: AdaptiveLimit, began: float, times: dict[str, float], active: int) -> None:
    """Forty calls, of the kinds in turn, so many of them at once."""
    kinds = list(times) * (40 // len(times))
    numbers = [limit.began(began, active) for _ in kinds]
    for kind, number in zip(kinds, numbers, strict=True):
        limit.took(number, kind, times[kind], began + times[kind])
        limit.left(number, began + times[kind], active - 1, is_counted=True)


def test_a_kind_that_comes_later_is_measured_from_then_on():
    """When it becomes slow that is noticed as with any other."""
    limit = AdaptiveLimit(AdaptiveSettings(start=8))
    window(limit, 0.0, {"short": 0.1}, 2)
    window(limit, 1.0, {"short": 0.1, "long": 2.0}, 2)
    assert (limit.limit, limit.why) == (8, "")

    window(limit, 5.0, {"long": 6.0}, 8)

    assert limit.limit < 8
    assert limit.why == "probe"


def test_a_limit_that_has_no_room_does_not_move():
    """Where the bounds are one number nothing that happens changes it."""
    limit = AdaptiveLimit(AdaptiveSettings(start=8, minimum=8, maximum=8))
    for number in range(10):
        window(limit, number * 10.0, {"short": 0.1 * (1 + number % 3)}, 8)

    assert (limit.limit, limit.why) == (8, "")
