"""Threads: made, found, and read: their state is what the checkpoints say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.errors import EmptyInputError, InvalidUpdateError
from langgraph.types import StateSnapshot, StateUpdate

from app.errors import AlreadyExists, InvalidInput, NotFound, ThreadBusy
from app.storage.redis.checkpoints import Fence, RedisSaver
from app.storage.redis.runs import RunRecord
from app.storage.redis.store import RedisStore
from app.storage.redis.threads import (
    THREAD_TTL,
    Lifetime,
    LifetimeStrategy,
    ThreadMissing,
    ThreadOccupied,
    ThreadRecord,
    ThreadRepository,
    new_thread,
)
from app.threads.indexer import ThreadIndexer
from app.threads.metadata import check_metadata
from app.threads.plain import plain_interrupt, to_json, to_plain
from app.threads.state import checkpoint_ref, thread_state
from app.threads.supersteps import SuperstepUpdate
from app.threads.values import checked_update
from graphs.registry import GraphEntry

EDIT_TIME = 10.0
"""Longest that an edit of a state may keep runs off its thread, seconds."""
STEP_TIME = 0.1
"""What every superstep of a new thread's history adds to that, seconds."""


class ThreadService:
    """The threads of all tenants; a foreign one is never told from a missing one.

    Every method raises `StorageUnavailable` if Redis cannot be asked.

    Args:
        threads: Where records are kept.
        indexer: Told of every thread that changes here.
        saver: Where checkpoints are kept.
        store: The long-term memory of the graphs.
        graphs: The graphs whose states are read, by graph id.
        default_graph: The graph of a thread that has had no run.
    """

    def __init__(
        self,
        threads: ThreadRepository,
        indexer: ThreadIndexer,
        saver: RedisSaver,
        store: RedisStore,
        graphs: Mapping[str, GraphEntry],
        default_graph: str,
    ) -> None:
        self._threads = threads
        self._indexer = indexer
        self._saver = saver
        self._store = store
        self._graphs = graphs
        self._default_graph = default_graph

    async def create(
        self,
        tenant: str,
        thread_id: str | None,
        metadata: dict[str, Any],
        *,
        reuse: bool,
        lifetime: Lifetime | None = None,
        supersteps: Sequence[Sequence[SuperstepUpdate]] = (),
    ) -> ThreadRecord:
        """A new thread; with `reuse` the one that has this id already, unchanged.

        Args:
            tenant: Whose thread it is.
            thread_id: Its id; None: a new one.
            metadata: What it is found by.
            reuse: Whether one of this id is good enough.
            lifetime: How long it is kept, if not the general time.
            supersteps: The history that it begins with: each is one step of the graph that the metadata name.

        Raises:
            AlreadyExists: There is one of this id.
            InvalidInput: The metadata are too many, or the graph cannot take the supersteps.
        """
        check_metadata(metadata)
        thread = new_thread(thread_id or str(uuid4()), metadata, lifetime=lifetime)
        entry = self._entry(thread)
        updates = [[update.checked(entry) for update in step] for step in supersteps]
        is_new = await self._threads.create(tenant, thread)
        if not (is_new or reuse):
            raise AlreadyExists(f"thread {thread_id} exists; if_exists=do_nothing returns it", "thread_exists")
        if is_new and updates:
            await self._build(tenant, thread.thread_id, entry, updates)
        await self._indexer.note(tenant, [thread.thread_id])
        return thread if is_new and not updates else await self.get(tenant, thread.thread_id)

    async def ensure(self, tenant: str, thread_id: str) -> None:
        """Make the thread if there is none of this id."""
        if await self._threads.create(tenant, new_thread(thread_id, {})):
            self._indexer.touch(tenant, thread_id)

    async def _build(self, tenant: str, thread_id: str, entry: GraphEntry, updates: list[list[StateUpdate]]) -> None:
        """Give a new thread its history; if that fails there is no such thread."""
        try:
            fence = await self._threads.hold(tenant, thread_id, EDIT_TIME + STEP_TIME * len(updates))
            graph = self._graph(tenant, entry, fence)
            await graph.abulk_update_state(_config(thread_id), updates)
            await self._let_go(tenant, thread_id, fence, await graph.aget_state(_config(thread_id)))
        except BaseException as exc:
            await self._threads.delete(tenant, thread_id)
            if isinstance(exc, InvalidUpdateError | EmptyInputError):
                raise InvalidInput(f"supersteps: {str(exc).splitlines()[0]}", "invalid_update") from None
            raise

    async def get(self, tenant: str, thread_id: str) -> ThreadRecord:
        """The thread.

        Raises:
            NotFound: There is none.
        """
        thread = await self._threads.get(tenant, thread_id)
        if thread is None:
            raise NotFound(f"there is no thread {thread_id}", "thread_not_found")
        return thread

    async def values(self, tenant: str, thread: ThreadRecord) -> dict[str, Any] | None:
        """What callers see of the thread's latest state; None: it has had no run."""
        entry = self._entry(thread)
        snapshot = await self._graph(tenant, entry).aget_state(_config(thread.thread_id))
        if snapshot.created_at is None:
            return None
        shown: dict[str, Any] = to_plain(
            {key: value for key, value in snapshot.values.items() if entry.shown is None or key in entry.shown}
        )
        return shown

    async def state(
        self, tenant: str, thread_id: str, checkpoint_id: str | None = None, checkpoint_ns: str = "", *, subgraphs: bool = False
    ) -> dict[str, Any]:
        """The thread's state, or that of a subgraph of it: the latest or that of a checkpoint.

        Raises:
            NotFound: There is no such thread, or no such checkpoint in it.
        """
        thread = await self.get(tenant, thread_id)
        graph = self._graph(tenant, self._entry(thread))
        snapshot: StateSnapshot = await graph.aget_state(_config(thread_id, checkpoint_id, checkpoint_ns), subgraphs=subgraphs)
        if checkpoint_id is not None and snapshot.created_at is None:
            raise NotFound(f"thread {thread_id} has no checkpoint {checkpoint_id}", "checkpoint_not_found")
        return thread_state(snapshot)

    async def history(
        self, tenant: str, thread_id: str, *, limit: int, before: str | None, metadata: dict[str, Any] | None, checkpoint_ns: str = ""
    ) -> list[dict[str, Any]]:
        """The thread's states, the newest first.

        Args:
            tenant: Whose thread it is.
            thread_id: The thread.
            limit: Most states.
            before: Only states older than this checkpoint.
            metadata: Only states whose metadata hold all of this.
            checkpoint_ns: The subgraph whose states are wanted; empty: the graph itself.

        Raises:
            NotFound: There is no such thread.
        """
        thread = await self.get(tenant, thread_id)
        graph = self._graph(tenant, self._entry(thread))
        config = _config(thread_id, None, checkpoint_ns)
        earlier = _config(thread_id, before) if before else None
        return [thread_state(state) async for state in graph.aget_state_history(config, filter=metadata, before=earlier, limit=limit)]

    async def merge(self, tenant: str, thread_id: str, metadata: dict[str, Any], lifetime: Lifetime | None = None) -> ThreadRecord:
        """Add to the thread's metadata, key by key; with `lifetime` it is kept that long from now on.

        Raises:
            NotFound: There is no such thread.
            InvalidInput: The metadata would be too many.
        """
        await self._threads.merge(tenant, thread_id, metadata, lifetime, check_metadata)
        await self._indexer.note(tenant, [thread_id])
        return await self.get(tenant, thread_id)

    async def lifetime(self, tenant: str, thread: ThreadRecord) -> tuple[Lifetime, datetime] | None:
        """How long the thread is kept after its last use, and when that is over unless it is used; None: it is over.

        Where only older checkpoints go (`keep_latest`) it may be over already; then they have gone, or go once no run is under way.
        """
        left = await self._threads.left(tenant, thread.thread_id)
        if left is None:
            return None
        own = thread.lifetime or Lifetime(THREAD_TTL)
        if own.strategy == "keep_latest":
            left -= THREAD_TTL
        return own, datetime.now(UTC) + timedelta(seconds=left)

    async def delete(self, tenant: str, thread_id: str) -> None:
        """Remove the thread and all that belongs to it; nothing of a run that still executes on it is written any more.

        Raises:
            NotFound: There is no such thread.
        """
        existed = await self._threads.delete(tenant, thread_id)
        await self._indexer.note(tenant, [thread_id])
        if not existed:
            raise NotFound(f"there is no thread {thread_id}", "thread_not_found")

    async def copy(self, tenant: str, thread_id: str) -> tuple[ThreadRecord, bool]:
        """A new thread with the metadata, the states and the open questions of this one.

        Returns:
            The copy, and whether a run was accepted on the original meanwhile.

        Raises:
            NotFound: There is no such thread.
            ThreadBusy: A run is under way on it.
        """
        fence = await self._hold(tenant, thread_id)
        is_left = False
        try:
            original = await self.get(tenant, thread_id)
            now = datetime.now(UTC)
            copy = replace(original, thread_id=str(uuid4()), created_at=now, updated_at=now, state_updated_at=now, forget_after=None)
            # The record comes last: until then nobody can know the copy, and what is half of one goes by itself.
            await self._saver.bind(tenant=tenant).acopy_thread(thread_id, copy.thread_id)
            await self._threads.create_copy(tenant, copy)
        finally:
            is_left = await self._threads.let_go(tenant, thread_id, fence)
        await self._indexer.note(tenant, [copy.thread_id, thread_id])
        return copy, is_left

    async def prune(self, tenant: str, thread_id: str, strategy: LifetimeStrategy) -> tuple[bool, bool]:
        """Remove a thread, or all of its checkpoints but the latest, unless a run is under way on it, waits or is delayed.

        Returns:
            Whether that was done, and whether a run was accepted meanwhile.
        """
        if strategy == "delete":
            try:
                existed = await self._threads.delete(tenant, thread_id, unless_busy=True)
            except ThreadOccupied:
                return False, False
            await self._indexer.note(tenant, [thread_id])
            return existed, False
        try:
            fence = await self._threads.hold(tenant, thread_id, EDIT_TIME)
        except (ThreadMissing, ThreadOccupied):
            return False, False
        is_done = False
        try:
            await self._saver.bind(tenant=tenant).aprune([thread_id], strategy=strategy)
            is_done = True
        finally:
            is_left = await self._threads.let_go(tenant, thread_id, fence, is_pruned=is_done)
        return True, is_left

    async def update_state(
        self, tenant: str, thread_id: str, values: dict[str, Any] | None, *, as_node: str | None, checkpoint_id: str | None
    ) -> tuple[dict[str, Any], bool]:
        """Write a new state on top of the latest one, or of that of a checkpoint, as if a node had returned `values`.

        Returns:
            The new checkpoint, and whether a run was accepted on the thread meanwhile.

        Raises:
            NotFound: There is no such thread, or no such checkpoint in it.
            ThreadBusy: A run is under way on the thread.
            InvalidInput: The graph cannot take it.
        """
        entry = self._entry(await self.get(tenant, thread_id))
        if checkpoint_id is not None:
            await self.check_checkpoint(tenant, thread_id, checkpoint_id)
        update = checked_update(entry, values, "values") if values is not None else None
        fence = await self._hold(tenant, thread_id)
        graph = self._graph(tenant, entry, fence)
        try:
            written = await graph.aupdate_state(_config(thread_id, checkpoint_id), update, as_node=as_node)
            snapshot = await graph.aget_state(_config(thread_id))
        except (InvalidUpdateError, EmptyInputError) as exc:
            await self._threads.let_go(tenant, thread_id, fence)
            raise InvalidInput(str(exc).splitlines()[0], "invalid_update") from None
        except BaseException:
            await self._threads.let_go(tenant, thread_id, fence)
            raise
        is_left = await self._let_go(tenant, thread_id, fence, snapshot)
        await self._indexer.note(tenant, [thread_id])
        return checkpoint_ref(written) or {}, is_left

    async def _hold(self, tenant: str, thread_id: str) -> Fence:
        """Keep runs off the thread.

        Raises:
            NotFound: There is no such thread.
            ThreadBusy: A run is under way on it.
        """
        try:
            return await self._threads.hold(tenant, thread_id, EDIT_TIME)
        except ThreadMissing:
            raise NotFound(f"there is no thread {thread_id}", "thread_not_found") from None
        except ThreadOccupied:
            raise ThreadBusy(f"a run is under way on thread {thread_id}; wait for its end, or cancel it") from None

    async def _let_go(self, tenant: str, thread_id: str, fence: Fence, snapshot: StateSnapshot) -> bool:
        """The thread is as its latest state says; returns whether a run waits on it by now."""
        asked = {task.id: [plain_interrupt(interrupt) for interrupt in task.interrupts] for task in snapshot.tasks if task.interrupts}
        return await self._threads.let_go(tenant, thread_id, fence, "interrupted" if snapshot.next else "idle", asked)

    async def check_checkpoint(self, tenant: str, thread_id: str, checkpoint_id: str) -> None:
        """Return if the thread has this checkpoint.

        Raises:
            NotFound: It does not.
        """
        if await self._saver.bind(tenant=tenant).aget_tuple(_config(thread_id, checkpoint_id)) is None:
            raise NotFound(f"thread {thread_id} has no checkpoint {checkpoint_id}", "checkpoint_not_found")

    async def has_state(self, tenant: str, thread_id: str) -> bool:
        """Whether a run has written anything in the thread."""
        return await self._saver.bind(tenant=tenant).aget_tuple(_config(thread_id)) is not None

    async def interrupts(self, tenant: str, thread_id: str) -> tuple[str, str, set[str]]:
        """The thread's latest checkpoint, when its state last changed (ISO), and the ids of the interrupts that wait there.

        Raises:
            NotFound: There is no such thread.
        """
        thread = await self.get(tenant, thread_id)
        snapshot = await self._graph(tenant, self._entry(thread)).aget_state(_config(thread_id))
        checkpoint_id = snapshot.config.get("configurable", {}).get("checkpoint_id", "")
        # The record was read first: if a run ends in between, its state looks older than it is, and that is noticed on acceptance.
        asked = {interrupt.id for task in snapshot.tasks for interrupt in task.interrupts}
        seen = thread.state_updated_at.isoformat()
        return f"{checkpoint_id}@{seen}", seen, asked

    async def values_of_run(self, tenant: str, thread_id: str, graph_id: str, run_id: str) -> dict[str, Any]:
        """What callers see of the last state that the run wrote, with what it asks; empty if it wrote none."""
        entry = self._graphs[graph_id]
        states = self._graph(tenant, entry).aget_state_history(_config(thread_id), filter={"run_id": run_id}, limit=1)
        async for snapshot in states:
            shown = {key: value for key, value in snapshot.values.items() if entry.shown is None or key in entry.shown}
            asked = [interrupt for task in snapshot.tasks for interrupt in task.interrupts]
            values: dict[str, Any] = to_plain({**shown, "__interrupt__": asked} if asked else shown)
            return values
        return {}

    async def snapshot(self, tenant: str, run: RunRecord) -> bytes:
        """What callers see of the thread as it is now, as JSON."""
        record = await self.get(tenant, run.thread_id)
        return to_json(await self.values(tenant, record) or {})

    def _entry(self, thread: ThreadRecord) -> GraphEntry:
        return self._graphs.get(thread.metadata.get("graph_id", "")) or self._graphs[self._default_graph]

    def _graph(self, tenant: str, entry: GraphEntry, fence: Fence | None = None) -> Any:
        return entry.graph.copy({"checkpointer": self._saver.bind(tenant=tenant, fence=fence), "store": self._store.bind(tenant=tenant)})


def _config(thread_id: str, checkpoint_id: str | None = None, checkpoint_ns: str = "") -> RunnableConfig:
    configurable = {"thread_id": thread_id, "checkpoint_ns": checkpoint_ns}
    if checkpoint_id:
        configurable["checkpoint_id"] = checkpoint_id
    return {"configurable": configurable}
