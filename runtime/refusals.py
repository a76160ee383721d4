"""Counts of refused and accepted events in Redis: a hash for each namespace and hour, kept for a day.

Fields of a hash, with MINUTE from 0 to 59 and `endpoint|key|reason|field` as GROUP: `a|MINUTE|KEY` accepted events of
an API key, `t|KEY` the time of the last one in ms since 1970, `senders` the number of keys; `r|MINUTE|GROUP` refused
events, `f|GROUP` and `l|GROUP` the times of the first and last one, `m|GROUP` the message of the last one, `groups` the
number of groups.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis.asyncio import RedisCluster

from runtime.portions import portions
from runtime.redis import Redis

MAX_GROUPS = 100
"""Maximum groups of refused events of one namespace and hour; further ones are counted as OTHER."""
MAX_SENDERS = 100
"""Maximum API keys by which accepted events of one namespace and hour are counted; those of further ones have none."""
OTHER = "other"
"""Reason of refused events in groups beyond the maximum."""
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
KEPT_MINUTES = 24 * 60
_TTL_MS = KEPT_MINUTES * MINUTE_MS + HOUR_MS
_MAX_KEYS_TOGETHER, _MAX_ENTRIES_TOGETHER = 50, 250
"""Maximum hashes, and counts in them, of one call: it keeps Redis for about a millisecond. One hash may have more."""

# KEYS: hashes. ARGV: their lifetime in ms, the maxima of groups and senders, and for each hash its additions as JSON.
_ADD = """
for at, key in ipairs(KEYS) do
    local added = cjson.decode(ARGV[at + 3])
    for _, each in ipairs(added.accepted) do
        local minute, count, last, sender = unpack(each)
        if not redis.call("HGET", key, "t|" .. sender) then
            if tonumber(redis.call("HGET", key, "senders") or 0) < tonumber(ARGV[3]) then
                redis.call("HINCRBY", key, "senders", 1)
            else
                sender = ""
            end
        end
        redis.call("HINCRBY", key, "a|" .. minute .. "|" .. sender, count)
        redis.call("HSET", key, "t|" .. sender, last)
    end
    for _, each in ipairs(added.refused) do
        local minute, count, first, last, message, group, other = unpack(each)
        if not redis.call("HGET", key, "f|" .. group) then
            if tonumber(redis.call("HGET", key, "groups") or 0) < tonumber(ARGV[2]) then
                redis.call("HINCRBY", key, "groups", 1)
            else
                group = other
            end
            if not redis.call("HGET", key, "f|" .. group) then
                redis.call("HSET", key, "f|" .. group, first)
            end
        end
        redis.call("HINCRBY", key, "r|" .. minute .. "|" .. group, count)
        redis.call("HSET", key, "l|" .. group, last, "m|" .. group, message)
    end
    redis.call("PEXPIRE", key, ARGV[1])
