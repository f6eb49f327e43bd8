"""The rules of the adaptive limit one by one: it is told of calls by hand, without a provider."""

import pytest

from resilience.adaptive import FIRST_PROBE, PROBE_EVERY, AdaptiveLimit, AdaptiveSettings

QUICK = 1.0
"""How long a call takes when none waits, seconds."""
LAST = (False, False)
OTHER = (True, True)


class Told:
    """An adaptive limit and the time; each sample is as many calls as it wants to see, all of one length.

    Args:
        start: The limit to begin with.
    """

    def __init__(self, start: int = 8, **settings: int) -> None:
        self.limit = AdaptiveLimit(AdaptiveSettings(start=start, **settings))
        self.now = 0.0

    def sample(
        self, seconds: float = QUICK, *, active: int | None = None, kind: tuple[bool, bool] = LAST, more: float | None = None
    ) -> int:
        """The limit after one more sample, with so many calls under way (None: all that may be); `more`: the other kind's length."""
        self.limit.left(0, self.now, 0, is_counted=True)  # whatever was too many has left
        numbers = []
        while number := self.limit.began(self.now, self.limit.limit if active is None else active):
            numbers.append(number)
        self.now += seconds
        for i, number in enumerate(numbers):
            is_other = more is not None and i % 2 == 1
            self.limit.took(number, OTHER if is_other else kind, more if is_other and more is not None else seconds, self.now)
        return self.limit.limit

    def grown_too_high(self) -> int:
        """Let it find that it has been too high: calls that took twice as long are quicker with fewer at once. The limit then."""
        self.sample()
        before = self.limit.limit
        assert self.sample(2.0) < before
        self.sample(QUICK)
        while self.limit.why == "probe":
            self.sample(QUICK)
        return self.limit.limit


def test_it_doubles_until_it_has_been_too_high() -> None:
    """The first sample is a measure, each further one that is as quick doubles the limit, up to its maximum."""
    told = Told(8, maximum=100)

    assert [told.sample() for _ in range(5)] == [8, 16, 32, 64, 100]
    assert told.limit.why == "grown"


def test_then_it_grows_by_a_tenth() -> None:
    """And by one at least."""
    told = Told(40)
    found = told.grown_too_high()

    assert told.sample() == max(found + 1, int(found * 1.1))
    assert told.limit.why == "grown"


@pytest.mark.parametrize(("share", "grows"), [(0.79, False), (0.8, True)])
def test_it_grows_only_where_it_is_used(share: float, grows: bool) -> None:
    """From four fifths on."""
    told = Told(100)
    told.sample()

    assert (told.sample(active=int(100 * share)) > 100) is grows


@pytest.mark.parametrize(("ratio", "grows"), [(1.04, True), (1.06, False)])
def test_it_grows_only_while_none_waits(ratio: float, grows: bool) -> None:
    """A twentieth longer is noise, more is not."""
    told = Told(8)
    told.sample()

    assert (told.sample(QUICK * ratio) > 8) is grows


def test_slowness_that_is_not_severe_must_be_seen_twice() -> None:
    """In a row."""
    told = Told(60)
    told.sample()

    assert told.sample(1.3) == 60
    assert told.sample(1.1) == 60  # neither slow nor quick: the row is broken
    assert told.sample(1.3) == 60
    assert told.sample(1.3) < 60
    assert told.limit.why == "probe"


def test_severe_slowness_is_believed_at_once() -> None:
    """The first step leaves two thirds of what was in use, or less where the ratio says so: 1.15 ÷ 3 of that."""
    told = Told(60)
    told.sample()

    assert told.sample(3.0) == int(60 * 2 / 3 * 1.15 / 3)


def test_slowness_is_not_the_limits_if_hardly_any_of_it_is_used() -> None:
    """Below a quarter."""
    told = Told(60)
    told.sample()

    assert told.sample(3.0, active=14) == 60
    assert told.sample(3.0, active=15) < 60


def test_a_probe_that_brings_nothing_is_taken_back() -> None:
    """The provider is slow today: that is the measure from now on, and the limit is what it was."""
    told = Told(60)
    told.sample()
    told.sample(2.0)

    assert told.sample(2.0) == 60
    assert told.limit.why == "probed"
    assert told.sample(2.0) == 120  # as quick as the new measure, and never been too high


def test_a_probe_that_helps_ends_at_what_was_worked_on() -> None:
    """Of 60 calls that took twice as long half were worked on at any time."""
    told = Told(60)

    assert told.grown_too_high() == 30


def test_a_quicker_dependency_is_measured_anew() -> None:
    """Calls that take half as long as they did are the new measure: what was normal is slow now."""
    told = Told(8, maximum=8)
    told.sample()
    told.sample(0.5)

    assert told.sample(1.0) < 8


def test_a_kind_that_is_new_is_compared_with_itself() -> None:
    """Its measure is what it takes beside the others, as much slower as they are."""
    told = Told(8, maximum=8)
    told.sample()
    assert told.sample(QUICK, more=10.0) == 8

    assert told.sample(QUICK, more=10.0) == 8
    assert told.sample(QUICK, more=40.0) < 8


def test_probes_without_a_reason_become_rare_as_long_as_they_confirm_the_measure() -> None:
    """After five seconds of use, ten, twenty and forty, then once a minute."""
    told = Told(40, maximum=40)
    told.grown_too_high()
    found: list[float] = []
    begun = told.now
    for _ in range(600):
        told.sample()
        if told.limit.why == "probe":
            found.append(told.now - begun)
            told.sample()
            begun = told.now

    assert found[:5] == [pytest.approx(wait, abs=2.0) for wait in (FIRST_PROBE, 10.0, 20.0, 40.0, PROBE_EVERY)]
