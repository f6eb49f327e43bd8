"""Crons: what is to be started again and again, when next, and who is starting it.

All of it is in one hash slot, so that claiming is one script over all tenants.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson
from redis.asyncio import Redis

from app.storage.redis.connection import guarded
from app.storage.redis.keys import CRON_INFIX, CRONS_DUE, CronKeys, decode, encode

ENDED_TTL = 30 * 24 * 3600.0
"""How long a cron that has ended can still be read, seconds."""
_PAGE = 100
_Part = str | bytes | int | float

_HEAD = """
local due, crons, cron = unpack(KEYS)

local function schedule(member, tick)
  if tick ~= '' then redis.call('ZADD', due, tick, member) else redis.call('ZREM', due, member) end
end
"""

# → 1, or 0 if there are too many
_CREATE = (
    _HEAD
    + """
local member, id, created, most, prefix, tick = unpack(ARGV)
if redis.call('ZCARD', crons) >= tonumber(most) then
  for _, other in ipairs(redis.call('ZRANGE', crons, 0, -1)) do
    if redis.call('EXISTS', prefix .. other) == 0 then redis.call('ZREM', crons, other) end
  end
  if redis.call('ZCARD', crons) >= tonumber(most) then return 0 end
end
redis.call('HSET', cron, 'tick', tick, 'version', 1, unpack(ARGV, 7))
redis.call('ZADD', crons, created, id)
schedule(member, tick)
return 1
"""
)

# → 1, or 0 if it was changed meanwhile or is gone
_UPDATE = (
    _HEAD
    + """
