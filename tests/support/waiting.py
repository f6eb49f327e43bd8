"""Waiting for something that happens elsewhere, without guessing how long it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def until(is_so: Callable[[], Awaitable[object]], limit: float) -> None:
    """Return once `is_so` answers something true; `TimeoutError` after `limit` seconds."""
    async with asyncio.timeout(limit):
        while True:
            if await is_so():
                return
            await asyncio.sleep(0.005)
