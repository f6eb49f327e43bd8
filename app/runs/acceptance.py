"""Acceptance: everything between a request for a run and a run that is written and on its way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from app.assistants.configuration import Configured
from app.assistants.service import AssistantService
from app.errors import AlreadyExists, ConflictingRequest, InvalidInput, NotFound, ThreadBusy
from app.guards.admission import Admission, Asks, Load
from app.runs.dispatcher import Dispatcher
from app.runs.executor import Executor, is_batch
from app.runs.request import RunRequest, checked, checked_by
from app.storage.errors import StorageError
from app.storage.redis.assistants import AssistantRecord
from app.storage.redis.idempotency import KEPT, IdempotencyKeys, Reservation
from app.storage.redis.runs import (
    AlreadyAccepted,
    AlreadyAnswered,
    Claim,
    Claims,
    QuestionsChanged,
    RunRecord,
    RunRepository,
    as_claimed,
)
from app.storage.redis.threads import ThreadMissing, ThreadOccupied, new_thread
from app.storage.redis.work import RunRef, WorkQueue
from app.telemetry.logging import get_logger
from app.threads.service import ThreadService
from graphs.registry import GraphEntry

LOG_TTL, RESUMABLE_LOG_TTL = 60.0, 24 * 3600.0
"""How long the log of a run outlives it, seconds: by default, and if the caller means to come back."""
LATE = 60.0
"""How much later a delayed run begins whose process died while it was accepted, seconds."""
NOTHING = "without an input there is nothing to continue from"
_INTERRUPT_ID = re.compile(r"[0-9a-f]{32}")


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


@dataclass(frozen=True, slots=True)
class _By:
    """Whom a run is asked of, the graph that it executes, and how."""

    assistant: AssistantRecord
    entry: GraphEntry
    how: Configured


@dataclass(frozen=True, slots=True)
class _Wish:
    """A request that can be a run: of whom it is asked, its stored arguments, and how long it may take, seconds."""

    request: RunRequest
    by: _By
    kwargs: dict[str, Any]
    seconds: float


class RunAcceptance:
    """Accepts runs and brings them to execution: a run is written before anything of it executes.

    Args:
        assistants: What can be run.
        states: The states of threads.
        runs: Run records.
        work: The queue over all processes.
        keys: Idempotency keys.
        executor: Executes runs here.
        dispatcher: Brings runs to executors.
        deadlines: How long runs may take.
        admission: Refuses runs that could not be served in time.
    """

    def __init__(
        self,
        assistants: AssistantService,
        states: ThreadService,
        runs: RunRepository,
        work: WorkQueue,
        keys: IdempotencyKeys,
        executor: Executor,
        dispatcher: Dispatcher,
        deadlines: Deadlines,
        admission: Admission,
    ) -> None:
        self._assistants = assistants
        self._states = states
        self._runs = runs
        self._work = work
        self._keys = keys
        self._executor = executor
        self._dispatcher = dispatcher
        self._deadlines = deadlines
        self._admission = admission

    async def accept(
        self, tenant: str, thread_id: str | None, request: RunRequest, *, idempotency: tuple[str, str] | None = None
    ) -> StartedRun:
        """Accept a run; without a thread it gets one of its own.

        Args:
            tenant: Whose run it is.
            thread_id: Where it executes; None: on a thread of its own.
            request: What is wanted.
            idempotency: The caller's key and the fingerprint of the whole request: the same again is the same run.

        Raises:
            Overloaded: The run could not be served in time, or nothing more can wait. Nothing but the key's reservation was written.
            NotFound: There is no such thread, checkpoint or assistant.
            InvalidInput: The input is not what the graph accepts, or the answer does not fit what is asked.
            ConflictingRequest: `resume` without a thread, or a context beside a configurable.
            ThreadBusy: Another run is under way on the thread, and the strategy is to reject.
            AlreadyExists: The key stands for another request, or the interrupt has been answered.
        """
        try:
            by = await self._by(tenant, request)
        except (NotFound, InvalidInput):
            # The assistant may have changed since the same request came first.
            _, known = await self._earlier(tenant, thread_id, idempotency) if idempotency is not None else (None, None)
            if known is None:
                raise
            return StartedRun(tenant, known)
        wish = self._checked(by, request, thread_id)
        reserved, known = await self._earlier(tenant, thread_id, idempotency)
        if known is not None:
            return StartedRun(tenant, known)
        record = self._admitted(tenant, wish, reserved)
        try:
            return await self._write(tenant, thread_id, request, record, idempotency, reserved)
        except BaseException:
            self._admission.forget(record.run_id)
            raise

    async def accept_all(
        self, tenant: str, requests: Sequence[RunRequest], *, idempotency: Sequence[tuple[str, str]] = ()
    ) -> list[StartedRun]:
        """Accept runs on threads of their own: all of them are checked and admitted before the first is written.

        Args:
            tenant: Whose runs they are.
            requests: What is wanted.
            idempotency: As for `accept`, one for each request; without any: none.

        Raises:
            StorageUnavailable: Some may have been accepted, others not; with `idempotency` the same again completes them.
            AppError: What `accept` raises of a single one; nothing but reservations of keys was written.
        """
        wishes = [self._checked(await self._by(tenant, request), request, None) for request in requests]
        keys: list[tuple[str, str] | None] = list(idempotency) or [None for _ in requests]
        earlier = [await self._earlier(tenant, None, key) for key in keys]
        reserved = [ids for ids, _ in earlier]
        started = [StartedRun(tenant, known) if known is not None else None for _, known in earlier]
        records: dict[int, RunRecord] = {}
        try:
            for i, wish in enumerate(wishes):
                if started[i] is None:
                    records[i] = self._admitted(tenant, wish, reserved[i])
            for i, record in list(records.items()):
                started[i] = await self._write(tenant, None, requests[i], record, keys[i], reserved[i])
                del records[i]
        except BaseException:
            for record in records.values():
                self._admission.forget(record.run_id)
            raise
        return [run for run in started if run is not None]

    async def check(self, tenant: str, request: RunRequest) -> tuple[str, str]:
        """Return the ids of assistant and graph if `accept` would take the request as far as can be said now.

        Raises:
            NotFound: There is no such assistant.
            InvalidInput: The input or the context is not what the graph accepts.
        """
        by = await self._by(tenant, request)
        checked(by.entry, request, by.how)
        self._deadlines.of(request)
        return by.assistant.assistant_id, by.assistant.graph_id

    async def _by(self, tenant: str, request: RunRequest) -> _By:
        """Whom the run is asked of, and how it is to be executed."""
        assistant, entry = await self._assistants.find(tenant, request.assistant_id)
        return _By(assistant, entry, checked_by(entry, assistant, request))

    def _checked(self, by: _By, request: RunRequest, thread_id: str | None) -> _Wish:
        """The request, if it can be a run at all."""
        wish = _Wish(request, by, checked(by.entry, request, by.how), self._deadlines.of(request))
        if thread_id is not None:
            return wish
        if request.command and "resume" in request.command:
            raise ConflictingRequest("command.resume answers an interrupt of a thread, and this run has none", "resume_without_thread")
        if request.says_nothing:
            raise InvalidInput(NOTHING, "nothing_to_run")
        if request.checkpoint_id:
            raise NotFound("a run without a thread has no checkpoint to begin from", "checkpoint_not_found")
        return wish

    def _admitted(self, tenant: str, wish: _Wish, reserved: Reservation) -> RunRecord:
        """The run's record, once it has been found that the run can be served."""
        request = wish.request
        ids = (reserved.thread_id, reserved.run_id)
        record = _record(ids, wish.by.assistant, request, wish.by.how, wish.kwargs, wish.seconds)
        asks = Asks(record.run_id, tenant, record.graph_id, request.priority, wish.seconds, is_delayed=request.after > 0)
        self._admission.admit(asks, Load(self._dispatcher.executes, self._dispatcher.executing, *self._dispatcher.announced))
        return record

    async def _write(
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
            known = await self._runs.get(tenant, record.thread_id, record.run_id)
            if known is None:
                raise NotFound(f"run {record.run_id} was accepted before, and has been deleted", "run_not_found") from None
            return StartedRun(tenant, known)
        except ThreadMissing:
            raise NotFound(f"there is no thread {thread_id}; if_not_exists=create makes it", "thread_not_found") from None
        except ThreadOccupied as exc:
            raise ThreadBusy(f"run {exc} is under way on thread {thread_id}; wait for its end, or cancel it") from None
        except AlreadyAnswered:
            raise AlreadyExists("this interrupt has been answered", "interrupt_answered") from None
        except QuestionsChanged:
            # Another answer has moved the thread on since its questions were read; whether this one is still asked must be read again.
            return await self._write(tenant, thread_id, request, record, idempotency, reserved)
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

    async def _earlier(
        self, tenant: str, thread_id: str | None, idempotency: tuple[str, str] | None
    ) -> tuple[Reservation, RunRecord | None]:
        """The ids of the run, and the run if the same request has started it before."""
        reserved = await self._reserved(tenant, thread_id, idempotency)
        if idempotency is None:
            return reserved, None
        known = await self._runs.get(tenant, reserved.thread_id, reserved.run_id)
        if known is None and reserved.is_accepted:
            raise AlreadyExists("the run of this Idempotency-Key was rolled back or deleted", "run_removed")
        return reserved, known

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
            await self._states.ensure(tenant, thread_id)
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


def _record(
    ids: tuple[str, str], assistant: AssistantRecord, request: RunRequest, how: Configured, kwargs: dict[str, Any], seconds: float
) -> RunRecord:
    now = datetime.now(UTC)
    return RunRecord(
        run_id=ids[1],
        thread_id=ids[0],
        assistant_id=assistant.assistant_id,
        graph_id=assistant.graph_id,
        status="pending",
        created_at=now,
        updated_at=now,
        deadline_at=now + timedelta(seconds=request.after + seconds),
        metadata=how.metadata,
        multitask_strategy=request.multitask_strategy,
        kwargs=kwargs,
        log_ttl=RESUMABLE_LOG_TTL if request.stream_resumable else LOG_TTL,
        webhook=request.webhook,
    )
