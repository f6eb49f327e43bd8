"""The assistants that tenants have made, and their versions. They are configuration: they stay until they are deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import orjson
from redis.asyncio import Redis

from app.storage.redis.connection import guarded
from app.storage.redis.keys import TenantKeys, ThreadKeys
from app.storage.redis.thread_index import ALL

MAX_ASSISTANTS = 1_000
"""Most assistants of one tenant: a search reads them all."""
MAX_VERSIONS = 100
"""How many versions of one assistant are kept; the oldest go first."""
_SCAN = 100
"""How many threads are looked at side by side."""

# → created | exists, the one that is there | full
_CREATE = """
local latest, versions = unpack(KEYS)
local id, record, most = unpack(ARGV)
local known = redis.call('HGET', latest, id)
if known then return {'exists', known} end
if redis.call('HLEN', latest) >= tonumber(most) then return {'full'} end
redis.call('HSET', latest, id, record)
redis.call('DEL', versions)
redis.call('HSET', versions, 'last', 1, '1', record)
return {'created'}
"""

# Whoever has read another record than the one that is there is told so. → 1, or 0
_REPLACE = """
local latest, versions = unpack(KEYS)
local id, seen, record, number, version, kept = unpack(ARGV)
if redis.call('HGET', latest, id) ~= seen then return 0 end
redis.call('HSET', latest, id, record)
if number ~= '' then
  redis.call('HSET', versions, 'last', number, number, version)
  redis.call('HDEL', versions, number - kept)
