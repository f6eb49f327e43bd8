"""Thread records: who a conversation belongs to, when it changed, whether a run occupies it. Its state is in the checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from redis.asyncio import Redis

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
