"""Run records, the queue and the lease of their thread, and the event log: what must change together does, in one script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from app.storage.redis import run_scripts as lua
from app.storage.redis.checkpoints import Fence
from app.storage.redis.connection import guarded
from app.storage.redis.keys import ThreadKeys
from app.storage.redis.threads import THREAD_TTL, ThreadMissing, ThreadOccupied, ThreadRecord, thread_fields

RunStatus = Literal["pending", "running", "success", "error", "timeout", "interrupted"]
CancelAction = Literal["interrupt", "rollback"]
Claims = Literal["now", "queued", "later"]
"""Whether the accepting process executes the run at once, anybody does when its turn comes, or it is delayed."""

MAX_EVENTS = 10_000
"""Most events that the log of one run keeps; older ones go first, and readers get a snapshot instead."""
RUNNING_LOG_TTL = 24 * 3600.0
"""How long the log of a run that never ends is kept, seconds."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run as it is stored.

    Args:
        run_id: Its id, a UUID.
        thread_id: The thread it executes on.
        assistant_id: The assistant it was asked of.
        graph_id: The graph it executes.
        status: See `app.runs.model`.
        created_at: When it was accepted.
        updated_at: When the record last changed.
        deadline_at: When it must have ended.
        metadata: What its creator wrote.
        multitask_strategy: What was to happen on a busy thread.
        kwargs: The request's arguments, enough to execute it again elsewhere.
        log_ttl: How long its log outlives it, seconds.
        webhook: Who is told of its end; empty: nobody.
        error: Why it failed: `{"error", "message", "code"}`.
        ended_by: `user` or `superseded` if it was ended from outside, else empty.
        attempt: How often it has been claimed.
        crashes: How often the process that executed it ended without letting go.
        started_at: When it was first claimed.
        first_event: Sequence number of its first event; 0: there is none.
    """

    run_id: str
    thread_id: str
    assistant_id: str
    graph_id: str
    status: RunStatus
    created_at: datetime
    updated_at: datetime
    deadline_at: datetime
    metadata: dict[str, Any] = field(default_factory=dict)
    multitask_strategy: str = "enqueue"
    kwargs: dict[str, Any] = field(default_factory=dict)
    log_ttl: float = 60.0
    webhook: str = ""
    error: dict[str, Any] | None = None
    ended_by: str = ""
    attempt: int = 0
    crashes: int = 0
    started_at: datetime | None = None
    first_event: int = 0

    def seconds_left(self, now: datetime) -> float:
        """Seconds until its deadline: never negative, and never more than it was given, should the machine's clock have been set back."""
        given = (self.deadline_at - self.created_at).total_seconds()
        return min(given, max(0.0, (self.deadline_at - now).total_seconds()))


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a run's log: `id` grows over the thread, `data` is JSON."""

    id: int
    name: str
    data: bytes


NewEvent = tuple[str, bytes]
"""Name and JSON of an event that has no id yet."""


class AlreadyAnswered(Exception):
    """Another run answers, or has answered, what this one would."""


class QuestionsChanged(Exception):
    """What the thread asks was read in a state that is not its latest any more."""


