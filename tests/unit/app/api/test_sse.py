"""A stream whose log cannot be read for a while waits; one that waits too long sends its reader away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from app.api.sse import HEARTBEAT, HEARTBEAT_FRAME, STORAGE_PATIENCE, frame, frames
from app.storage.errors import StorageUnavailable
from app.storage.redis.runs import Event

END = Event(2, "end", b"{}")


class Reader:
    """A reader whose log fails for a while after the first event, then ends."""

    is_cut = False

    def __init__(self, failing: float) -> None:
        self.has_ended = False
        self._plan: list[Sequence[Event]] = [[Event(1, "custom", b"1")], [END]]
        self._failing = failing

    async def read(self, timeout: float) -> Sequence[Event]:
        if len(self._plan) == 1 and asyncio.get_running_loop().time() < self._failing:
            raise StorageUnavailable("down")
        events = self._plan.pop(0)
        self.has_ended = END in events
        return events


async def read(failing: float) -> list[bytes]:
    return [chunk async for chunk in frames(Reader(failing))]  # type: ignore[arg-type]


async def test_a_storage_that_comes_back_in_time_costs_the_reader_nothing() -> None:
    came = await read(failing=STORAGE_PATIENCE - 1)

    assert [chunk for chunk in came if chunk != HEARTBEAT_FRAME] == [frame(Event(1, "custom", b"1")), frame(END)]
    assert came.count(HEARTBEAT_FRAME) == (STORAGE_PATIENCE - 1) // HEARTBEAT


async def test_a_storage_that_stays_away_ends_the_stream_without_a_terminal_event() -> None:
    came = await read(failing=10 * STORAGE_PATIENCE)

    assert [chunk for chunk in came if chunk != HEARTBEAT_FRAME] == [frame(Event(1, "custom", b"1"))]
    assert asyncio.get_running_loop().time() <= STORAGE_PATIENCE + 1
