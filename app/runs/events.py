"""The event log of a run: written in groups, read from memory by readers in the same process and from Redis by all others."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from weakref import WeakValueDictionary

from app.runs.model import HIDDEN, TERMINAL_EVENTS, is_final
from app.storage.errors import StorageError
from app.storage.redis.checkpoints import Fence
from app.storage.redis.runs import Event, NewEvent, RunRecord, RunRepository, ThreadEvent
from app.storage.redis.work import ThreadRef

POLL = 0.1
"""How often a reader looks for news that another process writes, seconds."""
IDLE_POLL = 1.0
"""The same of a reader of a thread on which nothing happens, or whose run executes here, seconds."""
GATHER = 0.02
"""Least time between two writes of one log, seconds: a fast model's tokens travel several at a time, which nobody sees and which costs
much less than one by one. The first event after a pause waits for nothing."""
READS_AT_ONCE = 64
"""How many readers of this process ask Redis at the same moment: when a thousand runs end at once, their readers take turns and leave
connections to everybody else."""
STORAGE_PATIENCE, STORAGE_RETRY = 15.0, 0.25
"""How long a reader waits for a storage that does not answer before it is sent away, and between two looks, seconds."""
OVERDUE = 1.0
"""How long after a run's deadline its readers still wait for its end, seconds: it is being written, or the storage is away and it
cannot be."""
LAST_LOOK = 0.5
"""How long the storage may take to say what there is to who comes when the run is overdue already, seconds."""
_ALWAYS = TERMINAL_EVENTS | {"metadata"}

Snapshot = Callable[[str, RunRecord], Awaitable[bytes]]
"""The state of a tenant's run as it is now, as JSON."""


