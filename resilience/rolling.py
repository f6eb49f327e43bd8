"""How calls went lately."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple


class Totals(NamedTuple):
    """Calls in a window, the failures among them, and the slow ones among those that did not fail."""

    calls: int
    failures: int
    slow: int


@dataclass(slots=True)
class _Slice:
    start: float
    calls: int = 0
    failures: int = 0
    slow: int = 0


class RollingCounts:
    """Calls, failures and slow calls of a sliding time window, in at most eleven slices: its cost does not grow with the traffic.

    Args:
        window: How far back it looks, seconds; exact to a tenth.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._slices: deque[_Slice] = deque()
        self._calls = 0
        self._failures = 0
        self._slow = 0

    def add(self, now: float, *, is_failure: bool = False, is_slow: bool = False) -> None:
        """Note one result; `now` in seconds, never going back."""
        self._forget(now)
        if not self._slices or now - self._slices[-1].start >= self._window / 10:
            self._slices.append(_Slice(now))
        newest = self._slices[-1]
        newest.calls += 1
        newest.failures += is_failure
        newest.slow += is_slow
        self._calls += 1
        self._failures += is_failure
        self._slow += is_slow

    def totals(self, now: float) -> Totals:
        """What happened in the window that ends `now`."""
        self._forget(now)
        return Totals(self._calls, self._failures, self._slow)

    def _forget(self, now: float) -> None:
        while self._slices and now - self._slices[0].start >= self._window:
            old = self._slices.popleft()
            self._calls -= old.calls
            self._failures -= old.failures
            self._slow -= old.slow
