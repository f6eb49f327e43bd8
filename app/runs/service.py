"""Runs: accepted, executed, read. A run is written before anything of it executes."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START
from pydantic import ValidationError

from app.errors import ConflictingRequest, InvalidInput, NotFound, NotReady, ThreadBusy
from app.runs.events import EventLogs, LogReader
from app.runs.executor import ClaimedRun, LocalExecutor, Outcome
from app.storage.errors import StorageError
from app.storage.redis.checkpoints import RedisSaver
from app.storage.redis.runs import RunRecord, RunRepository, ThreadMissing, ThreadOccupied
from app.storage.redis.threads import ThreadRepository, new_thread
from app.telemetry.logging import get_logger
from graphs.registry import GraphEntry

DEADLINE = 60.0
"""Time of a run that somebody waits for, seconds."""
LOG_TTL, RESUMABLE_LOG_TTL = 60.0, 24 * 3600.0
"""How long the log of a run outlives it, seconds: by default, and if the caller means to come back."""
FORGET_AFTER = 60.0
"""How long a stateless run can still be read after its end, seconds."""
MAX_FAULTS = 5
"""Most faults that a refusal lists."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a caller wants of a run; see `docs` of the protocol's fields in `app.api.schemas`."""

    assistant_id: str
    input: dict[str, Any] | None = None
    command: dict[str, Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    stream_mode: tuple[str, ...] = ()
    stream_subgraphs: bool = False
    stream_resumable: bool = False
    interrupt_before: tuple[str, ...] | str = ()
    interrupt_after: tuple[str, ...] | str = ()
    checkpoint_id: str | None = None
    multitask_strategy: str = "enqueue"
    if_not_exists: str = "reject"
    durability: str = "async"
    tags: tuple[str, ...] = ()
    recursion_limit: int | None = None
    keep_thread: bool = True


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A run that has been accepted and executes here."""

    tenant: str
    record: RunRecord
    task: asyncio.Task[Outcome]


class RunService:
    """Accepts runs, hands them to the executor, and reads them.

    Every method raises `StorageUnavailable` if Redis cannot be asked; nothing has been accepted then.

    Args:
        graphs: What can be run, by graph id.
        threads: Thread records.
        runs: Run records and logs.
        saver: Checkpoints.
        logs: The logs of the runs that execute here.
        executor: Where runs execute.
    """

    def __init__(
        self,
        graphs: Mapping[str, GraphEntry],
        threads: ThreadRepository,
        runs: RunRepository,
        saver: RedisSaver,
        logs: EventLogs,
        executor: LocalExecutor,
    ) -> None:
        self._graphs = graphs
        self._assistants = {entry.assistant_id: entry for entry in graphs.values()}
        self._threads = threads
        self._runs = runs
        self._saver = saver
        self._logs = logs
        self._executor = executor
        self._is_open = True
        self._afterwards: set[asyncio.Task[None]] = set()

    async def start(self, tenant: str, thread_id: str | None, request: RunRequest) -> StartedRun:
        """Accept a run and begin to execute it; without a thread it gets one of its own.

        Raises:
            NotReady: The service is going down.
            NotFound: There is no such thread, checkpoint or assistant.
            InvalidInput: The input is not what the graph accepts.
            ConflictingRequest: `resume` without a thread.
            ThreadBusy: Another run is under way on the thread.
        """
        if not self._is_open:
            raise NotReady("the service is going down; try again in a moment", "draining")
        entry = self._entry(request.assistant_id)
        kwargs = _kwargs(request, _checked_input(entry, request.input), _checked_command(entry, request.command))
        _check_nodes(entry, request)
        if thread_id is None and request.command and "resume" in request.command:
            raise ConflictingRequest("command.resume answers an interrupt of a thread, and this run has none", "resume_without_thread")
        record = _record(thread_id or str(uuid4()), entry, request, kwargs)
        if request.checkpoint_id and not await self._has_state(tenant, thread_id, request.checkpoint_id):
            raise NotFound(f"thread {thread_id} has no checkpoint {request.checkpoint_id}", "checkpoint_not_found")
        if kwargs["input"] is None and kwargs["command"] is None and not await self._has_state(tenant, thread_id):
            raise InvalidInput("without an input there is nothing to continue from", "nothing_to_run")
        if thread_id is not None and request.if_not_exists == "create":
            await self._threads.create(tenant, new_thread(thread_id, {}))
        try:
            fence = await self._runs.accept(tenant, record, create=new_thread(record.thread_id, {}) if thread_id is None else None)
        except ThreadMissing:
            raise NotFound(f"there is no thread {thread_id}; if_not_exists=create makes it", "thread_not_found") from None
        except ThreadOccupied as exc:
            raise ThreadBusy(f"run {exc} is under way on thread {thread_id}; wait for its end, or cancel it") from None
        ttl = RESUMABLE_LOG_TTL if request.stream_resumable else LOG_TTL
        task = self._executor.submit(ClaimedRun(tenant, record, fence, ttl))
        if not request.keep_thread:
            self._after(task, tenant, record)
        return StartedRun(tenant, record, task)

    async def get(self, tenant: str, thread_id: str, run_id: str) -> RunRecord:
        """The run.

        Raises:
            NotFound: The thread has none of that id.
        """
        run = await self._runs.get(tenant, thread_id, run_id)
        if run is None:
            raise NotFound(f"thread {thread_id} has no run {run_id}", "run_not_found")
        return run

    async def reader(self, tenant: str, run: RunRecord, *, after: int | None, modes: Collection[str] = ()) -> LogReader:
        """A reader of the run's log after event id `after`; None: of what is yet to come."""
        if after is None:
            after = await self._logs.last_id(tenant, run)
        return self._logs.reader(tenant, run, after=after, modes=modes)

    def cancel(self, run_id: str) -> bool:
        """Stop a run that executes in this process; False: it does not, or it is ending."""
        return self._executor.cancel(run_id)

    async def close(self, grace: float) -> None:
        """Accept nothing more, wait `grace` seconds for what is under way, then stop it."""
        self._is_open = False
        await self._executor.drain(grace)
        await asyncio.gather(*self._afterwards)

    def stop_accepting(self) -> None:
        """From now on every new run is refused with `NotReady`."""
        self._is_open = False

    @property
    def is_open(self) -> bool:
        """Whether runs are accepted."""
        return self._is_open

    def _entry(self, assistant_id: str) -> GraphEntry:
        entry = self._graphs.get(assistant_id) or self._assistants.get(assistant_id)
        if entry is not None:
            return entry
        known = f"there is no assistant {assistant_id!r}; there are: {', '.join(sorted(self._graphs))}"
        # The protocol tells a name that was mistyped (422) from an id that is gone (404).
        raise NotFound(known, "assistant_not_found") if _is_uuid(assistant_id) else InvalidInput(known, "assistant_not_found")

    async def _has_state(self, tenant: str, thread_id: str | None, checkpoint_id: str | None = None) -> bool:
        """Whether the thread has this checkpoint, or any at all; a run without a thread has none."""
        if thread_id is None:
            return False
        saver: BaseCheckpointSaver[str] = self._saver.bind(tenant=tenant)
        named = {"checkpoint_id": checkpoint_id} if checkpoint_id else {}
        config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", **named}}
        return await saver.aget_tuple(config) is not None

    def _after(self, task: asyncio.Task[Outcome], tenant: str, record: RunRecord) -> None:
        async def forget() -> None:
            await asyncio.wait([task])
            try:
                await self._saver.bind(tenant=tenant).adelete_thread(record.thread_id)
                await self._threads.expire(tenant, record.thread_id, record.run_id, FORGET_AFTER)
            except StorageError as exc:  # it goes with its time to live then
                get_logger().warning("stateless_run_not_forgotten", code=exc.code, run_id=record.run_id)

        cleaning = asyncio.create_task(forget())
        self._afterwards.add(cleaning)
        cleaning.add_done_callback(self._afterwards.discard)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _checked_input(entry: GraphEntry, given: dict[str, Any] | None, where: str = "input") -> dict[str, Any] | None:
    if given is None:
        return None
    try:
        accepted = entry.accepts.model_validate(given)
    except ValidationError as exc:
        faults = [f"{where}.{'.'.join(map(str, error['loc']))}: {error['msg'].removeprefix('Value error, ')}" for error in exc.errors()]
        raise InvalidInput("; ".join(faults[:MAX_FAULTS])) from None
    return entry.as_input(accepted)


def _checked_command(entry: GraphEntry, command: dict[str, Any] | None) -> dict[str, Any] | None:
    """The command, or None if it says nothing. What its `update` writes would stay in the thread, so it is checked like an input."""
    command = {name: value for name, value in (command or {}).items() if value or (name == "resume" and value is not None)}
    if "update" in command:
        update = dict(command["update"])
        strange = sorted(update.keys() - entry.accepts.model_fields.keys())
        if strange:
            raise InvalidInput(f"command.update cannot change {', '.join(strange)}")
        command["update"] = _checked_input(entry, update, "command.update")
    return command or None


def _check_nodes(entry: GraphEntry, request: RunRequest) -> None:
    """A stop or a jump that names no node would be passed over in silence."""
    goto = (request.command or {}).get("goto") or ()
    named = [*_listed(request.interrupt_before), *_listed(request.interrupt_after), *_listed(goto)]
    nodes = sorted(entry.graph.nodes.keys() - {START})
    strange = [name for name in named if name not in {"*", END, *nodes}]
    if strange:
        raise InvalidInput(f"there is no node {strange[0]!r}; there are: {', '.join(nodes)}")


def _listed(names: Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names


def _kwargs(request: RunRequest, graph_input: dict[str, Any] | None, command: dict[str, Any] | None) -> dict[str, Any]:
    """What executing the run needs; stored, so that another process could do it."""
    return {
        "input": graph_input,
        "command": command,
        "stream_mode": list(request.stream_mode),
        "stream_subgraphs": request.stream_subgraphs,
        "interrupt_before": request.interrupt_before,
        "interrupt_after": request.interrupt_after,
        "checkpoint_id": request.checkpoint_id,
        "durability": request.durability,
        "tags": list(request.tags),
        "recursion_limit": request.recursion_limit,
    }


def _record(thread_id: str, entry: GraphEntry, request: RunRequest, kwargs: dict[str, Any]) -> RunRecord:
    now = datetime.now(UTC)
    return RunRecord(
        run_id=str(uuid4()),
        thread_id=thread_id,
        assistant_id=entry.assistant_id,
        graph_id=entry.graph_id,
        status="pending",
        created_at=now,
        updated_at=now,
        deadline_at=now + timedelta(seconds=DEADLINE),
        metadata=request.metadata,
        multitask_strategy=request.multitask_strategy,
        kwargs=kwargs,
    )
