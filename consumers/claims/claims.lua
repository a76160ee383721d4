-- The claims of one partition. Their owners lie in chunks, in the order in which they were claimed; the worker that
-- holds the partition knows where each one lies, decides, and writes here what it decided. This script sees to it that
-- only that worker writes, and that it notices when claims are gone.
--
-- KEYS[1]   the partition's head: which layout its claims have, who may take them, how far they reach
-- KEYS[2..] chunks; all keys with the partition's hash tag
-- ARGV[1]   the operation: take, restore, finish, claim, release or read (below, each with its further arguments)
-- ARGV[2]   layout: 8 bytes that change whenever older claims must not be read by this version and these settings
-- ARGV[3]   epoch: 16 bytes, another one each time a worker takes the partition
-- ARGV[4]   space: 4 bytes that are part of every chunk's key; a rebuild begins a new one, and the old one expires
-- ARGV[5]   count: how many calls have changed the claims since they were taken, as the caller knows it
--
-- A chunk is a list of owners, 56 bytes each: key (16), offset, event time, append time (signed 64-bit, little-endian),
-- id (16). One that owns nothing any more has the offset -1. Chunks are numbered, never changed otherwise, and expire.
--
-- A Redis that loses acknowledged writes (a failover to a replica that lagged) shows a lower count. One more than the
-- caller knows of is its own call whose answer was lost; every call may be repeated.
--
-- The head also has a floor: marks of owners appended before it may have been dropped. It ends with marks: (lowest and
-- highest append time, Redis's clock at the first claim, all in ms; first chunk), for stretches of claims. They tell
-- when claims that still matter may have expired, however slowly the log is read, and which chunks still matter.
local OWNER = 56
local OFFSET_AT = 16
local NOBODY = string.rep("\255", 8)
local HEAD = "<c8c16c4i8i8i8i8"
local HEAD_BYTES = 60
local MARK = "<i8i8i8i8"
local MARK_BYTES = 32
local MARKS_PER_TTL = 16

local operation, layout, epoch, space = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function now_ms()
  local time = redis.call("TIME")
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- What is remembered of the partition; nil when there is nothing.
local head

local function read_head()
  local raw = redis.call("GET", KEYS[1])
  if not raw or #raw < HEAD_BYTES then
    return nil
  end
  local found = { marks = {} }
  found.layout, found.epoch, found.space, found.last, found.count, found.floor, found.next_chunk =
    struct.unpack(HEAD, raw)
  for at = HEAD_BYTES + 1, #raw, MARK_BYTES do
    local begin_ms, append_ms, claimed_ms, first_chunk = struct.unpack(MARK, raw, at)
    found.marks[#found.marks + 1] =
      { begin_ms = begin_ms, append_ms = append_ms, claimed_ms = claimed_ms, first_chunk = first_chunk }
  end
  return found
end

local function write_head()
  local parts = { struct.pack(HEAD, layout, epoch, head.space, head.last, head.count, head.floor, head.next_chunk) }
  for _, mark in ipairs(head.marks) do
    parts[#parts + 1] = struct.pack(MARK, mark.begin_ms, mark.append_ms, mark.claimed_ms, mark.first_chunk)
  end
  redis.call("SET", KEYS[1], table.concat(parts))
end

-- Whether another worker has taken the partition since.
local function is_fenced()
  return head and head.layout == layout and (head.epoch ~= epoch or head.space ~= space)
end

-- Why this caller may not change the claims, or nil; then the change counts.
local function refusal()
  if not head or head.layout ~= layout then
    return { "lost", "there are none of this layout" }
  end
  if is_fenced() then
    return { "fenced", "" }
  end
  local count = tonumber(ARGV[5])
  if head.count ~= count and head.count ~= count + 1 then
    return { "lost", "they were changed " .. head.count .. " times instead of " .. count }
  end
  head.count = count + 1
  return nil
end

-- How many of the oldest marks are of claims that nothing can meet which was appended from `reach_ms` on.
local function out_of_reach(reach_ms)
  local count = 0
  while head.marks[count + 1] and head.marks[count + 1].append_ms < reach_ms do
    count = count + 1
  end
  return count
end

-- Why the claims do not hold everything that a record may meet, given the first one's offset and append time, the
-- claims' time to live, the append time from which owners may matter, and how much of that is tolerance; or nil.
local function what_is_missing(first_offset, first_append_ms, ttl, reach_ms, skew)
  local newest, oldest = head.marks[#head.marks], head.marks[out_of_reach(reach_ms) + 1]
  if newest and first_offset <= head.last and first_append_ms > newest.append_ms then
    return "they are of another log"
  end
  if reach_ms + skew < head.floor then
    return "older owners may be needed, and may have been forgotten"
  end
  if oldest and now_ms() - oldest.claimed_ms >= ttl then
    return "they are older than their time to live"
  end
  return nil
end

-- Note a claim in the newest mark, or in a new one once that covers enough of either clock.
local function mark(append_ms, ttl, chunk)
  local newest, now, enough = head.marks[#head.marks], now_ms(), ttl / MARKS_PER_TTL
  if newest and now - newest.claimed_ms < enough and append_ms - newest.begin_ms < enough then
    newest.append_ms = math.max(newest.append_ms, append_ms)
  else
    append_ms = math.max(newest and newest.append_ms or 0, append_ms)
    head.marks[#head.marks + 1] = { begin_ms = append_ms, append_ms = append_ms, claimed_ms = now, first_chunk = chunk }
  end
end

-- take: become the one who claims. ARGV[6] the highest offset whose claims must be there, [7] the log's end, [8] the
-- append time of the first record to come, [9] the claims' time to live, [10] the append time from which owners may
-- matter, [11] by how much append times may step back, [12] "1" to begin again in any case. Answers `held`, the space, the count, and the first chunk to load and the
-- one after the last; or `lost`: the space is then the caller's new and empty one, for `restore` and `finish`.
local function take()
  local needed, log_end, reach_ms = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[10])
  if head and head.layout == layout and ARGV[12] ~= "1" and head.last >= needed and head.last < log_end
      and not what_is_missing(needed + 1, tonumber(ARGV[8]), tonumber(ARGV[9]), reach_ms, tonumber(ARGV[11])) then
    local oldest = head.marks[out_of_reach(reach_ms) + 1]
    return { "held", head.space, head.count, oldest and oldest.first_chunk or head.next_chunk, head.next_chunk }
  end
  local first_mark = { begin_ms = 0, append_ms = 0, claimed_ms = now_ms(), first_chunk = 0 }
  head = { space = space, last = -2, count = 0, floor = 0, next_chunk = 0, marks = { first_mark } }
  return { "lost", space, 0, 0, 0 }
end

-- restore: put owners back. KEYS[2] a new chunk. ARGV[6] its number, [7] the claims' time to live in ms, [8] the owners.
local function restore()
  redis.call("SET", KEYS[2], ARGV[8], "PX", ARGV[7])
  head.next_chunk = tonumber(ARGV[6]) + 1
  return { "ok", "" }
end

-- finish: what was restored is whole. ARGV[6] the last offset it covers, [7] its highest append time, [8] the append
-- time before which nothing was restored.
local function finish()
  head.last, head.floor = tonumber(ARGV[6]), tonumber(ARGV[8])
  head.marks[1].begin_ms, head.marks[1].append_ms = tonumber(ARGV[8]), tonumber(ARGV[7])
  return { "ok", "" }
end

local function bury(chunk, at)
  if redis.call("EXISTS", chunk) == 1 then
    redis.call("SETRANGE", chunk, at + OFFSET_AT, NOBODY)
  end
end

-- claim: of the records that are decided on, whether or not they have a key: ARGV[6] the first offset, [7] its append
-- time, [8] the last offset, [9] the highest append time; [10] the claims' time to live, [11] the append time before
-- which no owner can match anything any more, [12] by how much append times may step back (all ms); [13] the number of
-- the new chunk KEYS[2], [14] its owners, perhaps none; [15..] for each of KEYS[3..] where in that chunk an owner lies
-- that owns nothing any more.
local function claim()
  local ttl, reach_ms, chunk = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[13])
  local missing = what_is_missing(tonumber(ARGV[6]), tonumber(ARGV[7]), ttl, reach_ms, tonumber(ARGV[12]))
  if missing then
    return { "lost", missing }
  end
  if #ARGV[14] > 0 then
    redis.call("SET", KEYS[2], ARGV[14], "PX", ttl)
    head.next_chunk = chunk + 1
  end
  for i = 3, #KEYS do
    bury(KEYS[i], ARGV[12 + i])
  end
  for _ = 1, out_of_reach(reach_ms) do
    table.remove(head.marks, 1)
  end
  head.last, head.floor = math.max(head.last, tonumber(ARGV[8])), math.max(head.floor, reach_ms)
  mark(tonumber(ARGV[9]), ttl, chunk)
  return { "ok", "" }
end

-- release: an owner will not be stored after all; nobody may be its duplicate. KEYS[2..] its chunk, if it is known,
-- ARGV[6..] where in it.
local function release()
  for i = 2, #KEYS do
    bury(KEYS[i], ARGV[4 + i])
  end
  return { "ok", "" }
end

-- read: owners, one after the other. KEYS[2..] their chunks, ARGV[6] pairs of 32-bit numbers: which of those, and where
-- in it. Changes nothing.
local function read()
  if is_fenced() then
    return { "fenced", "" }
  end
  local places, owners = ARGV[6], {}
  for at = 1, #places, 8 do
    local which, where = struct.unpack("<I4I4", places, at)
    local owner = redis.call("GETRANGE", KEYS[2 + which], where, where + OWNER - 1)
    if #owner ~= OWNER then
      return { "lost", "a chunk of them is gone" }
    end
    owners[#owners + 1] = owner
  end
  return { "ok", table.concat(owners) }
end

local changes = { restore = restore, finish = finish, claim = claim, release = release }
head = read_head()
if operation == "read" then
  return read()
end
local answer
if operation == "take" then
  answer = take()
else
  answer = refusal() or changes[operation]()
end
if answer[1] == "ok" or operation == "take" then
  write_head()
end
return answer