end
return 1
"""

_DELETE = """
redis.call('DEL', KEYS[2])
return redis.call('HDEL', KEYS[1], ARGV[1])
"""


@dataclass(frozen=True, slots=True)
class AssistantRecord:
    """One assistant as it is stored, or one version of it.

    Args:
        assistant_id: Its id, a UUID.
        graph_id: The graph that it configures.
        name: What people call it.
        created_at: When it was made; of a version: when that was made.
        updated_at: When it last changed.
        description: What it is for.
        config: `tags`, `recursion_limit` and `configurable` of its runs, as far as they were given.
        context: What it says to its graph.
        metadata: What its creator wrote.
        version: The number of this version, from 1.
    """

    assistant_id: str
    graph_id: str
    name: str
    created_at: datetime
    updated_at: datetime
    description: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    version: int = 1


class AssistantMissing(LookupError):
    """The tenant has no such assistant."""


class AssistantExists(Exception):
    """There is an assistant of this id: `args[0]`."""


class TooManyAssistants(Exception):
    """The tenant has as many assistants as it may have."""


class AssistantChanged(Exception):
    """Somebody has changed the assistant since it was read."""


@dataclass(frozen=True, slots=True)
class SeenAssistant:
    """An assistant as it was read: the record, its exact bytes, and the number of its newest version."""

    record: AssistantRecord
    packed: bytes
    last: int


class AssistantRepository:
    """The assistants of all tenants.

    Every method raises `StorageUnavailable` if Redis cannot be asked.

    Args:
        client: A client that answers in bytes.
        most: Most assistants of one tenant.
        versions: How many versions of one are kept.
    """

    def __init__(self, client: Redis, *, most: int = MAX_ASSISTANTS, versions: int = MAX_VERSIONS) -> None:
        self._client = client
        self._most = most
        self._kept = versions
        self._create = client.register_script(_CREATE)
        self._replace = client.register_script(_REPLACE)
        self._delete = client.register_script(_DELETE)

    async def create(self, tenant: str, record: AssistantRecord) -> None:
        """Write a new assistant, its first version.

        Raises:
            AssistantExists: There is one of this id.
            TooManyAssistants: The tenant may have no more.
        """
        with guarded():
            answer: list[bytes] = await self._create(
                keys=self._keys(tenant, record.assistant_id), args=[record.assistant_id, pack(record), self._most]
            )
        match answer:
            case [b"exists", known]:
                raise AssistantExists(_record(known))
            case [b"full"]:
                raise TooManyAssistants(tenant)

    async def get(self, tenant: str, assistant_id: str) -> AssistantRecord | None:
        """The assistant; None: this tenant has none of that id."""
        with guarded():
            found: Any = await self._client.hget(TenantKeys(tenant).assistants(), assistant_id)
        return _record(found) if found is not None else None

    async def see(self, tenant: str, assistant_id: str) -> SeenAssistant:
        """The assistant, to be changed.

        Raises:
            AssistantMissing: There is none.
        """
        latest, versions = self._keys(tenant, assistant_id)
        pipeline = self._client.pipeline(transaction=True)
        pipeline.hget(latest, assistant_id)
        pipeline.hget(versions, "last")
        with guarded():
            packed, last = await pipeline.execute()
        if packed is None:
            raise AssistantMissing(assistant_id)
        return SeenAssistant(_record(packed), packed, int(last))

    async def add_version(self, tenant: str, seen: SeenAssistant, record: AssistantRecord) -> None:
        """Make `record`, whose number follows the last one that was seen, the assistant's newest version and what it is from now on.

        Raises:
            AssistantChanged: It is not as it was seen any more.
        """
        version = replace(record, created_at=record.updated_at)
        await self._write(tenant, seen, record, str(record.version), pack(version))

    async def go_back(self, tenant: str, seen: SeenAssistant, record: AssistantRecord) -> None:
        """Make `record`, which an earlier version says, what the assistant is from now on.

        Raises:
            AssistantChanged: It is not as it was seen any more.
        """
        await self._write(tenant, seen, record, "", b"")

    async def _write(self, tenant: str, seen: SeenAssistant, record: AssistantRecord, number: str, version: bytes) -> None:
        arguments: list[str | bytes | int] = [record.assistant_id, seen.packed, pack(record), number, version, self._kept]
        with guarded():
            done = await self._replace(keys=self._keys(tenant, record.assistant_id), args=arguments)
        if not done:
            raise AssistantChanged(record.assistant_id)

    async def delete(self, tenant: str, assistant_id: str) -> bool:
        """Remove the assistant with its versions; False: there was none."""
        with guarded():
            return bool(await self._delete(keys=self._keys(tenant, assistant_id), args=[assistant_id]))

    async def all(self, tenant: str) -> list[AssistantRecord]:
        """The tenant's assistants, in no order."""
        with guarded():
            found: Any = await self._client.hvals(TenantKeys(tenant).assistants())
        return [_record(packed) for packed in found]

    async def versions(self, tenant: str, assistant_id: str) -> list[AssistantRecord]:
        """What is kept of the assistant's versions, newest first; empty: there is no such assistant."""
        with guarded():
            found: Any = await self._client.hgetall(TenantKeys(tenant).assistant_versions(assistant_id))
        numbers = sorted((int(number) for number in found if number != b"last"), reverse=True)
        return [_record(found[str(number).encode()]) for number in numbers]

    async def version(self, tenant: str, assistant_id: str, number: int) -> AssistantRecord | None:
        """One version of the assistant; None: there is none of that number."""
        with guarded():
            found: Any = await self._client.hget(TenantKeys(tenant).assistant_versions(assistant_id), str(number))
        return _record(found) if found is not None else None

    async def threads_of(self, tenant: str, assistant_id: str) -> AsyncIterator[str]:
        """The tenant's threads whose runs are of this assistant; looks at every thread of the tenant."""
        cursor: Any = 0
        found: Any
        while True:
            with guarded():
                cursor, found = await self._client.zscan(TenantKeys(tenant).threads(ALL, "created_at"), cursor, count=_SCAN)
                ids = [member.decode() for member, _ in found]
                owners = await asyncio.gather(*(self._owner(tenant, thread_id) for thread_id in ids))
            for thread_id, owner in zip(ids, owners, strict=True):
                if owner == assistant_id:
                    yield thread_id
            if not cursor:
                return

    async def _owner(self, tenant: str, thread_id: str) -> Any:
        """What the thread's metadata say of its assistant; a run's word counts more than its creator's."""
        found: Any = await self._client.hmget(ThreadKeys(tenant, thread_id).thread(), "assistant_id", "metadata")
        by_run, metadata = found
        return by_run.decode() if by_run is not None else orjson.loads(metadata or b"{}").get("assistant_id")

    def _keys(self, tenant: str, assistant_id: str) -> list[str]:
        keys = TenantKeys(tenant)
        return [keys.assistants(), keys.assistant_versions(assistant_id)]


def pack(record: AssistantRecord) -> bytes:
    """The record as it is stored.

    Raises:
        TypeError: It holds what has no JSON form here, such as an integer of more than 64 bits.
    """
    return orjson.dumps(asdict(record))


def _record(packed: bytes) -> AssistantRecord:
    found = orjson.loads(packed)
    times = {name: datetime.fromisoformat(found[name]) for name in ("created_at", "updated_at")}
    return AssistantRecord(**{**found, **times})
