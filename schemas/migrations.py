"""Migrations of the tables as data: the statements that `tally init` runs, in order.

A migration is never edited after its release; a later one corrects it. Names are unqualified: the connection selects
the database. Views are in `schemas/analytics/catalogue.py`: they hold nothing, so `tally init` replaces them.
"""

from typing import NamedTuple

from schemas.learning_tables import CREATE_LEARNING_TABLES
from schemas.tables import (
    API_KEYS,
    COMPACT_PART_BYTES,
    DEDUPLICATION_WINDOW,
    DELETIONS,
    EVALUATION_DATASETS,
    EXPANSIONS,
    EXPIRING,
    INDEXED_BY_VALUE,
    INTERACTIONS,
    LEDGER,
    MIGRATIONS_TABLE,
    OUTCOMES,
    ROWS_PER_MARK,
    ROWS_PER_RANGE,
    TOPICS,
)


class Migration(NamedTuple):
    """Step of the tables' history. Every statement is safe to run twice, because a crash may interrupt a migration."""

    version: int
    statements: tuple[str, ...]
    oldest: int
    """Oldest table version that a process may be built for and still run on these tables. Tables are migrated first,
    then processes are replaced one by one."""


_CREATE_MIGRATIONS = f"""
CREATE TABLE IF NOT EXISTS {MIGRATIONS_TABLE} (
    version UInt32,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
) ENGINE = ReplacingMergeTree ORDER BY version
"""

# The place in the log is part of the key: a record that is inserted again collapses with itself, while two records
# with the same id from a foreign producer remain two rows, and the audit balances.
#
# The table has no partitions: an insert may contain any months, and a lookup would read every partition. The min-max
# index prunes time ranges instead, because ids, and therefore rows, are in time order.
_CREATE_INTERACTIONS = f"""
CREATE TABLE IF NOT EXISTS {INTERACTIONS} (
    namespace LowCardinality(String),
    interaction_id String,
    feature_id String,
    interaction_type Array(LowCardinality(String)),
    position UInt32,
    metadata String COMMENT 'JSON text as sent; empty for null',
    user_id Nullable(String),
    session_id Nullable(String),
    execution_id Nullable(String),
    retriever_id LowCardinality(Nullable(String)),
    query_snapshot String COMMENT 'JSON text as sent; empty for null',
    document_score Nullable(Float64),
    result_set_size Nullable(UInt32),
    feature_uri LowCardinality(Nullable(String)),
    occurred_at Nullable(DateTime64(3, 'UTC')) COMMENT 'as sent, a future one clamped to timestamp',
    timestamp DateTime64(3, 'UTC') COMMENT 'append time of the Kafka record',
    _event_time_ms Int64 COMMENT 'occurred_at unclamped, else timestamp: what deduplication compares',
    _topic LowCardinality(String),
    _partition UInt32,
    _offset UInt64,
    version UInt64 DEFAULT 0,
    is_deleted UInt8 DEFAULT 0,
    INDEX timestamp_range timestamp TYPE minmax GRANULARITY {ROWS_PER_RANGE // ROWS_PER_MARK},
    INDEX offset_range _offset TYPE minmax GRANULARITY {ROWS_PER_RANGE // ROWS_PER_MARK}
) ENGINE = ReplacingMergeTree(version, is_deleted)
ORDER BY (namespace, interaction_id, _topic, _partition, _offset)
SETTINGS non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}, index_granularity = {ROWS_PER_MARK},
    min_compress_block_size = 8192, max_compress_block_size = 16384
"""

_CREATE_OUTCOMES = f"""
CREATE TABLE IF NOT EXISTS {OUTCOMES} (
    namespace LowCardinality(String) COMMENT 'empty for a record nobody could parse',
    interaction_id String,
    _topic LowCardinality(String),
    _partition UInt32,
    _offset UInt64,
    verdict Enum8('duplicate' = 1, 'rejected' = 2),
    duplicate_of String,
    reason LowCardinality(String),
    field String,
    message String,
    user_id Nullable(String),
    execution_id Nullable(String),
    timestamp DateTime64(3, 'UTC'),
    INDEX offset_range _offset TYPE minmax GRANULARITY 1
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (namespace, interaction_id, _topic, _partition, _offset)
SETTINGS non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}
"""

_CREATE_EXPIRING = f"CREATE TABLE IF NOT EXISTS {EXPIRING} AS {OUTCOMES}"

_CREATE_LEDGER = f"""
CREATE TABLE IF NOT EXISTS {LEDGER} (
    _topic LowCardinality(String),
    _partition UInt32,
    verdict Enum8('duplicate' = 1, 'rejected' = 2),
    month UInt32 COMMENT 'YYYYMM of the append time: the partition of outcomes that was counted',
    first_offset UInt64,
    last_offset UInt64,
    events UInt64
) ENGINE = ReplacingMergeTree
ORDER BY (_topic, _partition, verdict, month, first_offset)
"""

