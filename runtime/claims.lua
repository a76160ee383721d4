-- Claims a batch of one partition. The rule is `is_duplicate_of` in schemas/dedup.py; a test holds the two together.
--
-- KEYS     one claim key per event, in offset order; all with the partition's hash tag
-- ARGV[1]  the window W in ms
-- ARGV[2]  the claims' time to live in ms
-- ARGV[3]  per event 40 bytes: offset, event time, append time (signed 64-bit, little-endian), 16 bytes of id
-- ARGV[4]  owners appended before this (ms) can match nothing any more, and are dropped when a key is written
--
-- A claim's value is the list of its owners in that same form, nearly always one. Owners are appended, never
-- replaced: a redelivered event finds itself, and a late one finds whom it would have met.
--
-- Returns, per event, 16 bytes: zeros when it is to be stored, else the id it is a duplicate of.
local OWNER = 40
local STORE = string.rep("\0", 16)
local window, ttl, events, reach_ms = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])

local function within_reach(owners)
  local kept = {}
  for at = 1, #owners, OWNER do
    local _, _, append_ms = struct.unpack("<i8i8i8", owners, at)
    if append_ms >= reach_ms then
      kept[#kept + 1] = string.sub(owners, at, at + OWNER - 1)
    end
  end
  return table.concat(kept)
end

local function judge(owners, offset, event_ms, append_ms, id)
  local lowest, duplicate_of = nil, nil
  for at = 1, #owners, OWNER do
    local owner_offset, owner_event_ms, owner_append_ms = struct.unpack("<i8i8i8", owners, at)
    local owner_id = string.sub(owners, at + 24, at + 39)
    if owner_offset == offset and owner_id == id then
      return "mine"
    end
    if owner_offset < offset
        and math.abs(event_ms - owner_event_ms) < window
        and append_ms - owner_append_ms < 2 * window
        and (lowest == nil or owner_offset < lowest) then
      lowest, duplicate_of = owner_offset, owner_id
    end
  end
  return duplicate_of
end

local verdicts = {}
for i, key in ipairs(KEYS) do
  local at = (i - 1) * OWNER + 1
  local offset, event_ms, append_ms = struct.unpack("<i8i8i8", events, at)
  local id = string.sub(events, at + 24, at + 39)
  local owners = redis.call("GET", key) or ""
  local verdict = judge(owners, offset, event_ms, append_ms, id)
  if verdict == nil then
    redis.call("SET", key, within_reach(owners) .. string.sub(events, at, at + 39), "PX", ttl)
  end
  verdicts[i] = (verdict == nil or verdict == "mine") and STORE or verdict
end
return table.concat(verdicts)
