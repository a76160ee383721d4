-- Session signals of one bucket of sessions. A session is a hash of numbers of events by feature and type set. The
-- caller sends what it knows of ranges of the log; this script makes sure that each event counts once, and that it is
-- noticed when events are missing.
--
-- KEYS[1] the bucket's state, KEYS[2] its sessions by last activity. Hashes of sessions are at KEYS[1] .. ":" .. name,
-- with the same hash tag; they are no keys of the call, because the oldest ones are known only here.
-- ARGV[1] operation (below, each with its further arguments)
-- ARGV[2] time to live of a session in ms
-- ARGV[3] maximum sessions of a bucket
-- ARGV[4] arguments of the operation, as MessagePack
--
-- `runtime/session_signals.py` puts the constants before this text that Python shares: FIELD_BYTES, MAX_DROPPED.
--
-- Fields of the state: "g" generation; for each partition "n<partition>" the offset that follows the last applied
-- range, and "f<partition>" the fingerprint of the configurations under which that range was examined.
-- Fields of a session: "c" number of the last change; "o<partition>" offset of its last event; "b" bytes of its counts; "l" if it is too
-- large, and then without counts; "h" number of deletions in progress; "=<type set>:<feature_uri>" counts.
-- A session is whole, that is, no event of it is missing, if its "g" is the generation of the state. Only `write` makes
-- it whole. Its "s" is the append time (ms since 1970) from which events count.
local STATE, INDEX = KEYS[1], KEYS[2]
local operation, ttl_ms, max_sessions = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local time = redis.call("TIME")
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now_ms = math.floor(now_us / 1000)

local function integer(number)
  return string.format("%.0f", number)
end

local function key_of(name)
  return STATE .. ":" .. name
end

-- No session is whole any more. The clock makes a generation differ from those of a state that was lost.
local function begin_generation(generation)
  generation = integer(math.max(tonumber(generation or 0) + 1, now_us))
  redis.call("HSET", STATE, "g", generation)
  return generation
end

local function drop(names)
  for _, name in ipairs(names) do
    redis.call("DEL", key_of(name))
    redis.call("ZREM", INDEX, name)
  end
end

-- Note activity of a session. Dropping others is harmless: a session that is gone is not whole.
local function touch(name)
  redis.call("PEXPIRE", key_of(name), ttl_ms)
  redis.call("ZADD", INDEX, now_ms, name)
end

local function drop_oldest()
  drop(redis.call("ZRANGEBYSCORE", INDEX, "-inf", now_ms - ttl_ms, "LIMIT", 0, MAX_DROPPED))
  local excess = math.min(redis.call("ZCARD", INDEX) - max_sessions, MAX_DROPPED)
  if excess > 0 then
    drop(redis.call("ZRANGE", INDEX, 0, excess - 1))
  end
end

-- The number of a change: the clock makes it differ from those of a hash that is gone or was reset.
local function after_change(changes)
  return integer(math.max(tonumber(changes or 0) + 1, now_us))
end

-- Replace a session by one without counts, which is not whole. Given are its fields, the change in the number of
-- deletions in progress, and offsets by partition up to which nothing may count any more.
local function empty(name, more_deletions, offsets)
  local found = redis.call("HGETALL", key_of(name))
  local known, kept = {}, {}
  for at = 1, #found, 2 do
    known[found[at]] = found[at + 1]
    if string.sub(found[at], 1, 1) == "o" then
      kept[found[at]] = found[at + 1]
    end
  end
  if not known.c and more_deletions <= 0 then
    return
  end
  for at = 1, #offsets, 2 do
    local field = "o" .. offsets[at]
    kept[field] = integer(math.max(tonumber(kept[field] or -1), offsets[at + 1]))
  end
  local deletions = tonumber(known.h or 0) + more_deletions
  redis.call("DEL", key_of(name))
  redis.call("HSET", key_of(name), "c", after_change(known.c))
  if deletions > 0 then
    redis.call("HSET", key_of(name), "h", deletions)
  end
  for field, offset in pairs(kept) do
    redis.call("HSET", key_of(name), field, offset)
  end
  touch(name)
end

-- Remove the counts of a session that has become too large.
local function remove_counts(key)
  for _, field in ipairs(redis.call("HKEYS", key)) do
    if string.sub(field, 1, 1) == "=" then
      redis.call("HDEL", key, field)
    end
  end
  redis.call("HSET", key, "l", 1)
end

