"""Says in the log that somebody else answers: a chain that works must not hide that its first link is broken."""

from __future__ import annotations

from collections import Counter

from app.telemetry.logging import get_logger
from resilience.clock import Clock, SystemClock
from resilience.events import EventKind, ResilienceEvent

EVERY = 60.0
"""Least time between two lines about the same step, seconds: an outage is one line a minute, not one a request."""


class FallbackLog:
    """A `resilience.events.Listener`.

    Args:
        clock: Tells when a line is due again.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._due: dict[tuple[str, str, str], float] = {}
        self._times: Counter[tuple[str, str, str]] = Counter()

    def __call__(self, event: ResilienceEvent, /) -> None:
        """Write a line if one is due; it says how often the step was taken since the last one."""
        if event.kind is not EventKind.FALLBACK_TAKEN:
            return
        step = str(event.fields["from"]), str(event.fields["to"]), str(event.fields["why"])
        self._times[step] += 1
        now = self._clock.monotonic()
        if now < self._due.get(step, now):
            return
        self._due[step] = now + EVERY
        get_logger().warning("fallback_taken", **{"from": step[0], "to": step[1]}, code=step[2], times=self._times.pop(step))
