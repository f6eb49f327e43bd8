"""The one instant by which everything about a request must be done."""

from __future__ import annotations

from dataclasses import dataclass, field

from resilience.clock import Clock, SystemClock


@dataclass(frozen=True, slots=True)
class Deadline:
    """An instant on the monotonic clock; set once at admission, spent by every step below.

    Args:
        at: The instant, in seconds of `clock.monotonic()`.
        clock: The clock that `at` belongs to.
    """

    at: float
    clock: Clock = field(default_factory=SystemClock, repr=False, compare=False)

    @classmethod
    def after(cls, seconds: float, clock: Clock | None = None) -> Deadline:
        """The deadline `seconds` from now."""
        clock = clock or SystemClock()
        return cls(clock.monotonic() + seconds, clock)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - self.clock.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether nothing is left."""
        return self.remaining() <= 0.0

    def reserving(self, share: float) -> Deadline:
        """An earlier deadline that leaves `share` (0..1) of what is left now to the caller's plan B."""
        return Deadline(self.at - self.remaining() * share, self.clock)

    def within(self, seconds: float) -> Deadline:
        """This deadline, or the one `seconds` from now if that is earlier."""
        return Deadline(min(self.at, self.clock.monotonic() + seconds), self.clock)
