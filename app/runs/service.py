"""Runs: accepted, followed, ended from outside, read. A run is written before anything of it executes."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from app.errors import AlreadyExists, ConflictingRequest, InvalidInput, NotFound, NotReady, ThreadBusy
from app.guards.admission import Admission, Asks, Load
from app.runs.dispatcher import Dispatcher
from app.runs.events import OVERDUE, STORAGE_PATIENCE, STORAGE_RETRY, EventLogs, LogReader
from app.runs.executor import Executor, Outcome, is_batch, overdue
from app.runs.request import RunRequest, checked
from app.storage.errors import StorageError, StorageUnavailable
from app.storage.redis.idempotency import KEPT, IdempotencyKeys, Reservation
from app.storage.redis.runs import (
    AlreadyAccepted,
    AlreadyAnswered,
    CancelAction,
    Claim,
    Claims,
    QuestionsChanged,
    RunRecord,
    RunRepository,
    as_claimed,
)
from app.storage.redis.threads import ThreadMissing, ThreadOccupied, ThreadRepository, new_thread
from app.storage.redis.work import RunRef, ThreadRef, WorkQueue
from app.telemetry.logging import get_logger
from app.threads.service import ThreadService
from graphs.registry import GraphEntry

LOG_TTL, RESUMABLE_LOG_TTL = 60.0, 24 * 3600.0
"""How long the log of a run outlives it, seconds: by default, and if the caller means to come back."""
GRACE = 20.0
"""How long a superstep under way may take to end when the service stops, seconds."""
LATE = 60.0
"""How much later a delayed run begins whose process died while it was accepted, seconds."""
CANCEL_WAIT = 0.02
"""How often a caller who waits for a cancelled run looks whether it has let go, seconds."""
NOTHING = "without an input there is nothing to continue from"
_INTERRUPT_ID = re.compile(r"[0-9a-f]{32}")


class Drained(Exception):
    """This process goes down; the answer can be had elsewhere."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long runs may take, seconds.

    Args:
        usual: A run that somebody waits for or follows, unless the caller says otherwise.
        maximum: The most that the caller of such a run may say.
        background: A run in the background: what it gets, and the most that its caller may say.
    """

    usual: float = 60.0
    maximum: float = 600.0
    background: float = 3600.0

    def of(self, request: RunRequest) -> float:
        """How long the run may take.

        Raises:
            InvalidInput: The caller wants more than it can have.
        """
        usual, most = (self.background, self.background) if request.is_background else (self.usual, self.maximum)
        if (request.deadline or 0.0) > most:
            raise InvalidInput(f"X-Deadline-Ms may be at most {most * 1000:.0f} here", "deadline_too_long")
        return request.deadline or usual


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A run that has been accepted, now or when the same request came first."""

    tenant: str
    record: RunRecord


