"""`make bench-disk`: bytes per event on disk, by column, of rows as wide as those of `make bench`."""

import argparse
import asyncio
from typing import NamedTuple

from benchmarks import command, filled_rows
from runtime.clickhouse import ClickHouse

_COLUMNS = """
SELECT column, sum(column_data_compressed_bytes), sum(column_data_uncompressed_bytes), sum(column_marks_bytes)
FROM system.parts_columns WHERE database = {database:String} AND table = 'interactions' AND active
GROUP BY column ORDER BY 2 DESC
"""
_WHOLE = """
SELECT sum(bytes_on_disk), sum(rows), sum(secondary_indices_compressed_bytes), sum(primary_key_size), count()
FROM system.parts WHERE database = {database:String} AND table = 'interactions' AND active
"""


class ColumnSize(NamedTuple):
    """Size of a column, in bytes per event."""

    name: str
    compressed: float
    uncompressed: float
    marks: float


async def columns(database: ClickHouse, name: str) -> tuple[list[ColumnSize], float]:
    """Return each column's bytes per event, and those of the whole table."""
    ((whole, rows, indices, primary, parts),) = await database.rows(_WHOLE, {"database": name})
    print(f"{rows:,} rows in {parts} parts; indices {indices / rows:.2f}, primary key {primary / rows:.2f} bytes each")
    found = await database.rows(_COLUMNS, {"database": name})
    return [ColumnSize(str(column), *(size / rows for size in sizes)) for column, *sizes in found], whole / rows


async def run(options: argparse.Namespace) -> tuple[list[ColumnSize], float]:
    """Make rows, merge them, and measure."""
    with command.temporary_stack(options.folder) as stack:
        settings = command.named(stack, "disk")
        async with command.installed(settings) as database:
            await filled_rows.fill(database, 0, options.rows)
            await database.command("OPTIMIZE TABLE interactions FINAL")
            return await columns(database, settings.database)


def main() -> None:
    """Run the benchmark."""
    parser = command.parser_of("bench-disk", __doc__, "ARGS='--rows 5000000'")
    parser.add_argument("--rows", type=int, default=2_000_000)
    options = parser.parse_args()
    found, whole = asyncio.run(run(options))
    rows = [(each.name, f"{each.compressed:.2f}", f"{each.uncompressed:.1f}", f"{each.marks:.2f}") for each in found]
    total = ("all", f"{whole:.1f}", f"{sum(each.uncompressed for each in found):.0f}", "")
    command.show(["column", "bytes per event", "uncompressed", "marks"], [*rows, total])
    command.save(options.folder, "disk", {"bytes_an_event": whole, "columns": [each._asdict() for each in found]})
    with command.plot(options.folder, "disk", f"Bytes per event on disk: {whole:.1f}") as axes:
        axes.barh([each.name for each in reversed(found)], [each.compressed for each in reversed(found)])


if __name__ == "__main__":
    main()
