"""Time as an object, so that tests can move it."""

import asyncio
import time
from typing import Protocol

OURS = 0.75
"""Share of one core that this process used while calls were under way, from which on their slowness says nothing of what was called: at
three quarters each turn of the event loop has waited longer than it works (M/D/1: 1.5 times as long). A process that shares its core, as
with its own Redis, never gets much more."""


class Clock(Protocol):
    """A monotonic clock and the sleep that belongs to it; both in seconds."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary instant, never going back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return once `monotonic()` has grown by `seconds`."""
        ...

    def cpu(self) -> float:
        """CPU seconds that this process has used so far."""
        ...


class SystemClock:
    """The clock of the machine."""

    def monotonic(self) -> float:
        """`time.monotonic()`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep()`."""
        await asyncio.sleep(seconds)

    def cpu(self) -> float:
        """`time.process_time()`."""
        return time.process_time()
