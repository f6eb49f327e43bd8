"""Thread records: who a conversation belongs to, when it changed, whether a run occupies it. Its state is in the checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from app.storage.redis.checkpoints import Fence
from app.storage.redis.connection import guarded
from app.storage.redis.keys import ThreadKeys
from app.storage.redis.lifetime import LIFETIME

ThreadStatus = Literal["idle", "busy", "interrupted", "error"]
LifetimeStrategy = Literal["delete", "keep_latest"]

THREAD_TTL = 30 * 24 * 3600.0
"""How long a thread outlives its last use, seconds."""

# All scripts take `ThreadKeys.all`. → 1, or 0 if there is such a thread
_CREATE = (
    LIFETIME
    + """
if redis.call('EXISTS', thread) == 1 then return 0 end
redis.call('HSET', thread, unpack(ARGV, 2))
changed(ARGV[1])
return 1
"""
)

# → 1, 0 if there is no such thread, -1 if its metadata are not those that were read
_PATCH = (
    LIFETIME
    + """
local general, known, merged, now, own, strategy = unpack(ARGV)
local metadata = redis.call('HGET', thread, 'metadata')
if not metadata then return 0 end
if metadata ~= known then return -1 end
redis.call('HSET', thread, 'metadata', merged, 'updated_at', now)
if own ~= '' then redis.call('HSET', thread, 'ttl', own, 'ttl_strategy', strategy) end
changed(general)
return 1
"""
)

# Who edits a thread holds its lease as a run would. → missing | busy | held, token
_HOLD = (
    ThreadKeys.UNPACK
    + """
if redis.call('EXISTS', thread) == 0 then return {'missing'} end
if redis.call('LLEN', queue) > 0 or redis.call('EXISTS', lease) == 1 then return {'busy'} end
local token = redis.call('INCR', fence) .. ':edit'
redis.call('SET', lease, token, 'PX', ARGV[1])
return {'held', token}
"""
)

# → 1 if a run was accepted meanwhile, else 0
_LET_GO = (
    LIFETIME
    + """
local general, token, now, status, interrupts, is_pruned = unpack(ARGV)
if redis.call('GET', lease) ~= token then return redis.error_reply('LEASELOST the thread is not ours any more') end
redis.call('DEL', lease)
local is_left = redis.call('LLEN', queue) > 0
if status ~= '' then
  redis.call('HSET', thread, 'rest', status, 'interrupts', interrupts, 'updated_at', now, 'state_updated_at', now)
  if not is_left then redis.call('HSET', thread, 'status', status) end
end
if is_pruned == '1' then
  -- Nobody has used the thread: it is kept no longer for that.
  redis.call('HSET', thread, 'pruned', redis.call('HGET', thread, 'revision'))
else
  changed(general)
end
return is_left and 1 or 0
"""
)

# Everything goes in one step; what still executes holds a lease that is no more, so it writes nothing. → 1, 0 if there is none, or
# -1 if a run is under way, waits or is delayed and the thread is only wanted without one
_DELETE = (
    ThreadKeys.UNPACK
    + """
if ARGV[1] == '1' then
  local delayed = tonumber(redis.call('HGET', thread, 'delayed') or 0)
  if redis.call('LLEN', queue) > 0 or redis.call('EXISTS', lease) == 1 or delayed > 0 then return -1 end
end
local existed = redis.call('DEL', thread)
for _, id in ipairs(redis.call('ZRANGE', runs, 0, -1)) do redis.call('DEL', run_prefix .. id, log_prefix .. id) end
for i = 2, #KEYS - 2 do redis.call('UNLINK', KEYS[i]) end
return existed
"""
)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long a thread is kept after its last use, and what goes then (ADR-0027).

    Args:
        seconds: > 0.
        strategy: `delete`: the thread; `keep_latest`: all of its checkpoints but the latest.
    """

    seconds: float
    strategy: LifetimeStrategy = "delete"


