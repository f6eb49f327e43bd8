"""Executes claimed runs in this process: events and final status out, or the run handed back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, cast

import orjson
from langgraph.errors import GraphDrained, GraphRecursionError
from langgraph.runtime import RunControl
from langgraph.types import Command, StreamMode

from agents.tracing import RunTrace, Tracer
from app.runs.events import EventLogs, RunLog
from app.runs.leases import LeaseKeeper
from app.runs.recovery import recover
from app.runs.stream_parts import GRAPH_MODES, PartTranslator
from app.storage.errors import LeaseLost, StorageError, StorageUnavailable
from app.storage.redis.checkpoints import RedisSaver
from app.storage.redis.runs import Claim, RunRecord, RunRepository, RunStatus
from app.storage.redis.store import RedisStore
from app.storage.redis.work import ThreadRef
from app.telemetry.logging import bound_contextvars, get_logger
from app.telemetry.metrics import Metrics
from app.threads.plain import plain_interrupt, to_json
from graphs.context import RunScope
from graphs.registry import GraphEntry
from resilience.context import Priority
from resilience.deadline import Deadline
from resilience.errors import DependencyError, ResilienceError

LAST_WORD = 0.1
"""Share of the run's time that the nodes leave for saying that there is no more."""
DRAIN_TRIES, DRAIN_RETRY = 3, 1.0
"""How often a run is cancelled that does not let go of a process that goes down, and seconds between two times."""
MAX_CRASHES = 5
"""How often in a row a run may lose its process or the storage, without a new checkpoint in between, before it is given up."""
NODE_ERRORS = (ResilienceError, DependencyError, StorageError)

Stop = Literal["ended", "drained"]
"""Why a run must stop here: it was ended from outside, or this process goes down."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Args:
        status: Its final status.
        values: What callers see of the state, `__interrupt__` included.
        error: Why it failed: `{"error", "message", "code"}`.
        interrupts: What it asks, by task.
        is_paused: Whether the graph waits at a node, for an answer or because it was told to.
    """

    status: RunStatus
    values: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] | None = None
    interrupts: dict[str, Any] = field(default_factory=dict)
    is_paused: bool = False

    @property
    def thread_status(self) -> str:
        """The status that the run leaves its thread in."""
        if self.is_paused:
            return "interrupted"
        return "error" if self.error else "idle"


@dataclass(slots=True)
class _Execution:
    """A run that executes here."""

    task: asyncio.Task[None]
    control: RunControl
    is_batch: bool
    stop: Stop | None = None
    is_ending: bool = False


