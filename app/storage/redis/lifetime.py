"""How long a thread is kept, in Lua: all of its keys expire together, and the scripts that change a thread set the time in the same step.

A thread may have a time to live of its own (`ttl` in its record, milliseconds, with `ttl_strategy`) in place of the general one.
`delete`: it is gone that long after its last use. But a thread is not taken from a run that is under way, waits, is delayed or has a
webhook to be sent, nor from somebody who has been asked something and may still answer: it is kept for the general time at least.
`keep_latest`: older checkpoints go that long after its last use, and the thread stays for the general time from then on. So how
long ago it was used can be told from how long it is kept.
"""

from __future__ import annotations

from app.storage.redis.keys import ThreadKeys

# Every change gives the record a new revision, by which the index tells older news from newer.
LIFETIME = (
    ThreadKeys.UNPACK
    + """
local function record(id) return run_prefix .. id end

local function is_held()
  if redis.call('LLEN', queue) > 0 or redis.call('LLEN', outbox) > 0 then return true end
  local status, delayed = unpack(redis.call('HMGET', thread, 'status', 'delayed'))
  return status == 'interrupted' or tonumber(delayed or 0) > 0
end

-- What the thread was given, in milliseconds, if its end is the end of the thread; else nil.
local function own_lifetime()
  local own, strategy = unpack(redis.call('HMGET', thread, 'ttl', 'ttl_strategy'))
  return own and strategy == 'delete' and tonumber(own) or nil
end

local function shorten(key, most)
  if most and redis.call('PTTL', key) > most then redis.call('PEXPIRE', key, most) end
end

-- The record has changed, or the thread was used: all that belongs to it is kept from now on.
local function changed(general)
  redis.call('HINCRBY', thread, 'revision', 1)
  local own, strategy = unpack(redis.call('HMGET', thread, 'ttl', 'ttl_strategy'))
  local life = tonumber(general)
  if own then
    own = tonumber(own)
    if strategy == 'keep_latest' then life = life + own
    elseif is_held() then life = math.max(life, own)
    else life = own end
    for _, id in ipairs(redis.call('ZRANGE', runs, 0, -1)) do
      redis.call('PEXPIRE', record(id), life)
      shorten(log_prefix .. id, life)
    end
  end
  for _, key in ipairs({thread, queue, fence, runs, sequence, purge, outbox, checkpoints, index}) do
    redis.call('PEXPIRE', key, life)
  end
end
"""
)
