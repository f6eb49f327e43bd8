"""The outbox of webhooks: what is to be sent, who is sending it, and what could not be delivered.

All of it is in one hash slot, so that claiming is one script over all tenants. A tenant has a schedule of its own, and a
claim takes only so many from each: a tenant whose receivers hang fills its own share and no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from redis.asyncio import Redis

from app.storage.redis.connection import guarded
from app.storage.redis.keys import decode, encode

PENDING_TTL = 7 * 24 * 3600.0
"""How long an entry waits for a process that sends, seconds."""
SETTLED_TTL = 24 * 3600.0
"""How long a settled entry still keeps its run from being put again, seconds."""
DEAD_TTL = 30 * 24 * 3600.0
"""How long the list of dead letters outlives its last entry, seconds."""
MAX_DEAD = 1_000
"""About how many dead letters of a tenant are kept."""

_TENANTS = "capataz:{webhooks}:webhook-tenants"  # sorted set: tenants with entries, by the time when the next one is due
_DUE = ":{webhooks}:webhooks-due"
_ENTRY = ":{webhooks}:webhook:"
_DEAD = ":{webhooks}:webhooks-dead"

_REFRESH = """
local function refresh(tenants, tenant, due)
  local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
  if first[2] then redis.call('ZADD', tenants, first[2], tenant) else redis.call('ZREM', tenants, tenant) end
end
"""

_PUT = """
local entry, due, tenants = unpack(KEYS)
local now, ttl, tenant, run = unpack(ARGV)
if redis.call('EXISTS', entry) == 1 then return 0 end
redis.call('HSET', entry, 'claims', 0, 'attempts', 0, unpack(ARGV, 5))
redis.call('ZADD', due, now, run)
redis.call('ZADD', tenants, 'LT', now, tenant)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ttl) end
return 1
"""

_CLAIM = (
    _REFRESH
    + """
