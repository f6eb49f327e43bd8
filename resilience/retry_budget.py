"""How many retries one dependency is worth."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from resilience.clock import Clock, SystemClock
from resilience.rolling import RollingCounts


@dataclass(frozen=True, slots=True)
class RetryBudgetSettings:
    """How many retries one dependency may get from one process.

    Args:
        ratio: Retries per call in `window`, 0..1. A retry is no call here, so retries do not earn retries.
        floor: Retries per `window` that are allowed on top, so that a dependency with few calls is retried too.
        window: How far back it looks, seconds.
    """

    ratio: float = 0.1
    floor: int = 10
    window: float = 10.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.ratio <= 1.0 or self.floor < 0 or self.window <= 0.0:
            raise ValueError(f"a retry budget needs 0 <= ratio <= 1, floor >= 0 and window > 0, not {self}")


class RetryBudget:
    """Keeps retries from becoming the load that holds a dependency down; shared by all who call it.

    In no stretch of time, however long, are there more retries than `ratio` of the calls plus `floor` for each `window` begun. Retries
    are remembered to the instant and calls to a tenth of the window, a little too short rather than too long, so the sum is never over.
    For one event loop.

    Args:
        settings: Its rules.
        clock: Measures the window.

    Source: ADR-0019; Google's "Site Reliability Engineering" (2016), chapter 21 "Handling Overload": retries of at most a tenth of
    the requests let a dependency get well that three attempts for everybody would keep down.
    """

    def __init__(self, settings: RetryBudgetSettings | None = None, *, clock: Clock | None = None) -> None:
        self._settings = settings = settings or RetryBudgetSettings()
        self._clock = clock or SystemClock()
        self._calls = RollingCounts(settings.window)
        self._retries: deque[float] = deque()

    def note_call(self) -> None:
        """A first attempt is made."""
        self._calls.add(self._clock.monotonic(), is_failure=False)

    def take(self) -> bool:
        """Whether there may be one more retry now; if so, it is spent."""
        now = self._clock.monotonic()
        while self._retries and now - self._retries[0] >= self._settings.window:
            self._retries.popleft()
        calls = self._calls.totals(now)[0]
        if len(self._retries) + 1 > self._settings.floor + self._settings.ratio * calls:
            return False
        self._retries.append(now)
        return True
