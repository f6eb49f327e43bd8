"""What happens to a tenant's store, in Lua: each script is one atomic look or change.

An item's name is its labels with NUL between them, two NULs, and its key. So names in their order are namespaces in theirs,
everything below a namespace is one range, and no name needs to be unpacked to be compared.

An item with a time to live stands in `expiry`; that says whether it is there. Its hash expires by itself as well, so that the memory
is free even if nobody comes back to this store; what is left of it in the two sets is swept by later scripts.
"""

# All scripts take the same keys, and `now` (milliseconds) first.
_HEAD = """
local index, expiry, prefix = unpack(KEYS)
local now = tonumber(ARGV[1])

local function remove(name)
  redis.call('DEL', prefix .. name)
  redis.call('ZREM', index, name)
  redis.call('ZREM', expiry, name)
end

local function sweep(most)
  local gone = redis.call('ZRANGEBYSCORE', expiry, '-inf', now, 'LIMIT', 0, most)
  for _, name in ipairs(gone) do remove(name) end
  return #gone
end

local function lives(name)
  local at = redis.call('ZSCORE', expiry, name)
  return not at or tonumber(at) > now
end

local function touch(name)
  local ttl = redis.call('HGET', prefix .. name, 'ttl')
  if not ttl or not lives(name) then return end
  redis.call('PEXPIRE', prefix .. name, ttl)
  redis.call('ZADD', expiry, now + ttl, name)
end
"""

# ARGV: refresh and name of each item. → for each: value, created_at, updated_at; or nil
GET = (
    _HEAD
    + """
local found = {}
for i = 2, #ARGV, 2 do
  local name = ARGV[i + 1]
  local fields = lives(name) and redis.call('HMGET', prefix .. name, 'value', 'created_at', 'updated_at')
  found[#found + 1] = fields and fields[1] and fields or false
  if ARGV[i] == '1' then touch(name) end
end
return found
"""
)

# ARGV: the time in ISO form; then of each item name, value ('' removes it), time to live in ms ('' is none), words
PUT = (
    _HEAD
    + """
sweep(10)
for i = 3, #ARGV, 4 do
  local name, value, ttl, words = unpack(ARGV, i, i + 3)
  local known = lives(name) and redis.call('HGET', prefix .. name, 'created_at')
  remove(name)
  if value ~= '' then
    redis.call('HSET', prefix .. name, 'value', value, 'created_at', known or ARGV[2], 'updated_at', ARGV[2], 'words', words)
    redis.call('ZADD', index, 0, name)
    if ttl ~= '' then
      redis.call('HSET', prefix .. name, 'ttl', ttl)
      touch(name)
    end
  end
end
"""
)

# ARGV: range, most names, most items, most bytes, how many items to skip, then words of which an item must have one.
# → where to go on ('' is nowhere), how many items were looked at, how many are still to be skipped, and of each item
#   name, value, created_at, updated_at, 1 if it expires, and the words that it has
SEARCH = (
    _HEAD
    + """
local first, last, names, items, bytes, skip = unpack(ARGV, 2, 7)
names, items, bytes, skip = tonumber(names), tonumber(items), tonumber(bytes), tonumber(skip)
local listed, seen, found = redis.call('ZRANGEBYLEX', index, first, last, 'LIMIT', 0, names), 0, {}
local cursor = #listed == names and listed[#listed] or ''
for _, name in ipairs(listed) do
  local words = lives(name) and redis.call('HGET', prefix .. name, 'words')
  if words then
    local had, fits = {}, #ARGV == 7
    for i = 8, #ARGV do
      if string.find(words, ' ' .. ARGV[i] .. ' ', 1, true) then
        had[#had + 1], fits = ARGV[i], true
      end
    end
    seen = seen + 1
    if fits and skip > 0 then
      skip = skip - 1
    elseif fits then
      local fields = redis.call('HMGET', prefix .. name, 'value', 'created_at', 'updated_at', 'ttl')
      found[#found + 1] = {name, fields[1], fields[2], fields[3], fields[4] and 1 or 0, had}
      bytes = bytes - #fields[1]
    end
  end
  if #found >= items or bytes <= 0 then return {name, seen, skip, found} end
end
return {cursor, seen, skip, found}
"""
)

# ARGV: names of items that were read
REFRESH = _HEAD + "for i = 2, #ARGV do touch(ARGV[i]) end"

# ARGV: range, most labels of each ('' is all), most namespaces. → where to go on ('' is nowhere), and the namespaces in order
NAMESPACES = (
    _HEAD
    + """
local first, last, depth, most = unpack(ARGV, 2, 5)
if sweep(1000) == 1000 then return {first, {}} end
local found = {}
while #found < tonumber(most) do
  local name = redis.call('ZRANGEBYLEX', index, first, last, 'LIMIT', 0, 1)[1]
  if not name then return {'', found} end
  local length = string.find(name, '\\0\\0', 1, true) - 1
  local behind = '\\0\\0\\255'
  if depth ~= '' then
    local at, left = 0, tonumber(depth)
    while left > 0 and at <= length do at, left = string.find(name, '\\0', at + 1, true), left - 1 end
    if left == 0 then length, behind = at - 1, '\\0\\255' end
  end
  local namespace = string.sub(name, 1, length)
  found[#found + 1] = namespace
  first = '(' .. namespace .. behind
end
return {first, found}
"""
)
