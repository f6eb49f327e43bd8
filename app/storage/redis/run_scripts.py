"""What happens to the runs of a thread, in Lua: each script is one atomic change of one thread.

A thread has a queue of runs that have not ended; only its head executes, and only under the lease. The lease holds a
fencing token. Every write of a run names its token and is refused when the lease holds another.

Ending a run from outside (cancel, multitask) needs nothing of the process that executes it: the run is ended here, and
the lease becomes `gone:<token>`, so that nothing that process still does can be written. The lease stays until that
process has let go, or until it runs out; only then may the next run begin, so two runs never execute on a thread at once.
"""

from app.storage.redis.lifetime import LIFETIME

LEASE_LOST = "LEASELOST"
"""First word of the error of a script whose token does not hold."""

# All scripts take the same keys (`ThreadKeys.all`), and `now` and the time to live of a thread first.
_HEAD = (
    LIFETIME
    + """
local now, ttl = ARGV[1], ARGV[2]

local function append(id, max, first, last)
  local events, seq = log_prefix .. id, 0
  for i = first, last, 2 do
    seq = redis.call('INCR', sequence)
    redis.call('XADD', events, 'MAXLEN', '~', max, seq .. '-0', 'e', ARGV[i], 'd', ARGV[i + 1])
    redis.call('HSETNX', record(id), 'first_event', seq)
  end
  return seq
end

local function holds(token)
  return redis.call('GET', lease) == token
end

local function lost()
  return redis.error_reply('LEASELOST the run is not ours any more')
end

local function is_open(status)
  return status == 'pending' or status == 'running'
end

local function refresh() changed(ttl) end

-- The status first, then the event that tells of it, then the time that both still have.
local function close(id, status, name, data, ended_by)
  redis.call('HSET', record(id), 'status', status, 'updated_at', now, 'ended_by', ended_by)
  local seq = redis.call('INCR', sequence)
  redis.call('XADD', log_prefix .. id, seq .. '-0', 'e', name, 'd', data)
  redis.call('HSETNX', record(id), 'first_event', seq)
  redis.call('PEXPIRE', log_prefix .. id, redis.call('HGET', record(id), 'log_ttl'))
  redis.call('PEXPIRE', record(id), ttl)
  local was_queued = redis.call('LREM', queue, 0, id) > 0
  if redis.call('HEXISTS', record(id), 'webhook') == 1 then redis.call('RPUSH', outbox, id) end
  return seq, was_queued
end

-- Which run answers which question.
local function answers_known()
  return cjson.decode(redis.call('HGET', thread, 'answered') or '{}')
end

local function forget_answer(id)
  local kept, had = {}, false
  for question, by in pairs(answers_known()) do
    if by == id then had = true else kept[question] = by end
  end
  if had then redis.call('HSET', thread, 'answered', cjson.encode(kept)) end
end

local function claim(id, lease_ms)
  -- With the run's id no token comes twice, even if the thread was forgotten and made again.
  local token = redis.call('INCR', fence) .. ':' .. id
  if redis.call('HGET', record(id), 'status') == 'running' then redis.call('HINCRBY', record(id), 'crashes', 1) end
  redis.call('SET', lease, token, 'PX', lease_ms)
  redis.call('HSET', record(id), 'status', 'running', 'updated_at', now)
  redis.call('HSETNX', record(id), 'started_at', now)
  redis.call('HINCRBY', record(id), 'attempt', 1)
  redis.call('HSET', thread, 'status', 'busy', 'updated_at', now)
  return token
end

-- With nothing left to do the thread is what its last run left it as.
local function calm()
  if redis.call('LLEN', queue) > 0 then return end
  redis.call('HSET', thread, 'status', redis.call('HGET', thread, 'rest') or 'idle', 'updated_at', now)
end

-- 'pending' or 'running' (what it was), or false if it has ended.
local function cancel(id, action, ended_by, lease_ms)
  local status = redis.call('HGET', record(id), 'status')
  if not is_open(status) then return false end
  local _, was_queued = close(id, 'interrupted', 'end', '{"run_id":"' .. id .. '","status":"interrupted"}', ended_by)
  if not was_queued then redis.call('HINCRBY', thread, 'delayed', -1) end
  forget_answer(id)
  if status == 'running' then
    local token = redis.call('GET', lease)
    if token then redis.call('SET', lease, 'gone:' .. token, 'PX', lease_ms) end
  end
  if action == 'rollback' then
    redis.call('RPUSH', purge, id)
    redis.call('ZREM', runs, id)
    redis.call('DEL', record(id))
    shorten(log_prefix .. id, own_lifetime())
  elseif redis.call('HEXISTS', record(id), 'started_at') == 1 then
    redis.call('HSET', thread, 'rest', 'idle')
  end
  calm()
  return status
end
"""
)