# With another number of partitions a key is on another partition than its claims: the change must be detected.
_CREATE_TOPICS = f"""
CREATE TABLE IF NOT EXISTS {TOPICS} (
    topic String,
    partitions UInt32,
    seen_at DateTime64(3, 'UTC') DEFAULT now64(3)
) ENGINE = ReplacingMergeTree(seen_at) ORDER BY topic
"""

_ADD_IDEMPOTENCY_KEY = f"""
ALTER TABLE {INTERACTIONS}
    ADD COLUMN IF NOT EXISTS _idempotency_key String COMMENT 'what deduplication compares without an execution_id'
    AFTER _event_time_ms,
    ADD INDEX IF NOT EXISTS event_time_range _event_time_ms TYPE minmax GRANULARITY {ROWS_PER_RANGE // ROWS_PER_MARK}
"""

_WIDEN_OUTCOMES = tuple(
    f"ALTER TABLE {table} "
    "ADD COLUMN IF NOT EXISTS replayed_as String COMMENT 'the id it was put on the topic again as' AFTER message, "
    "ADD COLUMN IF NOT EXISTS _event_time_ms Int64 COMMENT 'of a duplicate: what deduplication compared'"
    for table in (OUTCOMES, EXPIRING)
)

# One file for each insert instead of sixty: a fifth less CPU for each row, merges included. Lookups are not slower,
# because such parts are soon merged into larger ones.
_COMPACT_PARTS = f"ALTER TABLE {INTERACTIONS} MODIFY SETTING min_bytes_for_wide_part = {COMPACT_PART_BYTES}"

# By id first: ids sort by time, so deletions of a batch of new events are close together. The table is never emptied
# and not part of a replay: deleted events stay deleted.
_CREATE_DELETIONS = f"""
CREATE TABLE IF NOT EXISTS {DELETIONS} (
    interaction_id String,
    namespace LowCardinality(String),
    deleted_at DateTime64(3, 'UTC') DEFAULT now64(3)
) ENGINE = ReplacingMergeTree
ORDER BY (interaction_id, namespace)
SETTINGS index_granularity = {ROWS_PER_MARK}
"""

_CREATE_API_KEYS = f"""
CREATE TABLE IF NOT EXISTS {API_KEYS} (
    key_id String,
    name String COMMENT 'for people',
    hashed String COMMENT 'SHA-256 of the key, in hex; the key itself is nowhere',
    scopes Array(LowCardinality(String)),
    namespaces Array(String),
    rate_per_s UInt32 COMMENT 'requests; 0 for the setting',
    created_at DateTime64(3, 'UTC') DEFAULT now64(3),
    revoked_at Nullable(DateTime64(3, 'UTC')),
    version UInt64
) ENGINE = ReplacingMergeTree(version)
ORDER BY key_id
"""

# A sender may request it (`?deduplicate=false`), and a rebuild of claims needs it.
_ADD_KEYED = f"""
ALTER TABLE {INTERACTIONS}
    ADD COLUMN IF NOT EXISTS _keyed UInt8 DEFAULT 1 COMMENT 'whether it may be a duplicate, or the owner of one'
    AFTER _idempotency_key
"""

# Rows of events expire as well. The order of the values is unchanged, so the table's order is valid.
_WIDEN_LEDGER = f"""
ALTER TABLE {LEDGER}
    MODIFY COLUMN verdict Enum8('duplicate' = 1, 'rejected' = 2, 'stored' = 3, 'deleted' = 4)
"""

# The value has the same number in both tables. The order of the values is unchanged, so the ledger's order is valid.
_ADD_MOVED = (
    *(
        f"ALTER TABLE {table} "
        "MODIFY COLUMN verdict Enum8('duplicate' = 1, 'rejected' = 2, 'moved' = 5), "
        "ADD COLUMN IF NOT EXISTS _copy_partition UInt32 COMMENT 'of a moved event: where its copy lies', "
        "ADD COLUMN IF NOT EXISTS _copy_offset UInt64 COMMENT 'of a moved event: where its copy lies'"
        for table in (OUTCOMES, EXPIRING)
    ),
    f"ALTER TABLE {LEDGER} MODIFY COLUMN verdict "
    "Enum8('duplicate' = 1, 'rejected' = 2, 'stored' = 3, 'deleted' = 4, 'moved' = 5)",
)

# A row without ends is an expansion that has begun. Resuming it needs the topic's limit from before the producers
# were held.
_CREATE_EXPANSIONS = f"""
CREATE TABLE IF NOT EXISTS {EXPANSIONS} (
    topic String,
    partitions_before UInt32,
    partitions_after UInt32,
    ends Array(UInt64) COMMENT 'of the log of each partition that was there before',
    expanded_at DateTime64(3, 'UTC') DEFAULT now64(3),
    max_message_bytes UInt64 COMMENT 'of the topic, before its producers were held'
) ENGINE = ReplacingMergeTree(expanded_at) ORDER BY (topic, partitions_after)
"""

