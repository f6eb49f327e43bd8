"""The event log of a run: written in groups, read from memory by readers in the same process and from Redis by all others."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from app.runs.model import TERMINAL_EVENTS, is_final
from app.storage.redis.checkpoints import Fence
from app.storage.redis.runs import Event, NewEvent, RunRecord, RunRepository

POLL = 0.2
"""How often a reader in another process looks for news, seconds."""
_ALWAYS = TERMINAL_EVENTS | {"metadata"}


class RunLog:
    """The log of a run that this process executes.

    `append` never waits: what is appended while a write is under way travels in the next one. An event reaches readers only
    once Redis has it, so no reader ever saw what a resumed stream lacks.

    Args:
        runs: Where the log is kept.
        tenant: Whose run it is.
        run: The run.
        fence: The lease under which it is written.
    """

    def __init__(self, runs: RunRepository, tenant: str, run: RunRecord, fence: Fence) -> None:
        self._runs = runs
        self._tenant = tenant
        self._run = run
        self._fence = fence
        self._pending: list[NewEvent] = []
        self._writing: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._changed = asyncio.Event()
        self.written: list[Event] = []

    def append(self, event: NewEvent) -> None:
        """Add an event.

        Raises:
            StorageError: An earlier write failed; nothing is written any more.
        """
        if self._failure is not None:
            raise self._failure
        self._pending.append(event)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def flush(self) -> None:
        """Return once everything appended so far is in Redis.

        Raises:
            StorageError: It could not be written.
        """
        if self._writing is not None:
            await asyncio.shield(self._writing)
        if self._failure is not None:
            raise self._failure

    def publish(self, events: list[Event]) -> None:
        """Show readers what has been written."""
        self.written += events
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def fail(self, error: Exception) -> None:
        """Tell readers that the end cannot be written; they come back and find what Redis knows by then."""
        self._failure = error
        self.publish([])

    async def changes(self, seen: int) -> None:
        """Return once more than `seen` events have been written.

        Raises:
            StorageError: Nothing more can be written.
        """
        while len(self.written) <= seen:
            if self._failure is not None:
                raise self._failure
            await self._changed.wait()

    async def _write(self) -> None:
        try:
            while self._pending:
                batch, self._pending = self._pending, []
                self.publish(await self._runs.append(self._tenant, self._run, self._fence, batch))
        except Exception as exc:
            self.fail(exc)
        finally:
            self._writing = None


class EventLogs:
    """The logs of all runs: those of this process in memory, the others in Redis."""

    def __init__(self, runs: RunRepository) -> None:
        self._runs = runs
        self._local: dict[str, RunLog] = {}

    def open(self, tenant: str, run: RunRecord, fence: Fence) -> RunLog:
        """The log of a run that begins to execute here."""
        log = self._local[run.run_id] = RunLog(self._runs, tenant, run, fence)
        return log

    def close(self, run_id: str) -> None:
        """The run executes here no longer; readers that have its log go on to its end."""
        self._local.pop(run_id, None)

    def reader(self, tenant: str, run: RunRecord, *, after: int, modes: Collection[str] = ()) -> LogReader:
        """A reader of the events after id `after`; with `modes` only of those, and of `metadata` and the terminal ones."""
        return LogReader(self._runs, self._local.get(run.run_id), tenant, run, after, frozenset(modes))

    async def last_id(self, tenant: str, run: RunRecord) -> int:
        """Id of the latest event; 0: there is none."""
        log = self._local.get(run.run_id)
        if log is not None:
            return log.written[-1].id if log.written else 0
        last = 0
        while events := await self._runs.events(tenant, run.thread_id, run.run_id, after=last):
            last = events[-1].id
        return last


class LogReader:
    """One reader's place in a log; many may read at once, none of them slows the run."""

    def __init__(self, runs: RunRepository, log: RunLog | None, tenant: str, run: RunRecord, after: int, modes: frozenset[str]) -> None:
        self._runs = runs
        self._log = log
        self._tenant = tenant
        self._run = run
        self._after = after
        self._modes = modes
        self._position = 0
        self.has_ended = False

    async def read(self, timeout: float) -> list[Event]:
        """The next events, all that there are by now; none after `timeout` seconds without news, or when `has_ended`.

        Raises:
            StorageUnavailable: The log is in another process and Redis cannot be asked.
        """
        if self.has_ended:
            return []
        events = await (self._read_here(timeout) if self._log is not None else self._read_elsewhere(timeout))
        fresh = [event for event in events if event.id > self._after]
        if fresh:
            self._after = fresh[-1].id
        self.has_ended = self.has_ended or any(event.name in TERMINAL_EVENTS for event in events)
        return [event for event in fresh if self._is_wanted(event)]

    async def _read_here(self, timeout: float) -> list[Event]:
        assert self._log is not None
        try:
            async with asyncio.timeout(timeout):
                await self._log.changes(self._position)
        except TimeoutError:
            return []
        events = self._log.written[self._position :]
        self._position += len(events)
        return events

    async def _read_elsewhere(self, timeout: float) -> list[Event]:
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while True:
            run = await self._runs.get(self._tenant, self._run.thread_id, self._run.run_id)
            events = await self._runs.events(self._tenant, self._run.thread_id, self._run.run_id, after=self._after)
            if events:
                return events
            if run is None or is_final(run.status):
                # The status is written together with the terminal event, and it was read first: nothing follows.
                self.has_ended = True
                return []
            if loop.time() >= end:
                return []
            await asyncio.sleep(min(POLL, max(0.0, end - loop.time())))

    def _is_wanted(self, event: Event) -> bool:
        return not self._modes or event.name in _ALWAYS or _mode(event.name) in self._modes


def _mode(name: str) -> str:
    """The stream mode that an event of this name belongs to."""
    kind = name.partition("|")[0]
    return "messages-tuple" if kind == "messages" else kind.partition("/")[0]