@dataclass(frozen=True, slots=True)
class ThreadRecord:
    """One thread as it is stored.

    Args:
        thread_id: Its id, a UUID.
        created_at: When it was made.
        updated_at: When the record last changed.
        state_updated_at: When a run last ended on it.
        status: `busy` from the acceptance of a run until it ends.
        metadata: What its creator wrote, with `graph_id` and `assistant_id` once it has had a run.
        interrupts: What the last run asked and nobody has answered, by task.
        error: Why the last run failed, if it did.
        forget_after: How long it outlives its last run, seconds; None: it stays.
        lifetime: How long it is kept, if not `THREAD_TTL`.
    """

    thread_id: str
    created_at: datetime
    updated_at: datetime
    state_updated_at: datetime
    status: ThreadStatus = "idle"
    metadata: dict[str, Any] = field(default_factory=dict)
    interrupts: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    forget_after: float | None = None
    lifetime: Lifetime | None = None

    @property
    def is_passing(self) -> bool:
        """Whether it is a run's own, and goes with it; one that asks something stays."""
        return self.forget_after is not None and self.status != "interrupted"


class ThreadMissing(LookupError):
    """The tenant has no such thread."""


class ThreadOccupied(Exception):
    """A run is under way on the thread (`args[0]` is its id), or somebody edits it (`args[0]` is the thread's)."""


def thread_fields(thread: ThreadRecord) -> list[str | bytes]:
    """The record as names and values of a hash, alternating."""
    return [
        "thread_id",
        thread.thread_id,
        "created_at",
        thread.created_at.isoformat(),
        "updated_at",
        thread.updated_at.isoformat(),
        "state_updated_at",
        thread.state_updated_at.isoformat(),
        "status",
        thread.status,
        "metadata",
        orjson.dumps(thread.metadata),
        *(["ephemeral", str(int(thread.forget_after * 1000))] if thread.forget_after is not None else []),
        *(["ttl", _ms(thread.lifetime), "ttl_strategy", thread.lifetime.strategy] if thread.lifetime else []),
    ]


def new_thread(
    thread_id: str, metadata: dict[str, Any], *, forget_after: float | None = None, lifetime: Lifetime | None = None
) -> ThreadRecord:
    """A record made now."""
    now = datetime.now(UTC)
    return ThreadRecord(thread_id, now, now, now, metadata=metadata, forget_after=forget_after, lifetime=lifetime)


