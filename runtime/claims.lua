-- The claims of one partition. The rule is `is_duplicate_of` in schemas/dedup.py; a test holds the two together.
--
-- KEYS[1]   the partition's head: which layout its claims have, who may take them, how far they reach
-- KEYS[2..] claim keys, one per event, in offset order; all with the partition's hash tag
-- ARGV[1]   the operation: take, restore, finish, claim or release (below, each with its further arguments)
-- ARGV[2]   layout: 8 bytes that change whenever older claims must not be read by this version and these settings
-- ARGV[3]   epoch: 16 bytes, another one each time a worker takes the partition
-- ARGV[4]   space: 4 bytes that are part of every claim key; a rebuild begins a new one, and the old one expires
-- ARGV[5]   count: how many calls have changed the claims since they were taken, as the caller knows it
--
-- A claim's value is the list of its owners, nearly always one, 40 bytes each: offset, event time, append time
-- (signed 64-bit, little-endian), 16 bytes of id. Owners are appended, never replaced: a redelivered event finds
-- itself, and a late one finds whom it would have met.
--
-- A Redis that loses acknowledged writes (a failover to a replica that lagged) shows a lower count. One more than the
-- caller knows of is its own call whose answer was lost; every call may be repeated.
--
-- The head also has a floor: owners appended before it may have been forgotten. It ends with marks: (highest append
-- time, Redis's clock at the first claim), both in ms, for stretches of claims. They tell when claims that still matter
-- may have expired, however slowly the log is read.
local OWNER = 40
local HEAD = "<c8c16c4i8i8i8"
local HEAD_BYTES = 52
local MARKS_PER_TTL = 16
local NOBODY = string.rep("\0", 24)

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
  found.layout, found.epoch, found.space, found.last, found.count, found.floor = struct.unpack(HEAD, raw)
  for at = HEAD_BYTES + 1, #raw, 16 do
    local append_ms, claimed_ms = struct.unpack("<i8i8", raw, at)
    found.marks[#found.marks + 1] = { append_ms, claimed_ms }
  end
  return found
end

local function write_head()
  local parts = { struct.pack(HEAD, layout, epoch, head.space, head.last, head.count, head.floor) }
  for _, mark in ipairs(head.marks) do
    parts[#parts + 1] = struct.pack("<i8i8", mark[1], mark[2])
  end
  redis.call("SET", KEYS[1], table.concat(parts))
end

-- Why this caller may not change the claims, or nil; then the change counts.
local function refusal()
  if not head or head.layout ~= layout then
    return { "lost", "there are none of this layout" }
  end
  if head.epoch ~= epoch or head.space ~= space then
    return { "fenced", "" }
  end
  local count = tonumber(ARGV[5])
  if head.count ~= count and head.count ~= count + 1 then
    return { "lost", "they were changed " .. head.count .. " times instead of " .. count }
  end
  head.count = count + 1
  return nil
end

-- The owners that `keeps` says yes to, asked with the owner and its append time.
local function filtered(owners, keeps)
  local kept = {}
  for at = 1, #owners, OWNER do
    local owner = string.sub(owners, at, at + OWNER - 1)
    local _, _, append_ms = struct.unpack("<i8i8i8", owner)
    if keeps(owner, append_ms) then
      kept[#kept + 1] = owner
    end
  end
  return table.concat(kept)
end

local function within_reach(owners, reach_ms)
  return filtered(owners, function(_, append_ms) return append_ms >= reach_ms end)
end

local function without(owners, owner)
  return filtered(owners, function(other) return other ~= owner end)
end

local function set_owners(key, owners, ...)
  if owners == "" then
    redis.call("DEL", key)
  else
    redis.call("SET", key, owners, ...)
  end
end

-- take: become the one who claims. ARGV[6] the highest offset whose claims must be there, ARGV[7] the log's end,
-- ARGV[8] "1" to begin anew in any case. Answers `held`, the space and the count; or `lost`: the space is then the
-- caller's new and empty one, for `restore` and `finish`.
local function take()
  local needed, log_end = tonumber(ARGV[6]), tonumber(ARGV[7])
  if head and head.layout == layout and ARGV[8] ~= "1" and head.last >= needed and head.last < log_end then
    return { "held", head.space, head.count }
  end
  head = { space = space, last = -2, count = 0, floor = 0, marks = { { 0, now_ms() } } }
  return { "lost", space, 0 }
end

-- restore: put owners back. ARGV[6] the claims' time to live in ms, [7] owners as claim has them.
local function restore()
  local ttl, owners = ARGV[6], ARGV[7]
  for i = 2, #KEYS do
    local owner = string.sub(owners, (i - 2) * OWNER + 1, (i - 1) * OWNER)
    set_owners(KEYS[i], without(redis.call("GET", KEYS[i]) or "", owner) .. owner, "PX", ttl)
  end
  return { "ok", "" }
end

-- finish: what was restored is whole. ARGV[6] the last offset it covers, [7] its highest append time, [8] the append
-- time before which nothing was restored.
local function finish()
  head.last, head.floor = tonumber(ARGV[6]), tonumber(ARGV[8])
  head.marks[1][1] = tonumber(ARGV[7])
  return { "ok", "" }
end

-- claim: of the records that are asked for, whether or not they have a key: ARGV[6] the first offset, [7] its append
-- time, [8] the last offset, [9] its append time; [10] the window W, [11] the claims' time to live, [12] the append
-- time before which no owner can match anything any more (all ms); [13] per event the 40 bytes of an owner and one of
-- flags: 1 only asks, and never owns; 2 was replayed, so append times do not count; 4 is stored, and owns whatever it
-- may find.
-- Answers per event the owner's offset (8 bytes) and id (16), zeros for an event that is to be stored.
local ASKS_ONLY, REPLAYED, STORED = 1, 2, 4

local function has(flags, flag)
  return math.floor(flags / flag) % 2 == 1
end

local function still_whole(first_offset, first_append_ms, ttl, reach_ms)
  local newest = head.marks[#head.marks]
  if newest and first_offset <= head.last and first_append_ms > newest[1] then
    return { "lost", "they are of another log" }
  end
  if reach_ms < head.floor then
    return { "lost", "older owners may be needed, and may have been forgotten" }
  end
  while head.marks[1] and head.marks[1][1] < reach_ms do
    table.remove(head.marks, 1)
  end
  if head.marks[1] and now_ms() - head.marks[1][2] >= ttl then
    return { "lost", "they are older than their time to live" }
  end
  return nil
end

local function mark(append_ms, ttl)
  local newest, now = head.marks[#head.marks], now_ms()
  if newest and now - newest[2] < ttl / MARKS_PER_TTL then
    newest[1] = math.max(newest[1], append_ms)
  else
    head.marks[#head.marks + 1] = { math.max(newest and newest[1] or 0, append_ms), now }
  end
end

-- The owner that `event` is a duplicate of, as 24 bytes, or nil; and whether it is an owner itself. It may be both:
-- since it was asked about, an event before it was refused by ClickHouse, and another one took that one's place.
local function judge(owners, event, replayed, window)
  local offset, event_ms, append_ms = struct.unpack("<i8i8i8", event)
  local lowest, duplicate_of, mine = nil, nil, false
  for at = 1, #owners, OWNER do
    local owner_offset, owner_event_ms, owner_append_ms = struct.unpack("<i8i8i8", owners, at)
    if owner_offset < offset
        and math.abs(event_ms - owner_event_ms) < window
        and (replayed or append_ms - owner_append_ms < 2 * window)
        and (lowest == nil or owner_offset < lowest) then
      lowest, duplicate_of = owner_offset, string.sub(owners, at, at + 7) .. string.sub(owners, at + 24, at + 39)
    end
    mine = mine or string.sub(owners, at, at + OWNER - 1) == event
  end
  return duplicate_of, mine
end

local function claim()
  local last_offset, window, ttl, reach_ms = tonumber(ARGV[8]), tonumber(ARGV[10]), ARGV[11], tonumber(ARGV[12])
  local lost = still_whole(tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ttl), reach_ms)
  if lost then
    return lost
  end
  local events, verdicts = ARGV[13], {}
  for i = 2, #KEYS do
    local at = (i - 2) * (OWNER + 1) + 1
    local event, flags = string.sub(events, at, at + OWNER - 1), string.byte(events, at + OWNER)
    local owners = redis.call("GET", KEYS[i]) or ""
    local duplicate_of, mine = judge(owners, event, has(flags, REPLAYED), window)
    if has(flags, STORED) then
      duplicate_of = nil
    end
    if duplicate_of and mine then
      set_owners(KEYS[i], without(owners, event), "KEEPTTL")
    elseif not duplicate_of and not mine and not has(flags, ASKS_ONLY) then
      set_owners(KEYS[i], within_reach(owners, reach_ms) .. event, "PX", ttl)
    end
    verdicts[#verdicts + 1] = duplicate_of or NOBODY
  end
  head.last, head.floor = math.max(head.last, last_offset), math.max(head.floor, reach_ms)
  mark(tonumber(ARGV[9]), tonumber(ttl))
  return { "ok", table.concat(verdicts) }
end

-- release: the event of ARGV[6] (an owner) will not be stored after all; nobody may be its duplicate.
local function release()
  set_owners(KEYS[2], without(redis.call("GET", KEYS[2]) or "", ARGV[6]), "KEEPTTL")
  return { "ok", "" }
end

local changes = { restore = restore, finish = finish, claim = claim, release = release }
head = read_head()
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
