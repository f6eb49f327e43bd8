"""Run records, the lease on their thread, and the event log that ends with the status: what must change together does, in one script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from redis.asyncio import Redis

from app.storage.errors import LeaseLost
from app.storage.redis.checkpoints import Fence
from app.storage.redis.connection import LEASE_LOST, guarded
from app.storage.redis.keys import ThreadKeys
from app.storage.redis.threads import THREAD_TTL, ThreadRecord, thread_fields

RunStatus = Literal["pending", "running", "success", "error", "timeout", "interrupted"]

MAX_EVENTS = 10_000
"""Most events that the log of one run keeps."""
RUNNING_LOG_TTL = 24 * 3600.0
"""How long the log of a run that never ends is kept, seconds."""

# A busy marker without a lease belongs to a process that died: that run is closed as failed, and the thread is free again.
_ABANDON = """
local function abandon(run, events, sequence, error, now, ttl)
  redis.call('HSET', run, 'status', 'error', 'error', error, 'updated_at', now)
  redis.call('XADD', events, redis.call('INCR', sequence) .. '-0', 'e', 'error', 'd', error)
  redis.call('PEXPIRE', events, ttl)
end
"""
_ABANDONED = orjson.dumps(
    {"error": "RunAbandoned", "message": "the process that executed the run ended before the run did", "code": "run_abandoned"}
)

_ACCEPT = (
    _ABANDON
    + """
local thread, busy, lease, fence, runs, run, sequence = unpack(KEYS)
local run_id, now, lease_ms, ttl, graph, assistant, run_prefix, log_prefix, abandoned, fields = unpack(ARGV)
fields = tonumber(fields)
if redis.call('EXISTS', thread) == 0 then
  if fields == 0 then return {'missing'} end
  redis.call('HSET', thread, unpack(ARGV, 11, 10 + fields))
end
local other = redis.call('GET', busy)
if other then
  if redis.call('EXISTS', lease) == 1 then return {'busy', other} end
  abandon(run_prefix .. other, log_prefix .. other, sequence, abandoned, now, ttl)
end
local token = redis.call('INCR', fence)
redis.call('SET', lease, token, 'PX', lease_ms)
redis.call('SET', busy, run_id, 'PX', ttl)
redis.call('HSET', run, unpack(ARGV, 11 + fields))
redis.call('ZADD', runs, token, run_id)
redis.call('HSETNX', thread, 'graph_id', graph)
redis.call('HSETNX', thread, 'assistant_id', assistant)
redis.call('HSET', thread, 'status', 'busy', 'updated_at', now)
for _, key in ipairs({thread, fence, runs, run, sequence}) do redis.call('PEXPIRE', key, ttl) end
return {'accepted', tostring(token)}
"""
)

_SETTLE = (
    _ABANDON
    + """
local busy, lease, thread, run, events, sequence = unpack(KEYS)
local run_id, abandoned, now, ttl = unpack(ARGV)
if redis.call('GET', busy) == run_id and redis.call('EXISTS', lease) == 0 then
  abandon(run, events, sequence, abandoned, now, ttl)
  redis.call('HSET', thread, 'status', 'error', 'error', abandoned, 'updated_at', now, 'state_updated_at', now)
  redis.call('DEL', busy)
end
return redis.call('HGETALL', run)
"""
)

_CHECK_LEASE = f"""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return redis.error_reply('{LEASE_LOST} the lease on the thread is not ours any more')
end
"""

_START = (
    _CHECK_LEASE
    + """
redis.call('HSET', KEYS[2], 'status', 'running', 'updated_at', ARGV[2])
"""
)

_RENEW = (
    _CHECK_LEASE
    + """
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
)

# Sequence numbers grow over the whole thread, so a reader of all its runs has one cursor too.
_LOG = """
local function log(events, sequence, ttl, max, first)
  local seq = 0
  for i = first, #ARGV, 2 do
    seq = redis.call('INCR', sequence)
    redis.call('XADD', events, 'MAXLEN', '~', max, seq .. '-0', 'e', ARGV[i], 'd', ARGV[i + 1])
  end
  redis.call('PEXPIRE', events, ttl)
  return seq
end
"""