class AlreadyAccepted(Exception):
    """A run of this id exists."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A run was accepted: with the lease if it was claimed at once, and `cancelled` for its sake."""

    fence: Fence | None
    cancelled: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that this process owns from now on, as its record says."""

    run: RunRecord
    fence: Fence


@dataclass(frozen=True, slots=True)
class QueueState:
    """What is left to do on a thread.

    Args:
        head: The run that is next or executes; None: there is none.
        lease: Seconds left of the lease; 0.0: nobody holds it.
        to_purge: Rolled-back runs whose checkpoints are still there.
        to_post: Ended runs whose webhook nobody has taken over yet.
        forget_after: How long the thread outlives its last run, seconds; None: it stays, for now at least.
        is_leaving: Whether whoever holds the lease has lost it and must only let go.
    """

    head: str | None
    lease: float
    to_purge: tuple[str, ...]
    to_post: tuple[str, ...]
    forget_after: float | None
    is_leaving: bool


class RunRepository:
    """The runs of all tenants.

    Every method raises `StorageUnavailable` if Redis cannot be asked; those that take a `Fence` raise `LeaseLost` and
    write nothing if its lease is not theirs any more.

    Args:
        client: A client that answers in bytes.
        lease: How long a lease lasts without renewal, seconds.
        ttl: How long a run outlives the last change of its thread, seconds.
        max_events: Most events that the log of one run keeps, give or take a hundred; older ones go first.
        on_change: Told of a tenant's thread whose record may have changed; must not wait.
    """

    def __init__(
        self,
        client: Redis,
        *,
        lease: float,
        ttl: float = THREAD_TTL,
        max_events: int = MAX_EVENTS,
        on_change: Callable[[str, str], None] = lambda tenant, thread_id: None,
    ) -> None:
        self.max_events = max_events
        self._on_change = on_change
        self._client = client
        self._lease_ms = int(lease * 1000)
        self._ttl_ms = int(ttl * 1000)
        self._scripts = {name: client.register_script(getattr(lua, name)) for name in _SCRIPTS}

    async def accept(
        self, tenant: str, run: RunRecord, *, create: ThreadRecord | None, claims: Claims, answers: str = "", seen: str = ""
    ) -> Accepted:
        """Write the run and put it into its thread's queue, by its multitask strategy, all or nothing.

        Args:
            tenant: Whose run it is.
            run: The run, `pending`.
            create: The thread to make if there is none; None: then it is an error.
            claims: Who executes it, and when.
            answers: The questions it answers, `state/interrupt` each, separated by spaces; each is answered by one run.
            seen: `state_updated_at` of the thread as it was when the questions were read, in ISO form; empty: that does not matter.

        Raises:
            ThreadMissing: There is no such thread, and none was to be made.
            ThreadOccupied: Another run is under way on it, and the strategy is to reject.
            AlreadyAnswered: Another run answers the same interrupts.
            QuestionsChanged: The thread's state is not the one that was `seen` any more.
            AlreadyAccepted: A run of this id exists.
        """
        thread = thread_fields(create) if create else []
        head = [run.run_id, run.multitask_strategy, claims, self._lease_ms, run.graph_id, run.assistant_id, answers, seen]
        answer = await self._run("ACCEPT", tenant, run.thread_id, *head, len(thread), *thread, *_fields(run))
        match [part.decode() for part in answer]:
            case ["exists"]:
                raise AlreadyAccepted(run.run_id)
            case ["missing"]:
                raise ThreadMissing(run.thread_id)
            case ["busy", other]:
                raise ThreadOccupied(other)
            case ["answered"]:
                raise AlreadyAnswered(run.run_id)
            case ["stale"]:
                raise QuestionsChanged(run.thread_id)
            case [_, token, *cancelled]:
                return Accepted(self._fence(tenant, run.thread_id, token) if token else None, tuple(cancelled))
        raise AssertionError(answer)

    async def enqueue(self, tenant: str, thread_id: str, run_id: str) -> bool:
        """Put a delayed run into its thread's queue; False: it has ended in the meantime."""
        return bool(await self._run("ENQUEUE", tenant, thread_id, run_id))

    async def claim(self, tenant: str, thread_id: str, run_id: str) -> Claim | tuple[str, ...]:
        """Take the run and its lease.

        Returns:
            The claim; or why not: `("not_next",)`, `("leased",)`, `("ended",)`, or `("purge", *run_ids)`: the checkpoints of
            these runs must go first (see `purged`).
        """
        answer = await self._run("CLAIM", tenant, thread_id, run_id, self._lease_ms)
        if answer[0] != b"claimed":
            return tuple(part.decode() for part in answer)
        fields = dict(zip(answer[2::2], answer[3::2], strict=True))
        return Claim(_run(fields), self._fence(tenant, thread_id, answer[1].decode()))

    async def purged(self, tenant: str, thread_id: str, run_ids: Sequence[str]) -> None:
        """The checkpoints of these rolled-back runs are gone."""
        await self._run("PURGED", tenant, thread_id, *run_ids)

    async def posted(self, tenant: str, thread_id: str, run_ids: Sequence[str]) -> None:
        """The webhooks of these runs are somebody's."""
        await self._run("POSTED", tenant, thread_id, *run_ids)

    async def append(self, tenant: str, run: RunRecord, fence: Fence, events: Sequence[NewEvent]) -> list[Event]:
        """Add `events` to the run's log; returns them with their ids."""
        head = [fence.token, run.run_id, self.max_events, int(RUNNING_LOG_TTL * 1000)]
        last = await self._run("APPEND", tenant, run.thread_id, *head, *(part for event in events for part in event))
        return _numbered(events, last)

    async def finish(
        self,
        tenant: str,
        run: RunRecord,
        fence: Fence,
        *,
        status: RunStatus,
        thread_status: str,
        event: NewEvent,
        interrupts: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> tuple[Event, bool]:
        """Write the final status, then the terminal event, and free the thread.

        Returns:
            The event, and whether something is left to do on the thread: a next run, a webhook, or to forget it.
        """
        details = [orjson.dumps(error), orjson.dumps(interrupts or {})]
        last, is_left = await self._run("FINISH", tenant, run.thread_id, fence.token, run.run_id, status, thread_status, *details, *event)
        return Event(last, *event), bool(is_left)

    async def hand_back(self, tenant: str, run: RunRecord, fence: Fence) -> None:
        """The run is `pending` again and nobody's: it continues from its last checkpoint wherever it is claimed."""
        await self._run("HAND_BACK", tenant, run.thread_id, fence.token, run.run_id)

    async def release(self, tenant: str, thread_id: str, fence: Fence) -> None:
        """Let go of a thread whose run was ended from outside."""
        await self._run("RELEASE", tenant, thread_id, fence.token)

    async def cancel(self, tenant: str, thread_id: str, run_id: str, action: CancelAction) -> str | None:
        """End a run from outside.

        Returns:
            What it was, `pending` or `running`; `ended` if it had ended before; None if there is no such run.
        """
        was: bytes = await self._run("CANCEL", tenant, thread_id, run_id, action, self._lease_ms)
        return was.decode() or None

    async def delete(self, tenant: str, thread_id: str, run_id: str) -> bool | None:
        """Remove the record and log of a run that has ended; False: it has not; None: there is none."""
        answer = await self._run("DELETE", tenant, thread_id, run_id)
        return {1: True, -1: False}.get(answer)

    async def forget(self, tenant: str, thread_id: str, after: float) -> bool:
        """Let all of a thread go `after` seconds from now; False: some run of it has not ended, and all stays."""
        return bool(await self._run("FORGET", tenant, thread_id, int(after * 1000)))

    async def inspect(self, tenant: str, thread_id: str) -> QueueState:
        """The state of a thread's queue."""
        head, lease_ms, to_purge, to_post, passing, leaving = await self._run("INSPECT", tenant, thread_id)
        purge, post = (tuple(run_id.decode() for run_id in ids) for ids in (to_purge, to_post))
        forget_after = int(passing) / 1000 if passing else None
        return QueueState(head.decode() or None, max(0.0, lease_ms / 1000), purge, post, forget_after, bool(leaving))

    async def get(self, tenant: str, thread_id: str, run_id: str) -> RunRecord | None:
        """The run; None: this thread of this tenant has none of that id."""
        with guarded():
            found: Any = await self._client.hgetall(ThreadKeys(tenant, thread_id).run(run_id))
        return _run(found) if found else None

    async def open_ids(self, tenant: str, thread_id: str) -> list[str]:
        """The thread's runs that have not ended, in the order in which they execute."""
        with guarded():
            found: Any = await self._client.lrange(ThreadKeys(tenant, thread_id).queue(), 0, -1)
        return [run_id.decode() for run_id in found]

    async def ids(self, tenant: str, thread_id: str) -> list[str]:
        """The thread's runs, newest first."""
        with guarded():
            found: Any = await self._client.zrange(ThreadKeys(tenant, thread_id).runs(), 0, -1, desc=True)
        return [run_id.decode() for run_id in found]

    async def events(self, tenant: str, thread_id: str, run_id: str, *, after: int, count: int = 500) -> list[Event]:
        """At most `count` events of the log with ids greater than `after`, in order."""
        with guarded():
            found: Any = await self._client.xrange(ThreadKeys(tenant, thread_id).events(run_id), min=f"({after}-0", count=count)
        return [Event(int(entry.partition(b"-")[0]), fields[b"e"].decode(), fields[b"d"]) for entry, fields in found]

    async def last_id(self, tenant: str, thread_id: str, run_id: str) -> int:
        """Id of the latest event of the log; 0: there is none."""
        with guarded():
            found: Any = await self._client.xrevrange(ThreadKeys(tenant, thread_id).events(run_id), count=1)
        return int(found[0][0].partition(b"-")[0]) if found else 0

    async def _run(self, name: str, tenant: str, thread_id: str, *arguments: Any) -> Any:
        script: AsyncScript = self._scripts[name]
        now = datetime.now(UTC).isoformat()
        with guarded():
            answer = await script(keys=ThreadKeys(tenant, thread_id).all(), args=[now, self._ttl_ms, *arguments])
        if name in _CHANGING:
            self._on_change(tenant, thread_id)
        return answer

    def _fence(self, tenant: str, thread_id: str, token: str) -> Fence:
        return Fence(ThreadKeys(tenant, thread_id).lease(), token)


_SCRIPTS = (
    "ACCEPT", "ENQUEUE", "CLAIM", "PURGED", "POSTED", "APPEND", "FINISH", "HAND_BACK", "RELEASE", "CANCEL", "INSPECT", "DELETE", "FORGET"
)  # fmt: skip
_CHANGING = frozenset({"ACCEPT", "ENQUEUE", "CLAIM", "FINISH", "CANCEL", "FORGET"})
"""The scripts that change what the index says of a thread."""


def as_claimed(run: RunRecord) -> RunRecord:
    """The record of a run that was claimed when it was accepted."""
    return replace(run, status="running", attempt=1, started_at=run.created_at)


def _numbered(events: Sequence[NewEvent], last: int) -> list[Event]:
    first = last - len(events) + 1
    return [Event(first + i, name, data) for i, (name, data) in enumerate(events)]


def _fields(run: RunRecord) -> list[str | bytes | int]:
    texts: dict[str, str | bytes | int] = {
        "run_id": run.run_id,
        "thread_id": run.thread_id,
        "assistant_id": run.assistant_id,
        "graph_id": run.graph_id,
        "status": run.status,
        "created_at": run.created_at.isoformat(),
        "updated_at": run.updated_at.isoformat(),
        "deadline_at": run.deadline_at.isoformat(),
        "multitask_strategy": run.multitask_strategy,
        "metadata": orjson.dumps(run.metadata),
        "kwargs": orjson.dumps(run.kwargs),
        "log_ttl": int(run.log_ttl * 1000),
    }
    if run.webhook:
        texts["webhook"] = run.webhook
    return [part for pair in texts.items() for part in pair]


def _run(found: dict[bytes, bytes]) -> RunRecord:
    text = {name.decode(): value.decode() for name, value in found.items()}
    return RunRecord(
        run_id=text["run_id"],
        thread_id=text["thread_id"],
        assistant_id=text["assistant_id"],
        graph_id=text["graph_id"],
        status=text["status"],  # type: ignore[arg-type]
        created_at=datetime.fromisoformat(text["created_at"]),
        updated_at=datetime.fromisoformat(text["updated_at"]),
        deadline_at=datetime.fromisoformat(text["deadline_at"]),
        metadata=orjson.loads(text["metadata"]),
        multitask_strategy=text["multitask_strategy"],
        kwargs=orjson.loads(text["kwargs"]),
        log_ttl=int(text["log_ttl"]) / 1000,
        webhook=text.get("webhook", ""),
        error=orjson.loads(text.get("error") or "null"),
        ended_by=text.get("ended_by", ""),
        attempt=int(text.get("attempt", 0)),
        crashes=int(text.get("crashes", 0)),
        started_at=datetime.fromisoformat(text["started_at"]) if "started_at" in text else None,
        first_event=int(text.get("first_event", 0)),
    )
