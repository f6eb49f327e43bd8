r"""The Lua of the checkpoint saver: each operation on a thread is one script, so one atomic round trip.

A thread has two keys. KEYS[1] is a hash with four kinds of fields, KEYS[2] a sorted set (all scores 0, so ordered by
name) of the first two kinds. Names and values are made of parts with NUL between them:

    c ns id               a checkpoint's `Header` (checkpoints.py) in MessagePack, without the type `bin`, which Lua lacks
    w ns id task idx      one pending write: channel, task path, type, bytes
    d ns id               the rest of the checkpoint, opaque here
    b ns channel version  one channel value: type, bytes; shared by all checkpoints with that version

Where a script writes for a run, KEYS[3] is the key of its lease and ARGV[1] the token that must be found there.
ARGV[2] is the lifetime of the thread in milliseconds, or empty.
"""

from app.storage.redis.connection import LEASE_LOST

_FENCE = f"""
if KEYS[3] and redis.call('GET', KEYS[3]) ~= ARGV[1] then
  return redis.error_reply('{LEASE_LOST} the lease is not held by this run any more')
end
"""

_EXPIRE = """
if ARGV[2] ~= '' then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
"""

_LOAD = r"""
local function blob_field(ns, channel, version)
  return 'b\0' .. ns .. '\0' .. channel .. '\0' .. tostring(version)
end

local function writes_of(ns, id)
  local prefix = 'w\0' .. ns .. '\0' .. id
  local fields = redis.call('ZRANGEBYLEX', KEYS[2], '[' .. prefix .. '\0', '(' .. prefix .. '\1')
  local found = {}
  for _, field in ipairs(fields) do
    found[#found + 1] = field
    found[#found + 1] = redis.call('HGET', KEYS[1], field)
  end
  return found
end

local function load(member)
  local header = redis.call('HGET', KEYS[1], member)
  if not header then return false end
  local ns, id = member:match('^c%z(%Z*)%z(%Z*)$')
  local blobs = {}
  for channel, version in pairs(cmsgpack.unpack(header).versions) do
    local blob = redis.call('HGET', KEYS[1], blob_field(ns, channel, version))
    if blob then
      blobs[#blobs + 1] = channel
      blobs[#blobs + 1] = blob
    end
  end
  return {ns, id, header, redis.call('HGET', KEYS[1], 'd' .. member:sub(2)), blobs, writes_of(ns, id)}
end

local function latest(ns)
  local prefix = 'c\0' .. ns
  return redis.call('ZREVRANGEBYLEX', KEYS[2], '(' .. prefix .. '\1', '[' .. prefix .. '\0', 'LIMIT', 0, 1)[1]
end
"""

# ARGV: token, lifetime, member, then pairs of field and value.
PUT = (
    _FENCE
    + """
redis.call('ZADD', KEYS[2], 0, ARGV[3])
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
"""
    + _EXPIRE
)

# ARGV: token, lifetime, then triples of command (HSET replaces, HSETNX keeps what is there), field, value.
PUT_WRITES = (
    _FENCE
    + """
for i = 3, #ARGV, 3 do
  redis.call(ARGV[i], KEYS[1], ARGV[i + 1], ARGV[i + 2])
  redis.call('ZADD', KEYS[2], 0, ARGV[i + 1])
end
"""
    + _EXPIRE
)

# ARGV: namespace, id (empty: the latest). Answers {ns, id, header, rest, {channel, blob, ...}, {field, write, ...}} or nil.
GET = (
    _LOAD
    + r"""
local member = ARGV[2] ~= '' and ('c\0' .. ARGV[1] .. '\0' .. ARGV[2]) or latest(ARGV[1])
return member and load(member)
"""
)

# A page of checkpoints, newest first, as `load` gives them.
# ARGV: `one` or `all` (namespaces), namespace, only this id, only before this id, last member of the page before, size.
LIST = (
    _LOAD
    + r"""
local scope, ns, only, before, cursor, size = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local function id_of(member) return member:match('%Z*$') end
local function newer(a, b)
  local x, y = id_of(a), id_of(b)
  if x ~= y then return x > y end
  return a > b
end
local members
if scope == 'one' then
  local prefix = 'c\0' .. ns
  local upper = '(' .. prefix .. '\1'
  if before ~= '' then upper = '(' .. prefix .. '\0' .. before end
  if cursor ~= '' then upper = '(' .. cursor end
  local lower = '[' .. prefix .. '\0'
  if only ~= '' then
    members = {prefix .. '\0' .. only}
  else
    members = redis.call('ZREVRANGEBYLEX', KEYS[2], upper, lower, 'LIMIT', 0, size)
  end
else
  members = redis.call('ZREVRANGEBYLEX', KEYS[2], '(c\1', '[c\0')
  table.sort(members, newer)
end
local page = {}
for _, member in ipairs(members) do
  local id = id_of(member)
  if (only == '' or id == only) and (before == '' or id < before) and (cursor == '' or newer(cursor, member)) then
    local found = load(member)
    if found then page[#page + 1] = found end
    if #page == size then break end
  end
end
return page
"""
)

