"""Runs: started, followed, ended from outside, read."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from app.errors import NotFound, NotReady, ThreadBusy
from app.runs.acceptance import RunAcceptance, StartedRun
from app.runs.dispatcher import Dispatcher
from app.runs.events import OVERDUE, STORAGE_PATIENCE, STORAGE_RETRY, EventLogs, LogReader
from app.runs.executor import Executor, Outcome, overdue
from app.runs.request import RunRequest
from app.storage.errors import StorageError, StorageUnavailable
from app.storage.redis.runs import (
    CancelAction,
    RunRecord,
    RunRepository,
)
from app.storage.redis.threads import LifetimeStrategy, ThreadRecord
from app.storage.redis.work import ThreadRef, WorkQueue
from app.telemetry.logging import get_logger
from app.threads.service import ThreadService

GRACE = 20.0
"""How long a superstep under way may take to end when the service stops, seconds."""
CANCEL_WAIT = 0.02
"""How often a caller who waits for a cancelled run looks whether it has let go, seconds."""


class Drained(Exception):
    """This process goes down; the answer can be had elsewhere."""


class RunService:
    """Starts runs, follows them, ends them from outside, and reads them.

    Every method raises `StorageUnavailable` if Redis cannot be asked; nothing has been accepted then.

    Args:
        acceptance: Accepts runs.
        states: The states of threads.
        runs: Run records and logs.
        work: The queue over all processes.
        logs: The logs of the runs that execute here.
        executor: Executes runs here.
        dispatcher: Brings runs to executors.
    """

    def __init__(
        self,
        acceptance: RunAcceptance,
        states: ThreadService,
        runs: RunRepository,
        work: WorkQueue,
        logs: EventLogs,
        executor: Executor,
        dispatcher: Dispatcher,
    ) -> None:
        self._acceptance = acceptance
        self._states = states
        self._runs = runs
        self._work = work
        self._logs = logs
        self._executor = executor
        self._dispatcher = dispatcher
        self._is_open = True
        self._draining: asyncio.Task[None] | None = None

    async def start(
        self, tenant: str, thread_id: str | None, request: RunRequest, *, idempotency: tuple[str, str] | None = None
    ) -> StartedRun:
        """Accept a run; see `RunAcceptance.accept`.

        Raises:
            NotReady: The service is going down.
        """
        self._check_open()
        return await self._acceptance.accept(tenant, thread_id, request, idempotency=idempotency)

    async def start_all(
        self, tenant: str, requests: Sequence[RunRequest], *, idempotency: Sequence[tuple[str, str]] = ()
    ) -> list[StartedRun]:
        """Accept runs without threads, all or none; see `RunAcceptance.accept_all`.

        Raises:
            NotReady: The service is going down.
        """
        self._check_open()
        return await self._acceptance.accept_all(tenant, requests, idempotency=idempotency)

    async def check(self, tenant: str, request: RunRequest) -> tuple[str, str]:
        """See `RunAcceptance.check`."""
        return await self._acceptance.check(tenant, request)

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

    async def copy_thread(self, tenant: str, thread_id: str) -> ThreadRecord:
        """See `ThreadService.copy`; a run that came meanwhile begins right after."""
        copy, is_left = await self._states.copy(tenant, thread_id)
        if is_left:
            self._dispatcher.soon(ThreadRef(tenant, thread_id))
        return copy

    async def prune_threads(self, tenant: str, thread_ids: Iterable[str], strategy: LifetimeStrategy) -> int:
        """Remove these threads, or all of their checkpoints but the latest.

        Returns:
            How many; threads that are busy, or are not there, are passed over.
        """
        pruned = 0
        for thread_id in dict.fromkeys(thread_ids):
            is_done, is_left = await self._states.prune(tenant, thread_id, strategy)
            if is_left:
                self._dispatcher.soon(ThreadRef(tenant, thread_id))
            pruned += is_done
        return pruned

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

    def _check_open(self) -> None:
        if not self._is_open:
            raise NotReady("the service is going down; try again in a moment", "draining")

    async def _cancel_quietly(self, tenant: str, run: RunRecord) -> None:
        try:
            await self.cancel(tenant, run.thread_id, run.run_id, "interrupt", wait=False)
        except NotFound:
            return
        except StorageError as exc:
            get_logger().warning("run_not_cancelled", run_id=run.run_id, code=exc.code)
