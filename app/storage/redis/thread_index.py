"""The index of a tenant's threads, by which they are searched (ADR-0026). Each operation is one script, or reads of one tenant's keys.

Of every thread the index knows a few words: its status and what its metadata hold, pair by pair. Per word there is a sorted set of the
threads that it fits in each of the orders that matter most, so that a page is read from where it begins. The index is written
second; it may be behind the threads, and is never taken for the truth.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import orjson
from redis.asyncio import Redis

from app.storage.redis.connection import guarded
from app.storage.redis.keys import EVERY_THREAD, LAPSING, SWEPT, TenantKeys, ThreadKeys, decode
from app.storage.redis.threads import THREAD_TTL, ThreadRecord, as_thread
from app.storage.redis.work import ThreadRef

Order = Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]

ALL = "all"
"""The word that fits every thread."""
ORDERS_OF_A_WORD: tuple[Order, ...] = ("created_at", "updated_at")
"""The orders in which the threads of every word are kept; those of `ALL` are kept in all orders."""
MAX_SORTED = 1_000
"""Most threads that are brought into an order when they are asked for; more are looked for in the order of all threads."""
BUDGET = 2_000
"""Most entries that one script looks at, about a millisecond."""
_STATUSES = ("busy", "error", "idle", "interrupted")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHUNK = 200

# → the record, milliseconds it is kept. KEYS: the thread's record.
_READ = """
return {redis.call('HGETALL', KEYS[1]), redis.call('PTTL', KEYS[1])}
"""

_WORDS = """
local hash = KEYS[1]
local function set(word, order) return hash .. ':' .. word .. ':' .. order end
local function parse(doc)
  local created, revision, words = string.match(doc, '^(%d+)|(%d+)|(.*)$')
  return tonumber(created), tonumber(revision), words
end
local function forget(word, id)
  for _, order in ipairs({'created_at', 'updated_at'}) do redis.call('ZREM', set(word, order), id) end
end
"""

# Older news never replaces newer, however late it comes. KEYS: the hash. ARGV: one entry each, JSON.
_WRITE = (
    _WORDS
    + """
for _, packed in ipairs(ARGV) do
  local new = cjson.decode(packed)
  local id = new.id
  local known = redis.call('HGET', hash, id)
  local is_news, old_words = true, ''
  if known then
    local created, revision, words = parse(known)
    is_news = new.created_at > created or (new.created_at == created and new.revision >= revision)
    old_words = words
  end
  if is_news then
    local kept = {}
    for _, word in ipairs(new.words) do
      kept[word] = true
      for _, order in ipairs({'created_at', 'updated_at'}) do redis.call('ZADD', set(word, order), new[order], id) end
    end
    for word in string.gmatch(old_words, '%S+') do
      if not kept[word] then forget(word, id) end
    end
    redis.call('ZADD', set('all', 'state_updated_at'), new.state_updated_at, id)
    redis.call('ZADD', set('all', 'status'), new.status, id)
    redis.call('ZADD', set('all', 'thread_id'), 0, id)
    redis.call('HSET', hash, id, string.format('%.0f|%.0f|', new.created_at, new.revision) .. table.concat(new.words, ' '))
  end
end
"""
)

# KEYS: the hash. ARGV: pairs of id and what the index said of it before the thread was found to be gone.
_DROP = (
    _WORDS
    + """
for i = 1, #ARGV, 2 do
  local id, known = ARGV[i], redis.call('HGET', hash, ARGV[i])
  if known and known == ARGV[i + 1] then
    local _, _, words = parse(known)
    for word in string.gmatch(words, '%S+') do forget(word, id) end
    for _, order in ipairs({'state_updated_at', 'status', 'thread_id'}) do redis.call('ZREM', set('all', order), id) end
    redis.call('HDEL', hash, id)
  end
