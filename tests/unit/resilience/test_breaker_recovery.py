"""How a breaker finds out that its dependency is well again, and what it makes of results that come late."""

from random import Random

import pytest

from resilience.breaker import Breaker, BreakerState
from resilience.context import CallContext
from resilience.testing import FakeClock
from tests.support.breaking import ILL, NEUTRAL, MakeBreaker, opened, play, refused, under_way

# --- open and half open -------------------------------------------------------------------------------------------------


async def test_open_counts_down(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """`retry_in` and the error's `retry_after` shrink with time; a breaker whose time has come admits again."""
    breaker = await opened(make, ctx)

    clock.advance(12)

    assert breaker.retry_in() == 18
    assert (await refused(breaker, ctx)).retry_after == 18
    assert not breaker.is_admitting
    clock.advance(18)
    assert breaker.is_admitting
    assert breaker.retry_in() == 0


@pytest.mark.parametrize("probes", [1, 3])
async def test_as_many_good_probes_as_are_asked_for_close(make: MakeBreaker, ctx: CallContext, clock: FakeClock, probes: int):
    """Afterwards everything starts from zero: it takes five new failures to open again."""
    breaker = await opened(make, ctx, probes=probes)
    clock.advance(30)

    await play(breaker, ctx, *[None] * (probes - 1))
    assert breaker.state is (BreakerState.HALF_OPEN if probes > 1 else BreakerState.OPEN)
    await play(breaker, ctx, None)

    assert breaker.state is BreakerState.CLOSED
    assert breaker.snapshot().recent_calls == 0
    await play(breaker, ctx, *[ILL] * 4)
    assert breaker.state is BreakerState.CLOSED


async def test_the_first_probe_that_fails_opens_again(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """However many have succeeded before, and they count for nothing the next time."""
    breaker = await opened(make, ctx)
    clock.advance(30)

    await play(breaker, ctx, None, None, ILL)
    assert breaker.state is BreakerState.OPEN
    clock.advance(60)
    await play(breaker, ctx, None, None)

    assert breaker.state is BreakerState.HALF_OPEN


async def test_each_reopening_doubles_the_open_time_up_to_a_cap(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """A dependency that is still ill is asked less and less often: after half a minute, and in the end every five minutes."""
    breaker = await opened(make, ctx)
    waits = []
    for _ in range(6):
        waits.append(breaker.retry_in())
        clock.advance(breaker.retry_in())
        await play(breaker, ctx, ILL)

    assert waits == [30, 60, 120, 240, 300, 300]
    assert breaker.snapshot().openings == 7


async def test_a_dependency_that_stays_ill_for_months_is_still_asked(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """The doubling ends at the cap and does not overflow."""
    breaker = await opened(make, ctx)
    for _ in range(2_000):
        clock.advance(300)
        await play(breaker, ctx, ILL)

    assert breaker.retry_in() == 300


@pytest.mark.parametrize(("well_for", "retry_in", "openings"), [(59.0, 120, 3), (60.0, 30, 1)])
async def test_growth_is_forgotten_after_being_well_for_as_long_as_the_last_open_time(
    make: MakeBreaker, ctx: CallContext, clock: FakeClock, well_for: float, retry_in: float, openings: int
):
    """Closing for a moment is not being well."""
    breaker = await opened(make, ctx)
    clock.advance(30)
    await play(breaker, ctx, ILL)
    clock.advance(60)
    await play(breaker, ctx, None, None, None)

    clock.advance(well_for)
    await play(breaker, ctx, *[ILL] * 5)

    assert breaker.retry_in() == retry_in
    assert breaker.snapshot().openings == openings


async def test_jitter_only_shortens(ctx: CallContext, clock: FakeClock):
    """A tenth at most, so no wait is longer than documented, and two processes do not probe together."""
    waits = set()
    for seed in range(200):
        breaker = Breaker("model:openai/gpt-x", clock=clock, rng=Random(seed))
        await play(breaker, ctx, *[ILL] * 5)
        waits.add(breaker.retry_in())

    assert len(waits) > 190
    assert 27 <= min(waits) < 27.5
    assert 29.5 < max(waits) <= 30


@pytest.mark.parametrize("probes", [1, 3])
async def test_a_herd_after_the_open_time_is_held_to_the_probes(make: MakeBreaker, ctx: CallContext, clock: FakeClock, probes: int):
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
async def test_a_neutral_probe_decides_nothing_and_makes_room(make: MakeBreaker, ctx: CallContext, clock: FakeClock, error: Exception):
    """Still half open; what succeeded before it still counts, and the next call is the probe."""
    breaker = await opened(make, ctx)
    clock.advance(30)

    await play(breaker, ctx, None, *[error] * 10, None)

    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.is_admitting
    await play(breaker, ctx, None)
    assert breaker.state is BreakerState.CLOSED


async def test_a_neutral_probe_makes_room_for_one(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """However many of them there were, no more are under way afterwards than before."""
    breaker = await opened(make, ctx, probes=2)
    clock.advance(30)
    await play(breaker, ctx, *[NEUTRAL[0]] * 5)

    first, second = await under_way(breaker, ctx), await under_way(breaker, ctx)

    assert not breaker.is_admitting
    await first.succeed()
    await second.succeed()


async def test_a_cancelled_probe_decides_nothing_and_makes_room(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """However many customers leave, the breaker neither closes nor gets stuck."""
    breaker = await opened(make, ctx)
    clock.advance(30)
    for _ in range(10):
        await (await under_way(breaker, ctx)).cancel()

    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.is_admitting


# --- late results -------------------------------------------------------------------------------------------------------


async def test_a_late_success_does_not_close(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """A call admitted before the opening says nothing about now, not even while a probe is due."""
    breaker = make(probes=1)
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


async def test_a_late_failure_does_not_open_again(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """Failures of calls admitted before do not touch a breaker that has closed since."""
    breaker = make(probes=1)
    late = [await under_way(breaker, ctx) for _ in range(5)]
    await play(breaker, ctx, *[ILL] * 5)
    clock.advance(30)
    await play(breaker, ctx, None)

    for call in late:
        await call.fail(ILL)

    assert breaker.state is BreakerState.CLOSED
    assert breaker.snapshot().recent_calls == 0


async def test_a_probe_of_an_earlier_half_open_is_late_too(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """It neither decides nor takes or frees a place in the next half open."""
    breaker = await opened(make, ctx, probes=2)
    clock.advance(30)
    slow = await under_way(breaker, ctx)
    await play(breaker, ctx, ILL)
    clock.advance(60)
    first, second = await under_way(breaker, ctx), await under_way(breaker, ctx)

    await slow.fail(ILL)

    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.is_admitting
    await first.succeed()
    await second.succeed()