_APPEND = (
    _LOG
    + _CHECK_LEASE
    + """
return log(KEYS[2], KEYS[3], ARGV[2], ARGV[3], 4)
"""
)

# The status is written before the event that tells of it; the lease goes with it, so nothing can be written afterwards.
_FINISH = (
    _LOG
    + _CHECK_LEASE
    + """
local lease, run, thread, busy, events, sequence = unpack(KEYS)
local _, status, run_error, ended_by, thread_status, interrupts, now, log_ttl, max, ttl = unpack(ARGV)
redis.call('HSET', run, 'status', status, 'error', run_error, 'ended_by', ended_by, 'updated_at', now)
redis.call('HSET', thread, 'status', thread_status, 'interrupts', interrupts, 'error', run_error)
redis.call('HSET', thread, 'updated_at', now, 'state_updated_at', now)
redis.call('DEL', lease, busy)
for _, key in ipairs({run, thread}) do redis.call('PEXPIRE', key, ttl) end
return log(events, sequence, log_ttl, max, 11)
"""
)


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
        error: Why it failed: `{"error", "message", "code"}`.
        ended_by: `user` if it was cancelled, else empty.
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
    error: dict[str, Any] | None = None
    ended_by: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a run's log: `id` grows over the thread, `data` is JSON."""

    id: int
    name: str
    data: bytes


NewEvent = tuple[str, bytes]
"""Name and JSON of an event that has no id yet."""


class ThreadMissing(LookupError):
    """The tenant has no such thread."""


class ThreadOccupied(Exception):
    """Another run is under way on the thread; `args[0]` is its id."""


