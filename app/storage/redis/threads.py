"""Thread records: who a conversation belongs to, when it changed, whether a run occupies it. Its state is in the checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from redis.asyncio import Redis

from app.storage.redis.checkpoints import Fence
from app.storage.redis.connection import guarded
from app.storage.redis.keys import TenantKeys, ThreadKeys

ThreadStatus = Literal["idle", "busy", "interrupted", "error"]

THREAD_TTL = 30 * 24 * 3600.0
"""How long a thread outlives its last use, seconds."""

# 1 if the thread is new; every run and checkpoint refreshes the time to live.
_CREATE = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""


# → 1, or 0 if there is no such thread
_PATCH = """
local metadata = redis.call('HGET', KEYS[1], 'metadata')
if not metadata then return 0 end
if metadata ~= ARGV[1] then return -1 end
redis.call('HSET', KEYS[1], 'metadata', ARGV[2], 'updated_at', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""

# Who edits a thread holds its lease as a run would. → missing | busy | held, token
_HOLD = """
local thread, queue, lease, fence = unpack(KEYS)
if redis.call('EXISTS', thread) == 0 then return {'missing'} end
if redis.call('LLEN', queue) > 0 or redis.call('EXISTS', lease) == 1 then return {'busy'} end
local token = redis.call('INCR', fence) .. ':edit'
redis.call('SET', lease, token, 'PX', ARGV[1])
return {'held', token}
"""

EDITS_KEPT, EDIT_TTL = 100, 24 * 3600.0
"""How many edits of a state are told to those who follow the thread, and for how long, seconds."""

# → 1 if a run was accepted meanwhile, else 0
_LET_GO = """
local thread, queue, lease, sequence, logs, edits = unpack(KEYS)
local token, now, status, interrupts, event, max, log_ttl, ttl = unpack(ARGV)
if redis.call('GET', lease) ~= token then return redis.error_reply('LEASELOST the thread is not ours any more') end
redis.call('DEL', lease)
if status ~= '' then
  redis.call('HSET', thread, 'rest', status, 'interrupts', interrupts, 'updated_at', now, 'state_updated_at', now)
  if redis.call('LLEN', queue) == 0 then redis.call('HSET', thread, 'status', status) end
  local seq = redis.call('INCR', sequence)
  redis.call('XADD', edits, 'MAXLEN', '~', max, seq .. '-0', 'e', 'state_update', 'd', event, 't', now)
  redis.call('PEXPIRE', edits, log_ttl)
  redis.call('ZADD', logs, seq, '')
  for _, key in ipairs({sequence, logs}) do redis.call('PEXPIRE', key, ttl) end
end
return redis.call('LLEN', queue) > 0 and 1 or 0
"""

# Everything goes in one step; what still executes holds a lease that is no more, so it writes nothing. → 1, or 0 if there is none
_DELETE = """
local existed = redis.call('DEL', KEYS[1])
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do redis.call('DEL', ARGV[1] .. id, ARGV[2] .. id) end
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
return existed
"""


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
    ]


