"""An event loop whose time jumps to the next timer when nothing else is to do: sleeps and timeouts take no real time.

For tests without I/O and threads. A folder uses it for all its async tests by having this line in its conftest.py:

    from tests.support.virtual_time import pytest_asyncio_loop_factories  # noqa: F401
"""

from __future__ import annotations

import asyncio
import selectors


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Starts at 0. A loop that waits for something that cannot happen raises instead of hanging.

    Args:
        patience: Real seconds to wait for a thread where no timer is set.
    """

    def __init__(self, patience: float = 5.0) -> None:
        super().__init__(_Jumping(self, patience))
        self._now = 0.0

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._now

    def jump(self, seconds: float) -> None:
        """Let `seconds` pass at once."""
        self._now += seconds


class _Jumping(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    def __init__(self, loop: VirtualTimeLoop, patience: float) -> None:
        super().__init__()
        self._loop = loop
        self._patience = patience

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(self._patience if timeout is None else 0)
        if not ready and timeout is None:
            raise RuntimeError("every task waits, and no timer is set: nothing will ever happen")
        if not ready and timeout:
            self._loop.jump(timeout)
        return ready


class LoopClock:
    """The running loop's time as a `resilience.clock.Clock`, for deadlines and policies in virtual time."""

    def monotonic(self) -> float:
        """`loop.time()`."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep()`."""
        await asyncio.sleep(seconds)

    def cpu(self) -> float:
        """No time passes here by computing."""
        return 0.0


def pytest_asyncio_loop_factories(config, item):
    """The hook of pytest-asyncio that makes a folder's tests run in virtual time."""
    return {"virtual": VirtualTimeLoop}
