"""The tables, as data: every statement that `tally init` runs, in order, and the columns the consumer fills.

A migration is never edited once it has left this repository; the next one repairs it. Names are unqualified: the
connection carries the database.
"""

from typing import NamedTuple

from schemas.interaction import FIELDS
from schemas.views import VIEWS

INTERACTIONS = "interactions"
OUTCOMES = "outcomes"
EXPIRING = "outcomes_expiring"
LEDGER = "ledger"
TOPICS = "topics"
DELETIONS = "deletions"
API_KEYS = "api_keys"
EXPANSIONS = "expansions"
MIGRATIONS_TABLE = "schema_migrations"

DEDUPLICATION_WINDOW = 10_000
"""Insert tokens that each table remembers. A retry comes a minute after its first try at most (TALLY_QUERY_TIMEOUT_MS);
a worker that keeps up makes up to 10 inserts a second (TALLY_BATCH_AGE_MS): so this is enough for 16 workers."""

COMPACT_PART_BYTES = 100_000_000

ROWS_PER_MARK = 1_024
"""Rows per index granule. A lookup by id reads as many of every column: this and small compressed blocks cost a quarter
more CPU for each row written than 8,192 and large blocks, and let two to three times as many ids be looked up."""
ROWS_PER_RANGE = 8_192
"""Rows per entry of the minmax indexes of times and offsets."""


class Migration(NamedTuple):
    """One step of the tables' history. Each statement must be safe to run twice: a crash may fall between two."""

    version: int
    statements: tuple[str, ...]
    oldest: int
    """The oldest version of the tables that a process may have been written for and still run on these: so tables are
    migrated first, and processes replaced one after another."""


_CREATE_MIGRATIONS = f"""
CREATE TABLE IF NOT EXISTS {MIGRATIONS_TABLE} (
    version UInt32,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
) ENGINE = ReplacingMergeTree ORDER BY version
"""

# The place in the log is part of the key: a record that is inserted again collapses with itself, but two records that
# a foreign producer gave one id stay two, and the accounts balance.
#
# One insert may hold any mix of months, and a lookup touches every partition: so the table has none, and time
# ranges are pruned by the min-max index instead (ids, and so rows, lie in time order).
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

# With another number of partitions a key lies elsewhere, apart from its claims: the count must not change unnoticed.
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

# An insert in one file instead of sixty: a fifth less CPU for a row, its merges included. Lookups do not feel it:
# parts that large are soon merged into larger ones.
_COMPACT_PARTS = f"ALTER TABLE {INTERACTIONS} MODIFY SETTING min_bytes_for_wide_part = {COMPACT_PART_BYTES}"

# By id first: ids sort by time, so what is deleted of a batch of new events lies together. Never emptied, and never
# part of a replay: what is deleted stays deleted.
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

# What a sender may ask for (`?deduplicate=false`), and what a rebuild must know.
_ADD_KEYED = f"""
ALTER TABLE {INTERACTIONS}
    ADD COLUMN IF NOT EXISTS _keyed UInt8 DEFAULT 1 COMMENT 'whether it may be a duplicate, or the owner of one'
    AFTER _idempotency_key
"""

# Rows of events may be expired, too. The order of the values stays, so the table's own order does.
_WIDEN_LEDGER = f"""
ALTER TABLE {LEDGER}
    MODIFY COLUMN verdict Enum8('duplicate' = 1, 'rejected' = 2, 'stored' = 3, 'deleted' = 4)
"""

# The same number in both tables; the order of the values stays, so the ledger's own order does.
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
    VIEWS["verdicts_by_hour"],
)

# Without ends: begun, so that who continues with it knows what the topic's limit was before its producers were held.
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

MIGRATIONS: tuple[Migration, ...] = (
    Migration(1, (_CREATE_INTERACTIONS, _CREATE_OUTCOMES, _CREATE_EXPIRING, _CREATE_LEDGER, *VIEWS.values()), oldest=1),
    Migration(2, (_CREATE_TOPICS, _ADD_IDEMPOTENCY_KEY, *_WIDEN_OUTCOMES), oldest=2),
    Migration(3, (_COMPACT_PARTS,), oldest=2),
    Migration(4, (_CREATE_DELETIONS, _CREATE_API_KEYS, _ADD_KEYED), oldest=4),
    Migration(5, (_WIDEN_LEDGER, _CREATE_EXPANSIONS), oldest=4),
    Migration(6, _ADD_MOVED, oldest=4),
)
BOOTSTRAP = (
    _CREATE_MIGRATIONS,
    f"ALTER TABLE {MIGRATIONS_TABLE} "
    "ADD COLUMN IF NOT EXISTS oldest UInt32 COMMENT 'version of the tables that a process must know at least'",
)
LATEST_VERSION = MIGRATIONS[-1].version

KEPT_FROM = (
    f"toDateTime64(addMonths(toDate(toString((SELECT greatest(max(month), 197001) FROM {LEDGER} "
    "WHERE _topic = {topic:String} AND verdict IN ('stored', 'deleted'))) || '01'), 1), 3, 'UTC')"
)
"""Rows of `interactions` from before this time are counted in the ledger, whether they are deleted already or not."""

PUBLIC_COLUMNS = ("interaction_id", *(field.name for field in FIELDS), "timestamp")
"""Columns of `interactions` that a record of the API is made from."""

KEPT_COLUMNS = (
    "namespace",
    "interaction_id",
    *(field.name for field in FIELDS if field.kept),
    "timestamp",
    "_event_time_ms",
    "_idempotency_key",
    "_keyed",
    "_topic",
    "_partition",
    "_offset",
)
"""Columns that a tombstone keeps: the row's place in the accounts, and the parts of its key."""
ERASED_COLUMNS = {field.name: field.erased for field in FIELDS if not field.kept}
"""Columns that a tombstone erases, with the SQL literal written instead."""