local member, version, tick, ttl = unpack(ARGV)
if redis.call('HGET', cron, 'version') ~= version then return 0 end
-- A tick that stays is left to whoever has claimed it.
if redis.call('HGET', cron, 'tick') ~= tick then schedule(member, tick) end
redis.call('HSET', cron, 'tick', tick, 'version', version + 1, unpack(ARGV, 5))
if redis.call('HGET', cron, 'ended_by') ~= '' then redis.call('PEXPIRE', cron, ttl) else redis.call('PERSIST', cron) end
return 1
"""
)

# → what was claimed: member, then the fields of the record
_CLAIM = """
local due = KEYS[1]
local now, lease_ends, limit, infix = unpack(ARGV)
local claimed = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, limit)) do
  local tenant, id = string.match(member, '^(%S+) (%S+)$')
  local found = redis.call('HGETALL', tenant .. infix .. id)
  if #found > 0 then
    redis.call('ZADD', due, lease_ends, member)
    claimed[#claimed + 1] = {member, found}
  else
    redis.call('ZREM', due, member)
  end
end
return claimed
"""

# → 1, or 0 if the cron was changed since it was claimed, or is gone
_SETTLE = (
    _HEAD
    + """
local member, version, was, tick, ended_by, last_error, ttl = unpack(ARGV)
if redis.call('HGET', cron, 'version') ~= version or redis.call('HGET', cron, 'tick') ~= was then return 0 end
redis.call('HSET', cron, 'tick', tick, 'ended_by', ended_by, 'last_error', last_error)
schedule(member, tick)
if ended_by ~= '' then redis.call('PEXPIRE', cron, ttl) end
return 1
"""
)

_DELETE = (
    _HEAD
    + """
redis.call('ZREM', due, ARGV[1])
redis.call('ZREM', crons, ARGV[2])
return redis.call('DEL', cron)
"""
)

# → records of one page, and how many ids were looked at
_LIST = """
local crons, prefix = unpack(KEYS)
local ids, found = redis.call('ZRANGE', crons, ARGV[1], ARGV[2]), {}
for _, id in ipairs(ids) do
  local fields = redis.call('HGETALL', prefix .. id)
  if #fields > 0 then found[#found + 1] = fields end
end
return {#ids, found}
"""


@dataclass(frozen=True, slots=True)
class CronRecord:
    """One cron as it is stored.

    Args:
        cron_id: Its id, a UUID.
        assistant_id: The assistant that its runs are asked of.
        graph_id: The graph that they execute.
        thread_id: The thread they execute on; None: each on one of its own.
        schedule: When, as cron has it.
        timezone: In which time zone, by IANA name; None: UTC.
        end_at: No tick after this.
        enabled: Whether it ticks.
        on_run_completed: What happens to a run's own thread at its end, `delete` or `keep`; None: they have none of their own.
        metadata: What its creator wrote; its runs carry it too.
        payload: The runs' fields, as its creator wrote them.
        request: The same as `app.runs.request.RunRequest` has them.
        key_id: Which API key pays for its runs.
        created_at: When it was created.
        updated_at: When its creator last changed it.
        tick: When it is due next; None: not any more, or not while it is disabled.
        ended_by: `end_time`, `schedule` (it has no further time) or `thread_deleted` if it has ended, else empty.
        last_error: Why its latest tick started nothing: `{"code", "detail"}`; None: it did.
        version: How often its creator has written it.
    """

    cron_id: str
    assistant_id: str
    graph_id: str
    thread_id: str | None
    schedule: str
    timezone: str | None
    end_at: datetime | None
    enabled: bool
    on_run_completed: str | None
    metadata: dict[str, Any]
    payload: dict[str, Any]
    request: dict[str, Any]
    key_id: str
    created_at: datetime
    updated_at: datetime
    tick: datetime | None = None
    ended_by: str = ""
    last_error: dict[str, str] | None = field(default=None)
    version: int = 1


@dataclass(frozen=True, slots=True)
class DueCron:
    """A tick that is ours to start until its lease ends."""

    tenant: str
    cron: CronRecord


class CronRepository:
    """The crons of all tenants; every method raises `StorageUnavailable` if Redis cannot be asked.

    Args:
        client: A client that answers in bytes.
        lease: How long a claim lasts, seconds; longer than accepting a run may take.
        now: Seconds since 1970, about the same in all processes.
    """

    def __init__(self, client: Redis, *, lease: float = 30.0, now: Callable[[], float] = time.time) -> None:
        self._client = client
        self._lease_ms = int(lease * 1000)
        self._now = now
        self._create = client.register_script(_CREATE)
        self._update = client.register_script(_UPDATE)
        self._claim = client.register_script(_CLAIM)
        self._settle = client.register_script(_SETTLE)
        self._delete = client.register_script(_DELETE)
        self._list = client.register_script(_LIST)

    async def create(self, tenant: str, cron: CronRecord, *, most: int) -> bool:
        """Write a new cron; False, and nothing is written, if the tenant has `most` already."""
        head: list[_Part] = [_member(tenant, cron.cron_id), cron.cron_id, cron.created_at.timestamp(), most, CronKeys(tenant).cron("")]
        with guarded():
            return bool(await self._create(keys=_keys(tenant, cron.cron_id), args=[*head, _ms(cron.tick), *_fields(cron)]))

    async def update(self, tenant: str, cron: CronRecord) -> bool:
        """Write what its creator has changed since it was read; False: it was changed by somebody else meanwhile, or is gone."""
        head: list[_Part] = [_member(tenant, cron.cron_id), cron.version, _ms(cron.tick), int(ENDED_TTL * 1000)]
        with guarded():
            return bool(await self._update(keys=_keys(tenant, cron.cron_id), args=[*head, *_fields(cron)]))

    async def get(self, tenant: str, cron_id: str) -> CronRecord | None:
        """The cron; None: this tenant has none of that id."""
        with guarded():
            found: Any = await self._client.hgetall(CronKeys(tenant).cron(cron_id))
        return _cron(found) if found else None

    async def all(self, tenant: str) -> list[CronRecord]:
        """The tenant's crons, oldest first; a page of them per round trip."""
        keys, found, start, count = CronKeys(tenant), [], 0, _PAGE
        while count == _PAGE:
            with guarded():
                count, page = await self._list(keys=[keys.crons(), keys.cron("")], args=[start, start + _PAGE - 1])
            found += [_cron(dict(zip(fields[::2], fields[1::2], strict=True))) for fields in page]
            start += _PAGE
        return found

    async def delete(self, tenant: str, cron_id: str) -> bool:
        """Remove a cron; False: there was none."""
        with guarded():
            return bool(await self._delete(keys=_keys(tenant, cron_id), args=[_member(tenant, cron_id), cron_id]))

    async def claim(self, *, limit: int) -> list[DueCron]:
        """Ticks that are due and nobody else is starting; one whose claim ran out is claimed again, and is the same tick."""
        now = int(self._now() * 1000)
        with guarded():
            found: Any = await self._claim(keys=[CRONS_DUE], args=[now, now + self._lease_ms, limit, CRON_INFIX])
        claimed = [(member.decode(), dict(zip(fields[::2], fields[1::2], strict=True))) for member, fields in found]
        return [DueCron(decode(member.partition(" ")[0]), _cron(fields)) for member, fields in claimed]

    async def settle(
        self, claimed: DueCron, *, tick: datetime | None, ended_by: str = "", last_error: dict[str, str] | None = None
    ) -> bool:
        """The claimed tick is done and `tick` is the next; False: the cron is not as it was claimed any more, and nothing is changed."""
        cron, member = claimed.cron, _member(claimed.tenant, claimed.cron.cron_id)
        args: list[_Part] = [member, cron.version, _ms(cron.tick), _ms(tick), ended_by, orjson.dumps(last_error), int(ENDED_TTL * 1000)]
        with guarded():
            return bool(await self._settle(keys=_keys(claimed.tenant, cron.cron_id), args=args))


def _keys(tenant: str, cron_id: str) -> list[str]:
    keys = CronKeys(tenant)
    return [CRONS_DUE, keys.crons(), keys.cron(cron_id)]


def _member(tenant: str, cron_id: str) -> str:
    return f"{encode(tenant)} {encode(cron_id)}"


def _ms(at: datetime | None) -> int | str:
    return round(at.timestamp() * 1000) if at is not None else ""


def _fields(cron: CronRecord) -> list[str | bytes]:
    record = asdict(cron)
    for name in ("tick", "version", "ended_by", "last_error"):
        del record[name]
    return ["record", orjson.dumps(record), "ended_by", cron.ended_by, "last_error", orjson.dumps(cron.last_error)]


def _cron(found: dict[bytes, bytes]) -> CronRecord:
    record: dict[str, Any] = orjson.loads(found[b"record"])
    for name in ("created_at", "updated_at", "end_at"):
        record[name] = datetime.fromisoformat(record[name]) if record[name] else None
    return replace(
        CronRecord(**record),
        tick=datetime.fromtimestamp(int(found[b"tick"]) / 1000, UTC) if found[b"tick"] else None,
        ended_by=found[b"ended_by"].decode(),
        last_error=orjson.loads(found[b"last_error"]),
        version=int(found[b"version"]),
    )
