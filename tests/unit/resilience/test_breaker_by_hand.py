"""What operators and other processes do to a breaker."""

from random import Random

import pytest

from resilience.breaker import Breaker, BreakerState
from resilience.context import CallContext
from resilience.events import ResilienceEvent
from resilience.testing import FakeClock
from tests.support.breaking import ILL, MakeBreaker, opened, play, refused, under_way

# --- by hand ------------------------------------------------------------------------------------------------------------


async def test_an_isolated_breaker_refuses_until_it_is_released(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
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


async def test_a_call_under_way_does_not_end_isolation(make: MakeBreaker, ctx: CallContext):
    """Its result is late, whatever it is."""
    breaker = make(consecutive_failures=1)
    first, second = await under_way(breaker, ctx), await under_way(breaker, ctx)
    breaker.isolate()

    await first.succeed()
    await second.fail(ILL)

    assert breaker.state is BreakerState.ISOLATED


async def test_an_open_breaker_can_be_isolated_and_released(make: MakeBreaker, ctx: CallContext):
    """By hand beats by rule, in both directions."""
    breaker = await opened(make, ctx)

    breaker.isolate()
    assert breaker.state is BreakerState.ISOLATED
    breaker.release()

    assert breaker.state is BreakerState.CLOSED
    await play(breaker, ctx, *[ILL] * 4)
    assert breaker.state is BreakerState.CLOSED


def test_doing_by_hand_what_is_done_tells_nobody(make: MakeBreaker, events: list[ResilienceEvent]):
    """Releasing a closed breaker and isolating an isolated one change nothing."""
    breaker = make()

    breaker.release()
    breaker.isolate()
    breaker.isolate()

    assert [event.fields["new"] for event in events] == ["isolated"]


async def test_a_release_forgets_how_often_it_has_opened(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """An operator who says that it is well is believed."""
    breaker = await opened(make, ctx)
    clock.advance(30)
    await play(breaker, ctx, ILL)
    assert breaker.retry_in() == 60

    breaker.release()
    await play(breaker, ctx, *[ILL] * 5)

    assert breaker.retry_in() == 30


# --- by another process -------------------------------------------------------------------------------------------------


async def test_an_opening_elsewhere_opens_here_for_what_is_left(make: MakeBreaker, ctx: CallContext, clock: FakeClock, events):
    """Nobody here has failed yet. Then a probe of our own decides, and growth goes on from where the other was."""
    breaker = make()

    breaker.adopt(BreakerState.OPEN, seconds=12.0, openings=2, reason="model_unavailable")

    assert (breaker.state, breaker.retry_in()) == (BreakerState.OPEN, 12)
    assert (await refused(breaker, ctx)).retry_after == 12
    assert dict(events[0].fields) == {"old": "closed", "new": "open", "retry_in": 12, "why": "model_unavailable", "by": "fleet"}
    clock.advance(12)
    await play(breaker, ctx, ILL)
    assert breaker.retry_in() == 120


async def test_a_later_opening_elsewhere_moves_the_probe_of_an_open_breaker(make: MakeBreaker, ctx: CallContext, clock: FakeClock, events):
    """No transition: it is open already. Only its time is another one."""
    breaker = await opened(make, ctx)
    clock.advance(29)

    breaker.adopt(BreakerState.OPEN, seconds=60.0, openings=2, reason="model_unavailable")

    assert breaker.retry_in() == 60
    assert len([event for event in events if event.kind == "breaker_transition"]) == 1


async def test_a_failed_probe_elsewhere_ends_the_probing_here(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """What comes back from a probe that was under way is late."""
    breaker = await opened(make, ctx)
    clock.advance(30)
    probe = await under_way(breaker, ctx)

    breaker.adopt(BreakerState.OPEN, seconds=60.0, openings=2)
    await probe.succeed()

    assert (breaker.state, breaker.retry_in()) == (BreakerState.OPEN, 60)


async def test_nobody_waits_longer_for_another_process_than_the_cap(make: MakeBreaker):
    """Whatever the other says."""
    breaker = make()

    breaker.adopt(BreakerState.OPEN, seconds=1e9, openings=1)

    assert breaker.retry_in() == 300


async def test_an_adopted_opening_is_jittered_too(ctx: CallContext, clock: FakeClock):
    """Otherwise all processes would probe at the same moment: the one that opened first, and all that heard of it."""
    waits = set()
    for seed in range(50):
        breaker = Breaker("model:openai/gpt-x", clock=clock, rng=Random(seed))
        breaker.adopt(BreakerState.OPEN, seconds=30.0, openings=1)
        waits.add(breaker.retry_in())

    assert len(waits) > 45
    assert all(27 <= wait <= 30 for wait in waits)


@pytest.mark.parametrize("state", [BreakerState.OPEN, BreakerState.HALF_OPEN])
async def test_what_is_over_elsewhere_changes_nothing_here(make: MakeBreaker, events, state: BreakerState):
    """An opening without time left, and a half open breaker, which is each process's own."""
    breaker = make()

    breaker.adopt(state, seconds=0.0, openings=3)

    assert breaker.state is BreakerState.CLOSED
    assert events == []


async def test_the_last_half_second_of_an_opening_elsewhere_counts(make: MakeBreaker):
    """A short wait is a wait."""
    breaker = make()

    breaker.adopt(BreakerState.OPEN, seconds=0.5, openings=1)

    assert breaker.retry_in() == 0.5


async def test_a_closing_elsewhere_closes_here(make: MakeBreaker, ctx: CallContext, clock: FakeClock, events):
    """The others' probes are ours; but growth is not forgotten by it."""
    breaker = await opened(make, ctx)

    breaker.adopt(BreakerState.CLOSED, openings=1, reason="probes_succeeded")

    await play(breaker, ctx, None)
    assert (breaker.state, events[-1].fields["by"]) == (BreakerState.CLOSED, "fleet")
    await play(breaker, ctx, *[ILL] * 5)
    assert breaker.retry_in() == 60


async def test_an_isolation_elsewhere_isolates_here_until_it_is_released(make: MakeBreaker, ctx: CallContext, clock: FakeClock):
    """Twice says no more than once."""
    breaker = make()

    breaker.adopt(BreakerState.ISOLATED, reason="by_hand")
    breaker.adopt(BreakerState.ISOLATED, reason="by_hand")
    clock.advance(3600)
    assert (breaker.state, breaker.is_admitting) == (BreakerState.ISOLATED, False)
    breaker.adopt(BreakerState.CLOSED, reason="by_hand")

    assert breaker.is_admitting


async def test_what_moved_the_others_is_told_as_the_reason(make: MakeBreaker, ctx: CallContext, events):
    """An operator who looks at this process sees why, and that no call of its own was the cause."""
    breaker = make()

    for state in (BreakerState.OPEN, BreakerState.ISOLATED, BreakerState.CLOSED):
        breaker.adopt(state, seconds=5.0, reason=f"why {state.value}")

    assert [event.fields["why"] for event in events] == ["why open", "why isolated", "why closed"]
    assert {event.operation for event in events} == {breaker.dependency}


async def test_an_opening_of_which_little_is_known_is_the_first(make: MakeBreaker, ctx: CallContext, clock: FakeClock, events):
    """Without a time nothing happens; without a number the next opening here is the first in a row."""
    breaker = make()

    breaker.adopt(BreakerState.OPEN)
    assert breaker.is_admitting
    breaker.adopt(BreakerState.OPEN, seconds=5.0)
    clock.advance(5)
    await play(breaker, ctx, ILL)

    assert breaker.retry_in() == 30
    assert events[0].fields["why"] == ""
