-- Claims of one partition. Their owners are in chunks, in the order of the claims. The worker that holds the partition
-- knows the place of each owner and decides; this script writes what it decided. It makes sure that only that worker
-- writes, and that the worker notices when claims are gone.
--
-- KEYS[1]   the partition's state: the layout of its claims, the lease on them, how far they reach
-- KEYS[2..] chunks; all keys have the partition's hash tag
-- ARGV[1]   operation: take, restore, finish, claim, release or read (below, each with its further arguments)
-- ARGV[2]   layout: changes whenever this version and these settings must not read older claims
-- ARGV[3]   epoch: changes each time a worker takes the partition
-- ARGV[4]   space: part of every chunk's key; a rebuild starts a new one, and the old one expires
-- ARGV[5]   count: number of calls that have changed the claims since they were taken, as the caller knows it
--
-- `consumers/claims/script.py` puts the constants before this text that Python shares: OWNER_BYTES, OFFSET_AT,
-- TOMBSTONE, STATE, PLACE and MARKS_PER_TTL. A chunk is a list of owners (`consumers/claims/owners.py`). A tombstone in
-- the place of its offset marks an owner that owns nothing any more. Chunks are numbered, change in no other way, and
-- expire.
--
-- A Redis that loses acknowledged writes (a failover to a replica that lagged) shows a lower count. A count that is one
-- higher than the caller's includes its own call whose answer was lost; every call may be repeated.
--
-- The state also has a floor: marks of owners appended before it may have been dropped. Marks follow the state: lowest
-- and highest append time, Redis's clock at the first claim (all in ms), first chunk, one mark per stretch of claims.
-- They show when claims that still matter may have expired, however slowly the log is read, and which chunks matter.
local STATE_BYTES = struct.size(STATE)
local MARK = "<i8i8i8i8"
local MARK_BYTES = struct.size(MARK)
local PLACE_BYTES = struct.size(PLACE)

local operation, layout, epoch, space = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function now_ms()
  local time = redis.call("TIME")
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- The partition's state; nil when there is none.
local state