-- Add events to a session: `events` has four numbers for each, in offset order: the number of its field, its partition,
-- offset, and append time. `from` has by partition the first offset that was not applied before.
local function add_events(name, fields, events, from, max_bytes)
  local key, last, wanted, partitions = key_of(name), {}, { "c", "s", "l", "b" }, {}
  for at = 2, #events, 4 do
    if not last[events[at]] then
      last[events[at]] = -1
      partitions[#partitions + 1] = events[at]
      wanted[#wanted + 1] = "o" .. events[at]
    end
  end
  local known = redis.call("HMGET", key, unpack(wanted))
  for at, partition in ipairs(partitions) do
    last[partition] = tonumber(known[4 + at] or -1)
  end
  local since, counts, is_changed = tonumber(known[2] or 0), {}, false
  for at = 1, #events, 4 do
    local field, partition, offset, append_ms = events[at], events[at + 1], events[at + 2], events[at + 3]
    if offset >= from[partition] and offset > last[partition] then
      last[partition], is_changed = offset, true
      if append_ms >= since then
        counts[field] = (counts[field] or 0) + 1
      end
    end
  end
  if not is_changed then
    return
  end
  local set, bytes = { "c", after_change(known[1]) }, tonumber(known[4] or 0)
  for partition, offset in pairs(last) do
    set[#set + 1] = "o" .. partition
    set[#set + 1] = integer(offset)
  end
  if not known[3] then
    for field, count in pairs(counts) do
      if redis.call("HINCRBY", key, "=" .. fields[field], count) == count then
        bytes = bytes + #fields[field] + FIELD_BYTES
      end
    end
    set[#set + 1] = "b"
    set[#set + 1] = bytes
  end
  redis.call("HSET", key, unpack(set))
  if not known[3] and bytes > max_bytes then
    remove_counts(key)
  end
  touch(name)
end

-- apply: count the events of ranges of partitions. Arguments: fingerprint; for each partition its number, the first
-- offset of the range and the one after it; maximum bytes of a session; for each session its name, its fields, and
-- events (`add_events`); names of sessions that have lost an event. Of a range that is sent in several calls all but
-- the last end where they begin.
local function apply(fingerprint, ranges, max_bytes, sessions, emptied)
  local wanted = { "g" }
  for at = 1, #ranges, 3 do
    wanted[#wanted + 1] = "n" .. ranges[at]
    wanted[#wanted + 1] = "f" .. ranges[at]
  end
  local known, from, is_incomplete = redis.call("HMGET", STATE, unpack(wanted)), {}, false
  local set = {}
  for at = 1, #ranges, 3 do
    local partition, first, following = ranges[at], ranges[at + 1], ranges[at + 2]
    local place = 2 + (at - 1) / 3 * 2
    local applied, examined_as = tonumber(known[place] or -1), known[place + 1]
    is_incomplete = is_incomplete or applied < first or examined_as ~= fingerprint
    from[partition] = math.max(applied, first)
    set[#set + 1] = { "n" .. partition, integer(math.max(from[partition], following)), "f" .. partition }
  end
  if is_incomplete or not known[1] then
    begin_generation(known[1])
  end
  for _, session in ipairs(sessions) do
    add_events(session[1], session[2], session[3], from, max_bytes)
  end
  for _, name in ipairs(emptied) do
    empty(name, 0, {})
  end
  for _, each in ipairs(set) do
    redis.call("HSET", STATE, each[1], each[2], each[3], fingerprint)
  end
  if #sessions > 0 then
    drop_oldest()
  end
  return "ok"
end

-- open: return the changes of a session, the generation, and the deletions in progress, for `write`.
local function open(name)
  local generation = redis.call("HGET", STATE, "g") or begin_generation(nil)
  local known = redis.call("HMGET", key_of(name), "c", "h")
  if not known[1] then
    known[1] = after_change(nil)
    redis.call("HSET", key_of(name), "c", known[1])
    touch(name)
    drop_oldest()
  end
  return { known[1], generation, tonumber(known[2] or 0) }
end

-- write: make a session whole, with counts that were read after `open` returned these changes and this generation.
-- Further arguments: the append time from which events count, whether the session is too large, bytes of the counts,
-- fields with their counts, partitions with the offsets of the last counted events.
local function write(name, changes, generation, since, is_large, bytes, counts, offsets)
  local key = key_of(name)
  local known = redis.call("HMGET", key, "c", "h")
  if known[1] ~= changes or known[2] or redis.call("HGET", STATE, "g") ~= generation then
    return 0
  end
  empty(name, 0, offsets)
  redis.call("HSET", key, "g", generation, "s", integer(since), "b", bytes)
  if is_large then
    redis.call("HSET", key, "l", 1)
  end
  for at = 1, #counts, 2 do
    redis.call("HSET", key, "=" .. counts[at], integer(counts[at + 1]))
  end
  return 1
end

-- renew: make no session whole, because the stored rows have changed.
local function renew()
  return begin_generation(redis.call("HGET", STATE, "g"))
end

local operations = { apply = apply, empty = empty, open = open, write = write, renew = renew }
return operations[operation](unpack(cmsgpack.unpack(ARGV[4])))