# What one checkpoint's ancestors contributed to some channels. ARGV: namespace, id (empty: the latest), channels.
# Answers {{{field, write, ...} of the parent, of its parent, ...}, {channel, blob, ...}}.
DELTA_HISTORY = (
    _LOAD
    + r"""
local ns = ARGV[1]
local function header_of(id)
  local packed = redis.call('HGET', KEYS[1], 'c\0' .. ns .. '\0' .. id)
  return packed and cmsgpack.unpack(packed)
end
local id = ARGV[2]
if id == '' then id = (latest(ns) or ''):match('%Z*$') end
local remaining, open = {}, 0
for i = 3, #ARGV do remaining[ARGV[i]] = true; open = open + 1 end
local steps, seeds = {}, {}
local current = header_of(id)
while current and open > 0 do
  id = current.parent
  current = header_of(id)
  if not current then break end
  local step, stored = {}, writes_of(ns, id)
  for i = 1, #stored, 2 do
    if remaining[stored[i + 1]:match('^%Z*')] then
      step[#step + 1] = stored[i]
      step[#step + 1] = stored[i + 1]
    end
  end
  steps[#steps + 1] = step
  for channel, version in pairs(current.versions) do
    local blob = remaining[channel] and redis.call('HGET', KEYS[1], blob_field(ns, channel, version))
    if blob then
      seeds[#seeds + 1] = channel
      seeds[#seeds + 1] = blob
      remaining[channel] = nil
      open = open - 1
    end
  end
end
return {steps, seeds}
"""
)

# Removes checkpoints and all that nothing else uses. ARGV: `latest` (keep the latest of each namespace, and the
# ancestors that its delta channels are rebuilt from), or `runs` and the ids of the runs to forget.
SWEEP = (
    _LOAD
    + r"""
local members = redis.call('ZRANGEBYLEX', KEYS[2], '[c\0', '(c\1')
local headers, kept = {}, {}
for _, member in ipairs(members) do
  local packed = redis.call('HGET', KEYS[1], member)
  if packed then headers[member] = cmsgpack.unpack(packed) end
end
local function keep_with_ancestors(ns, member)
  kept[member] = true
  local open = headers[member].delta
  while #open > 0 do
    member = 'c\0' .. ns .. '\0' .. headers[member].parent
    local ancestor = headers[member]
    if not ancestor then return end
    kept[member] = true
    local still = {}
    for _, channel in ipairs(open) do
      local version = ancestor.versions[channel]
      if not (version and redis.call('HEXISTS', KEYS[1], blob_field(ns, channel, version)) == 1) then still[#still + 1] = channel end
    end
    open = still
  end
end
if ARGV[1] == 'latest' then
  local last = {}
  for _, member in ipairs(members) do
    if headers[member] then last[member:match('^c%z(%Z*)')] = member end
  end
  for ns, member in pairs(last) do keep_with_ancestors(ns, member) end
else
  local forgotten = {}
  for i = 2, #ARGV do forgotten[ARGV[i]] = true end
  for member, header in pairs(headers) do kept[member] = not forgotten[header.run] end
end
local used, doomed = {}, 0
for member, header in pairs(headers) do
  if kept[member] then
    local ns = member:match('^c%z(%Z*)')
    for channel, version in pairs(header.versions) do used[blob_field(ns, channel, version)] = true end
  else
    doomed = doomed + 1
    redis.call('HDEL', KEYS[1], member, 'd' .. member:sub(2))
    redis.call('ZREM', KEYS[2], member)
  end
end
if doomed == 0 then return 0 end
for _, field in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], '[w\0', '(w\1')) do
  local owner = 'c' .. field:match('^w(%z%Z*%z%Z*)%z')
  if headers[owner] and not kept[owner] then
    redis.call('HDEL', KEYS[1], field)
    redis.call('ZREM', KEYS[2], field)
  end
end
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if field:sub(1, 2) == 'b\0' and not used[field] then redis.call('HDEL', KEYS[1], field) end
end
return doomed
"""
)
