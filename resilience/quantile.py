"""How long calls took lately."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import ceil


class RollingQuantile:
    """Exact quantiles of the most recent values.

    Args:
        size: How many values it remembers. One more costs a search in, and a move of, at most this many numbers.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._arrived: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, value: float) -> None:
        """Remember `value`, and forget the oldest if there are too many."""
        if len(self._arrived) == self._size:
            del self._sorted[bisect_left(self._sorted, self._arrived.popleft())]
        self._arrived.append(value)
        insort(self._sorted, value)

    def at(self, share: float) -> float:
        """The smallest value that at least `share` (0..1) of all values do not exceed.

        Raises:
            IndexError: There is no value yet.
        """
        return self._sorted[max(0, ceil(share * len(self._sorted)) - 1)]
