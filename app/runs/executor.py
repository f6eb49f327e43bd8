"""Executes runs in this process: claimed run in, events and final status out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import orjson
from langgraph.errors import GraphRecursionError
from langgraph.types import Command, StreamMode

from agents.tracing import RunTrace, Tracer
from app.runs.events import EventLogs, RunLog
from app.runs.stream_parts import GRAPH_MODES, PartTranslator
from app.storage.errors import StorageError
from app.storage.redis.checkpoints import Fence, RedisSaver
from app.storage.redis.runs import RunRecord, RunRepository, RunStatus
from app.telemetry.logging import bound_contextvars, get_logger
from app.telemetry.metrics import Metrics
from app.threads.plain import plain_interrupt, to_json
from graphs.registry import GraphEntry
from resilience.deadline import Deadline
from resilience.errors import DependencyError, ResilienceError

LEASE = 15.0
"""How long a run stays ours without renewal, seconds."""
RENEW_EVERY = LEASE / 3
LAST_WORD = 0.1
"""Share of the run's time that the nodes leave for saying that there is no more."""
NODE_ERRORS = (ResilienceError, DependencyError, StorageError)


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """A run that this process owns.

    Args:
        tenant: Whose run it is.
        record: The run.
        fence: The lease under which everything is written.
        log_ttl: How long its log outlives it, seconds.
    """

    tenant: str
    record: RunRecord
    fence: Fence
    log_ttl: float


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


