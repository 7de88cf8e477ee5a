"""The Lua scripts that RedisHistory runs in Redis. Each is atomic on the keys of one user.

KEYS are the five keys of one user. ARGV[1], the question, is different for every call, and every answer begins with it. So an
answer that belongs to a different call is noticed.

The list of events, KEYS[2], is in the order of arrival. Two fields of the head, KEYS[1], say more about it. `latest` holds n and
the time of the last event if the times rise along the list; otherwise it is empty. `whole` is the n at which an event was last
removed from within the list: a reader who knows fewer events cannot tell which are missing.
"""

TAG_BYTES = 16  # before each stored event: the random tag of the append that stored it

# ARGV: question, tag, ttl in ms, kept events, kept ids, kept items, ms of a day, three half-lives in days, then five per event:
# event id, item id, time in ms, event type, payload. Answers the question, and per event 1 if it was stored or 0 if its id was
# known already. The arithmetic is that of `add_event` in twotower.data.item_statistics, operation by operation: the contract
# tests check that both give the same bits.
APPEND = """
local tag, ttl_ms, kept_events = ARGV[2], ARGV[3], tonumber(ARGV[4])
local kept_ids, kept_items, day_ms = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local half_lives = {tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])}

-- Each key is read before any is written, so that a key of a wrong type fails the whole append.
local head = redis.call('HMGET', KEYS[1], 'epoch', 'n', 'latest')
redis.call('LLEN', KEYS[2])
redis.call('ZCARD', KEYS[3])
redis.call('HLEN', KEYS[4])
local num_items = redis.call('ZCARD', KEYS[5])
local epoch, n = head[1] or tag, tonumber(head[2] or '0')
-- A program of an older version changes n only, so that `latest` holds for its own n.
local latest_n, latest = string.match(head[3] or '0 0', '^(%d+) (%d+)$')
latest = tonumber(latest_n) == n and tonumber(latest) or nil

local function count_item(item, time_ms, event_type)
  local packed = redis.call('HGET', KEYS[4], item)
  local past = packed and cmsgpack.unpack(packed) or {0, time_ms, time_ms, 0, 0, 0, {}, n}
  local newest = math.max(past[3], time_ms)
  for d = 1, 3 do
    local fade = 0.5 ^ ((newest - past[3]) / day_ms / half_lives[d])
    past[3 + d] = past[3 + d] * fade + 0.5 ^ ((newest - time_ms) / day_ms / half_lives[d])
  end
  past[1], past[2], past[3] = past[1] + 1, math.min(past[2], time_ms), newest
  local known = false
  for _, t in ipairs(past[7]) do known = known or t == event_type end
  if not known then table.insert(past[7], event_type) end
  redis.call('HSET', KEYS[4], item, cmsgpack.pack(past))
  redis.call('ZADD', KEYS[5], newest, item)
  if not packed then num_items = num_items + 1 end
  if num_items > kept_items then
    redis.call('HDEL', KEYS[4], redis.call('ZPOPMIN', KEYS[5])[1])
    num_items = num_items - 1
  end
end

-- Removes the earliest events by time. The one that arrived last always stays: its place and tag tell readers what they have.
local function trim_by_time()
  local list, times, order, gone = redis.call('LRANGE', KEYS[2], 0, -1), {}, {}, {}
  for i, event in ipairs(list) do
    -- The first time_ms is the event's own: only escaped texts come before it.
    times[i], order[i] = tonumber(string.match(event, '"time_ms":(-?%d+)') or '0'), i
  end
  table.sort(order, function(a, b) return times[a] < times[b] or (times[a] == times[b] and a < b) end)
  for i = 1, #list - kept_events do gone[order[i]] = order[i] < #list or nil end
  local kept, last_ms, rises, has_gap = {}, 0, true, false
  for i, event in ipairs(list) do
    if gone[i] then
      has_gap = has_gap or #kept > 0
    else
      table.insert(kept, event)
      rises, last_ms = rises and times[i] >= last_ms, times[i]
    end
  end
  redis.call('DEL', KEYS[2])
  redis.call('RPUSH', KEYS[2], unpack(kept))
  if has_gap then redis.call('HSET', KEYS[1], 'whole', string.format('%.0f', n)) end
  return rises and last_ms or nil
end

local stored = {}
for i = 11, #ARGV, 5 do
  local event_id, item = ARGV[i], ARGV[i + 1]
  if event_id ~= '' and redis.call('ZSCORE', KEYS[3], event_id) then
    table.insert(stored, 0)
  else
    n = n + 1
    redis.call('RPUSH', KEYS[2], tag .. ARGV[i + 4])
    local time_ms = tonumber(ARGV[i + 2])
    latest = latest and time_ms >= latest and time_ms or nil
    if event_id ~= '' then redis.call('ZADD', KEYS[3], n, event_id) end
    if item ~= '' then count_item(item, time_ms, ARGV[i + 3]) end
    table.insert(stored, 1)
  end
end

if latest then
  redis.call('LTRIM', KEYS[2], -kept_events, -1)
elseif redis.call('LLEN', KEYS[2]) > kept_events then
  latest = trim_by_time()
end
redis.call('HSET', KEYS[1], 'epoch', epoch, 'n', string.format('%.0f', n),
  'latest', latest and string.format('%.0f %.0f', n, latest) or '')
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', n - kept_ids)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ttl_ms) end
return {ARGV[1], stored}
"""

# ARGV: question, then epoch, n and tag of the history that the caller has. Answers question, epoch, first, n, events, items. If
# the caller's last event is in the store under the same number, and no later one was removed, `first` is the caller's n, and the
# answer has only the events after it and no items. Otherwise `first` is 0 and the answer has everything.
READ = """
local head = redis.call('HMGET', KEYS[1], 'epoch', 'n', 'whole')
local epoch, n, first = head[1] or '', tonumber(head[2] or '0'), tonumber(ARGV[3])
if epoch == ARGV[2] and first > 0 and first >= tonumber(head[3] or '0') and first <= n and ARGV[4] ~= '' then
  local events = redis.call('LRANGE', KEYS[2], first - n - 1, -1)
  if #events == n - first + 1 and string.sub(events[1], 1, #ARGV[4]) == ARGV[4] then
    table.remove(events, 1)
    return {ARGV[1], epoch, first, n, events, {}}
  end
end
return {ARGV[1], epoch, 0, n, redis.call('LRANGE', KEYS[2], 0, -1), redis.call('HGETALL', KEYS[4])}
"""

# ARGV: question. Answers question and n.
DELETE = """
local n = redis.call('HGET', KEYS[1], 'n')
redis.call('DEL', unpack(KEYS))
return {ARGV[1], tonumber(n or '0')}
"""
