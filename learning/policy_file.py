"""Files of target policies: JSON lines or Parquet with the columns query?, document, position?, probability."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from learning.target_policy import MAX_TEXT_BYTES, PolicyError, PolicyTable, TargetPolicy, parse_uniform, policy_table

_MAX_LINE_BYTES = 16 * MAX_TEXT_BYTES
"""Escaped, a text may take six times its bytes."""
_ROWS_TOGETHER = 10_000


def read_policy(text: str) -> TargetPolicy:
    """Return `uniform`, `uniform:N`, or the policy of the file with this name. Raises PolicyError."""
    return parse_uniform(text) or read_policy_file(Path(text))


def read_policy_file(path: Path) -> PolicyTable:
    """Read a policy; a file named .parquet as Parquet, others as JSON lines. Raises PolicyError."""
    entries = _parquet(path) if path.suffix.lower() == ".parquet" else _lines(path)
    try:
        return policy_table(entries)
    except OSError as error:
        raise PolicyError(
            f"{path} is neither `uniform` nor `uniform:N`, nor a file that can be read: {error.strerror or error}"
        ) from None
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from None


def _lines(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > _MAX_LINE_BYTES:
                raise PolicyError(f"line {number} is longer than {_MAX_LINE_BYTES:,} bytes")
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise PolicyError(f"line {number} is not JSON: {str(error)[:100]}") from None


def _parquet(path: Path) -> Iterator[Any]:
    from pyarrow import ArrowException  # noqa: PLC0415  (a large package, needed for these files alone)
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415

    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_TOGETHER):
                for row in batch.to_pylist():
                    yield {name: value for name, value in row.items() if value is not None}
    except ArrowException as error:
        raise PolicyError(f"is not Parquet: {str(error)[:100]}") from None
