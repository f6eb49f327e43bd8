"""Whether a run is taken: against a simulated provider in virtual time, in which a run makes two calls."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from app.errors import Overloaded
from app.guards.admission import MOST_BATCHES, MOST_RUNS, Admission, Asks, Load
from app.telemetry.metrics import Metrics
from resilience.bulkhead import Bulkhead
from resilience.context import Priority, Standing
from tests.support.overload import Result, Scene, Source
from tests.support.simulated_provider import SimulatedProvider, lognormal

SLOTS, SECONDS = 8, 0.25
CAPACITY = SLOTS / SECONDS / 2


def steady() -> SimulatedProvider:
    return SimulatedProvider(SLOTS, lambda: SECONDS)


def noisy(seed: int) -> Callable[[], SimulatedProvider]:
    return lambda: SimulatedProvider(SLOTS, lognormal(Random(seed), SECONDS, 0.3))


async def play(make: Callable[[], SimulatedProvider], seed: int, *sources: Source, seconds: float = 40.0) -> list[Result]:
    return await Scene(make(), Random(seed)).play(*sources, seconds=seconds, warm_up=30.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("is_noisy", [False, True])
async def test_at_three_times_the_capacity_those_who_are_taken_are_served_as_ever(is_noisy: bool, seed: int):
    """P99 of the accepted is at most 1.5 times that at half the capacity, and at least 80 % of the capacity is answered."""
    make = noisy(seed) if is_noisy else steady
    (half,) = await play(make, seed, Source(CAPACITY / 2))
    (triple,) = await play(make, seed, Source(CAPACITY * 3))

    assert triple.quantile(0.99) <= 1.5 * half.quantile(0.99)
    assert len(triple.seconds) / 40 >= 0.8 * CAPACITY
    assert triple.refused > len(triple.seconds)
    assert (half.failed, triple.failed) == (0, 0)


async def test_a_flood_of_one_tenant_is_not_another_tenants_trouble():
    """While one asks for ten times the capacity and is refused nine times in ten, another gets in, and is served as ever."""
    (alone,) = await play(steady, 1, Source(2, "quiet"))
    flood, quiet = await play(steady, 1, Source(CAPACITY * 10, "noisy"), Source(2, "quiet"))

    assert flood.refused > 8 * len(flood.seconds)
    assert quiet.refused <= 0.2 * len(quiet.seconds)
    assert quiet.quantile(0.95) <= 1.5 * alone.quantile(0.95)


async def test_urgent_runs_go_before_others_and_batch_runs_after_all():
    """Under overload each class is served before the next; batch runs wait instead of being refused, and none fails."""
    urgent, usual, batch = await play(
        steady,
        2,
        Source(CAPACITY * 0.6, "a", Priority.INTERACTIVE),
        Source(CAPACITY * 2, "a"),
        Source(1.0, "a", Priority.BATCH),
    )

    assert urgent.refused <= 0.2 * len(urgent.seconds)
    assert usual.refused > len(usual.seconds)
    assert batch.refused == 0
    assert batch.quantile(0.5) > urgent.quantile(0.99)


# --- the rules one by one ---------------------------------------------------------------------------------------------------


class Room(Bulkhead):
    """A bulkhead whose wait is what the test says."""

    wait = 0.0

    def predicted_wait(self, standing: Any, *, more: int = 0) -> float:
        return self.wait


def asks(priority: Priority = Priority.DEFAULT, seconds: float = 60.0, **options: Any) -> Asks:
    return Asks("run", "acme", "supervisor", priority, seconds, **options)


def guard(wait: float = 0.0, **options: Any) -> tuple[Admission, Room, Metrics]:
    room, metrics = Room("model:x"), Metrics()
    room.wait = wait
    return Admission(lambda graph_id: [room] if graph_id == "supervisor" else [], metrics, rng=Random(1), **options), room, metrics


def refusal(admission: Admission, run: Asks, load: Load | None = None) -> Overloaded | None:
    try:
        admission.admit(run, load or Load(executes=True))
    except Overloaded as exc:
        return exc
    return None


async def test_what_is_taken_is_expected_and_what_is_over_is_not():
    """A run that was never accepted, or never asked a model, leaves no trace."""
    admission, room, _ = guard()

    admission.admit(asks(), Load(executes=True))
    assert room.expected == 1
    admission.forget("run")
    assert room.expected == 0
    admission.admit(asks(), Load(executes=True))
    admission.ran("run", "supervisor", 1.0)
    assert room.expected == 0


async def test_a_wait_is_measured_by_the_time_that_runs_take():
    """A tenth of it by default; a twentieth of a second is nobody's trouble."""
    admission, room, metrics = guard(wait=0.3)
    room.expect(Standing("acme", request="one of the same tenant"))
    assert refusal(admission, asks()) is not None

    for _ in range(10):
        admission.ran("another", "supervisor", 4.0)
    admission.ran("another", "supervisor", None)  # a failure, which says nothing
    assert refusal(admission, asks()) is None
    room.wait = 0.5
    refused = refusal(admission, asks())
    room.wait = 0.04

    assert refused is not None
    assert (refused.status, refused.code) == (503, "overloaded")
    assert 1.0 <= (refused.retry_after or 0.0) <= 2.0
    assert refusal(guard(wait=0.04)[0], asks()) is None
    assert 'capataz_runs_refused_total{priority="default",reason="queue"} 2.0' in metrics.render().decode()


