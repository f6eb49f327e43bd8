"""How often calls failed lately."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from resilience.rolling import RollingCounts


def test_results_leave_the_window_with_time():
    """After its width nothing of a result is left."""
    counts = RollingCounts(30)
    counts.add(0, is_failure=True)
    counts.add(1)
    counts.add(1, is_slow=True)
    counts.add(20, is_failure=True)

    assert counts.totals(29) == (4, 2, 1)
    assert counts.totals(30) == (1, 1, 0)
    assert counts.totals(50) == (0, 0, 0)


def test_memory_does_not_grow_with_the_traffic():
    """Ten thousand results a second are still a handful of slices."""
    counts = RollingCounts(30)
    for tick in range(100_000):
        counts.add(tick / 1000)

    assert len(counts._slices) <= 11


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10_000), st.integers(1, 300))
def test_the_totals_are_those_of_the_window_exact_to_a_tenth(seed: int, length: int):
    """They lie between what happened in nine tenths of the window and what happened in the whole of it."""
    rng, counts, now = Random(seed), RollingCounts(10), 0.0
    results: list[tuple[float, str]] = []
    for _ in range(length):
        now += rng.expovariate(2)
        results.append((now, rng.choice(["good", "failed", "slow"])))
        counts.add(now, is_failure=results[-1][1] == "failed", is_slow=results[-1][1] == "slow")

    calls, failures, slow = counts.totals(now)

    def within(width: float) -> list[str]:
        return [how for at, how in results if now - at < width]

    assert len(within(9)) <= calls <= len(within(10))
    assert within(9).count("failed") <= failures <= within(10).count("failed")
    assert within(9).count("slow") <= slow <= within(10).count("slow")