local tenants = KEYS[1]
local now, lease_ends, limit, share, due_suffix, entry_infix = unpack(ARGV)
local busy, claimed = {}, {}
for i = 7, #ARGV, 2 do busy[ARGV[i]] = tonumber(ARGV[i + 1]) end
for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', tenants, '-inf', now)) do
  local due, room = tenant .. due_suffix, math.min(share - (busy[tenant] or 0), limit - #claimed)
  if room > 0 then
    for _, run in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, room)) do
      local entry = tenant .. entry_infix .. run
      local found = redis.call('HMGET', entry, 'attempts', 'thread_id', 'url', 'body')
      if found[4] then
        redis.call('ZADD', due, lease_ends, run)
        claimed[#claimed + 1] = {tenant, run, redis.call('HINCRBY', entry, 'claims', 1), unpack(found)}
      else
        redis.call('ZREM', due, run)
      end
    end
    refresh(tenants, tenant, due)
  end
end
return claimed
"""
)

# A claim that ran out may fail late and must not change what its successor does.
_CHECK_CLAIM = """
local entry, due, tenants, dead = unpack(KEYS)
local token, tenant, run = unpack(ARGV)
if redis.call('HEXISTS', entry, 'body') == 0 then return 0 end
if token ~= '' and redis.call('HGET', entry, 'claims') ~= token then return 0 end
"""

_RETRY = (
    _REFRESH
    + _CHECK_CLAIM
    + """
redis.call('HINCRBY', entry, 'attempts', 1)
redis.call('ZADD', due, ARGV[4], run)
refresh(tenants, tenant, due)
return 1
"""
)

_SETTLE = (
    _REFRESH
    + _CHECK_CLAIM
    + """
local ttl, letter, max, dead_ttl = unpack(ARGV, 4)
redis.call('HDEL', entry, 'body', 'url')
redis.call('PEXPIRE', entry, ttl)
redis.call('ZREM', due, run)
if letter ~= '' then
  redis.call('XADD', dead, 'MAXLEN', '~', max, '*', 'd', letter)
  redis.call('PEXPIRE', dead, dead_ttl)
end
refresh(tenants, tenant, due)
return 1
"""
)


@dataclass(frozen=True, slots=True)
class Webhook:
    """What is to be sent when a run has ended.

    Args:
        tenant: Whose run it was.
        run_id: The run.
        thread_id: The thread it executed on.
        url: Where to, as the caller gave it.
        body: A JSON object that is not empty.
    """

    tenant: str
    run_id: str
    thread_id: str
    url: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ClaimedWebhook:
    """An entry that is ours to send until its lease ends.

    Args:
        webhook: The entry.
        attempt: Number of the attempt that is due, from 1.
        token: Which claim of the entry this is.
    """

    webhook: Webhook
    attempt: int
    token: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A webhook that was given up; what it said can still be read from its run and thread.

    Args:
        run_id: The run.
        thread_id: Its thread.
        url: Where it should have gone.
        attempts: How often it was tried.
        why: The reason of the last failure, a stable word.
        at: When it was given up.
    """

    run_id: str
    thread_id: str
    url: str
    attempts: int
    why: str
    at: datetime


class WebhookOutbox:
    """Webhooks that wait to be sent, of all tenants and for all processes.

    Every method raises `StorageUnavailable` if Redis cannot be asked.

    Args:
        client: A client that answers in bytes.
        lease: How long a claim lasts, seconds; longer than an attempt may take.
        now: Seconds since 1970, about the same in all processes.
    """

    def __init__(self, client: Redis, *, lease: float = 30.0, now: Callable[[], float] = time.time) -> None:
        self._client = client
        self._lease_ms = int(lease * 1000)
        self._now = now
        self._put = client.register_script(_PUT)
        self._claim = client.register_script(_CLAIM)
        self._retry = client.register_script(_RETRY)
        self._settle = client.register_script(_SETTLE)

    async def put(self, webhook: Webhook) -> bool:
        """Note that it is to be sent; False, and nothing changes, if this run's was put before."""
        entry, due, tenants, _ = _keys(webhook)
        head: list[str | bytes | int] = [self._now_ms(), int(PENDING_TTL * 1000), encode(webhook.tenant), encode(webhook.run_id)]
        fields: list[str | bytes | int] = ["thread_id", webhook.thread_id, "url", webhook.url, "body", webhook.body]
        with guarded():
            return bool(await self._put(keys=[entry, due, tenants], args=[*head, *fields]))

    async def claim(self, *, limit: int, share: int, busy: Mapping[str, int]) -> list[ClaimedWebhook]:
        """Entries that are due and nobody else is sending.

        Args:
            limit: Most entries.
            share: Most entries that one tenant may have under way in this process.
            busy: How many each tenant has under way here already.
        """
        now = self._now_ms()
        under_way = [part for tenant, count in busy.items() for part in (encode(tenant), count)]
        with guarded():
            found: Any = await self._claim(keys=[_TENANTS], args=[now, now + self._lease_ms, limit, share, _DUE, _ENTRY, *under_way])
        return [_claimed(*entry) for entry in found]

    async def delivered(self, claimed: ClaimedWebhook) -> bool:
        """It has arrived, whoever holds the claim by now; False: it was settled already."""
        return await self._end(claimed.webhook, token="", letter=b"")

    async def retry(self, claimed: ClaimedWebhook, delay: float) -> bool:
        """The attempt failed; the next one is due in `delay` seconds. False: the claim is not ours any more."""
        names = [str(claimed.token), encode(claimed.webhook.tenant), encode(claimed.webhook.run_id)]
        with guarded():
            return bool(await self._retry(keys=_keys(claimed.webhook), args=[*names, self._now_ms() + int(delay * 1000)]))

    async def bury(self, claimed: ClaimedWebhook, why: str) -> bool:
        """Give it up and list it among the dead letters. False: the claim is not ours any more."""
        webhook = claimed.webhook
        at = datetime.fromtimestamp(self._now(), UTC)
        letter = DeadLetter(webhook.run_id, webhook.thread_id, webhook.url, claimed.attempt, why, at)
        return await self._end(webhook, token=str(claimed.token), letter=orjson.dumps(asdict(letter)))

    async def dead_letters(self, tenant: str, limit: int) -> list[DeadLetter]:
        """The tenant's latest webhooks that were given up, newest first."""
        with guarded():
            found: Any = await self._client.xrevrange(encode(tenant) + _DEAD, count=limit)
        letters = [orjson.loads(fields[b"d"]) for _, fields in found]
        return [DeadLetter(**{**letter, "at": datetime.fromisoformat(letter["at"])}) for letter in letters]

    async def _end(self, webhook: Webhook, *, token: str, letter: bytes) -> bool:
        names = [token, encode(webhook.tenant), encode(webhook.run_id)]
        with guarded():
            return bool(
                await self._settle(keys=_keys(webhook), args=[*names, int(SETTLED_TTL * 1000), letter, MAX_DEAD, int(DEAD_TTL * 1000)])
            )

    def _now_ms(self) -> int:
        return int(self._now() * 1000)


def _keys(webhook: Webhook) -> list[str]:
    tenant = encode(webhook.tenant)
    return [tenant + _ENTRY + encode(webhook.run_id), tenant + _DUE, _TENANTS, tenant + _DEAD]


def _claimed(tenant: bytes, run: bytes, token: int, attempts: bytes, thread: bytes, url: bytes, body: bytes) -> ClaimedWebhook:
    webhook = Webhook(decode(tenant.decode()), decode(run.decode()), thread.decode(), url.decode(), body)
    return ClaimedWebhook(webhook, int(attempts) + 1, token)
