"""Tables of learned weights: configurations, counts of results by context and day, and the decisions that were served.

Counts hold for every reward map and decay: they are numbers of results by the type sets of their events
(`schemas/type_sets.py`), and rewards are computed when they are read. A day is counted as a whole, under a new
generation, and `learning_days` says which generation of a day is in force.
"""

from schemas.tables import (
    DEDUPLICATION_WINDOW,
    LEARNING_CONFIGS,
    LEARNING_COUNTS,
    LEARNING_DAYS,
    LEARNING_PROGRESS,
    SIGNALS,
)

SIGNAL_DAYS = 90
"""Days that recorded decisions are kept."""

# Every version is kept: decisions name the one that was in force. The token of a version is accepted once, so that of
# two changes at the same time one is refused.
CREATE_CONFIGS = f"""
CREATE TABLE IF NOT EXISTS {LEARNING_CONFIGS} (
    namespace LowCardinality(String),
    retriever_id String,
    version UInt32 COMMENT 'changes of this configuration so far, deletions included',
    config String COMMENT 'JSON text; empty for a deletion',
    changed_at DateTime64(3, 'UTC')
) ENGINE = ReplacingMergeTree
ORDER BY (namespace, retriever_id, version)
SETTINGS non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}
"""

CREATE_COUNTS = f"""
CREATE TABLE IF NOT EXISTS {LEARNING_COUNTS} (
    namespace LowCardinality(String),
    retriever_id LowCardinality(String),
    level Enum8('personal' = 1, 'segment' = 2, 'global' = 3),
    context String COMMENT 'user, or texts of the segment; empty at the level global',
    day Date COMMENT 'UTC, by event time',
    generation UInt64 COMMENT 'of the count of this day',
    feature_uri LowCardinality(String),
    type_sets Array(UInt32) COMMENT 'distinct type sets of the events of each of these results',
    times Array(UInt64) COMMENT 'events with each of these type sets, in one result',
    results UInt64
) ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (namespace, retriever_id, level, context, day, generation, feature_uri, type_sets, times)
SETTINGS non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}, index_granularity = 1024
"""

CREATE_DAYS = f"""
CREATE TABLE IF NOT EXISTS {LEARNING_DAYS} (
    namespace LowCardinality(String),
    retriever_id LowCardinality(String),
    day Date,
    generation UInt64 COMMENT 'in force: the largest of a day'
) ENGINE = ReplacingMergeTree(generation)
ORDER BY (namespace, retriever_id, day)
SETTINGS non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}
"""

CREATE_PROGRESS = f"""
CREATE TABLE IF NOT EXISTS {LEARNING_PROGRESS} (
    namespace LowCardinality(String),
    generation UInt64,
    state String COMMENT 'JSON text: what the counts contain (learning/weights/count_progress.py)',
    counted_at DateTime64(3, 'UTC')
) ENGINE = ReplacingMergeTree(generation)
ORDER BY namespace
SETTINGS non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}
"""

CREATE_SIGNALS = f"""
CREATE TABLE IF NOT EXISTS {SIGNALS} (
    namespace LowCardinality(String),
    retriever_id LowCardinality(String),
    signal_type LowCardinality(String),
    timestamp DateTime64(3, 'UTC'),
    signal_id String,
    execution_id String COMMENT 'as the caller named it; empty for none',
    signal_data String COMMENT 'JSON text',
    metadata String COMMENT 'JSON text; empty for none'
) ENGINE = ReplacingMergeTree
ORDER BY (namespace, retriever_id, signal_type, timestamp, signal_id)
TTL toDateTime(timestamp) + toIntervalDay({SIGNAL_DAYS})
SETTINGS non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}
"""

CREATE_LEARNING_TABLES = (CREATE_CONFIGS, CREATE_COUNTS, CREATE_DAYS, CREATE_PROGRESS, CREATE_SIGNALS)
