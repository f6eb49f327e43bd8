"""Token buckets: an allowance that fills up evenly, and is full to begin with.

A bucket is kept as its *debt*: how long it would take to be full again. Nothing is written for a full one, and two processes that
were told different allowances agree on what is owed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from resilience.clock import Clock, SystemClock

MOST_WINDOWS = 2
"""Most windows that a bucket may owe, so that an overdraft or a clock that was set back locks nobody out for longer than one window."""
TOLERANCE = 0.01
"""Share of one unit that rounding may cost before it is taken for a missing one."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How much may be used per time.

    Args:
        allowance: Units per window, and the most at once.
        window: Seconds.
    """

    allowance: int
    window: float = 60.0

    def __post_init__(self) -> None:
        if self.allowance < 1 or self.window <= 0.0:
            raise ValueError(f"a rate needs allowance >= 1 and window > 0, not {self.allowance} and {self.window}")

    @property
    def unit(self) -> float:
        """Seconds in which one unit comes back."""
        return self.window / self.allowance


@dataclass(frozen=True, slots=True)
class Charge:
    """What is wanted of one bucket.

    Args:
        bucket: The bucket's name.
        rate: Its size.
        cost: Units. More than the allowance counts as the whole allowance, or it would never fit. To settle: may be negative.
    """

    bucket: str
    rate: Rate
    cost: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of charges.

    Args:
        is_allowed: Whether they were taken.
        wait: Seconds until they may be used; if they were not taken: until they would have fitted.
        remaining: Units that are left in the scarcest bucket.
        full_in: Seconds until every bucket is full again.
    """

    is_allowed: bool
    wait: float
    remaining: int
    full_in: float


class LocalBuckets:
    """The buckets of one process. Rules as in `app.storage.redis.limits`, which all processes share.

    Args:
        clock: Fills them.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._full_at: dict[str, float] = {}

    def take(self, charges: Sequence[Charge], *, patience: float = 0.0) -> Taken:
        """Take all charges, or none of them.

        Args:
            charges: At least one, each of another bucket.
            patience: Seconds that the caller would wait. A charge that fits within them is taken now, so that who comes first goes first.
        """
        now = self._clock.monotonic()
        debts = [self._debt(charge, now) for charge in charges]
        after = [debt + min(charge.cost, charge.rate.allowance) * charge.rate.unit for charge, debt in zip(charges, debts, strict=True)]
        wait = max(_missing(charge.rate, debt) for charge, debt in zip(charges, after, strict=True))
        is_allowed = wait <= patience
        if is_allowed:
            debts = after
            for charge, debt in zip(charges, debts, strict=True):
                self._full_at[charge.bucket] = now + debt
        left = min(_left(charge.rate, debt) for charge, debt in zip(charges, debts, strict=True))
        return Taken(is_allowed, wait, left, max(debts))

    def settle(self, charges: Sequence[Charge]) -> None:
        """Add to what has been taken, or give back what has a negative cost; may overdraw."""
        now = self._clock.monotonic()
        for charge in charges:
            debt = self._debt(charge, now) + charge.cost * charge.rate.unit
            self._full_at[charge.bucket] = now + min(max(debt, 0.0), MOST_WINDOWS * charge.rate.window)

    def hold(self, charges: Sequence[Charge], seconds: float) -> None:
        """Have nothing to give for `seconds`, at most a window; costs do not matter."""
        now = self._clock.monotonic()
        for charge in charges:
            held = charge.rate.window + min(seconds, charge.rate.window)
            self._full_at[charge.bucket] = now + max(self._debt(charge, now), held)

    def _debt(self, charge: Charge, now: float) -> float:
        return min(max(self._full_at.get(charge.bucket, now) - now, 0.0), MOST_WINDOWS * charge.rate.window)


def _missing(rate: Rate, debt: float) -> float:
    """Seconds until a bucket with this debt owes no more than it holds."""
    missing = debt - rate.window
    return missing if missing > rate.unit * TOLERANCE else 0.0


def _left(rate: Rate, debt: float) -> int:
    return max(0, math.floor((rate.window - debt) / rate.unit + TOLERANCE))