class RunRepository:
    """The runs of all tenants.

    Every method raises `StorageUnavailable` if Redis cannot be asked; those that take a `Fence` raise `LeaseLost` and
    write nothing if its lease has gone to somebody else.

    Args:
        client: A client that answers in bytes.
        lease: How long a lease lasts without renewal, seconds.
        ttl: How long a run outlives the last change of its thread, seconds.
    """

    def __init__(self, client: Redis, *, lease: float, ttl: float = THREAD_TTL) -> None:
        self._client = client
        self._lease_ms = int(lease * 1000)
        self._ttl_ms = int(ttl * 1000)
        self._accept = client.register_script(_ACCEPT)
        self._settle = client.register_script(_SETTLE)
        self._start = client.register_script(_START)
        self._renew = client.register_script(_RENEW)
        self._append = client.register_script(_APPEND)
        self._finish = client.register_script(_FINISH)

    async def accept(self, tenant: str, run: RunRecord, *, create: ThreadRecord | None) -> Fence:
        """Write the run, occupy its thread and take the lease, all or nothing.

        Args:
            tenant: Whose run it is.
            run: The run, `pending`.
            create: The thread to make if there is none; None: then it is an error.

        Raises:
            ThreadMissing: There is no such thread, and none was to be made.
            ThreadOccupied: Another run is under way on it.
        """
        keys = ThreadKeys(tenant, run.thread_id)
        thread = thread_fields(create) if create else []
        head: list[Any] = [run.run_id, run.created_at.isoformat(), self._lease_ms, self._ttl_ms, run.graph_id, run.assistant_id]
        prefixes = [keys.run(""), keys.events("")]
        names = [keys.thread(), keys.busy(), keys.lease(), keys.fence(), keys.runs(), keys.run(run.run_id), keys.sequence()]
        with guarded():
            answer = await self._accept(keys=names, args=[*head, *prefixes, _ABANDONED, len(thread), *thread, *_fields(run)])
        match [part.decode() for part in answer]:
            case ["missing"]:
                raise ThreadMissing(run.thread_id)
            case ["busy", other]:
                raise ThreadOccupied(other)
            case [_, token]:
                return Fence(keys.lease(), token)
        raise AssertionError(answer)

    async def start(self, tenant: str, run: RunRecord, fence: Fence) -> None:
        """The run is `running` from now on."""
        run_key = ThreadKeys(tenant, run.thread_id).run(run.run_id)
        with guarded():
            await self._start(keys=[fence.key, run_key], args=[fence.token, datetime.now(UTC).isoformat()])

    async def renew(self, fence: Fence) -> None:
        """The lease lasts as long again from now."""
        with guarded():
            await self._renew(keys=[fence.key], args=[fence.token, self._lease_ms])

    async def append(self, tenant: str, run: RunRecord, fence: Fence, events: Sequence[NewEvent]) -> list[Event]:
        """Add `events` to the run's log; returns them with their ids."""
        keys = ThreadKeys(tenant, run.thread_id)
        arguments: list[str | bytes] = [part for event in events for part in event]
        with guarded():
            last = await self._append(
                keys=[fence.key, keys.events(run.run_id), keys.sequence()],
                args=[fence.token, int(RUNNING_LOG_TTL * 1000), MAX_EVENTS, *arguments],
            )
        return _numbered(events, last)

    async def finish(
        self,
        tenant: str,
        run: RunRecord,
        fence: Fence,
        *,
        status: RunStatus,
        thread_status: str,
        events: Sequence[NewEvent],
        log_ttl: float,
        interrupts: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
        ended_by: str = "",
    ) -> list[Event]:
        """Write the final status, free the thread, and add the last events, in this order and all or nothing."""
        keys = ThreadKeys(tenant, run.thread_id)
        names = [fence.key, keys.run(run.run_id), keys.thread(), keys.busy(), keys.events(run.run_id), keys.sequence()]
        head: list[Any] = [fence.token, status, orjson.dumps(error), ended_by, thread_status, orjson.dumps(interrupts or {})]
        tail: list[Any] = [datetime.now(UTC).isoformat(), int(log_ttl * 1000), MAX_EVENTS, self._ttl_ms]
        with guarded():
            last = await self._finish(keys=names, args=[*head, *tail, *(part for event in events for part in event)])
        return _numbered(events, last)

    async def get(self, tenant: str, thread_id: str, run_id: str) -> RunRecord | None:
        """The run, closed as failed if the process that executed it has died; None: this thread of this tenant has none of that id."""
        keys = ThreadKeys(tenant, thread_id)
        names = [keys.busy(), keys.lease(), keys.thread(), keys.run(run_id), keys.events(run_id), keys.sequence()]
        now = datetime.now(UTC).isoformat()
        with guarded():
            found: Any = await self._settle(keys=names, args=[run_id, _ABANDONED, now, self._ttl_ms])
        return _run(dict(zip(found[::2], found[1::2], strict=True))) if found else None

    async def ids(self, tenant: str, thread_id: str) -> list[str]:
        """The thread's runs, oldest first."""
        with guarded():
            found: Any = await self._client.zrange(ThreadKeys(tenant, thread_id).runs(), 0, -1)
        return [run_id.decode() for run_id in found]

    async def events(self, tenant: str, thread_id: str, run_id: str, *, after: int, count: int = 500) -> list[Event]:
        """At most `count` events of the log with ids greater than `after`, in order."""
        with guarded():
            found: Any = await self._client.xrange(ThreadKeys(tenant, thread_id).events(run_id), min=f"({after}-0", count=count)
        return [Event(int(entry.partition(b"-")[0]), fields[b"e"].decode(), fields[b"d"]) for entry, fields in found]


def _numbered(events: Sequence[NewEvent], last: int) -> list[Event]:
    first = last - len(events) + 1
    return [Event(first + i, name, data) for i, (name, data) in enumerate(events)]


def _fields(run: RunRecord) -> list[str | bytes]:
    texts: dict[str, str | bytes] = {
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
    }
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
        error=orjson.loads(text.get("error") or "null"),
        ended_by=text.get("ended_by", ""),
    )


__all__ = ["Event", "Fence", "LeaseLost", "NewEvent", "RunRecord", "RunRepository", "RunStatus", "ThreadMissing", "ThreadOccupied"]
