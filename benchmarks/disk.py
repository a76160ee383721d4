"""`make bench-disk`: bytes per event on disk by column, fresh and recompressed, of rows like those of `make bench`.

Also the CPU time of recompression, and of a lookup of 32 ids in both states.
"""

import argparse
import asyncio
import random
import time
from typing import NamedTuple

from benchmarks import command, filled_rows
from benchmarks.meter import usage
from deploy.embedded.stack import Stack
from readers.lookup import read_stored
from runtime.clickhouse import ClickHouse
from runtime.migrate import migrate
from schemas.tables import RECOMPRESSION_CODEC

_COLUMNS = """
SELECT column, sum(column_data_compressed_bytes), sum(column_data_uncompressed_bytes), sum(column_marks_bytes)
FROM system.parts_columns WHERE database = {database:String} AND table = 'interactions' AND active
GROUP BY column ORDER BY 2 DESC
"""
_WHOLE = """
SELECT sum(bytes_on_disk), sum(rows), sum(secondary_indices_compressed_bytes), sum(primary_key_size), count()
FROM system.parts WHERE database = {database:String} AND table = 'interactions' AND active
"""
_NOT_RECOMPRESSED = """
SELECT count() FROM system.parts WHERE database = {database:String} AND table = 'interactions' AND active
AND default_compression_codec != {codec:String}
"""
_LONGEST_S = 900.0
_POLL_S = 0.2
_IDS = 32
_LOOKUPS = 200


class ColumnSize(NamedTuple):
    """Size of a column, in bytes per event."""

    name: str
    compressed: float
    uncompressed: float
    marks: float


class DiskUse(NamedTuple):
    """Disk use of a table whose rows have one codec."""

    bytes_an_event: float
    columns: list[ColumnSize]
    lookup_cpu_us: float
    """CPU time of ClickHouse for each id of a lookup, in microseconds."""


async def measure(stack: Stack, database: ClickHouse, name: str) -> DiskUse:
    """Measure the table of the database `name`."""
    ((whole, rows, indices, primary, parts),) = await database.rows(_WHOLE, {"database": name})
    print(f"{rows:,} rows in {parts} parts; indices {indices / rows:.2f}, primary key {primary / rows:.2f} bytes each")
    found = await database.rows(_COLUMNS, {"database": name})
    columns = [ColumnSize(str(column), *(size / rows for size in sizes)) for column, *sizes in found]
    chance, before = random.Random(1), usage(stack.pid("clickhouse")).cpu_s
    for _ in range(_LOOKUPS):
        ids = {filled_rows.id_of(chance.randrange(rows)) for _ in range(_IDS)}
        if len(await read_stored(database, "default", list(ids))) != len(ids):
            raise RuntimeError("a row is not found")
    cpu_s = usage(stack.pid("clickhouse")).cpu_s - before
    return DiskUse(whole / rows, columns, cpu_s / _LOOKUPS / _IDS * 1e6)


async def recompress(stack: Stack, database: ClickHouse, name: str) -> float:
    """Wait until every part is recompressed; returns the CPU seconds that this took ClickHouse."""
    before, deadline = usage(stack.pid("clickhouse")).cpu_s, time.monotonic() + _LONGEST_S
    where = {"database": name, "codec": RECOMPRESSION_CODEC}
    while (await database.rows(_NOT_RECOMPRESSED, where))[0][0]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"not recompressed in {_LONGEST_S:.0f} s")
        await asyncio.sleep(_POLL_S)
    return usage(stack.pid("clickhouse")).cpu_s - before


async def run(options: argparse.Namespace) -> tuple[DiskUse, DiskUse, float]:
    """Make rows, merge them, recompress them, and measure both states; also the CPU us of recompressing a row."""
    with command.temporary_stack(options.folder) as stack:
        settings = command.named(stack, "disk")
        async with command.installed(settings) as database:
            await filled_rows.fill(database, 0, options.rows)
            await database.command("OPTIMIZE TABLE interactions FINAL")
            fresh = await measure(stack, database, settings.database)
            await migrate(settings.model_copy(update={"recompress_days": 30}))
            cpu_s = await recompress(stack, database, settings.database)
            return fresh, await measure(stack, database, settings.database), cpu_s / options.rows * 1e6


def main() -> None:
    """Run the benchmark."""
    parser = command.parser_of("bench-disk", __doc__, "ARGS='--rows 2000000'")
    large = "from about 900,000 on, the engine compresses the fresh part with ZSTD(3): it has 100 MiB"
    parser.add_argument("--rows", type=int, default=800_000, help=large)
    options = parser.parse_args()
    fresh, old, cpu_us = asyncio.run(run(options))
    old_bytes = {each.name: each.compressed for each in old.columns}
    rows = [
        (
            each.name,
            f"{each.compressed:.2f}",
            f"{old_bytes[each.name]:.2f}",
            f"{each.uncompressed:.1f}",
            f"{each.marks:.2f}",
        )
        for each in fresh.columns
    ]
    uncompressed = f"{sum(each.uncompressed for each in fresh.columns):.0f}"
    total = ("all", f"{fresh.bytes_an_event:.1f}", f"{old.bytes_an_event:.1f}", uncompressed, "")
    command.show(["column", "bytes per event, fresh", "recompressed", "uncompressed", "marks"], [*rows, total])
    print(
        f"recompression: {cpu_us:.2f} us of CPU a row; a lookup's CPU for each of {_IDS} ids: "
        f"{fresh.lookup_cpu_us:.0f} us fresh, {old.lookup_cpu_us:.0f} us recompressed"
    )
    found = {name: {**use._asdict(), "columns": [each._asdict() for each in use.columns]}
             for name, use in (("fresh", fresh), ("recompressed", old))}  # fmt: skip
    command.save(options.folder, "disk", {**found, "recompression_cpu_us": cpu_us})
    title = f"Bytes per event on disk: {fresh.bytes_an_event:.1f} fresh, {old.bytes_an_event:.1f} recompressed"
    with command.plot(options.folder, "disk", title) as axes:
        names = [each.name for each in reversed(fresh.columns)]
        axes.barh(names, [each.compressed for each in reversed(fresh.columns)], label="fresh")
        axes.barh(names, [old_bytes[name] for name in names], label="recompressed")
        axes.legend()


if __name__ == "__main__":
    main()