class ThreadRepository:
    """The threads of all tenants.

    Every method raises `StorageUnavailable` if Redis cannot be asked.
    """

    def __init__(self, client: Redis, ttl: float = THREAD_TTL) -> None:
        self._client = client
        self._ttl_ms = int(ttl * 1000)
        self._create = client.register_script(_CREATE)
        self._patch = client.register_script(_PATCH)
        self._hold = client.register_script(_HOLD)
        self._let_go = client.register_script(_LET_GO)
        self._delete = client.register_script(_DELETE)

    async def create(self, tenant: str, thread: ThreadRecord) -> bool:
        """Write the record; False, and nothing is written, if the thread exists."""
        return bool(await self._run(self._create, tenant, thread.thread_id, self._ttl_ms, *thread_fields(thread)))

    async def create_copy(self, tenant: str, thread: ThreadRecord) -> bool:
        """Write the record of a thread whose checkpoints are there already, with what it asks; False: the thread exists."""
        more = ["rest", thread.status, "interrupts", orjson.dumps(thread.interrupts), "error", orjson.dumps(thread.error)]
        for name in ("graph_id", "assistant_id"):  # what its first run wrote
            if name in thread.metadata:
                more += [name, str(thread.metadata[name])]
        return bool(await self._run(self._create, tenant, thread.thread_id, self._ttl_ms, *thread_fields(thread), *more))

    async def merge(
        self,
        tenant: str,
        thread_id: str,
        metadata: dict[str, Any],
        lifetime: Lifetime | None = None,
        check: Callable[[dict[str, Any]], None] = lambda merged: None,
    ) -> bool:
        """Add to the thread's metadata, key by key, unless `check` raises over the sum, and set its time to live if there is one.

        Returns:
            False: there is no such thread.
        """
        key = ThreadKeys(tenant, thread_id).thread()
        own = [_ms(lifetime), lifetime.strategy] if lifetime else ["", ""]
        done = -1
        while done < 0:  # somebody else has changed it between reading and writing
            with guarded():
                known: Any = await self._client.hget(key, "metadata")
            if known is None:
                return False
            merged = {**orjson.loads(known), **metadata}
            check(merged)
            now = datetime.now(UTC).isoformat()
            done = await self._run(self._patch, tenant, thread_id, self._ttl_ms, known, orjson.dumps(merged), now, *own)
        return bool(done)

    async def hold(self, tenant: str, thread_id: str, seconds: float) -> Fence:
        """Keep runs off the thread while it is edited, at most this long.

        Raises:
            ThreadMissing: There is no such thread.
            ThreadOccupied: A run is under way on it, or somebody else edits it.
        """
        answer: list[bytes] = await self._run(self._hold, tenant, thread_id, int(seconds * 1000))
        match answer:
            case [b"missing"]:
                raise ThreadMissing(thread_id)
            case [b"busy"]:
                raise ThreadOccupied(thread_id)
            case [_, token]:
                return Fence(ThreadKeys(tenant, thread_id).lease(), token.decode())
        raise AssertionError(answer)

    async def let_go(
        self,
        tenant: str,
        thread_id: str,
        fence: Fence,
        status: ThreadStatus | None = None,
        interrupts: dict[str, Any] | None = None,
        *,
        is_pruned: bool = False,
    ) -> bool:
        """End an edit; `status` and `interrupts` are what it left the thread with, `is_pruned` that it only thinned it out.

        Returns:
            Whether a run waits on the thread by now.

        Raises:
            LeaseLost: The edit took too long, and the thread is somebody else's.
        """
        now, asked = datetime.now(UTC).isoformat(), orjson.dumps(interrupts or {})
        arguments = [self._ttl_ms, fence.token, now, status or "", asked, int(is_pruned)]
        return bool(await self._run(self._let_go, tenant, thread_id, *arguments))

    async def delete(self, tenant: str, thread_id: str, *, unless_busy: bool = False) -> bool:
        """Remove the thread with its runs, logs and checkpoints; False: there was none.

        Raises:
            ThreadOccupied: A run is under way on it, waits or is delayed, and then it was to stay (`unless_busy`).
        """
        existed = await self._run(self._delete, tenant, thread_id, int(unless_busy))
        if existed < 0:
            raise ThreadOccupied(thread_id)
        return bool(existed)

    async def get(self, tenant: str, thread_id: str) -> ThreadRecord | None:
        """The thread; None: this tenant has none of that id."""
        with guarded():
            found: Any = await self._client.hgetall(ThreadKeys(tenant, thread_id).thread())
        return as_thread(found) if found else None

    async def left(self, tenant: str, thread_id: str) -> float | None:
        """How long the thread is kept from now on if nobody uses it, seconds; None: there is none."""
        with guarded():
            left: int = await self._client.pttl(ThreadKeys(tenant, thread_id).thread())
        return left / 1000 if left >= 0 else None

    async def _run(self, script: AsyncScript, tenant: str, thread_id: str, *arguments: Any) -> Any:
        with guarded():
            return await script(keys=ThreadKeys(tenant, thread_id).all(), args=list(arguments))


def as_thread(found: dict[bytes, bytes]) -> ThreadRecord:
    """The record that these fields are."""
    text = {name.decode(): value for name, value in found.items()}
    metadata = orjson.loads(text["metadata"])
    metadata |= {name: text[name].decode() for name in ("graph_id", "assistant_id") if name in text}
    strategy: Any = text.get("ttl_strategy", b"").decode()
    return ThreadRecord(
        thread_id=text["thread_id"].decode(),
        created_at=datetime.fromisoformat(text["created_at"].decode()),
        updated_at=datetime.fromisoformat(text["updated_at"].decode()),
        state_updated_at=datetime.fromisoformat(text["state_updated_at"].decode()),
        status=text["status"].decode(),  # type: ignore[arg-type]
        metadata=metadata,
        interrupts=orjson.loads(text.get("interrupts", b"{}")),
        error=orjson.loads(text.get("error", b"null")),
        forget_after=int(text["ephemeral"]) / 1000 if "ephemeral" in text else None,
        lifetime=Lifetime(int(text["ttl"]) / 1000, strategy) if "ttl" in text else None,
    )


def _ms(lifetime: Lifetime) -> str:
    return str(max(1, round(lifetime.seconds * 1000)))