local function read_state()
  local raw = redis.call("GET", KEYS[1])
  if not raw or #raw < STATE_BYTES then
    return nil
  end
  local found = { marks = {} }
  found.layout, found.epoch, found.space, found.last, found.count, found.floor, found.next_chunk =
    struct.unpack(STATE, raw)
  for at = STATE_BYTES + 1, #raw, MARK_BYTES do
    local begin_ms, append_ms, claimed_ms, first_chunk = struct.unpack(MARK, raw, at)
    found.marks[#found.marks + 1] =
      { begin_ms = begin_ms, append_ms = append_ms, claimed_ms = claimed_ms, first_chunk = first_chunk }
  end
  return found
end

local function write_state()
  local parts =
    { struct.pack(STATE, layout, epoch, state.space, state.last, state.count, state.floor, state.next_chunk) }
  for _, mark in ipairs(state.marks) do
    parts[#parts + 1] = struct.pack(MARK, mark.begin_ms, mark.append_ms, mark.claimed_ms, mark.first_chunk)
  end
  redis.call("SET", KEYS[1], table.concat(parts))
end

-- Whether another worker has taken the partition since.
local function is_fenced()
  return state and state.layout == layout and (state.epoch ~= epoch or state.space ~= space)
end

-- The reason why this caller may not change the claims; nil when it may, and then the change is counted.
local function refusal()
  if not state or state.layout ~= layout then
    return { "lost", "none of this layout exist" }
  end
  if is_fenced() then
    return { "fenced", "" }
  end
  local count = tonumber(ARGV[5])
  if state.count ~= count and state.count ~= count + 1 then
    return { "lost", "they were changed " .. state.count .. " times instead of " .. count }
  end
  state.count = count + 1
  return nil
end

-- The number of oldest marks whose claims cannot match any record appended from `reach_ms` on.
local function out_of_reach(reach_ms)
  local count = 0
  while state.marks[count + 1] and state.marks[count + 1].append_ms < reach_ms do
    count = count + 1
  end
  return count
end

-- The reason why the claims do not hold everything that a record may match, or nil. Given are the first record's offset
-- and append time, the claims' time to live, the append time from which owners may matter, and how much of that is
-- tolerance.
local function what_is_missing(first_offset, first_append_ms, ttl, reach_ms, skew)
  local newest, oldest = state.marks[#state.marks], state.marks[out_of_reach(reach_ms) + 1]
  if newest and first_offset <= state.last and first_append_ms > newest.append_ms then
    return "they are of another log"
  end
  if reach_ms + skew < state.floor then
    return "older owners may be needed, and may have been dropped"
  end
  if oldest and now_ms() - oldest.claimed_ms >= ttl then
    return "they are older than their time to live"
  end
  return nil
end

-- Add a claim to the newest mark, or to a new one once that covers enough of either clock.
local function mark(append_ms, ttl, chunk)
  local newest, now, enough = state.marks[#state.marks], now_ms(), ttl / MARKS_PER_TTL
  if newest and now - newest.claimed_ms < enough and append_ms - newest.begin_ms < enough then
    newest.append_ms = math.max(newest.append_ms, append_ms)
  else
    append_ms = math.max(newest and newest.append_ms or 0, append_ms)
    local begun = { begin_ms = append_ms, append_ms = append_ms, claimed_ms = now, first_chunk = chunk }
    state.marks[#state.marks + 1] = begun
  end
end

-- take: become the holder. ARGV[6] highest offset whose claims must be present, [7] end of the log, [8] append time of
-- the next record, [9] time to live of claims, [10] append time from which owners may matter, [11] largest backward
-- step of append times (all in ms), [12] "1" to give the claims up in any case. Returns `held`, the space, the count,
-- the first chunk to load and the one after the last; or `lost`: then the space is the caller's new and empty one, for
-- `restore` and `finish`.
local function take()
  local needed, log_end, reach_ms = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[10])
  if state and state.layout == layout and ARGV[12] ~= "1" and state.last >= needed and state.last < log_end
      and not what_is_missing(needed + 1, tonumber(ARGV[8]), tonumber(ARGV[9]), reach_ms, tonumber(ARGV[11])) then
    local oldest = state.marks[out_of_reach(reach_ms) + 1]
    return { "held", state.space, state.count, oldest and oldest.first_chunk or state.next_chunk, state.next_chunk }
  end
  local first_mark = { begin_ms = 0, append_ms = 0, claimed_ms = now_ms(), first_chunk = 0 }
  state = { space = space, last = -2, count = 0, floor = 0, next_chunk = 0, marks = { first_mark } }
  return { "lost", space, 0, 0, 0 }
end

-- restore: add owners to claims that were lost. KEYS[2] a new chunk. ARGV[6] its number, [7] time to live of claims in
-- ms, [8] the owners.
local function restore()
  redis.call("SET", KEYS[2], ARGV[8], "PX", ARGV[7])
  state.next_chunk = tonumber(ARGV[6]) + 1
  return { "ok", "" }
end

-- finish: declare the restored claims whole. ARGV[6] last offset that they cover, [7] highest append time, [8] append
-- time before which nothing was restored.
local function finish()
  state.last, state.floor = tonumber(ARGV[6]), tonumber(ARGV[8])
  state.marks[1].begin_ms, state.marks[1].append_ms = tonumber(ARGV[8]), tonumber(ARGV[7])
  return { "ok", "" }
end

local function tombstone_owner(chunk, at)
  if redis.call("EXISTS", chunk) == 1 then
    redis.call("SETRANGE", chunk, at + OFFSET_AT, TOMBSTONE)
  end
end

-- claim: add the new owners of a span of records, with or without a key. ARGV[6] first offset of the span, [7] its
-- append time, [8] last offset, [9] highest append time, [10] time to live of claims, [11] append time before which no
-- owner can match any more, [12] largest backward step of append times (all in ms), [13] number of the new chunk
-- KEYS[2], [14] its owners, perhaps none, [15..] for each chunk in KEYS[3..] the position of an owner to tombstone.
local function claim()
  local ttl, reach_ms, chunk = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[13])
  local missing = what_is_missing(tonumber(ARGV[6]), tonumber(ARGV[7]), ttl, reach_ms, tonumber(ARGV[12]))
  if missing then
    return { "lost", missing }
  end
  if #ARGV[14] > 0 then
    redis.call("SET", KEYS[2], ARGV[14], "PX", ttl)
    state.next_chunk = chunk + 1
  end
  for i = 3, #KEYS do
    tombstone_owner(KEYS[i], ARGV[12 + i])
  end
  for _ = 1, out_of_reach(reach_ms) do
    table.remove(state.marks, 1)
  end
  state.last, state.floor = math.max(state.last, tonumber(ARGV[8])), math.max(state.floor, reach_ms)
  mark(tonumber(ARGV[9]), ttl, chunk)
  return { "ok", "" }
end

-- release: tombstone an owner whose event will not be stored. KEYS[2..] its chunk, if known, ARGV[6..] its position
-- there.
local function release()
  for i = 2, #KEYS do
    tombstone_owner(KEYS[i], ARGV[4 + i])
  end
  return { "ok", "" }
end

-- read: return owners, concatenated. KEYS[2..] their chunks, ARGV[6] their places (PLACE). Changes nothing.
local function read()
  if is_fenced() then
    return { "fenced", "" }
  end
  local places, owners = ARGV[6], {}
  for at = 1, #places, PLACE_BYTES do
    local which, where = struct.unpack(PLACE, places, at)
    local owner = redis.call("GETRANGE", KEYS[2 + which], where, where + OWNER_BYTES - 1)
    if #owner ~= OWNER_BYTES then
      return { "lost", "a chunk of them is gone" }
    end
    owners[#owners + 1] = owner
  end
  return { "ok", table.concat(owners) }
end

local changes = { restore = restore, finish = finish, claim = claim, release = release }
state = read_state()
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
  write_state()
end
return answer