class Executor:
    """Executes runs in this process, each as a task of its own.

    Args:
        graphs: What can be executed, by graph id.
        runs: Where records and logs are kept.
        saver: Where checkpoints are kept.
        store: The long-term memory that nodes and tools are given as `runtime.store`.
        logs: The logs of the runs that execute here.
        leases: Keeps the leases of the runs that execute here.
        tracer: Opens a trace per run.
        metrics: Counts runs.
        on_left: Told of a thread whose run has left this process with something to be done: a next run, a clean-up, a webhook.
        on_ran: Told of a run that has left this process, whether it was a success, and how many seconds it was executed.
    """

    def __init__(
        self,
        graphs: Mapping[str, GraphEntry],
        runs: RunRepository,
        saver: RedisSaver,
        store: RedisStore,
        logs: EventLogs,
        leases: LeaseKeeper,
        tracer: Tracer,
        metrics: Metrics,
        on_left: Callable[[ThreadRef], None],
        on_ran: Callable[[RunRecord, bool, float], None],
    ) -> None:
        self._graphs = graphs
        self._runs = runs
        self._saver = saver
        self._store = store
        self._logs = logs
        self._leases = leases
        self._tracer = tracer
        self._metrics = metrics
        self._on_left = on_left
        self._on_ran = on_ran
        self._batches = 0
        self._executions: dict[str, _Execution] = {}
        self._outcomes: dict[str, asyncio.Future[Outcome]] = {}
        self._is_draining = False

    def submit(self, tenant: str, claim: Claim) -> None:
        """Begin to execute."""
        run = claim.run
        log = self._logs.open(tenant, run, claim.fence)
        self._leases.hold(run.run_id, claim.fence)
        control = RunControl()
        if self._is_draining:  # it was accepted just before, and waits for nobody
            control.request_drain("shutdown")
        task = asyncio.create_task(self._execute(tenant, claim, log, control), name=f"run:{run.run_id}")
        self._executions[run.run_id] = _Execution(task, control, is_batch(run))
        self._batches += is_batch(run)
        task.add_done_callback(lambda _: self._forget(run.run_id))

    def __len__(self) -> int:
        return len(self._executions)

    @property
    def batches(self) -> int:
        """How many of them are batch runs."""
        return self._batches

    async def outcome(self, run_id: str) -> Outcome | None:
        """How a run ends that executes here; None: it does not, or it left without an end."""
        if run_id not in self._executions:
            return None
        future = self._outcomes.setdefault(run_id, asyncio.get_running_loop().create_future())
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if future.cancelled():
                return None
            raise

    def stop(self, run_id: str) -> None:
        """Stop a run that was ended from outside, if it executes here; it writes nothing more."""
        execution = self._executions.get(run_id)
        if execution is not None and not execution.is_ending and execution.stop is None:
            execution.stop = "ended"
            execution.task.cancel()

    async def drain(self, grace: float) -> None:
        """Hand every run back at its next superstep; one that is still in the same after `grace` seconds is cancelled first."""
        self._is_draining = True
        for execution in self._executions.values():
            execution.control.request_drain("shutdown")
        loop = asyncio.get_running_loop()
        end = loop.time() + grace
        while self._executions and (left := end - loop.time()) > 0:
            await asyncio.wait([execution.task for execution in self._executions.values()], timeout=left)
        for _ in range(DRAIN_TRIES):
            for execution in self._executions.values():
                if not execution.is_ending:
                    execution.stop = execution.stop or "drained"
                    execution.task.cancel()
            if self._executions:
                await asyncio.wait([execution.task for execution in self._executions.values()], timeout=DRAIN_RETRY)

    def _forget(self, run_id: str) -> None:
        execution = self._executions.pop(run_id, None)
        if execution is not None:
            self._batches -= execution.is_batch
        self._leases.drop(run_id)
        self._logs.close(run_id)
        future = self._outcomes.pop(run_id, None)
        if future is not None and not future.done():
            future.cancel()

    async def _execute(self, tenant: str, claim: Claim, log: RunLog, control: RunControl) -> None:
        """The outermost frame of a run."""
        run, begun = claim.run, time.perf_counter()
        status: str = "pending"
        with bound_contextvars(run_id=run.run_id, thread_id=run.thread_id), self._metrics.running(run.graph_id):
            execution = self._executions[run.run_id]
            try:
                outcome = await self._run(tenant, claim, log, control)
                execution.is_ending = True
                if await self._finish(tenant, claim, log, outcome):
                    status = outcome.status
            except GraphDrained:
                execution.is_ending = True
                await self._hand_back(tenant, claim, log)
            except asyncio.CancelledError:
                if execution.stop is None:
                    raise
                execution.is_ending = True
                await (self._hand_back(tenant, claim, log) if execution.stop == "drained" else self._let_go(tenant, claim))
                status = "interrupted" if execution.stop == "ended" else "pending"
            except LeaseLost:
                await self._let_go(tenant, claim)
                status = "interrupted"
            except StorageUnavailable as exc:
                # Nothing can be written now, not even that: the lease runs out, and the run continues from its last checkpoint.
                get_logger().warning("run_left_to_others", code=exc.code)
            seconds = time.perf_counter() - begun
            self._metrics.run_ended(run.graph_id, status, seconds)
            self._on_ran(run, status == "success", seconds)
            get_logger().info("run_left", status=status, seconds=round(seconds, 4))

    async def _run(self, tenant: str, claim: Claim, log: RunLog, control: RunControl) -> Outcome:
        """Execute the graph; what it ends with is an outcome, what stops it from outside is raised."""
        run = claim.run
        seconds = run.seconds_left(datetime.now(UTC))
        limit = asyncio.timeout(seconds)
        try:
            log.append(("metadata", orjson.dumps({"run_id": run.run_id, "attempt": run.attempt})))
            async with limit:
                return await self._stream(tenant, claim, log, control, Deadline.after(seconds))
        except TimeoutError as exc:
            if not limit.expired():
                return _unforeseen(exc)
            return overdue()
        except GraphRecursionError as exc:
            return Outcome("error", error=_error(type(exc).__name__, "the graph took more supersteps than it may", "recursion_limit"))
        except (LeaseLost, StorageUnavailable, GraphDrained):
            raise
        except NODE_ERRORS as exc:
            get_logger().warning("run_failed", code=exc.code, error=type(exc).__name__)
            return Outcome("error", error=_error(type(exc).__name__, str(exc), exc.code))
        except Exception as exc:
            return _unforeseen(exc)

    async def _stream(self, tenant: str, claim: Claim, log: RunLog, control: RunControl, deadline: Deadline) -> Outcome:
        run, entry = claim.run, self._graphs[claim.run.graph_id]
        kwargs = run.kwargs
        translator = PartTranslator(kwargs["stream_mode"], entry.shown)
        graph = entry.graph.copy(
            {"checkpointer": self._saver.bind(tenant=tenant, fence=claim.fence), "store": self._store.bind(tenant=tenant)}
        )
        config = _config(run, entry)
        begin: Any = Command(**kwargs["command"]) if kwargs["command"] else kwargs["input"]
        state: Mapping[str, Any] = {}
        if run.attempt > 1:
            left = await recover(graph, run, config, begin)
            if min(run.crashes, run.attempt - 1 - left.attempt) >= MAX_CRASHES:
                text = f"the last {MAX_CRASHES} processes that executed it ended before a checkpoint"
                return Outcome("error", error=_error("RunCrashed", text, "run_crashed"))
            begin, config, state = left.begin, left.config, left.state
            # Tokens of a message that the earlier attempt did not finish stay in the log; this tells readers to drop them.
            log.append(("values", to_json(translator.values(state))))
            if left.is_at_breakpoint:
                return await self._paused(graph, run, translator, state)
        is_paused = bool(kwargs["interrupt_before"] or kwargs["interrupt_after"])
        async with self._traced(tenant, run) as span:
            async for part in graph.astream(
                begin,
                config,
                context=entry.make_context(_scope(tenant, run, deadline, entry)),
                stream_mode=cast(list[StreamMode], sorted({"values", *(GRAPH_MODES[mode] for mode in kwargs["stream_mode"])})),
                subgraphs=kwargs["stream_subgraphs"],
                interrupt_before=kwargs["interrupt_before"],
                interrupt_after=kwargs["interrupt_after"],
                durability=kwargs["durability"],
                control=control,
                version="v2",
            ):
                if part["type"] == "values" and not part["ns"]:
                    state = part["data"]
                    is_paused = is_paused or bool(part.get("interrupts"))
                for event in translator.events(part):
                    log.append(event)
            values = translator.values(state)
            span.update(output=values.get("answer"))
        await log.flush()
        if not is_paused:
            return Outcome("success", values=values)
        return await self._paused(graph, run, translator, state)

    async def _paused(self, graph: Any, run: RunRecord, translator: PartTranslator, state: Mapping[str, Any]) -> Outcome:
        """The end of a run that may wait for something: what it asks is in the checkpoint."""
        snapshot = await graph.aget_state({"configurable": {"thread_id": run.thread_id, "checkpoint_ns": ""}})
        # Parts tell of one question at a time, and not after each of those that are left.
        asked = {task.id: [plain_interrupt(interrupt) for interrupt in task.interrupts] for task in snapshot.tasks if task.interrupts}
        values = translator.values(state, [interrupt for task in snapshot.tasks for interrupt in task.interrupts])
        return Outcome("success", values=values, interrupts=asked, is_paused=bool(snapshot.next))

    @asynccontextmanager
    async def _traced(self, tenant: str, run: RunRecord) -> AsyncIterator[Any]:
        given = run.kwargs["input"]
        customer = given.get("customer") if isinstance(given, dict) else None
        trace = RunTrace(
            seed=run.run_id,
            name=run.graph_id,
            thread_id=run.thread_id,
            tenant=tenant,
            user_id=customer.get("id") if isinstance(customer, dict) else None,
            input=given,
        )
        with self._tracer.run(trace) as span:
            yield span

    async def _finish(self, tenant: str, claim: Claim, log: RunLog, outcome: Outcome) -> bool:
        """Write the end; if that cannot be done the lease runs out, and the run is executed again from its last checkpoint."""
        run = claim.run
        end = (
            ("error", orjson.dumps(outcome.error)) if outcome.error else ("end", to_json({"run_id": run.run_id, "status": outcome.status}))
        )
        try:
            await log.flush()
            event, is_left = await self._runs.finish(
                tenant,
                run,
                claim.fence,
                status=outcome.status,
                thread_status=outcome.thread_status,
                event=end,
                interrupts=outcome.interrupts,
                error=outcome.error,
            )
        except LeaseLost:
            raise
        except StorageError as exc:
            get_logger().error("run_end_not_written", code=exc.code, status=outcome.status)
            return False
        log.publish([event])
        future = self._outcomes.get(run.run_id)
        if future is not None and not future.done():
            future.set_result(outcome)
        if is_left or not run.kwargs.get("keep_thread", True):
            self._on_left(ThreadRef(tenant, run.thread_id))
        self._count(outcome)
        return True

    async def _hand_back(self, tenant: str, claim: Claim, log: RunLog) -> None:
        try:
            with suppress(StorageError):
                await log.flush()
            await self._runs.hand_back(tenant, claim.run, claim.fence)
        except LeaseLost:  # ended from outside in the meantime
            await self._let_go(tenant, claim)
        except StorageError as exc:
            get_logger().warning("run_not_handed_back", code=exc.code)
        else:
            self._on_left(ThreadRef(tenant, claim.run.thread_id))

    async def _let_go(self, tenant: str, claim: Claim) -> None:
        """The run was ended from outside, or is somebody else's: the thread is free as soon as we say so."""
        try:
            await self._runs.release(tenant, claim.run.thread_id, claim.fence)
        except StorageError as exc:
            get_logger().warning("thread_not_released", code=exc.code)
        self._on_left(ThreadRef(tenant, claim.run.thread_id))

    def _count(self, outcome: Outcome) -> None:
        escalation = outcome.values.get("escalation")
        if escalation:
            self._metrics.escalated(escalation["reason"])
        for entry in outcome.values.get("degraded") or ():
            self._metrics.degraded(entry["what"])


