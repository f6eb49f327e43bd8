"""Who goes next where calls wait."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.context import Priority, Standing
from resilience.fair_queue import FairQueue

STANDINGS = st.builds(Standing, st.sampled_from("abc"), st.sampled_from(Priority), st.booleans())


def names(queue: FairQueue[str]) -> list[str]:
    """Everybody, in the order of their turns."""
    return [queue.pop() for _ in range(len(queue))]


def test_requests_under_way_go_first_then_urgent_ones():
    """What has begun is finished before anything else begins, then interactive goes before default before batch."""
    queue: FairQueue[str] = FairQueue()
    for begins in (True, False):
        for priority in reversed(Priority):
            queue.put(f"{priority.name.lower()} {'begins' if begins else 'continues'}", Standing("a", priority, not begins))

    kinds = ("interactive", "default", "batch")
    assert names(queue) == [f"{kind} continues" for kind in kinds] + [f"{kind} begins" for kind in kinds]


def test_tenants_take_turns():
    """One with many calls gets every second turn, not all turns but the last."""
    queue: FairQueue[str] = FairQueue()
    for number in range(4):
        queue.put(f"noisy {number}", Standing("noisy"))
    for number in range(2):
        queue.put(f"quiet {number}", Standing("quiet"))

    assert names(queue) == ["noisy 0", "quiet 0", "noisy 1", "quiet 1", "noisy 2", "noisy 3"]


def test_who_has_left_is_passed_over():
    """Leaving twice is as leaving once, and an empty queue has nobody."""
    queue: FairQueue[str] = FairQueue()
    queue.put("one", Standing())
    queue.put("two", Standing())

    assert (queue.remove("one", Standing()), queue.remove("one", Standing())) == (True, False)
    assert names(queue) == ["two"]
    with pytest.raises(IndexError):
        queue.pop()


@given(st.lists(STANDINGS, max_size=40), STANDINGS, st.lists(STANDINGS, max_size=10))
def test_what_is_ahead_is_what_goes_first(waiting: list[Standing], mine: Standing, coming: list[Standing]):
    """The number that is predicted is a bound of what happens, and exact but for one turn of each other tenant."""
    queue: FairQueue[int] = FairQueue()
    for number, standing in enumerate([*waiting, *coming]):
        queue.put(number, standing)
    predicted: FairQueue[int] = FairQueue()
    for number, standing in enumerate(waiting):
        predicted.put(number, standing)

    under_way, beginning = predicted.ahead(mine, coming)
    queue.put(-1, mine)
    before = 0
    while queue.pop() != -1:
        before += 1

    assert 0 <= under_way + beginning - before <= 2


def test_those_who_are_on_their_way_are_ahead_as_if_they_waited():
    """One turn of a tenant that sends five, and whoever goes on with a request; each is told under its kind."""
    queue: FairQueue[str] = FairQueue()
    coming = [*[Standing("noisy")] * 5, Standing("quiet", is_under_way=True), Standing("batch", Priority.BATCH)]

    assert queue.ahead(Standing("mine"), coming) == (1, 1)


@given(st.lists(STANDINGS, max_size=60))
def test_nobody_is_lost_and_no_class_or_tenant_is_out_of_turn(standings: list[Standing]):
    """Classes come in their order; within one, no tenant has two turns while another that waits has none."""
    queue: FairQueue[int] = FairQueue()
    for number, standing in enumerate(standings):
        queue.put(number, standing)
    order = [queue.pop() for _ in standings]

    assert sorted(order) == list(range(len(standings)))
    urgency = [(not standings[number].is_under_way, standings[number].priority) for number in order]
    assert urgency == sorted(urgency)
    for kind in set(urgency):
        turns = [standings[number].tenant for number, of in zip(order, urgency, strict=True) if of == kind]
        waiting = Counter(turns)
        served: Counter[str] = Counter()
        for tenant in turns:
            served[tenant] += 1
            assert all(served[tenant] <= served[other] + 1 for other in waiting if served[other] < waiting[other])
    for tenant in "abc":
        mine = [number for number in order if standings[number].tenant == tenant]
        assert mine == sorted(mine, key=lambda number: (not standings[number].is_under_way, standings[number].priority, number))
