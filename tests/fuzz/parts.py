"""The parts of the fuzzing: each makes one example of random numbers, and raises when something is wrong with it."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

import numpy as np

from consumers import columns as consumers_columns
from consumers import records
from consumers.precompile import precompile
from consumers.records import headers_and_flaw
from kernels import (
    native_columns,
    record_batches,
    record_format,
    scan_event,
    scan_json,
    scan_keys,
    scan_texts,
    scanner,
)
from kernels.boundary import ReadLimits, RecordBatches, read_batches
from kernels.record_format import APPEND_MS, FLAW_SHIFT, HEADERS, KEY, OFFSET, SIZE, UNREAD, VALUE
from kernels.scan_event import NUMBER_FIELDS, SHORTEST_TYPE_BYTES, SPAN_FIELDS, Columns, scan_events
from tests.agreement import assert_agreement
from tests.fuzz.batches import Batches, GeneratedBatch
from tests.fuzz.guard import Region, numpy_guarded_in
from tests.fuzz.values import Values

VALUES_PER_EXAMPLE = 48
CUTS = 6
"""Number of cuts per value; reading past a cut hits a guard page."""
MAX_VALUE_BYTES, MAX_TEXT_BYTES = 1 << 19, 1 << 23
READINGS = 8
"""Readings of some batches, at most: one that is not readable may state millions of offsets."""
BATCHES_PER_EXAMPLE = 24
_LIMITS = ReadLimits(1 << 18, 1 << 16, 1_000, 1 << 20, 256, 100_000)


class Counts(NamedTuple):
    """Numbers of tried values."""

    values: int = 0
    batches: int = 0


Part = Callable[[Random], Counts]
"""Runs one example."""


class _Scanning:
    """The scanner alone: each value by itself between guard pages, at either of them, then all of them together."""

    def __init__(self) -> None:
        precompile()
        self._text, self._texts = Region(MAX_VALUE_BYTES), Region(MAX_TEXT_BYTES)
        kinds = {name: Region(MAX_VALUE_BYTES) for name in Columns._fields}
        self._columns = kinds | {"types": Region(MAX_TEXT_BYTES)}
        self._places = [Region(64 * VALUES_PER_EXAMPLE) for _ in range(2)]

    def __call__(self, random: Random) -> Counts:
        """Scan some values. What they are found to be is compared by another part."""
        source = Values(random)
        values, cut = list[bytes](), list[bytes]()
        for _ in range(VALUES_PER_EXAMPLE):
            values.append(source.value()[:MAX_VALUE_BYTES])
            cut += [source.whole[: random.randrange(len(source.whole) + 1)] for _ in range(CUTS)]
        for value in (*values, *cut):
            self._scan(self._text, [value[:MAX_VALUE_BYTES]], at_end=random.random() < 0.8)
        self._scan(self._texts, values, at_end=True)
        return Counts(values=len(values) + len(cut))

    def _scan(self, region: Region, values: Sequence[bytes], *, at_end: bool) -> None:
        raw, sizes = b"".join(values), np.array([*map(len, values)], np.int64)
        firsts, ends = (place.array(len(values), np.int64) for place in self._places)
        ends[:] = np.cumsum(sizes)
        firsts[:] = ends - sizes
        shapes: dict[str, tuple[Any, Any]] = {
            "spans": ((len(values), len(SPAN_FIELDS), 3), np.int64),
            "numbers": ((len(values), len(NUMBER_FIELDS)), np.int64),
            "ids": ((len(values), 16), np.uint8),
            "has_id": (len(values), np.bool_),
            "types": (len(raw) // SHORTEST_TYPE_BYTES + 1, np.int8),
            "type_ends": (len(values) + 1, np.int32),
        }
        columns = Columns(**{name: self._columns[name].array(*shape) for name, shape in shapes.items()})
        columns.type_ends[0] = 0
        scan_events(region.text(raw, at_end=at_end), firsts, ends, columns)


def _rows() -> Part:
    """The scanner against the validator, to the row that would be stored, all arrays between guard pages."""
    precompile()
    of_kernels = native_columns, scan_event, scan_json, scan_keys, scan_texts, scanner
    modules = *of_kernels, consumers_columns, records

    def run(random: Random) -> Counts:
        source = Values(random)
        values: list[bytes | None] = [source.value() for _ in range(VALUES_PER_EXAMPLE)]
        if random.random() < 0.1:
            values[random.randrange(len(values))] = random.choice((None, b""))
        with numpy_guarded_in(*modules):
            at = 0
            while at < len(values):  # batches of all sizes: in small ones columns are close to one another
                some = values[at : at + random.choice((1, 2, 3, 5, 12, 48))]
                at += len(some)
                try:
                    assert_agreement(some)
                except Exception as error:
                    why = f"{type(error).__name__}: {str(error)[:2_000]}"
                    raise AssertionError(f"{_alone(some)}: {why}") from error
        return Counts(values=len(values))

    return run


def _alone(values: Sequence[bytes | None]) -> str:
    """The first value that is wrong by itself."""
    for value in values:
        try:
            assert_agreement([value])
        except Exception:  # any error is a finding
            return repr(value)[:4_000]
    return f"only together: {list(values)!r}"[:4_000]


def _batches() -> Part:
    """The reader of record batches, all arrays between guard pages; undamaged batches must be read unchanged."""
    precompile()

    def run(random: Random) -> Counts:
        source, count = Batches(random), 0
        while count < BATCHES_PER_EXAMPLE:
            made = [source.batch() for _ in range(random.choice((1, 2, 6)))]
            read(made)
            count += len(made)
        return Counts(batches=count)

    def read(made: Sequence[GeneratedBatch]) -> None:
        regions = [Region(len(each.batch.raw)) for each in made]
        left = [
            (memoryview(region.text(each.batch.raw.tobytes())), each.batch.offset)  # type: ignore[arg-type]
            for each, region in zip(made, regions, strict=True)
        ]
        found: dict[int, list[tuple[Any, ...]]] = {}
        with numpy_guarded_in(record_batches, record_format):
            for _ in range(READINGS):
                if not left:
                    break
                reading = read_batches(left, _LIMITS)
                _check(reading, [wanted for _, wanted in left])
                first = len(made) - len(left)
                for number, row in _rows_of(reading):
                    found.setdefault(first + number, []).append(row)
                assert len(reading.rows) or len(reading.unread) < len(left), "no progress"
                left = [(left[number][0], wanted) for number, wanted in reading.unread]
        for number, each in enumerate(made):
            if each.records is not None and number < len(made) - len(left):
                assert found.get(number, []) == _expected(each), f"batch {number}: {each.batch.raw.tobytes().hex()}"

    return run


def _check(reading: RecordBatches, wanted: Sequence[int]) -> None:
    """Every position of every row is within the text, and offsets of each batch rise from the one wanted."""
    rows, batch_of, end = reading.rows, reading.batch_of, len(reading.text)
    assert len(rows) == len(batch_of)
    assert (np.diff(batch_of) >= 0).all()
    assert (rows[:, OFFSET] >= np.array(wanted, np.int64)[batch_of]).all()
    rising = np.diff(rows[:, OFFSET]) > 0
    assert (rising | (np.diff(batch_of) > 0)).all()
    is_read = rows[:, HEADERS + 1] >> FLAW_SHIFT != UNREAD
    sizes = rows[:, [KEY + 1, VALUE + 1, HEADERS + 1]] & np.array([-1, -1, SIZE])
    places = rows[:, [KEY, VALUE, HEADERS]]
    assert (sizes >= -1).all()
    assert (places >= 0)[is_read].all()
    assert (places + np.maximum(sizes, 0) <= end)[is_read].all()
    reading.number_header_runs()


def _rows_of(reading: RecordBatches) -> list[tuple[int, tuple[Any, ...]]]:
    def part(place: int, size: int) -> bytes | None:
        return None if size < 0 else reading.text[place : place + size].tobytes()

    found = []
    for number, row in zip(reading.batch_of.tolist(), reading.rows.tolist(), strict=True):
        headers, flaw = headers_and_flaw(reading, row[HEADERS], row[HEADERS + 1])
        value, key = part(row[VALUE], row[VALUE + 1]), part(row[KEY], row[KEY + 1])
        found.append((number, (row[OFFSET], row[APPEND_MS], value, key, headers, flaw)))
    return found


def _expected(made: GeneratedBatch) -> list[tuple[Any, ...]]:
    raw, records = made.batch.raw, made.records or []
    is_stamped = int.from_bytes(raw[21:23], "big") & 0x08
    return [
        (
            made.batch.offset + place,
            20 if is_stamped else 10 + record.ahead_ms,
            record.value,
            record.key,
            tuple(((name or b"").decode(errors="surrogateescape"), value) for name, value in record.headers),
            None,
        )
        for place, record in enumerate(records)
    ]


PARTS: dict[str, Callable[[], Part]] = {"scan": _Scanning, "rows": _rows, "batches": _batches}
"""Constructors of parts by name."""