def is_batch(run: RunRecord) -> bool:
    """Whether the run may wait until nobody else does."""
    return Priority(run.kwargs["priority"]) is Priority.BATCH


def _scope(tenant: str, run: RunRecord, deadline: Deadline, entry: GraphEntry) -> RunScope:
    schema = entry.context_schema
    return RunScope(
        run_id=run.run_id,
        tenant=tenant,
        deadline=deadline.reserving(LAST_WORD),
        priority=Priority(run.kwargs["priority"]),
        is_streamed=any(GRAPH_MODES[mode] == "messages" for mode in run.kwargs["stream_mode"]),
        configuration=schema.model_validate(run.kwargs.get("context", {})) if schema is not None else None,
    )


def _config(run: RunRecord, entry: GraphEntry) -> Any:
    kwargs = run.kwargs
    configurable = {"thread_id": run.thread_id, "checkpoint_ns": ""}
    if kwargs["checkpoint_id"]:
        configurable["checkpoint_id"] = kwargs["checkpoint_id"]
    ours = {"run_id": run.run_id, "run_attempt": run.attempt, "graph_id": run.graph_id, "assistant_id": run.assistant_id}
    limit = min(entry.recursion_limit, kwargs["recursion_limit"] or entry.recursion_limit)
    return {"configurable": configurable, "metadata": {**run.metadata, **ours}, "tags": kwargs["tags"], "recursion_limit": limit}


def overdue() -> Outcome:
    """The end of a run that took longer than it may."""
    return Outcome("timeout", error=_error("DeadlineExceeded", "the run did not end within its deadline", "deadline_exceeded"))


def _unforeseen(exc: Exception) -> Outcome:
    get_logger().error("run_failed", code="internal_error", exc_info=exc)
    return Outcome("error", error=_error("InternalError", "the run failed; its log says why", "internal_error"))


def _error(name: str, message: str, code: str) -> dict[str, str]:
    return {"error": name, "message": message, "code": code}
