"""Names, columns and storage of the tables in ClickHouse. `schemas/migrations.py` creates them."""

from schemas.interaction import FIELDS

INTERACTIONS = "interactions"
OUTCOMES = "outcomes"
EXPIRING = "outcomes_expiring"
LEDGER = "ledger"
TOPICS = "topics"
DELETIONS = "deletions"
API_KEYS = "api_keys"
EXPANSIONS = "expansions"
EVALUATION_DATASETS = "evaluation_datasets"
LEARNING_CONFIGS = "learning_configs"
LEARNING_COUNTS = "learning_counts"
LEARNING_DAYS = "learning_days"
LEARNING_PROGRESS = "learning_progress"
SIGNALS = "signals"
MIGRATIONS_TABLE = "schema_migrations"

DEDUPLICATION_WINDOW = 10_000
"""Insert tokens that each table remembers, enough for 16 workers. A retry follows its first attempt within a minute
(TALLY_QUERY_TIMEOUT_MS), and a worker without lag makes up to 10 inserts a second (TALLY_BATCH_AGE_MS)."""

COMPACT_PART_BYTES = 100_000_000
"""Size up to which a part is one file instead of one for each column."""

ROWS_PER_MARK = 1_024
"""Rows per index mark; a lookup by id reads one mark of every column. Compared with 8,192 and large compressed blocks,
a written row costs a quarter more CPU, and two to three times as many lookups are possible."""
ROWS_PER_RANGE = 8_192
"""Rows per entry of the min-max indexes on times and offsets."""

RECOMPRESSION_CODEC = "ZSTD(6)"
"""Codec of old rows: 58 bytes a row. Levels 1 and 3 take half the CPU, for 61; fresh rows have LZ4."""

INDEXED_BY_VALUE = ("user_id", "session_id", "execution_id")
"""Columns with a bloom filter for every mark, so that lists filtered by them read the few marks that may match."""


def recompression_ttl(days: int) -> str:
    """Return the TTL of `interactions`, in ClickHouse's own format of it; '' for 0 days."""
    return f"toDateTime(timestamp) + toIntervalDay({days}) RECOMPRESS CODEC({RECOMPRESSION_CODEC})" if days else ""


HAS_KEY = "_keyed AND (ifNull(execution_id, '') != '' OR _idempotency_key != '')"
"""Condition of rows that have a deduplication key (`schemas.dedup.dedup_key`)."""

KEPT_FROM = (
    f"toDateTime64(addMonths(toDate(toString((SELECT greatest(max(month), 197001) FROM {LEDGER} "
    "WHERE _topic = {topic:String} AND verdict IN ('stored', 'deleted'))) || '01'), 1), 3, 'UTC')"
)
"""Expression of the time before which rows of `interactions` are counted in the ledger, expired or not."""

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
"""Columns that a tombstone keeps: the place in the log, the times, and the parts of the deduplication key."""
ERASED_COLUMNS = {field.name: field.erased for field in FIELDS if not field.kept}
"""Columns that a tombstone erases, with the SQL literal written instead."""