def new_thread(thread_id: str, metadata: dict[str, Any], *, forget_after: float | None = None) -> ThreadRecord:
    """A record made now."""
    now = datetime.now(UTC)
    return ThreadRecord(thread_id, created_at=now, updated_at=now, state_updated_at=now, metadata=metadata, forget_after=forget_after)


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
        with guarded():
            created = await self._create(keys=[ThreadKeys(tenant, thread.thread_id).thread()], args=[self._ttl_ms, *thread_fields(thread)])
            if created:
                await self.index(tenant, thread.thread_id, thread.updated_at)
        return bool(created)

    async def index(self, tenant: str, thread_id: str, at: datetime) -> None:
        """Note in the tenant's list that the thread changed at `at`; it crosses hash tags, so it is written second."""
        with guarded():
            await self._client.zadd(TenantKeys(tenant).threads(), {thread_id: at.timestamp()})

    async def merge(self, tenant: str, thread_id: str, metadata: dict[str, Any]) -> bool:
        """Add to the thread's metadata, key by key; False: there is no such thread."""
        key = ThreadKeys(tenant, thread_id).thread()
        now = datetime.now(UTC)
        done = -1
        while done < 0:  # somebody else has changed it between reading and writing
            with guarded():
                known: Any = await self._client.hget(key, "metadata")
                if known is None:
                    return False
                merged = orjson.dumps({**orjson.loads(known), **metadata})
                done = await self._patch(keys=[key], args=[known, merged, now.isoformat(), self._ttl_ms])
        if done:
            await self.index(tenant, thread_id, now)
        return bool(done)

    async def hold(self, tenant: str, thread_id: str, seconds: float) -> Fence:
        """Keep runs off the thread while it is edited, at most this long.

        Raises:
            ThreadMissing: There is no such thread.
            ThreadOccupied: A run is under way on it, or somebody else edits it.
        """
        keys = ThreadKeys(tenant, thread_id)
        with guarded():
            names = [keys.thread(), keys.queue(), keys.lease(), keys.fence()]
            answer: list[bytes] = await self._hold(keys=names, args=[int(seconds * 1000)])
        match answer:
            case [b"missing"]:
                raise ThreadMissing(thread_id)
            case [b"busy"]:
                raise ThreadOccupied(thread_id)
            case [_, token]:
                return Fence(keys.lease(), token.decode())
        raise AssertionError(answer)

    async def let_go(
        self,
        tenant: str,
        thread_id: str,
        fence: Fence,
        status: ThreadStatus | None = None,
        interrupts: dict[str, Any] | None = None,
        event: bytes = b"",
    ) -> bool:
        """End an edit; returns whether a run waits on the thread by now.

        Args:
            tenant: Whose thread it is.
            thread_id: The thread.
            fence: What `hold` returned.
            status: What the edit left the thread as; None: nothing was written.
            interrupts: What the thread asks since.
            event: What those who follow the thread are told, as JSON.

        Raises:
            LeaseLost: The edit took too long, and the thread is somebody else's.
        """
        keys = ThreadKeys(tenant, thread_id)
        now = datetime.now(UTC).isoformat()
        with guarded():
            is_left = await self._let_go(
                keys=[keys.thread(), keys.queue(), keys.lease(), keys.sequence(), keys.logs(), keys.events("")],
                args=[
                    *(fence.token, now, status or "", orjson.dumps(interrupts or {})),
                    *(event, EDITS_KEPT, int(EDIT_TTL * 1000), self._ttl_ms),
                ],
            )
        return bool(is_left)

    async def delete(self, tenant: str, thread_id: str) -> bool:
        """Remove the thread with its runs, logs and checkpoints; False: there was none."""
        keys = ThreadKeys(tenant, thread_id)
        names = [keys.thread(), keys.runs(), keys.queue(), keys.lease(), keys.fence(), keys.sequence(), keys.purge(), keys.outbox()]
        names += [keys.checkpoints(), keys.checkpoint_index(), keys.logs(), keys.events("")]
        with guarded():
            existed = await self._delete(keys=names, args=[keys.run(""), keys.events("")])
            await self._client.zrem(TenantKeys(tenant).threads(), thread_id)
        return bool(existed)

    async def get(self, tenant: str, thread_id: str) -> ThreadRecord | None:
        """The thread; None: this tenant has none of that id."""
        with guarded():
            found: Any = await self._client.hgetall(ThreadKeys(tenant, thread_id).thread())
        return _thread(found) if found else None


def _thread(found: dict[bytes, bytes]) -> ThreadRecord:
    text = {name.decode(): value for name, value in found.items()}
    metadata = orjson.loads(text["metadata"])
    metadata |= {name: text[name].decode() for name in ("graph_id", "assistant_id") if name in text}
    return ThreadRecord(
        thread_id=text["thread_id"].decode(),
        created_at=datetime.fromisoformat(text["created_at"].decode()),
        updated_at=datetime.fromisoformat(text["updated_at"].decode()),
        state_updated_at=datetime.fromisoformat(text["state_updated_at"].decode()),
        status=text["status"].decode(),  # type: ignore[arg-type]
        metadata=metadata,
        interrupts=orjson.loads(text.get("interrupts", b"{}")),
        error=orjson.loads(text.get("error", b"null")),
    )
