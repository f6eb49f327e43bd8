"""Threads, followed: all runs of one in one stream, in the form of runs or in that of protocol v2."""

from __future__ import annotations

from typing import Any

from app.errors import NotFound
from app.runs.events import EventLogs
from app.runs.protocol_events import RunTranslator, Subscription
from app.runs.thread_log import ProtocolReader, ThreadReader
from app.storage.redis.runs import RunRepository
from app.storage.redis.work import ThreadRef
from app.threads.service import ThreadService


class ThreadStreams:
    """Makes readers of the logs of threads.

    Every method raises `StorageUnavailable` if Redis cannot be asked.

    Args:
        states: The states of threads.
        runs: Run records and logs.
        logs: The logs of the runs that execute here.
    """

    def __init__(self, states: ThreadService, runs: RunRepository, logs: EventLogs) -> None:
        self._states = states
        self._runs = runs
        self._logs = logs

    async def reader(self, tenant: str, thread_id: str, *, after: int | None) -> ThreadReader:
        """A reader of the thread's log after event id `after`; None: of what is yet to come.

        Raises:
            NotFound: There is no such thread.
        """
        await self._states.get(tenant, thread_id)
        if after is None:
            after = await self._runs.sequence(tenant, thread_id)
        return ThreadReader(self._logs, ThreadRef(tenant, thread_id), after)

    def protocol_reader(self, tenant: str, thread_id: str, *, since: int, wanted: Subscription) -> ProtocolReader:
        """A reader of the thread's events of protocol v2 after number `since`; a thread that does not exist yet is waited for."""
        return ProtocolReader(self._logs, ThreadRef(tenant, thread_id), since, wanted)

    async def tree(self, tenant: str, thread_id: str, run_id: str | None) -> dict[str, Any]:
        """The graph and subgraphs of a run, the latest unless one is named, and what they have come to.

        Raises:
            NotFound: There is no such thread, no such run, or its log has gone.
        """
        await self._states.get(tenant, thread_id)
        if run_id is None:
            run_id = next(iter(await self._runs.ids(tenant, thread_id)), None)
        translator, after = RunTranslator(), 0
        while run_id is not None and (events := await self._runs.events(tenant, thread_id, run_id, after=after)):
            after = events[-1].id
            for event in events:
                list(translator.told(event))
        if () not in translator.statuses:
            raise NotFound(f"thread {thread_id} has no run whose log is kept, or not this one", "run_not_found")
        return _node(translator, ())


def _node(run: RunTranslator, namespace: tuple[str, ...]) -> dict[str, Any]:
    inner = sorted(found for found in run.statuses if len(found) == len(namespace) + 1 and found[:-1] == namespace)
    return {
        "namespace": list(namespace),
        "status": run.statuses[namespace],
        "graph_name": namespace[-1].partition(":")[0] if namespace else run.graph_name,
        "children": [_node(run, found) for found in inner],
    }