# Existing parts get their filters in the background, in one mutation; until then lists scan these parts.
_INDEX_VALUES = (
    f"ALTER TABLE {INTERACTIONS} "
    + ", ".join(
        f"ADD INDEX IF NOT EXISTS {column}_values {column} TYPE bloom_filter(0.01) GRANULARITY 1"
        for column in INDEXED_BY_VALUE
    ),
    f"ALTER TABLE {INTERACTIONS} " + ", ".join(f"MATERIALIZE INDEX {column}_values" for column in INDEXED_BY_VALUE),
)

# Small integers need a fraction of their type's bits. LZ4 alone does not see that: 7 of 117 bytes a row, for no CPU.
# Without the second setting a change of the TTL would rewrite every part.
_CROP_INTEGERS = (
    f"ALTER TABLE {INTERACTIONS} "
    + ", ".join(f"MODIFY COLUMN {name} CODEC(T64, Default)" for name in ("position", "result_set_size", "_offset")),
    f"ALTER TABLE {INTERACTIONS} MODIFY SETTING materialize_ttl_recalculate_only = 1",
)

# Reports read a range of event time. The index has the expression of the column, so a query of a day reads a day.
_EVENT_TIME = "least(timestamp, fromUnixTimestamp64Milli(_event_time_ms, 'UTC'))"
_ADD_EVENT_TIME = (
    f"ALTER TABLE {INTERACTIONS} "
    f"ADD COLUMN IF NOT EXISTS event_time DateTime64(3, 'UTC') ALIAS {_EVENT_TIME} "
    "COMMENT 'occurred_at, a future one clamped, else timestamp'",
    f"ALTER TABLE {INTERACTIONS} ADD INDEX IF NOT EXISTS event_times {_EVENT_TIME} TYPE minmax "
    f"GRANULARITY {ROWS_PER_RANGE // ROWS_PER_MARK}",
    f"ALTER TABLE {INTERACTIONS} MATERIALIZE INDEX event_times",
    *(
        f"DROP VIEW IF EXISTS {view}"
        for view in (
            "click_through_by_position",
            "click_through_by_retriever",
            "counts_by_type_and_hour",
            "verdicts_by_hour",
        )
    ),
)

# A name has a new version for each creation and deletion, whose token ClickHouse accepts once: of two creations at the
# same time one is inserted. A generated dataset has its definition instead of its queries, so that erasures reach them.
_CREATE_EVALUATION_DATASETS = f"""
CREATE TABLE IF NOT EXISTS {EVALUATION_DATASETS} (
    namespace LowCardinality(String),
    name String,
    version UInt32 COMMENT 'creations and deletions of this name so far',
    dataset_id String COMMENT 'empty for a deleted dataset',
    created_at DateTime64(3, 'UTC'),
    description Nullable(String),
    metadata String COMMENT 'JSON text; empty for null',
    definition String COMMENT 'JSON text: what a generated dataset is computed from; empty for a posted one',
    queries String COMMENT 'JSON text of a posted dataset; empty for a generated one'
) ENGINE = ReplacingMergeTree(version)
ORDER BY (namespace, name)
SETTINGS non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}
"""

# Counts of a range of append time read that range. A move of a partition to the other table needs equal indexes.
_INDEX_OUTCOME_TIMES = (
    *(
        f"ALTER TABLE {table} ADD INDEX IF NOT EXISTS timestamp_range timestamp TYPE minmax GRANULARITY 1"
        for table in (OUTCOMES, EXPIRING)
    ),
    *(f"ALTER TABLE {table} MATERIALIZE INDEX timestamp_range" for table in (OUTCOMES, EXPIRING)),
)

MIGRATIONS: tuple[Migration, ...] = (
    Migration(1, (_CREATE_INTERACTIONS, _CREATE_OUTCOMES, _CREATE_EXPIRING, _CREATE_LEDGER), oldest=1),
    Migration(2, (_CREATE_TOPICS, _ADD_IDEMPOTENCY_KEY, *_WIDEN_OUTCOMES), oldest=2),
    Migration(3, (_COMPACT_PARTS,), oldest=2),
    Migration(4, (_CREATE_DELETIONS, _CREATE_API_KEYS, _ADD_KEYED), oldest=4),
    Migration(5, (_WIDEN_LEDGER, _CREATE_EXPANSIONS), oldest=4),
    Migration(6, _ADD_MOVED, oldest=4),
    Migration(7, _INDEX_VALUES, oldest=4),
    Migration(8, _CROP_INTEGERS, oldest=4),
    Migration(9, _ADD_EVENT_TIME, oldest=4),
    Migration(10, (_CREATE_EVALUATION_DATASETS,), oldest=4),
    Migration(11, CREATE_LEARNING_TABLES, oldest=4),
    Migration(12, _INDEX_OUTCOME_TIMES, oldest=4),
)
BOOTSTRAP = (
    _CREATE_MIGRATIONS,
    f"ALTER TABLE {MIGRATIONS_TABLE} "
    "ADD COLUMN IF NOT EXISTS oldest UInt32 COMMENT 'version of the tables that a process must know at least'",
)
LATEST_VERSION = MIGRATIONS[-1].version