class RunService:
    """Accepts runs, brings them to execution, ends them from outside, and reads them.

    Every method raises `StorageUnavailable` if Redis cannot be asked; nothing has been accepted then.

    Args:
        graphs: What can be run, by graph id.
        threads: Thread records.
        states: The states of threads.
        runs: Run records and logs.
        work: The queue over all processes.
        keys: Idempotency keys.
        logs: The logs of the runs that execute here.
        executor: Executes runs here.
        dispatcher: Brings runs to executors.
        deadlines: How long runs may take.
        admission: Refuses runs that could not be served in time.
    """

    def __init__(
        self,
        graphs: Mapping[str, GraphEntry],
        threads: ThreadRepository,
        states: ThreadService,
        runs: RunRepository,
        work: WorkQueue,
        keys: IdempotencyKeys,
        logs: EventLogs,
        executor: Executor,
        dispatcher: Dispatcher,
        deadlines: Deadlines,
        admission: Admission,
    ) -> None:
        self._graphs = graphs
        self._assistants = {entry.assistant_id: entry for entry in graphs.values()}
        self._threads = threads
        self._states = states
        self._runs = runs
        self._work = work
        self._keys = keys
        self._logs = logs
        self._executor = executor
        self._dispatcher = dispatcher
        self._deadlines = deadlines
        self._admission = admission
        self._is_open = True
        self._draining: asyncio.Task[None] | None = None

    async def start(
        self, tenant: str, thread_id: str | None, request: RunRequest, *, idempotency: tuple[str, str] | None = None
    ) -> StartedRun:
        """Accept a run; without a thread it gets one of its own.

        Args:
            tenant: Whose run it is.
            thread_id: Where it executes; None: on a thread of its own.
            request: What is wanted.
            idempotency: The caller's key and the fingerprint of the whole request: the same again is the same run.

        Raises:
            NotReady: The service is going down.
            Overloaded: The run could not be served in time, or nothing more can wait. Nothing but the key's reservation was written.
            NotFound: There is no such thread, checkpoint or assistant.
            InvalidInput: The input is not what the graph accepts, or the answer does not fit what is asked.
            ConflictingRequest: `resume` without a thread.
            ThreadBusy: Another run is under way on the thread, and the strategy is to reject.
            AlreadyExists: The key stands for another request, or the interrupt has been answered.
        """
        if not self._is_open:
            raise NotReady("the service is going down; try again in a moment", "draining")
        entry = self._entry(request.assistant_id)
        kwargs = checked(entry, request)
        seconds = self._deadlines.of(request)
        reserved = await self._reserved(tenant, thread_id, idempotency)
        ids = (reserved.thread_id, reserved.run_id)
        if idempotency is not None:
            known = await self._runs.get(tenant, *ids)
            if known is not None:
                return StartedRun(tenant, known)
            if reserved.is_accepted:
                raise AlreadyExists("the run of this Idempotency-Key was rolled back or deleted", "run_removed")
        record = _record(ids, entry, request, kwargs, seconds)
        asks = Asks(record.run_id, tenant, record.graph_id, request.priority, seconds, is_delayed=request.after > 0)
        self._admission.admit(asks, Load(self._dispatcher.executes, self._dispatcher.executing, *self._dispatcher.announced))
        try:
            return await self._accept(tenant, thread_id, request, record, idempotency, reserved)
        except BaseException:
            self._admission.forget(record.run_id)
            raise

    async def _accept(
        self,
        tenant: str,
        thread_id: str | None,
        request: RunRequest,
        record: RunRecord,
        idempotency: tuple[str, str] | None,
        reserved: Reservation,
    ) -> StartedRun:
        """Write the run and bring it to execution."""
        answers = seen = ""
        if thread_id is not None:
            answers, seen = await self._check_thread(tenant, thread_id, request)
        elif request.command and "resume" in request.command:
            raise ConflictingRequest("command.resume answers an interrupt of a thread, and this run has none", "resume_without_thread")
        elif request.says_nothing:
            raise InvalidInput(NOTHING, "nothing_to_run")
        elif request.checkpoint_id:
            raise NotFound("a run without a thread has no checkpoint to begin from", "checkpoint_not_found")
        # Whoever sends the key again within its time is told the same, so the run must still be there.
        forget_after = None if request.keep_thread else KEPT if idempotency else record.log_ttl
        create = new_thread(record.thread_id, {}, forget_after=forget_after) if thread_id is None else None
        claims: Claims = "later" if request.after > 0 else "now" if self._dispatcher.takes_more(is_batch=is_batch(record)) else "queued"
        run = RunRef(tenant, record.thread_id, record.run_id)
        if request.after > 0:
            # Also before it is accepted: if the process dies in between, the run begins late instead of never.
            await self._work.delay(run, record.created_at.timestamp() + request.after + LATE)
        try:
            accepted = await self._runs.accept(tenant, record, create=create, claims=claims, answers=answers, seen=seen)
        except AlreadyAccepted:
            return StartedRun(tenant, await self.get(tenant, record.thread_id, record.run_id))
        except ThreadMissing:
            raise NotFound(f"there is no thread {thread_id}; if_not_exists=create makes it", "thread_not_found") from None
        except ThreadOccupied as exc:
            raise ThreadBusy(f"run {exc} is under way on thread {thread_id}; wait for its end, or cancel it") from None
        except AlreadyAnswered:
            raise AlreadyExists("this interrupt has been answered", "interrupt_answered") from None
        except QuestionsChanged:
            # Another answer has moved the thread on since its questions were read; whether this one is still asked must be read again.
            return await self._accept(tenant, thread_id, request, record, idempotency, reserved)
        if accepted.fence is not None:
            record = as_claimed(record)
            self._executor.submit(tenant, Claim(record, accepted.fence))
        try:
            if request.after > 0:
                await self._work.delay(run, record.created_at.timestamp() + request.after)
            elif accepted.fence is None:
                await self._dispatcher.offer(run, is_batch=is_batch(record))
            if accepted.cancelled:
                await self._work.notify(accepted.cancelled)
            if idempotency is not None:
                await self._keys.accepted(tenant, idempotency[0], reserved)
            await self._dispatcher.watch(run.thread)
        except StorageError as exc:
            # It has been accepted, and the reaper makes good what is missing.
            get_logger().warning("run_not_announced", run_id=run.run_id, code=exc.code)
        return StartedRun(tenant, record)

    async def get(self, tenant: str, thread_id: str, run_id: str) -> RunRecord:
        """The run.

        Raises:
            NotFound: The thread has none of that id.
        """
        run = await self._runs.get(tenant, thread_id, run_id)
        if run is None:
            raise NotFound(f"thread {thread_id} has no run {run_id}", "run_not_found")
        return run

    async def of_thread(self, tenant: str, thread_id: str, *, limit: int, offset: int, status: str | None) -> list[RunRecord]:
        """The runs of a thread, newest first.

        Raises:
            NotFound: There is no such thread.
        """
        await self._states.get(tenant, thread_id)
        found: list[RunRecord] = []
        for run_id in await self._runs.ids(tenant, thread_id):
            run = await self._runs.get(tenant, thread_id, run_id)
            if run is not None and status in (None, run.status):
                found.append(run)
            if len(found) >= offset + limit:
                break
        return found[offset:]

    async def delete(self, tenant: str, thread_id: str, run_id: str) -> None:
        """Forget a run that has ended; its checkpoints stay.

        Raises:
            NotFound: There is none.
            ThreadBusy: It has not ended.
        """
        deleted = await self._runs.delete(tenant, thread_id, run_id)
        if deleted is None:
            raise NotFound(f"thread {thread_id} has no run {run_id}", "run_not_found")
        if not deleted:
            raise ThreadBusy(f"run {run_id} has not ended; cancel it first", "run_not_ended")

    async def reader(self, tenant: str, run: RunRecord, *, after: int | None, modes: Collection[str] = ()) -> LogReader:
        """A reader of the run's log after event id `after`; None: of what is yet to come."""
        if after is None:
            after = await self._logs.last_id(tenant, run)
        return self._logs.reader(tenant, run, after=after, modes=modes)

    async def outcome(self, tenant: str, run: RunRecord) -> Outcome:
        """How the run ends, wherever it executes; waits for it, but not for one that is overdue.

        Raises:
            Drained: This process goes down before the run has ended.
            StorageUnavailable: Redis could not be asked for `STORAGE_PATIENCE` seconds.
        """
        left = run.seconds_left(datetime.now(UTC))
        loop = asyncio.get_running_loop()
        given_up = math.inf
        try:
            async with asyncio.timeout(left + OVERDUE if left else None):
                while True:
                    try:
                        return await self._ended(tenant, run)
                    except StorageUnavailable:
                        given_up = min(given_up, loop.time() + STORAGE_PATIENCE)
                        if loop.time() >= given_up or not left:
                            raise
                        await asyncio.sleep(STORAGE_RETRY)
        except TimeoutError:
            return overdue()

    async def _ended(self, tenant: str, run: RunRecord) -> Outcome:
        here = await self._executor.outcome(run.run_id)
        if here is not None:
            return here
        reader = self._logs.reader(tenant, run, after=await self._logs.last_id(tenant, run))
        while not reader.has_ended:
            await reader.read(3600.0)
            if reader.is_overdue:
                return overdue()
            if reader.is_cut:
                raise Drained
        ended = await self._runs.get(tenant, run.thread_id, run.run_id)
        if ended is None:
            return Outcome("interrupted")  # rolled back: nothing of it is left
        values = await self._states.values_of_run(tenant, ended.thread_id, ended.graph_id, ended.run_id)
        return Outcome(ended.status, values=values, error=ended.error)

    async def cancel(self, tenant: str, thread_id: str, run_id: str, action: CancelAction, *, wait: bool) -> None:
        """End a run; nothing of it is written afterwards. With `wait` return once the process that executed it has let go.

        Raises:
            NotFound: There is no such run, or it has ended.
        """
        was = await self._runs.cancel(tenant, thread_id, run_id, action)
        if was is None:
            raise NotFound(f"thread {thread_id} has no run {run_id}", "run_not_found")
        if was == "ended":
            raise NotFound(f"run {run_id} has ended already", "run_ended")
        self._executor.stop(run_id)
        await self._work.notify([run_id])
        thread = ThreadRef(tenant, thread_id)
        while wait and was == "running" and (await self._runs.inspect(tenant, thread_id)).is_leaving:  # noqa: ASYNC110  it may be elsewhere
            await asyncio.sleep(CANCEL_WAIT)
        self._dispatcher.soon(thread)

    async def cancel_many(self, tenant: str, runs: Sequence[tuple[str, str]], action: CancelAction) -> None:
        """End those of these runs (thread id, run id) that have not ended.

        Raises:
            NotFound: All of them have.
        """
        ended = 0
        for thread_id, run_id in runs:
            try:
                await self.cancel(tenant, thread_id, run_id, action, wait=False)
            except NotFound:
                continue
            ended += 1
        if not ended:
            raise NotFound("none of these runs is pending or running", "nothing_to_cancel")

    async def delete_thread(self, tenant: str, thread_id: str) -> None:
        """End what is under way on the thread, then remove it with all that belongs to it.

        Raises:
            NotFound: There is no such thread.
        """
        for run_id in await self._runs.open_ids(tenant, thread_id):
            with suppress(NotFound):
                await self.cancel(tenant, thread_id, run_id, "interrupt", wait=False)
        await self._states.delete(tenant, thread_id)

    async def update_state(
        self, tenant: str, thread_id: str, values: dict[str, Any] | None, *, as_node: str | None, checkpoint_id: str | None
    ) -> dict[str, Any]:
        """See `ThreadService.update_state`; a run that came meanwhile begins right after."""
        checkpoint, is_left = await self._states.update_state(tenant, thread_id, values, as_node=as_node, checkpoint_id=checkpoint_id)
        if is_left:
            self._dispatcher.soon(ThreadRef(tenant, thread_id))
        return checkpoint

    async def open_runs(self, tenant: str, status: str) -> list[tuple[str, str]]:
        """The tenant's runs that are `pending`, `running`, or either (`all`), as thread id and run id."""
        found: list[tuple[str, str]] = []
        for thread in await self._work.open_threads(tenant):
            for run_id in await self._runs.open_ids(tenant, thread.thread_id):
                run = await self._runs.get(tenant, thread.thread_id, run_id)
                if run is not None and status in ("all", run.status):
                    found.append((thread.thread_id, run_id))
        return found

    def leave(self, tenant: str, run: RunRecord) -> None:
        """The caller has gone and wanted the run to go along."""
        self._dispatcher.background(self._cancel_quietly(tenant, run))

    def begin_drain(self) -> None:
        """Accept nothing more, send readers away, and begin to hand back what is under way; twice is as once."""
        if self._is_open:
            self._is_open = False
            self._dispatcher.close()
            self._logs.drain()
            self._draining = asyncio.create_task(self._executor.drain(GRACE))

    async def drain(self) -> None:
        """Return once nothing executes here any more, at the latest after `GRACE` seconds and what a cancellation takes."""
        self.begin_drain()
        if self._draining is not None:
            await self._draining

    @property
    def is_open(self) -> bool:
        """Whether runs are accepted."""
        return self._is_open

    async def _cancel_quietly(self, tenant: str, run: RunRecord) -> None:
        try:
            await self.cancel(tenant, run.thread_id, run.run_id, "interrupt", wait=False)
        except NotFound:
            return
        except StorageError as exc:
            get_logger().warning("run_not_cancelled", run_id=run.run_id, code=exc.code)

    def _entry(self, assistant_id: str) -> GraphEntry:
        entry = self._graphs.get(assistant_id) or self._assistants.get(assistant_id)
        if entry is not None:
            return entry
        known = f"there is no assistant {assistant_id!r}; there are: {', '.join(sorted(self._graphs))}"
        # The protocol tells a name that was mistyped (422) from an id that is gone (404).
        raise NotFound(known, "assistant_not_found") if _is_uuid(assistant_id) else InvalidInput(known, "assistant_not_found")

    async def _reserved(self, tenant: str, thread_id: str | None, idempotency: tuple[str, str] | None) -> Reservation:
        """Ids of the thread and of the run: new ones, or those that the key stands for."""
        key, fingerprint = idempotency or ("", "")
        fresh = Reservation(fingerprint, run_id=str(uuid4()), thread_id=thread_id or str(uuid4()))
        if idempotency is None:
            return fresh
        found = await self._keys.reserve(tenant, key, fresh)
        if found.fingerprint != fingerprint:
            raise AlreadyExists("this Idempotency-Key stands for another request", "idempotency_key_reused")
        return found

    async def _check_thread(self, tenant: str, thread_id: str, request: RunRequest) -> tuple[str, str]:
        """Make or check what the run needs of its thread; returns what it answers and what was seen, see `RunRepository.accept`."""
        if request.if_not_exists == "create":
            await self._threads.create(tenant, new_thread(thread_id, {}))
        if request.checkpoint_id:
            await self._states.check_checkpoint(tenant, thread_id, request.checkpoint_id)
        if request.says_nothing and not await self._states.has_state(tenant, thread_id):
            raise InvalidInput(NOTHING, "nothing_to_run")
        if not request.command or "resume" not in request.command:
            return "", ""
        state, seen, asked = await self._states.interrupts(tenant, thread_id)
        if not asked:
            raise AlreadyExists(f"thread {thread_id} asks nothing, or it has been answered", "no_interrupt")
        resume = request.command["resume"]
        named = set(resume) if isinstance(resume, dict) and resume and all(_INTERRUPT_ID.fullmatch(key) for key in resume) else set()
        if named - asked:
            raise AlreadyExists(f"not asked, or answered: interrupt {', '.join(sorted(named - asked))}", "no_such_interrupt")
        if not named and len(asked) > 1:
            raise InvalidInput(f"several interrupts wait; answer by id: {', '.join(sorted(asked))}", "interrupt_ids_needed")
        return " ".join(f"{state}/{interrupt}" for interrupt in sorted(named or asked)), seen


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _record(ids: tuple[str, str], entry: GraphEntry, request: RunRequest, kwargs: dict[str, Any], seconds: float) -> RunRecord:
    now = datetime.now(UTC)
    return RunRecord(
        run_id=ids[1],
        thread_id=ids[0],
        assistant_id=entry.assistant_id,
        graph_id=entry.graph_id,
        status="pending",
        created_at=now,
        updated_at=now,
        deadline_at=now + timedelta(seconds=request.after + seconds),
        metadata=request.metadata,
        multitask_strategy=request.multitask_strategy,
        kwargs=kwargs,
        log_ttl=RESUMABLE_LOG_TTL if request.stream_resumable else LOG_TTL,
        webhook=request.webhook,
    )
