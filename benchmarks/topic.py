"""Seeded topic that every system reads, with duplicates from the whole deduplication window, not only recent ones.

Event `n` is a function of `n` and the seed. Negative numbers are events from before the topic, with a claim but no
record, so that a worker starts with a full window.
"""

import random
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from consumers.claims.client import CHUNK_OWNERS, Claims, Lease
from consumers.claims.owners import OWNER_BYTES, OwnerRows
from producers.partitions import partition_of
from runtime import kafka
from runtime.redis import Redis
from runtime.settings import Settings
from schemas.dedup import dedup_key
from schemas.identity import mint_id
from schemas.wire import encode_headers

NAMESPACE = "default"
DUPLICATES = 0.05
NAMED = 1_000_000
"""Events from before the topic that a duplicate may repeat, spread over the window."""
PER_EXECUTION = 10
MAX_CACHED = 100_000
_MARGIN_MS = 60_000
_TYPES = ("impression", "impression", "impression", "click", "view", "dwell", "add_to_cart", "purchase")
_RETRIEVERS = ("hybrid", "dense", "keyword")
_DEVICES = ("ios", "android", "desktop")


class KeyFields(NamedTuple):
    """Fields of an event's deduplication key."""

    execution_id: str
    feature_id: str
    interaction_type: str


def key_fields_of(number: int, seed: int) -> KeyFields:
    """Return the key fields of event `number`."""
    mixed = (number * 0x9E3779B97F4A7C15 + seed) & 0xFFFFFFFFFFFFFFFF
    return KeyFields(
        f"exec-{seed:x}-{number // PER_EXECUTION:x}", f"doc-{(mixed >> 20) % 50_000}-{number % PER_EXECUTION}",
        _TYPES[(mixed >> 40) % len(_TYPES)],
    )  # fmt: skip


def value_of(facts: KeyFields, chance: random.Random) -> tuple[bytes, str]:
    """Return a record's value, and the event's id."""
    bits, interaction_id = chance.getrandbits(64), mint_id()
    value = (
        '{"feature_id":"%s","interaction_type":["%s"],"position":%d,"metadata":{"device":"%s","app_version":"4.%d",'
        '"experiment":"%d","request_id":"%016x","viewport":[%d,%d]},"user_id":"user-%d","session_id":"s-%012x",'
        '"execution_id":"%s","retriever_id":"%s","query_snapshot":{"text":"running shoes %x","top_k":20,'
        '"filters":{"in_stock":true}},"document_score":0.%04d,"result_set_size":%d,'
        '"feature_uri":"tally://text@v1/embedding","interaction_id":"%s"}'
        % (
            facts.feature_id, facts.interaction_type, bits % 20, _DEVICES[bits % 3], bits % 30, bits % 4, bits,
            360 + bits % 1_000, 640 + bits % 900, bits % 1_000_000, bits >> 16, facts.execution_id,
            _RETRIEVERS[bits % 3], bits >> 40, bits % 10_000, 1 + bits % 100, interaction_id,
        )
    )  # fmt: skip
    return value.encode(), interaction_id


def _numbers(events: int, seed: int) -> Iterator[int]:
    """Yield the number of each record's event: the next one, or an earlier one again."""
    chance = random.Random(seed)
    fresh = 0
    for _ in range(events):
        if chance.random() < DUPLICATES:
            yield chance.randrange(-NAMED, fresh) if fresh else -1
        else:
            yield fresh
            fresh += 1


def record_key(execution_id: str, namespace: str = NAMESPACE) -> bytes:
    """Return the key of an execution's records."""
    return f"{namespace}:{execution_id}".encode()


def partition_cache(partitions: int) -> Callable[[str], int]:
    """Return a function from executions to partitions. Hashing is slow, and an execution's events are consecutive."""
    return lru_cache(MAX_CACHED)(lambda execution_id: partition_of(record_key(execution_id), partitions))


async def fill(settings: Settings, events: int, seed: int) -> int:
    """Put the events on the topic, and return their mean size in bytes."""
    chance, placed, total = random.Random(seed + 1), partition_cache(settings.partitions), 0
    headers = encode_headers(NAMESPACE)
    async with kafka.producer(settings) as producer:
        batches: dict[int, BatchBuilder] = {}
        for number in _numbers(events, seed):
            facts = key_fields_of(number, seed)
            value, _ = value_of(facts, chance)
            total += len(value)
            key = record_key(facts.execution_id)
            partition = placed(facts.execution_id)
            batch = batches.setdefault(partition, producer.create_batch())
            if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                await _send(producer, settings.topic, partition, batch)
                batches[partition] = batch = producer.create_batch()
                batch.append(key=key, value=value, timestamp=None, headers=headers)
        for partition, batch in batches.items():
            await _send(producer, settings.topic, partition, batch)
    return total // events


async def _send(producer: AIOKafkaProducer, topic: str, partition: int, batch: BatchBuilder) -> None:
    batch.close()
    await producer.send_batch(batch, topic, partition=partition)


async def fill_claims(settings: Settings, redis: Redis, claims: int, seed: int, log_begin_ms: int) -> None:
    """Give each partition the claims of a full window."""
    client = Claims(redis, settings)
    named = _named_owners(settings, seed)
    for partition in range(settings.partitions):
        rows = _rows(named[partition], claims // settings.partitions, settings.dedup_window_ms, log_begin_ms, seed)
        await restore_claims(client, partition, rows, append_ms=log_begin_ms + _MARGIN_MS)


async def restore_claims(client: Claims, partition: int, rows: OwnerRows, append_ms: int) -> Lease:
    """Replace the claims of a partition by these rows, which are complete up to `append_ms`."""
    lease = await client.take(partition, needed=-1, log_end=1, append_ms=append_ms, again=True)
    for start in range(0, len(rows), CHUNK_OWNERS):
        await client.restore(lease, rows[start : start + CHUNK_OWNERS])
    await client.finish(lease, last_offset=max(-1, int(rows[-1, 2])), append_ms=append_ms, reach_ms=0)
    return lease


def _named_owners(settings: Settings, seed: int) -> list[list[bytes]]:
    placed = partition_cache(settings.partitions)
    keys: list[list[bytes]] = [[] for _ in range(settings.partitions)]
    for number in range(-NAMED, 0):
        facts = key_fields_of(number, seed)
        key = dedup_key(NAMESPACE, facts.execution_id, facts.feature_id, [facts.interaction_type])
        keys[placed(facts.execution_id)].append(key or b"")
    return keys


def _rows(named: list[bytes], count: int, window_ms: int, log_begin_ms: int, seed: int) -> OwnerRows:
    """Return owners in order of append time: named ones up to a window before the log, others up to two windows."""
    chance = np.random.default_rng(seed)
    rows = np.frombuffer(chance.bytes(max(count, len(named)) * OWNER_BYTES), np.int64).reshape(-1, 7).copy()
    ages = chance.integers(0, 2 * window_ms, len(rows))
    where = chance.choice(len(rows), len(named), replace=False)
    rows[where, :2] = np.frombuffer(b"".join(named), np.int64).reshape(-1, 2)
    ages[where] = chance.integers(0, window_ms - 2 * _MARGIN_MS, len(named))
    rows[:, 3] = rows[:, 4] = log_begin_ms - ages
    rows = rows[np.argsort(rows[:, 4], kind="stable")]
    rows[:, 2] = np.arange(-len(rows) - 2, -2)  # before the log's first offset
    return rows


def now_ms() -> int:
    """Return the wall-clock time, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
