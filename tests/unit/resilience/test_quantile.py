"""How long calls took lately."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.quantile import RollingQuantile


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=80), size=st.integers(1, 40), share=st.floats(0, 1))
def test_it_is_exact_over_the_most_recent_values(values: list[float], size: int, share: float):
    """Whatever came before them, and however many are equal."""
    quantile = RollingQuantile(size)
    for value in values:
        quantile.add(value)

    recent = sorted(values[-size:])
    assert len(quantile) == len(recent)
    assert quantile.at(share) == recent[max(0, ceil(share * len(recent)) - 1)]


def test_of_twenty_values_the_quantile_of_95_is_the_nineteenth():
    """The smallest that 95 % of them do not exceed."""
    quantile = RollingQuantile(20)
    for value in range(20, 0, -1):
        quantile.add(value)

    assert (quantile.at(0.95), quantile.at(0.5), quantile.at(1.0)) == (19, 10, 20)


def test_nothing_has_no_quantile():
    """Asking too early is a fault of the caller."""
    with pytest.raises(IndexError):
        RollingQuantile(5).at(0.5)