async def test_the_first_of_a_tenant_may_wait_longer():
    """Others are before it in the queue, and they must not keep it out; a second one of its own has to be patient."""
    admission, room, _ = guard(wait=0.3)
    for _ in range(10):
        admission.ran("another", "supervisor", 1.0)
    room.expect(Standing("noisy", request="another tenant's"))

    assert refusal(admission, asks()) is None
    assert refusal(admission, asks()) is not None
    assert refusal(admission, asks(Priority.INTERACTIVE)) is None


async def test_what_cannot_meet_its_deadline_is_refused_whatever_its_priority():
    """Its wait and the time that runs take do not fit; without a wait it may try."""
    admission, room, _ = guard(wait=3.0)
    for _ in range(10):
        admission.ran("another", "supervisor", 4.0)

    assert refusal(admission, asks(Priority.BATCH, 6.9)) is not None
    assert refusal(admission, asks(Priority.BATCH, 7.1)) is None
    room.wait = 0.0
    assert refusal(admission, asks(seconds=1.0)) is None


async def test_there_is_an_end_to_what_a_process_takes():
    """So many runs at once, here or waiting for workers, and so many batch runs that wait; batch runs need not fit now."""
    admission, _, metrics = guard()
    full, crowded = Load(True, executing=MOST_RUNS), Load(False, announced=MOST_RUNS)
    backlog = Load(True, batches=MOST_BATCHES)

    assert refusal(admission, asks(), full) is not None
    assert refusal(admission, asks(), crowded) is not None
    assert refusal(admission, asks(), backlog) is None
    assert refusal(admission, asks(Priority.BATCH), full) is None
    assert refusal(admission, asks(Priority.BATCH), backlog) is not None
    assert 'reason="capacity"} 2.0' in metrics.render().decode()


async def test_what_is_not_asked_of_a_model_here_is_not_measured_by_it():
    """A run that begins later, one that a worker executes, and one of a graph without models."""
    admission, _, _ = guard(wait=100.0)
    other = Asks("run", "acme", "conformance", Priority.DEFAULT, 60.0)

    assert refusal(admission, asks(is_delayed=True)) is None
    assert refusal(admission, asks(), Load(executes=False)) is None
    assert refusal(admission, other) is None


async def test_who_comes_to_a_second_model_waits_for_all_who_are_at_the_first():
    """Where routing and answering are different models, both waits count."""
    first, second = Room("model:small"), Bulkhead("model:large")
    admission = Admission(lambda _: [first, second], Metrics())
    seen: list[int] = []
    second.predicted_wait = lambda standing, *, more=0: seen.append(more) or 0.5  # type: ignore[method-assign, func-returns-value]

    for number in range(3):
        with pytest.raises(Overloaded):
            admission.admit(Asks(str(number), "acme", "supervisor", Priority.DEFAULT, 60.0), Load(executes=True))
        first.expect(Standing("acme", request=str(number)))

    assert seen == [0, 1, 2]


async def test_switched_off_it_takes_everything():
    """`RESILIENCE_OFF=admission`."""
    admission, room, _ = guard(wait=100.0, is_on=False)

    assert refusal(admission, asks(seconds=0.1), Load(True, executing=MOST_RUNS)) is None
    assert room.expected == 0