# → missing | exists | busy, other | answered | stale | accepted, token or '', then the runs that were cancelled for it
ACCEPT = (
    _HEAD
    + """
local id, strategy, claims, lease_ms, graph, assistant, answers, seen, thread_fields = unpack(ARGV, 3, 11)
thread_fields = tonumber(thread_fields)
if redis.call('EXISTS', record(id)) == 1 then return {'exists'} end
local is_new = redis.call('EXISTS', thread) == 0
if is_new and thread_fields == 0 then return {'missing'} end
local waiting = redis.call('LRANGE', queue, 0, -1)
if #waiting > 0 and strategy == 'reject' then return {'busy', waiting[1]} end
if answers ~= '' then
  local known, kept, state = answers_known(), {}, string.match(answers, '^[^/ ]*')
  if seen ~= '' and redis.call('HGET', thread, 'state_updated_at') ~= seen then return {'stale'} end
  -- A question is asked until the run that answers it has ended, also in the states that other answers lead to meanwhile.
  local taken = {}
  for question, by in pairs(known) do
    local is_waiting = is_open(redis.call('HGET', record(by), 'status'))
    if is_waiting then taken[string.match(question, '/(.*)$')] = true end
    if is_waiting or string.sub(question, 1, #state + 1) == state .. '/' then kept[question] = by end
  end
  for question in string.gmatch(answers, '%S+') do
    if known[question] or taken[string.match(question, '/(.*)$')] then return {'answered'} end
    kept[question] = id
  end
  redis.call('HSET', thread, 'answered', cjson.encode(kept))
end
if is_new then redis.call('HSET', thread, unpack(ARGV, 12, 11 + thread_fields)) end
local cancelled = {}
if strategy == 'interrupt' or strategy == 'rollback' then
  for _, other in ipairs(waiting) do
    if cancel(other, strategy, 'superseded', lease_ms) then table.insert(cancelled, other) end
  end
end
redis.call('HSET', record(id), unpack(ARGV, 12 + thread_fields))
redis.call('ZADD', runs, redis.call('INCR', fence), id)
redis.call('INCRBY', sequence, 0)
redis.call('HSETNX', thread, 'graph_id', graph)
redis.call('HSETNX', thread, 'assistant_id', assistant)
redis.call('PEXPIRE', record(id), ttl)
local token = ''
if claims == 'later' then
  redis.call('HINCRBY', thread, 'delayed', 1)
else
  redis.call('RPUSH', queue, id)
  redis.call('HSET', thread, 'status', 'busy', 'updated_at', now)
  local is_free = redis.call('LLEN', queue) == 1 and redis.call('EXISTS', lease) == 0 and redis.call('EXISTS', purge) == 0
  if claims == 'now' and is_free then token = claim(id, lease_ms) end
end
refresh()
return {'accepted', token, unpack(cancelled)}
"""
)

# A delayed run is due. → 1 if it waits in the queue now
ENQUEUE = (
    _HEAD
    + """
local id = ARGV[3]
if redis.call('HGET', record(id), 'status') ~= 'pending' then return 0 end
if not redis.call('LPOS', queue, id) then
  redis.call('RPUSH', queue, id)
  redis.call('HINCRBY', thread, 'delayed', -1)
end
redis.call('HSET', thread, 'status', 'busy', 'updated_at', now)
refresh()
return 1
"""
)

# → claimed, token, then the record | purge, then ids | not_next | leased | ended
CLAIM = (
    _HEAD
    + """
local id, lease_ms = ARGV[3], ARGV[4]
if redis.call('LINDEX', queue, 0) ~= id then return {'not_next'} end
if redis.call('EXISTS', lease) == 1 then return {'leased'} end
local rolled_back = redis.call('LRANGE', purge, 0, -1)
if #rolled_back > 0 then return {'purge', unpack(rolled_back)} end
if not is_open(redis.call('HGET', record(id), 'status')) then
  redis.call('LREM', queue, 0, id)
  calm()
  refresh()
  return {'ended'}
end
local token = claim(id, lease_ms)
refresh()
return {'claimed', token, unpack(redis.call('HGETALL', record(id)))}
"""
)

