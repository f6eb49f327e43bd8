"""The log of a thread: the events of all its runs in one row, read from any of them on, for as long as the reader stays."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from app.runs.events import IDLE_POLL, EventLogs
from app.runs.model import TERMINAL_EVENTS
from app.runs.protocol_events import NUMBERS, ProtocolEvent, Subscription, ThreadTranslator
from app.storage.redis.runs import ThreadEvent
from app.storage.redis.work import ThreadRef


class ThreadReader:
    """One reader's place in the log of a thread; it has no end but that of the thread or of this process.

    Args:
        logs: The logs of all runs.
        thread: The thread.
        after: Id of the last event that the reader has seen; 0: none.
        waits: Whether to wait for a thread that has not been made yet, instead of ending.
    """

    def __init__(self, logs: EventLogs, thread: ThreadRef, after: int, *, waits: bool = False) -> None:
        self._logs = logs
        self._thread = thread
        self._after = after
        self._waits = waits
        self.has_ended = False

    @property
    def is_cut(self) -> bool:
        """Whether the reader must leave: this process goes down."""
        return self._logs.is_draining and not self.has_ended

    async def read(self, timeout: float) -> list[ThreadEvent]:
        """The next events, all that there are by now; none after `timeout` seconds without news, when `has_ended` or `is_cut`.

        Raises:
            StorageUnavailable: Redis cannot be asked.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while not self.has_ended and not self.is_cut:
            news = self._logs.follow(self._thread)
            found = await self._logs.of_thread(self._thread, self._after)
            if found is None and not self._waits:
                self.has_ended = True
                break
            self._waits = self._waits and found is None
            events, again = found or ([], IDLE_POLL)
            if events:
                last = events[-1].event
                # The number after an end belongs to the word that the run is done.
                self._after = last.id + (last.name in TERMINAL_EVENTS)
                return events
            left = end - loop.time()
            if left <= 0:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(min(again, left)):
                    await news.wait()
        return []


class ProtocolReader:
    """The same as events of protocol v2.

    Args:
        logs: The logs of all runs.
        thread: The thread; if there is none yet it is waited for.
        since: Greatest number (`seq`) that the reader has seen; 0: none.
        wanted: What the reader wants.
    """

    def __init__(self, logs: EventLogs, thread: ThreadRef, since: int, wanted: Subscription) -> None:
        self._logs = logs
        self._thread = thread
        self._since = since
        self._wanted = wanted
        self._translator = ThreadTranslator()
        self._entries: ThreadReader | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the thread has gone."""
        return self._entries is not None and self._entries.has_ended

    @property
    def is_cut(self) -> bool:
        """Whether the reader must leave: this process goes down."""
        return self._logs.is_draining and not self.has_ended

    async def read(self, timeout: float) -> list[ProtocolEvent]:
        """See `ThreadReader.read`; none also if the news are not wanted.

        Raises:
            StorageUnavailable: Redis cannot be asked.
        """
        if self._entries is None:
            self._entries = await self._opened()
        told = [event for entry in await self._entries.read(timeout) for event in self._translator.events(entry)]
        return [event for event in told if event.seq > self._since and self._wanted.wants(event)]

    async def _opened(self) -> ThreadReader:
        """A reader of the log from the beginning of the run on in which the reader is: what it is told depends on what came before."""
        after = self._since // NUMBERS
        if after:
            first = await self._logs.opening(self._thread, after)
            after = first - 1 if first else after
        return ThreadReader(self._logs, self._thread, after, waits=True)