class RunLog:
    """The log of a run that this process executes.

    `append` never waits: what is appended while a write is under way, or soon after one, travels in the next one. An event reaches
    readers only once Redis has it, so no reader ever saw what a resumed stream lacks.

    Args:
        runs: Where the log is kept.
        tenant: Whose run it is.
        run: The run.
        fence: The lease under which it is written.
        on_news: Told whenever readers may find something new.
    """

    def __init__(self, runs: RunRepository, tenant: str, run: RunRecord, fence: Fence, on_news: Callable[[], None] = lambda: None) -> None:
        self._runs = runs
        self._on_news = on_news
        self._tenant = tenant
        self._run = run
        self._fence = fence
        self._pending: list[NewEvent] = []
        self._writing: asyncio.Task[None] | None = None
        self._next: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._earliest = self._loop.time()
        self._failure: Exception | None = None
        self._changed = asyncio.Event()
        self._written: list[Event] = []
        # From which id on everything is in memory: a first attempt's log is there from its beginning.
        self._complete_after: int | None = 0 if run.attempt <= 1 else None

    def append(self, event: NewEvent) -> None:
        """Add an event.

        Raises:
            StorageError: An earlier write failed; nothing is written any more.
        """
        if self._failure is not None:
            raise self._failure
        self._pending.append(event)
        self._write_soon()

    async def flush(self) -> None:
        """Return once everything appended so far is in Redis.

        Raises:
            StorageError: It could not be written.
        """
        while self._failure is None and (self._pending or self._writing is not None):
            if self._writing is None:
                self._begin_to_write()
            else:
                await asyncio.shield(self._writing)
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Write no more; readers go on with what Redis says."""
        if self._next is not None:
            self._next.cancel()
        self.publish([])

    def publish(self, events: list[Event]) -> None:
        """Show readers what has been written; without events, wake them."""
        if events and self._complete_after is None:
            self._complete_after = events[0].id - 1
        self._written += events
        if len(self._written) > 2 * self._runs.max_events:
            del self._written[: -self._runs.max_events]
            self._complete_after = self._written[0].id - 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        self._on_news()

    def fail(self, error: Exception) -> None:
        """Nothing more can be written; readers go on with what Redis says."""
        self._failure = error
        self.publish([])

    def after(self, seen: int) -> list[Event] | None:
        """The events after id `seen`; None: they are not all in memory."""
        if self._complete_after is None or seen < self._complete_after or self._failure is not None:
            return None
        return self._written[bisect_right(self._written, seen, key=lambda event: event.id) :]

    async def changed(self) -> None:
        """Return after the next write."""
        await self._changed.wait()

    @property
    def thread(self) -> ThreadRef:
        """The thread on which the run executes."""
        return ThreadRef(self._tenant, self._run.thread_id)

    @property
    def run_id(self) -> str:
        """The run."""
        return self._run.run_id

    @property
    def last_id(self) -> int:
        """Id of the latest event in memory; 0: there is none."""
        return self._written[-1].id if self._written else 0

    def _write_soon(self) -> None:
        if self._writing is not None or self._next is not None:
            return
        if self._loop.time() >= self._earliest:
            self._begin_to_write()
        else:
            self._next = self._loop.call_at(self._earliest, self._begin_to_write)

    def _begin_to_write(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._earliest = self._loop.time() + GATHER
        self._writing = self._loop.create_task(self._write())

    async def _write(self) -> None:
        batch, self._pending = self._pending, []
        try:
            self.publish(await self._runs.append(self._tenant, self._run, self._fence, batch))
        except Exception as exc:
            self.fail(exc)
        finally:
            self._writing = None
        if self._pending and self._failure is None:
            self._write_soon()


class EventLogs:
    """The logs of all runs: those of this process in memory, the others in Redis.

    Args:
        runs: Where logs are kept.
        snapshot: The state that a reader is shown in place of events that the log no longer has.
    """

    def __init__(self, runs: RunRepository, snapshot: Snapshot) -> None:
        self._runs = runs
        self._snapshot = snapshot
        self._local: dict[str, RunLog] = {}
        self._on_thread: dict[ThreadRef, RunLog] = {}
        self._followed: WeakValueDictionary[ThreadRef, asyncio.Event] = WeakValueDictionary()
        self._opened = asyncio.Event()
        self._turns = asyncio.Semaphore(READS_AT_ONCE)
        self.is_draining = False

    def open(self, tenant: str, run: RunRecord, fence: Fence) -> RunLog:
        """The log of a run that begins to execute here."""
        thread = ThreadRef(tenant, run.thread_id)
        log = self._local[run.run_id] = RunLog(self._runs, tenant, run, fence, lambda: self.stir(thread))
        self._on_thread[thread] = log
        self._wake()
        return log

    def close(self, run_id: str) -> None:
        """The run executes here no longer; its readers go on with what Redis says."""
        log = self._local.pop(run_id, None)
        if log is not None:
            if self._on_thread.get(log.thread) is log:
                del self._on_thread[log.thread]
            log.close()

    def drain(self) -> None:
        """Have every reader of this process leave, so that it comes back elsewhere."""
        self.is_draining = True
        for log in self._local.values():
            log.publish([])
        for follower in list(self._followed.values()):
            follower.set()
        self._wake()

    def reader(self, tenant: str, run: RunRecord, *, after: int, modes: Collection[str] = ()) -> LogReader:
        """A reader of the events after id `after`; with `modes` only of those, and of `metadata` and the terminal ones."""
        return LogReader(self, tenant, run, after, frozenset(modes))

    async def last_id(self, tenant: str, run: RunRecord) -> int:
        """Id of the latest event; 0: there is none."""
        log = self._local.get(run.run_id)
        return (log.last_id if log else 0) or await self._runs.last_id(tenant, run.thread_id, run.run_id)

    def here(self, run_id: str, after: int) -> list[Event] | None:
        """The events after id `after` that memory has; None: it does not have all of them."""
        log = self._local.get(run_id)
        return log.after(after) if log else None

    async def stored(self, tenant: str, run: RunRecord, after: int) -> tuple[list[Event], bool]:
        """The events after id `after` that Redis has, and whether no more can follow.

        What the log has dropped is made good by one `values` event with the state as it is now.
        """
        async with self._turns:
            # The final status is written before the terminal event, in one step: read first, it tells whether more can follow.
            record = await self._runs.get(tenant, run.thread_id, run.run_id)
            events = await self._runs.events(tenant, run.thread_id, run.run_id, after=after)
        is_over = not events and (record is None or is_final(record.status))
        if events and record is not None and record.first_event < events[0].id and after < events[0].id - 1:
            oldest = await self._runs.events(tenant, run.thread_id, run.run_id, after=0, count=1)
            if oldest and oldest[0].id >= events[0].id:
                events.insert(0, Event(events[0].id - 1, "values", await self._snapshot(tenant, run)))
        return events, is_over

    async def news(self, run_id: str, timeout: float) -> None:
        """Return when something may have happened to a run, or after `timeout` seconds."""
        log = self._local.get(run_id)
        try:
            async with asyncio.timeout(timeout if log else min(POLL, timeout)):
                await (log.changed() if log else self._opened.wait())
        except TimeoutError:
            return

    async def of_thread(self, thread: ThreadRef, after: int) -> tuple[list[ThreadEvent], float] | None:
        """The next events of all logs of the thread after id `after`, in order and without a gap, and in how many seconds to look again
        if there are none; None: there is no such thread.
        """
        log = self._on_thread.get(thread)
        events = log.after(after) if log is not None else None
        if log is not None and events and events[0].id == after + 1:
            # The numbers of a thread have gaps only where another log goes on.
            gap = next((i for i, event in enumerate(events) if event.id != after + 1 + i), len(events))
            return [ThreadEvent(log.run_id, event) for event in events[:gap]], 0.0
        async with self._turns:
            found = await self._runs.thread_events(thread.tenant, thread.thread_id, after=after)
        if found is None:
            return None
        return found[0], POLL if found[1] and log is None else IDLE_POLL

    async def opening(self, thread: ThreadRef, event_id: int) -> int:
        """See `RunRepository.opening`."""
        return await self._runs.opening(thread.tenant, thread.thread_id, event_id)

    def follow(self, thread: ThreadRef) -> asyncio.Event:
        """What is set at the next news of the thread that this process knows of."""
        news = self._followed.get(thread)
        if news is None:
            news = self._followed[thread] = asyncio.Event()
        return news

    def stir(self, thread: ThreadRef) -> None:
        """Have those who follow the thread look at it now."""
        news = self._followed.pop(thread, None)
        if news is not None:
            news.set()

    def _wake(self) -> None:
        opened, self._opened = self._opened, asyncio.Event()
        opened.set()


class LogReader:
    """One reader's place in a log; many may read at once, none of them slows the run or is given memory of its own.

    A reader leaves a run that is overdue: nobody waits longer than the run may take, whatever has become of it.
    """

    def __init__(self, logs: EventLogs, tenant: str, run: RunRecord, after: int, modes: frozenset[str]) -> None:
        self._logs = logs
        self._tenant = tenant
        self._run = run
        self._after = after
        self._modes = modes
        self._overdue = asyncio.get_running_loop().time() + run.seconds_left(datetime.now(UTC)) + OVERDUE
        self._is_overdue = False
        self.has_ended = False

    @property
    def is_overdue(self) -> bool:
        """Whether the run should have ended by now, and nothing says that it has."""
        return self._is_overdue and not self.has_ended

    @property
    def is_cut(self) -> bool:
        """Whether the reader must leave before the end: this process goes down, or the run is overdue."""
        return (self._logs.is_draining or self._is_overdue) and not self.has_ended

    async def read(self, timeout: float) -> list[Event]:
        """The next events, all that there are by now; none after `timeout` seconds without news, when `has_ended` or `is_cut`.

        Raises:
            StorageUnavailable: The events are not in this process's memory and Redis cannot be asked.
        """
        loop = asyncio.get_running_loop()
        limit = self._overdue if loop.time() < self._overdue else loop.time() + LAST_LOOK
        try:
            async with asyncio.timeout_at(limit):
                return await self._read(min(loop.time() + timeout, limit))
        except TimeoutError:
            self._is_overdue = True
            return []
        except StorageError:
            self._is_overdue = loop.time() + STORAGE_RETRY >= self._overdue  # the next look would come too late
            raise

    async def _read(self, end: float) -> list[Event]:
        loop = asyncio.get_running_loop()
        while not self.has_ended and not self.is_cut:
            events = self._logs.here(self._run.run_id, self._after)
            if events is None:
                events, self.has_ended = await self._logs.stored(self._tenant, self._run, self._after)
            if events:
                self._after = events[-1].id
                self.has_ended = any(event.name in TERMINAL_EVENTS for event in events)
                wanted = [event for event in events if self._is_wanted(event)]
                if wanted or self.has_ended or loop.time() >= end:
                    return wanted
                continue
            self._is_overdue = loop.time() >= self._overdue
            left = end - loop.time()
            if self.has_ended or left <= 0:
                break
            await self._logs.news(self._run.run_id, left)
        return []

    def _is_wanted(self, event: Event) -> bool:
        if event.name.startswith(HIDDEN):
            return False
        return not self._modes or event.name in _ALWAYS or mode_of(event.name) in self._modes


def mode_of(name: str) -> str:
    """The stream mode that an event of this name belongs to."""
    kind = name.partition("|")[0]
    return "messages-tuple" if kind == "messages" else kind.partition("/")[0]