class LocalExecutor:
    """Executes runs in this process, each as a task of its own.

    Args:
        graphs: What can be executed, by graph id.
        runs: Where records and logs are kept.
        saver: Where checkpoints are kept.
        logs: The logs of the runs that execute here.
        tracer: Opens a trace per run.
        metrics: Counts runs.
    """

    def __init__(
        self, graphs: Mapping[str, GraphEntry], runs: RunRepository, saver: RedisSaver, logs: EventLogs, tracer: Tracer, metrics: Metrics
    ) -> None:
        self._graphs = graphs
        self._runs = runs
        self._saver = saver
        self._logs = logs
        self._tracer = tracer
        self._metrics = metrics
        self._tasks: dict[str, asyncio.Task[Outcome]] = {}
        self._cancelled: set[str] = set()
        self._ending: set[str] = set()

    def submit(self, run: ClaimedRun) -> asyncio.Task[Outcome]:
        """Begin to execute; the task's result is how the run ended, and it never raises but by cancellation."""
        run_id = run.record.run_id
        log = self._logs.open(run.tenant, run.record, run.fence)
        task = self._tasks[run_id] = asyncio.create_task(self._execute(run, log), name=f"run:{run_id}")
        task.add_done_callback(lambda _: self._forget(run_id))
        return task

    def cancel(self, run_id: str) -> bool:
        """Stop a run that executes here, if it does; it ends `interrupted`."""
        task = self._tasks.get(run_id)
        if task is None or run_id in self._ending:
            return False
        self._cancelled.add(run_id)
        task.cancel()
        return True

    async def drain(self, grace: float) -> None:
        """Wait `grace` seconds for the runs under way, then stop those that are left."""
        tasks = list(self._tasks.values())
        if not tasks:
            return
        await asyncio.wait(tasks, timeout=grace)
        for run_id in list(self._tasks):
            self.cancel(run_id)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, run_id: str) -> None:
        self._tasks.pop(run_id, None)
        self._cancelled.discard(run_id)
        self._ending.discard(run_id)
        self._logs.close(run_id)

    async def _execute(self, run: ClaimedRun, log: RunLog) -> Outcome:
        record, begun = run.record, time.perf_counter()
        with bound_contextvars(run_id=record.run_id, thread_id=record.thread_id), self._metrics.running(record.graph_id):
            heart = asyncio.create_task(self._keep_lease(run.fence))
            try:
                outcome = await self._run(run, log)
                self._ending.add(record.run_id)
                await self._finish(run, log, outcome)
            finally:
                heart.cancel()
            self._count(record, outcome, time.perf_counter() - begun)
        return outcome

    async def _run(self, run: ClaimedRun, log: RunLog) -> Outcome:
        """Execute the graph; every way in which that can end is an outcome."""
        record = run.record
        seconds = (record.deadline_at - datetime.now(UTC)).total_seconds()
        try:
            await self._runs.start(run.tenant, record, run.fence)
            log.append(("metadata", orjson.dumps({"run_id": record.run_id, "attempt": 1})))
            async with asyncio.timeout(seconds):
                return await self._stream(run, log, Deadline.after(seconds))
        except asyncio.CancelledError:
            if record.run_id not in self._cancelled:
                raise
            _uncancel()
            return Outcome("interrupted")
        except TimeoutError:
            return Outcome("timeout", error=_error("DeadlineExceeded", "the run did not end within its deadline", "deadline_exceeded"))
        except GraphRecursionError as exc:
            return Outcome("error", error=_error(type(exc).__name__, "the graph took more supersteps than it may", "recursion_limit"))
        except NODE_ERRORS as exc:
            get_logger().warning("run_failed", code=exc.code, error=type(exc).__name__)
            return Outcome("error", error=_error(type(exc).__name__, str(exc), exc.code))
        except Exception:
            get_logger().exception("run_failed", code="internal_error")
            return Outcome("error", error=_error("InternalError", "the run failed; its log says why", "internal_error"))

    async def _stream(self, run: ClaimedRun, log: RunLog, deadline: Deadline) -> Outcome:
        record, entry = run.record, self._graphs[run.record.graph_id]
        modes: Sequence[str] = record.kwargs["stream_mode"]
        translator = PartTranslator(modes, entry.shown)
        graph = entry.graph.copy({"checkpointer": self._saver.bind(tenant=run.tenant, fence=run.fence)})
        context = entry.make_context(record.run_id, run.tenant, deadline.reserving(LAST_WORD))
        config = _config(record, entry)
        state: Mapping[str, Any] = {}
        interrupts: tuple[Any, ...] = ()
        trace = RunTrace(
            seed=record.run_id,
            name=record.graph_id,
            thread_id=record.thread_id,
            tenant=run.tenant,
            user_id=_customer_id(record),
            input=record.kwargs["input"],
        )
        with self._tracer.run(trace) as span:
            async for part in graph.astream(
                _graph_input(record.kwargs),
                config,
                context=context,
                stream_mode=cast(list[StreamMode], sorted({"values", *(GRAPH_MODES[mode] for mode in modes)})),
                subgraphs=record.kwargs["stream_subgraphs"],
                interrupt_before=record.kwargs["interrupt_before"],
                interrupt_after=record.kwargs["interrupt_after"],
                durability=record.kwargs["durability"],
                version="v2",
            ):
                if part["type"] == "values" and not part["ns"]:
                    state, interrupts = part["data"], tuple(part.get("interrupts") or ())
                for event in translator.events(part):
                    log.append(event)
            values = translator.values(state, interrupts)
            span.update(output=values.get("answer"))
        await log.flush()
        if not (interrupts or record.kwargs["interrupt_before"] or record.kwargs["interrupt_after"]):
            return Outcome("success", values=values)
        snapshot = await graph.aget_state(config)
        asked = {task.id: [plain_interrupt(interrupt) for interrupt in task.interrupts] for task in snapshot.tasks if task.interrupts}
        return Outcome("success", values=values, interrupts=asked, is_paused=bool(snapshot.next))

    async def _finish(self, run: ClaimedRun, log: RunLog, outcome: Outcome) -> None:
        """Write the end; if that cannot be done the lease runs out, and the thread's next run closes this one."""
        record = run.record
        last = (
            ("error", orjson.dumps(outcome.error))
            if outcome.error
            else ("end", to_json({"run_id": record.run_id, "status": outcome.status}))
        )
        try:
            await log.flush()
            log.publish(
                await self._runs.finish(
                    run.tenant,
                    record,
                    run.fence,
                    status=outcome.status,
                    thread_status=outcome.thread_status,
                    events=[last],
                    log_ttl=run.log_ttl,
                    interrupts=outcome.interrupts,
                    error=outcome.error,
                    ended_by="user" if outcome.status == "interrupted" else "",
                )
            )
        except StorageError as exc:
            get_logger().error("run_end_not_written", code=exc.code, status=outcome.status)
            log.fail(exc)

    async def _keep_lease(self, fence: Fence) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY)
            try:
                await self._runs.renew(fence)
            except StorageError as exc:
                get_logger().warning("lease_not_renewed", code=exc.code)

    def _count(self, record: RunRecord, outcome: Outcome, seconds: float) -> None:
        self._metrics.run_ended(record.graph_id, outcome.status, seconds)
        escalation = outcome.values.get("escalation")
        if escalation:
            self._metrics.escalated(escalation["reason"])
        for entry in outcome.values.get("degraded") or ():
            self._metrics.degraded(entry["what"])
        get_logger().info("run_ended", status=outcome.status, seconds=round(seconds, 4))


def _uncancel() -> None:
    """Take the cancellation back, so that the end of the run can still be written."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


def _graph_input(kwargs: Mapping[str, Any]) -> Any:
    command = kwargs.get("command")
    return Command(**command) if command else kwargs["input"]


def _config(record: RunRecord, entry: GraphEntry) -> Any:
    kwargs = record.kwargs
    configurable = {"thread_id": record.thread_id, "checkpoint_ns": ""}
    if kwargs.get("checkpoint_id"):
        configurable["checkpoint_id"] = kwargs["checkpoint_id"]
    metadata = {**record.metadata, "run_id": record.run_id, "graph_id": record.graph_id, "assistant_id": record.assistant_id}
    limit = min(entry.recursion_limit, kwargs.get("recursion_limit") or entry.recursion_limit)
    return {"configurable": configurable, "metadata": metadata, "tags": kwargs.get("tags") or [], "recursion_limit": limit}


def _customer_id(record: RunRecord) -> str | None:
    given = record.kwargs["input"]
    customer = given.get("customer") if isinstance(given, dict) else None
    return customer.get("id") if isinstance(customer, dict) else None


def _error(name: str, message: str, code: str) -> dict[str, str]:
    return {"error": name, "message": message, "code": code}
