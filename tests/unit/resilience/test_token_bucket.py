"""What a token bucket gives, when, and how it recovers."""

import pytest

from resilience.testing import FakeClock
from resilience.token_bucket import Charge, LocalBuckets, Rate

HUNDRED = Rate(100)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def buckets(clock: FakeClock) -> LocalBuckets:
    return LocalBuckets(clock)


def one(rate: Rate = HUNDRED, cost: int = 1, bucket: str = "a") -> list[Charge]:
    return [Charge(bucket, rate, cost)]


def test_a_bucket_is_full_to_begin_with_and_gives_exactly_its_allowance(buckets: LocalBuckets):
    """A hundred at once, and not one more."""
    taken = [buckets.take(one()) for _ in range(150)]

    assert [answer.is_allowed for answer in taken] == [True] * 100 + [False] * 50
    assert [answer.remaining for answer in taken[:3]] == [99, 98, 97]
    assert taken[99].full_in == pytest.approx(60)


def test_it_fills_up_evenly(buckets: LocalBuckets, clock: FakeClock):
    """A hundred per minute is one every 0.6 s; the refusal says when."""
    buckets.take(one(cost=100))

    refused = buckets.take(one())
    assert (refused.is_allowed, refused.remaining) == (False, 0)
    assert refused.wait == pytest.approx(0.6)
    clock.advance(0.5)
    assert not buckets.take(one()).is_allowed
    clock.advance(0.1)
    assert buckets.take(one()).is_allowed
    assert not buckets.take(one()).is_allowed
    clock.advance(3600)
    assert buckets.take(one()).remaining == 99


def test_a_refusal_costs_nothing(buckets: LocalBuckets, clock: FakeClock):
    """Who asks too often is not put off any further."""
    buckets.take(one(cost=100))
    waits = [buckets.take(one()).wait for _ in range(10)]

    assert waits == [pytest.approx(0.6)] * 10


def test_who_can_wait_is_served_in_turn(buckets: LocalBuckets):
    """A charge that fits within the caller's patience is taken now and used later; the next one stands behind it."""
    buckets.take(one(cost=100))

    turns = [buckets.take(one(), patience=2.0) for _ in range(4)]
    assert [turn.wait for turn in turns] == [pytest.approx(0.6 * n) for n in (1, 2, 3, 4)]
    assert [turn.is_allowed for turn in turns] == [True, True, True, False]
    assert [turn.remaining for turn in turns] == [0, 0, 0, 0]


def test_of_several_buckets_all_are_charged_or_none(buckets: LocalBuckets):
    """The scarcest decides."""
    wide, narrow = Charge("wide", Rate(1000), 300), Charge("narrow", Rate(2), 1)

    first = buckets.take([wide, narrow])
    second = buckets.take([wide, narrow])
    third = buckets.take([wide, narrow])
    assert [answer.is_allowed for answer in (first, second, third)] == [True, True, False]
    assert [answer.remaining for answer in (first, second, third)] == [1, 0, 0]
    assert third.wait == pytest.approx(30)
    assert buckets.take([Charge("wide", Rate(1000), 400)]).is_allowed


def test_a_charge_over_the_whole_allowance_waits_for_a_full_bucket(buckets: LocalBuckets, clock: FakeClock):
    """Or it would never fit."""
    assert buckets.take(one(cost=1000)).is_allowed
    assert buckets.take(one(cost=1000)).wait == pytest.approx(60)
    clock.advance(60)
    assert buckets.take(one(cost=1000)).is_allowed


def test_settling_may_overdraw_but_by_no_more_than_a_window(buckets: LocalBuckets, clock: FakeClock):
    """A single huge call does not lock everybody out for hours."""
    buckets.take(one(cost=50))
    buckets.settle(one(cost=100))
    assert buckets.take(one()).wait == pytest.approx(30.6)

    buckets.settle(one(cost=1_000_000))
    assert buckets.take(one()).wait == pytest.approx(60.6)
    clock.advance(60.6)
    assert buckets.take(one()).is_allowed


def test_a_bucket_that_is_held_gives_nothing_until_then(buckets: LocalBuckets, clock: FakeClock):
    """After that it fills up evenly; a shorter hold changes nothing, and none is longer than a window."""
    buckets.hold(one(), 5.0)
    buckets.hold(one(), 1.0)
    assert buckets.take(one()).wait == pytest.approx(5.6)
    clock.advance(5.6)
    assert [buckets.take(one()).is_allowed for _ in range(2)] == [True, False]

    buckets.hold(one(), 86_400.0)
    assert buckets.take(one()).wait == pytest.approx(60.6)


def test_what_is_given_back_can_be_taken_again(buckets: LocalBuckets):
    """But a bucket is never more than full."""
    buckets.take(one(cost=100))
    buckets.settle(one(cost=-10))
    assert buckets.take(one()).remaining == 9

    buckets.settle(one(cost=-1000))
    assert [buckets.take(one(cost=100)).is_allowed for _ in range(2)] == [True, False]


def test_buckets_do_not_know_each_other(buckets: LocalBuckets):
    """One that is empty takes nothing from another."""
    buckets.take(one(cost=100, bucket="a"))

    assert not buckets.take(one(bucket="a")).is_allowed
    assert buckets.take(one(bucket="b")).is_allowed


def test_an_allowance_may_change_while_there_are_debts(buckets: LocalBuckets):
    """What is owed is time: half a window of the old allowance is half a window of the new one."""
    buckets.take(one(cost=50))

    assert buckets.take(one(Rate(10))).remaining == 4


@pytest.mark.parametrize(("allowance", "window"), [(0, 60.0), (-1, 60.0), (1, 0.0), (1, -1.0)])
def test_a_rate_of_nothing_is_refused(allowance: int, window: float):
    """No limit is no bucket, not an empty one."""
    with pytest.raises(ValueError, match="allowance >= 1"):
        Rate(allowance, window)
