"""Token buckets that all processes share, in Redis; the rules of `resilience.token_bucket` in Lua.

A bucket is one key with one number: the instant at which it will be full, in milliseconds of the server's clock. A full one is no
key. So the clocks of the processes do not matter, and what nobody uses is gone by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio import Redis

from app.storage.redis.connection import guarded
from resilience.token_bucket import MOST_WINDOWS, TOLERANCE, Charge, Taken

NOW = "local time = redis.call('TIME')\nlocal now = time[1] * 1000 + time[2] / 1000\n"
"""How the scripts ask for the time."""
# Per bucket three arguments, after `head` others: allowance, window in ms, cost.
_HEAD = f"""
local most, tolerance = {MOST_WINDOWS}, {TOLERANCE}
local function bucket(i, head)
  local at = head + 3 * (i - 1)
  local allowance, window, cost = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local debt = math.max((tonumber(redis.call('GET', KEYS[i])) or 0) - now, 0)
  return math.min(debt, most * window), window, window / allowance, cost, allowance
end
local function store(key, debt)
  if debt > 0 then redis.call('SET', key, string.format('%.3f', now + debt), 'PX', math.ceil(debt)) else redis.call('DEL', key) end
end
"""
TAKE = (
    NOW
    + _HEAD
    + """
local patience, wait, remaining, full_in, after = tonumber(ARGV[1]), 0, math.huge, 0, {}
for i = 1, #KEYS do
  local debt, window, unit, cost, allowance = bucket(i, 1)
  after[i] = debt + math.min(cost, allowance) * unit
  local missing = after[i] - window
  if missing > unit * tolerance then wait = math.max(wait, missing) end
end
local allowed = wait <= patience
for i, key in ipairs(KEYS) do
  local debt, window, unit = bucket(i, 1)
  if allowed then
    debt = after[i]
    store(key, debt)
  end
  remaining = math.min(remaining, math.floor((window - debt) / unit + tolerance))
  full_in = math.max(full_in, debt)
end
return {allowed and 1 or 0, math.ceil(wait), math.max(remaining, 0), math.ceil(full_in)}
"""
)
SETTLE = (
    NOW
    + _HEAD
    + """
for i, key in ipairs(KEYS) do
  local debt, window, unit, cost = bucket(i, 0)
  store(key, math.min(math.max(debt + cost * unit, 0), most * window))
end
"""
)
HOLD = (
    NOW
    + _HEAD
    + """
for i, key in ipairs(KEYS) do
  local debt, window = bucket(i, 1)
  store(key, math.max(debt, window + math.min(tonumber(ARGV[1]), window)))
end
"""
)


class RedisBuckets:
    """The buckets of all processes. The name of a bucket is its key; those of one call need the same hash slot.

    Every method raises `StorageUnavailable` if Redis cannot be asked.
    """

    def __init__(self, client: Redis) -> None:
        self._take = client.register_script(TAKE)
        self._settle = client.register_script(SETTLE)
        self._hold = client.register_script(HOLD)

    async def take(self, charges: Sequence[Charge], *, patience: float = 0.0) -> Taken:
        """Take all charges, or none of them; see `LocalBuckets.take`."""
        with guarded():
            allowed, wait, remaining, full_in = await self._take(keys=_keys(charges), args=[patience * 1000, *_arguments(charges)])
        return Taken(bool(allowed), wait / 1000, remaining, full_in / 1000)

    async def settle(self, charges: Sequence[Charge]) -> None:
        """Add to what has been taken, or give back what has a negative cost; see `LocalBuckets.settle`."""
        with guarded():
            await self._settle(keys=_keys(charges), args=_arguments(charges))

    async def hold(self, charges: Sequence[Charge], seconds: float) -> None:
        """Have nothing to give for `seconds`; see `LocalBuckets.hold`."""
        with guarded():
            await self._hold(keys=_keys(charges), args=[seconds * 1000, *_arguments(charges)])


def _keys(charges: Sequence[Charge]) -> list[str]:
    return [charge.bucket for charge in charges]


def _arguments(charges: Sequence[Charge]) -> list[float]:
    return [value for charge in charges for value in (charge.rate.allowance, charge.rate.window * 1000, charge.cost)]
