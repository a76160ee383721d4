"""Rows that ClickHouse makes by itself, as wide as those of the throughput benchmark, and with ids that can be told."""

from runtime.clickhouse import ClickHouse

BEGIN_MS = 1_780_000_000_000
PER_MS = 40
ROWS_PER_INSERT = 500_000
_SPREAD = 11_400_714_819_323_198_485
_MASK = 2**60 - 1

_FILL = f"""
INSERT INTO interactions (namespace, interaction_id, feature_id, interaction_type, position, metadata, user_id,
    session_id, execution_id, retriever_id, query_snapshot, document_score, result_set_size, feature_uri, timestamp,
    _event_time_ms, _topic, _partition, _offset)
SELECT 'default',
    concat('int_', leftPad(lower(hex({BEGIN_MS} + intDiv(number, {PER_MS}))), 12, '0'), '7',
        right(concat('000', lower(hex(number % 4096))), 3), '8',
        right(concat(repeat('0', 15), lower(hex(bitAnd(number * {_SPREAD}, {_MASK})))), 15)),
    concat('doc-', toString(cityHash64(number) % 50000), '-', toString(number % 10)),
    [['impression', 'click', 'view', 'dwell'][1 + cityHash64(number, 1) % 4]], number % 20,
    concat('{{"device":"ios","app_version":"4.', toString(number % 30), '","experiment":"', toString(number % 4),
        '","request_id":"', lower(hex(cityHash64(number, 2))), '","viewport":[', toString(360 + number % 1000), ',',
        toString(640 + number % 900), ']}}'),
    concat('user-', toString(cityHash64(number, 3) % 1000000)),
    concat('s-', lower(hex(bitShiftRight(cityHash64(number, 4), 16)))),
    concat('exec-1-', lower(hex(intDiv(number, 10)))), ['hybrid', 'dense', 'keyword'][1 + number % 3],
    concat('{{"text":"running shoes ', lower(hex(cityHash64(number, 5) % 16777216)),
        '","top_k":20,"filters":{{"in_stock":true}}}}'),
    (cityHash64(number, 6) % 10000) / 10000, 1 + number % 100, 'tally://text@v1/embedding',
    fromUnixTimestamp64Milli(toInt64({BEGIN_MS} + intDiv(number, {PER_MS})), 'UTC'),
    {BEGIN_MS} + intDiv(number, {PER_MS}),
    'filled', number % 8, intDiv(number, 8)
FROM numbers({{first:UInt64}}, {{count:UInt64}})
"""


def id_of(number: int) -> str:
    """The id of a row that was made."""
    low = (number * _SPREAD) & _MASK
    return f"int_{BEGIN_MS + number // PER_MS:012x}7{number % 4096:03x}8{low:015x}"


async def fill(database: ClickHouse, first: int, rows: int) -> None:
    """Make rows `first` up to `rows`."""
    for start in range(first, rows, ROWS_PER_INSERT):
        await database.command(_FILL, {"first": start, "count": min(ROWS_PER_INSERT, rows - start)})