# The checkpoints of these rolled-back runs are gone, or the webhooks of these runs are sent by somebody.
PURGED = _HEAD + "for i = 3, #ARGV do redis.call('LREM', purge, 0, ARGV[i]) end"
POSTED = (
    _HEAD
    + """
for i = 3, #ARGV do redis.call('LREM', outbox, 0, ARGV[i]) end
if own_lifetime() then refresh() end
"""
)

# → 1, or 0 if the lease is not ours
RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# → sequence number of the last event
APPEND = (
    _HEAD
    + """
local token, id, max, log_ttl = unpack(ARGV, 3, 6)
if not holds(token) then return lost() end
local seq = append(id, max, 7, #ARGV)
redis.call('PEXPIRE', log_prefix .. id, log_ttl)
return seq
"""
)

# → sequence number of the last event, 1 if something is left to do on the thread
FINISH = (
    _HEAD
    + """
local token, id, status, thread_status, run_error, interrupts, name, data = unpack(ARGV, 3, 10)
if not holds(token) then return lost() end
local seq = close(id, status, name, data, '')
redis.call('HSET', record(id), 'error', run_error)
if status ~= 'success' then forget_answer(id) end
redis.call('DEL', lease)
local following = redis.call('LINDEX', queue, 0) or ''
redis.call('HSET', thread, 'status', 'busy', 'rest', thread_status, 'interrupts', interrupts, 'error', run_error)
redis.call('HSET', thread, 'updated_at', now, 'state_updated_at', now)
calm()
refresh()
local is_left = following ~= '' or redis.call('LLEN', outbox) > 0 or redis.call('HEXISTS', thread, 'ephemeral') == 1
return {seq, is_left and 1 or 0}
"""
)

# The run goes on elsewhere; nothing has failed, so it is no crash.
HAND_BACK = (
    _HEAD
    + """
local token, id = ARGV[3], ARGV[4]
if not holds(token) then return lost() end
redis.call('HSET', record(id), 'status', 'pending', 'updated_at', now)
redis.call('DEL', lease)
return 1
"""
)

# The process that executed a run which was ended from outside has let go.
RELEASE = _HEAD + "if redis.call('GET', lease) == 'gone:' .. ARGV[3] then redis.call('DEL', lease) end"


# → status before, or '' if there is no such run | ended
CANCEL = (
    _HEAD
    + """
local id, action, lease_ms = unpack(ARGV, 3, 5)
if redis.call('EXISTS', record(id)) == 0 then return '' end
local was = cancel(id, action, 'user', lease_ms)
if was then refresh() end
return was or 'ended'
"""
)

# → head of the queue or '', milliseconds of lease left, runs to be purged, runs whose webhook waits, milliseconds that
# the thread outlives its last run or '', 1 if who holds the lease must let go
INSPECT = (
    _HEAD
    + """
local head, left = redis.call('LINDEX', queue, 0) or '', redis.call('PTTL', lease)
-- A thread that asks stays as long as any other, so that it can be answered.
local asks = redis.call('HGET', thread, 'status') == 'interrupted'
local passing = not asks and redis.call('HGET', thread, 'ephemeral') or ''
local leaving = string.sub(redis.call('GET', lease) or '', 1, 5) == 'gone:' and 1 or 0
return {head, left, redis.call('LRANGE', purge, 0, -1), redis.call('LRANGE', outbox, 0, -1), passing, leaving}
"""
)

# → 1 if there was such a run and it had ended, -1 if it had not, 0 if there was none
DELETE = (
    _HEAD
    + """
local id = ARGV[3]
local status = redis.call('HGET', record(id), 'status')
if not status then return 0 end
if is_open(status) then return -1 end
redis.call('DEL', record(id), log_prefix .. id)
redis.call('ZREM', runs, id)
return 1
"""
)

# → 1 if nothing of the thread was open, so that all of it goes after a while
FORGET = (
    _HEAD
    + """
local left = ARGV[3]
if redis.call('LLEN', queue) > 0 or redis.call('EXISTS', lease) == 1 then return 0 end
local ids = redis.call('ZRANGE', runs, 0, -1)
for _, id in ipairs(ids) do
  if is_open(redis.call('HGET', record(id), 'status')) then return 0 end
end
for _, key in ipairs({thread, fence, runs, sequence, purge, outbox, checkpoints, index}) do redis.call('PEXPIRE', key, left) end
for _, id in ipairs(ids) do
  redis.call('PEXPIRE', record(id), left)
  redis.call('PEXPIRE', log_prefix .. id, left)
end
return 1
"""
)