end
"""


class RefusalGroup(NamedTuple):
    """Refused events with one endpoint (create, batch, beacon), API key, reason and field; '' without one."""

    endpoint: str
    key_id: str
    reason: str
    field: str

    @property
    def other(self) -> "RefusalGroup":
        """Group that stands for all groups of the endpoint beyond the maximum."""
        return RefusalGroup(self.endpoint, "", OTHER, "")


@dataclass(slots=True)
class RefusalTotal:
    """Number of refused events of a group, times of the first and last one in ms since 1970, and its message."""

    refused: int
    first_ms: int
    last_ms: int
    message: str

    def add(self, more: "RefusalTotal") -> None:
        """Add the events of another total."""
        self.refused += more.refused
        self.first_ms = min(self.first_ms, more.first_ms)
        if more.last_ms >= self.last_ms:
            self.last_ms, self.message = more.last_ms, more.message


@dataclass(slots=True)
class AcceptedTotal:
    """Number of accepted events of an API key, and the time of the last one in ms since 1970."""

    accepted: int = 0
    last_ms: int = 0

    def add(self, more: int, last_ms: int) -> None:
        """Add events."""
        self.accepted += more
        self.last_ms = max(self.last_ms, last_ms)


@dataclass(slots=True)
class MinuteCounts:
    """Counts of one namespace and minute."""

    accepted: dict[str, AcceptedTotal] = field(default_factory=dict)
    """Accepted events by API key; '' stands for keys beyond the maximum."""
    groups: dict[RefusalGroup, RefusalTotal] = field(default_factory=dict)

    def add_accepted(self, key_id: str, count: int, now_ms: int) -> None:
        """Add accepted events of an API key."""
        found = self.accepted.get(key_id)
        if found is None:
            key_id = key_id if len(self.accepted) < MAX_SENDERS else ""
            found = self.accepted.setdefault(key_id, AcceptedTotal())
        found.add(count, now_ms)


class NamespaceMinute(NamedTuple):
    """Namespace and minute since 1970."""

    namespace: str
    minute: int


@dataclass(slots=True)
class RefusalCounts:
    """Counts of one namespace over a range of minutes."""

    accepted: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """Accepted events by minute since 1970."""
    senders: dict[str, AcceptedTotal] = field(default_factory=lambda: defaultdict(AcceptedTotal))
    """Accepted events by API key; '' stands for keys beyond the maximum."""
    refused: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    groups: dict[RefusalGroup, RefusalTotal] = field(default_factory=dict)


async def add_counts(redis: Redis, key_prefix: str, counts: Mapping[NamespaceMinute, MinuteCounts]) -> None:
    """Add counts to those in Redis."""
    additions: dict[str, dict[str, list[Any]]] = {}
    for (namespace, minute), each in counts.items():
        hour, within = divmod(minute, 60)
        added = additions.setdefault(_key(key_prefix, namespace, hour), {"accepted": [], "refused": []})
        for key_id, sent in each.accepted.items():
            added["accepted"].append([str(within), str(sent.accepted), str(sent.last_ms), key_id])
        for group, total in each.groups.items():
            # Texts, because Lua's numbers are doubles and lose digits when they become texts.
            numbers = [str(number) for number in (within, total.refused, total.first_ms, total.last_ms)]
            added["refused"].append([*numbers, total.message, "|".join(group), "|".join(group.other)])
    together = 1 if isinstance(redis, RedisCluster) else _MAX_KEYS_TOGETHER  # its scripts use keys of one slot only
    sizes = {key: sum(map(len, each.values())) for key, each in additions.items()}
    for chunk in portions(additions, sizes.__getitem__, max_items=together, max_size=_MAX_ENTRIES_TOGETHER):
        texts = [json.dumps(additions[key], ensure_ascii=False).encode(errors="replace") for key in chunk]
        await redis.eval(_ADD, len(chunk), *chunk, str(_TTL_MS), str(MAX_GROUPS), str(MAX_SENDERS), *texts)


async def read_counts(redis: Redis, key_prefix: str, namespace: str, first: int, last: int) -> RefusalCounts:
    """Return the counts of the minutes from `first` to `last` (since 1970), both included."""
    hours = range(first // 60, last // 60 + 1)
    pipeline = redis.pipeline(transaction=False)
    for hour in hours:
        pipeline.hgetall(_key(key_prefix, namespace, hour))
    counts = RefusalCounts()
    for hour, raw in zip(hours, await pipeline.execute(), strict=True):
        hashed = {name.decode(errors="replace"): value for name, value in raw.items()}
        _add_hour(counts, hashed, hour * 60, range(first, last + 1))
    return counts


def _key(key_prefix: str, namespace: str, hour: int) -> str:
    return f"{key_prefix}:refusals:{hour}:{namespace}"


def _add_hour(counts: RefusalCounts, hashed: Mapping[str, bytes], start: int, minutes: range) -> None:
    """Add the hash of the hour that begins at the minute `start`, as far as it is within `minutes`."""
    by_group: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for name, value in hashed.items():
        kind, _, rest = name.partition("|")
        if kind not in ("a", "r"):
            continue
        text, _, group = rest.partition("|")
        minute = start + int(text)
        if minute not in minutes:
            continue
        if kind == "a":
            counts.accepted[minute] += int(value)
            counts.senders[group].add(int(value), _within(minute, int(hashed.get(f"t|{group}", 0))))
        else:
            counts.refused[minute] += int(value)
            by_group[group].append((minute, int(value)))
    for group, found in by_group.items():
        message = hashed[f"m|{group}"].decode(errors="replace")
        first_ms = _within(min(found)[0], int(hashed[f"f|{group}"]))
        last_ms = _within(max(found)[0], int(hashed[f"l|{group}"]))
        total = RefusalTotal(sum(count for _, count in found), first_ms, last_ms, message)
        named = RefusalGroup(*group.split("|", 3))
        if named in counts.groups:
            counts.groups[named].add(total)
        else:
            counts.groups[named] = total


def _within(minute: int, at_ms: int) -> int:
    """Return the time nearest to `at_ms` in a minute: the first and last one of an hour may be outside of a range."""
    return max(minute * MINUTE_MS, min(at_ms, (minute + 1) * MINUTE_MS - 1))