end
"""
)

# Walks through KEYS[1] and keeps what the other sets have too. ARGV: first rank, how many are wanted, most entries to look at, 1 for
# the greatest first. → next rank, 1 if that was all, ids
_WALK = """
local rank, wanted, budget, found = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), {}
local size = redis.call('ZCARD', KEYS[1])
while #found < wanted and budget > 0 and rank < size do
  local chunk = math.min(budget, 100)
  if #KEYS == 1 then chunk = math.min(budget, wanted - #found) end
  local ids
  if ARGV[4] == '1' then ids = redis.call('ZRANGE', KEYS[1], rank, rank + chunk - 1, 'REV')
  else ids = redis.call('ZRANGE', KEYS[1], rank, rank + chunk - 1) end
  for _, id in ipairs(ids) do
    rank, budget = rank + 1, budget - 1
    local fits = true
    for i = 2, #KEYS do fits = fits and redis.call('ZSCORE', KEYS[i], id) end
    if fits then found[#found + 1] = id end
    if #found == wanted then break end
  end
end
return {rank, rank >= size and 1 or 0, found}
"""

# All of KEYS[2] that the sets after it have too, in the order of KEYS[1]. ARGV: 1 for the greatest first.
_SORTED = """
local found = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local score = redis.call('ZSCORE', KEYS[1], id)
  for i = 3, #KEYS do score = redis.call('ZSCORE', KEYS[i], id) and score end
  if score then found[#found + 1] = {tonumber(score), id} end
end
table.sort(found, function(a, b)
  if ARGV[1] == '1' then a, b = b, a end
  if a[1] ~= b[1] then return a[1] < b[1] end
  return a[2] < b[2]
end)
local ids = {}
for i, pair in ipairs(found) do ids[i] = pair[2] end
return ids
"""

# Threads whose time may be over, put off so that nobody else takes them meanwhile. ARGV: now, until when, how many.
_TAKE_LAPSED = """
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, member in ipairs(found) do redis.call('ZADD', KEYS[1], ARGV[2], member) end
return found
"""

# ARGV: member, until when it was put off, when to look again (empty: never). Somebody may have asked for an earlier look meanwhile.
_SETTLE_LAPSED = """
local at = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not at or tonumber(at) ~= tonumber(ARGV[2]) then return end
if ARGV[3] == '' then redis.call('ZREM', KEYS[1], ARGV[1]) else redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1]) end
"""


@dataclass(frozen=True, slots=True)
class Indexed:
    """A thread as it was read for the index.

    Args:
        thread: The record.
        revision: Grows with every change.
        left: How long it is kept if nobody uses it, seconds.
        pruned: The revision at which it was thinned out last; 0: never.
        is_held: Whether a run is under way, waits or is delayed, or somebody has been asked something.
    """

    thread: ThreadRecord
    revision: int
    left: float
    pruned: int
    is_held: bool

    @property
    def thins_in(self) -> float | None:
        """Seconds until its older checkpoints are to go; None: they stay, or have gone since it was last used."""
        lifetime = self.thread.lifetime
        if lifetime is None or lifetime.strategy != "keep_latest" or self.pruned == self.revision:
            return None
        return self.left - THREAD_TTL  # how that comes about: app.storage.redis.lifetime

    @property
    def due_in(self) -> float:
        """Seconds until something has to be done about it, if nobody uses it."""
        thins_in = self.thins_in
        return self.left if thins_in is None else thins_in


@dataclass(frozen=True, slots=True)
class Walk:
    """Part of a way through the index: what was found, where to go on, and whether that was the end."""

    ids: list[str]
    rank: int
    is_over: bool


def words_of(status: str | None, metadata: Mapping[str, Any]) -> list[str]:
    """The words for a status and for those pairs of the metadata that have one: all but lists and objects."""
    words = [f"status.{status}"] if status is not None else []
    return words + [_word(key, value) for key, value in metadata.items() if not isinstance(value, list | dict)]


class ThreadIndex:
    """The index of all tenants' threads; every method raises `StorageUnavailable` if Redis cannot be asked."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._read = client.register_script(_READ)
        self._write = client.register_script(_WRITE)
        self._drop = client.register_script(_DROP)
        self._walk = client.register_script(_WALK)
        self._sorted = client.register_script(_SORTED)
        self._take_lapsed = client.register_script(_TAKE_LAPSED)
        self._settle_lapsed = client.register_script(_SETTLE_LAPSED)

    async def read(self, tenant: str, thread_id: str) -> Indexed | None:
        """The thread itself, not what the index says of it; None: there is none."""
        with guarded():
            found, left_ms = await self._read(keys=[ThreadKeys(tenant, thread_id).thread()])
        if not found:
            return None
        fields = dict(zip(found[::2], found[1::2], strict=True))
        revision, pruned, delayed = (int(fields.get(name, 0)) for name in (b"revision", b"pruned", b"delayed"))
        thread = as_thread(fields)
        return Indexed(thread, revision, left_ms / 1000, pruned, is_held=thread.status in ("busy", "interrupted") or delayed > 0)

    async def write(self, tenant: str, threads: Sequence[Indexed], now: float) -> None:
        """Note these threads, and when to look after them; what is older than what the index has is passed over."""
        if not threads:
            return
        with guarded():
            await self._write(keys=[TenantKeys(tenant).thread_index()], args=[_packed(entry) for entry in threads])
            due = {_member(tenant, entry.thread.thread_id): now + max(0.0, entry.due_in) for entry in threads}
            # If a look is planned already it finds out itself when the next one is due.
            await self._client.zadd(LAPSING, due, lt=True)

    async def known(self, tenant: str, thread_ids: Sequence[str]) -> list[bytes | None]:
        """What the index says of each of these threads, for `drop`; None: nothing."""
        with guarded():
            found: Any = await self._client.hmget(TenantKeys(tenant).thread_index(), list(thread_ids))
        return list(found)

    async def drop(self, tenant: str, gone: Mapping[str, bytes]) -> None:
        """Forget threads that are gone, unless the index says something else of them by now than `known` did before."""
        if gone:
            with guarded():
                await self._drop(keys=[TenantKeys(tenant).thread_index()], args=[part for pair in gone.items() for part in pair])

    async def sizes(self, tenant: str, words: Sequence[str]) -> list[int]:
        """How many threads each word fits."""
        keys = TenantKeys(tenant)
        with guarded():
            async with self._client.pipeline(transaction=False) as pipe:
                for word in words:
                    pipe.zcard(keys.threads(word, "created_at"))
                sizes: list[int] = await pipe.execute()
        return sizes

    async def walk(
        self,
        tenant: str,
        way: str,
        order: Order,
        words: Iterable[str],
        *,
        rank: int,
        wanted: int,
        is_descending: bool,
        budget: int = BUDGET,
    ) -> Walk:
        """Part of the threads that all of `words` fit, by the way of the threads of the word `way`, from `rank` on."""
        keys = TenantKeys(tenant)
        names = [keys.threads(way, order), *(keys.threads(word, "created_at") for word in words)]
        with guarded():
            to, is_over, ids = await self._walk(keys=names, args=[rank, wanted, budget, int(is_descending)])
        return Walk([thread_id.decode() for thread_id in ids], to, bool(is_over))

    async def sorted(self, tenant: str, words: Sequence[str], order: Order, *, is_descending: bool) -> list[str]:
        """All threads that all of `words` fit, the rarest of which comes first and fits at most `MAX_SORTED`, in any order."""
        keys = TenantKeys(tenant)
        names = [keys.threads(ALL, order), *(keys.threads(word, "created_at") for word in words)]
        with guarded():
            ids: list[bytes] = await self._sorted(keys=names, args=[int(is_descending)])
        return [thread_id.decode() for thread_id in ids]

    async def take_lapsed(self, now: float, until: float) -> list[ThreadRef]:
        """Threads whose time may be over; nobody else is told of them before `until`, seconds of Unix time."""
        with guarded():
            found: list[bytes] = await self._take_lapsed(keys=[LAPSING], args=[now, until, _CHUNK])
        return [ThreadRef(*orjson.loads(member)) for member in found]

    async def settle_lapsed(self, thread: ThreadRef, until: float, again: float | None) -> None:
        """The thread was looked after; look `again` then, seconds of Unix time, or never unless it is written again."""
        with guarded():
            await self._settle_lapsed(
                keys=[LAPSING], args=[_member(thread.tenant, thread.thread_id), until, "" if again is None else again]
            )

    async def begin_sweep(self, every: float) -> bool:
        """Whether it is for the caller to compare all threads with the index; it is for nobody else for `every` seconds."""
        with guarded():
            return bool(await self._client.set(SWEPT, 1, nx=True, px=int(every * 1000)))

    async def differing(self) -> AsyncIterator[list[ThreadRef]]:
        """All threads that there are and of which the index does not know the latest, in groups; a SCAN over everything."""
        with guarded():
            cursor: int | None = None
            while cursor != 0:
                cursor, names = await self._client.scan(cursor or 0, match=EVERY_THREAD, count=_CHUNK)
                by_tenant: dict[str, list[str]] = {}
                for name in (raw.decode() for raw in names if isinstance(raw, bytes)):
                    by_tenant.setdefault(decode(name.partition(":")[0]), []).append(ThreadKeys.thread_id_of(name))
                for tenant, ids in by_tenant.items():
                    yield [ThreadRef(tenant, thread_id) for thread_id in await self._differing(tenant, ids)]

    async def _differing(self, tenant: str, thread_ids: Sequence[str]) -> list[str]:
        found = []
        for thread_id, known in zip(thread_ids, await self.known(tenant, thread_ids), strict=True):
            revision: Any = await self._client.hget(ThreadKeys(tenant, thread_id).thread(), "revision")
            if revision is not None and (known is None or known.split(b"|")[1] != revision):
                found.append(thread_id)
        return found


def _word(key: str, value: Any) -> str:
    """Of one length whatever the pair; equal for numbers that JSON calls equal."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return hashlib.blake2b(json.dumps([key, value]).encode(), digest_size=12).hexdigest()


def _packed(entry: Indexed) -> bytes:
    thread = entry.thread
    return orjson.dumps(
        {
            "id": thread.thread_id,
            "revision": entry.revision,
            "created_at": _microseconds(thread.created_at),
            "updated_at": _microseconds(thread.updated_at),
            "state_updated_at": _microseconds(thread.state_updated_at),
            "status": _STATUSES.index(thread.status),
            "words": [ALL, *words_of(thread.status, thread.metadata)],
        }
    )


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def _member(tenant: str, thread_id: str) -> bytes:
    return orjson.dumps([tenant, thread_id])
