"""From a run's log to Server-Sent Events: one frame per event, a comment as heartbeat, the same bytes for every reader."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from fastapi.responses import StreamingResponse

from app.runs.events import STORAGE_PATIENCE, STORAGE_RETRY, LogReader
from app.runs.service import Drained
from app.storage.errors import StorageError
from app.storage.redis.runs import Event

HEARTBEAT = 5.0
"""Seconds between two comments: JS clients end a stream that is silent for three times the cadence they have seen."""
HEARTBEAT_FRAME = b": heartbeat\n\n"
CHUNK = 64 * 1024
"""About how much is handed to a connection at once, bytes: what a slow reader is behind stays in the log."""
RECONNECT_FRAME = b"retry: 1000\n\n"
"""What a reader is told whose process goes down: there is more, elsewhere, in a second."""


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Reader(Protocol[T_co]):
    """Whoever reads a log: of a run, or of a thread."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more can come."""
        ...

    @property
    def is_cut(self) -> bool:
        """Whether the reader must leave before the end."""
        ...

    async def read(self, timeout: float) -> Sequence[T_co]:
        """The next entries; none after `timeout` seconds without news."""
        ...


def frame(event: Event) -> bytes:
    """The event on the wire; its data is one line of JSON."""
    return b"event: %b\ndata: %b\nid: %d\n\n" % (event.name.encode(), event.data, event.id)


def frames(reader: LogReader) -> AsyncIterator[bytes]:
    """What a reader of the run gets, until its terminal event; see `rendered`."""
    return rendered(reader, frame)


async def rendered(reader: Reader[T], render: Callable[[T], bytes]) -> AsyncIterator[bytes]:
    """What a reader gets, entry by entry and with heartbeats, until there can be no more.

    If the log cannot be read for a while, the run is overdue, or the process goes down, the stream ends without a terminal
    event: reconnect.
    """
    loop = asyncio.get_running_loop()
    beat = loop.time() + HEARTBEAT
    given_up = math.inf
    while not reader.has_ended:
        try:
            events = await reader.read(max(0.0, beat - loop.time()))
            given_up = math.inf
        except StorageError:
            given_up = min(given_up, loop.time() + STORAGE_PATIENCE)
            if loop.time() >= given_up:
                return
            if not reader.is_cut:
                await asyncio.sleep(STORAGE_RETRY)
            events = []
        if reader.is_cut:
            yield RECONNECT_FRAME
            return
        chunk = bytearray()
        for event in events:
            chunk += render(event)
            if len(chunk) >= CHUNK:
                yield bytes(chunk)
                chunk.clear()
        if chunk:
            yield bytes(chunk)
        if loop.time() >= beat:
            yield HEARTBEAT_FRAME
            beat += HEARTBEAT * ((loop.time() - beat) // HEARTBEAT + 1)  # none for those that a slow reader missed


async def unbroken(reader: Reader[T], render: Callable[[T], bytes]) -> AsyncIterator[bytes]:
    """The same of a thread, whose stream has no end of its own. If it must end before the thread does it breaks off: clients take a proper
    end for the last word, and come back only after a cut.

    Raises:
        Drained: It breaks off.
    """
    async for chunk in rendered(reader, render):
        yield chunk
    if not reader.has_ended:
        raise Drained


def event_stream(content: AsyncIterator[bytes], headers: Mapping[str, str]) -> StreamingResponse:
    """A response that no proxy keeps or buffers."""
    fixed = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(content, headers={**fixed, **headers}, media_type="text/event-stream; charset=utf-8")
