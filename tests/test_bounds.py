"""At every bound of every field, on both sides, the scanner and the validator agree to the stored row."""

import json
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from kernels.scan_event import NUMBER_AT, Columns, Integers, scan_events
from kernels.scan_json import Bytes
from schemas.event_time import END_MS, from_epoch_ms, iso_ms
from schemas.interaction import MAX_INT32
from schemas.validator import validate
from schemas.wire import ValidEvent, encode_value
from tests.agreement import assert_agreement, base
from tests.bounds import INVALID_UTF_8, OF_FIELDS
from tests.lab import click
from tests.validating import is_sure, scanned

DAY_MS = 86_400_000
EARLIEST, LATEST = datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999)
MINTED = "int_" + "0" * 12 + "7" + "0" * 3 + "8" + "0" * 15

at_bounds = st.fixed_dictionaries({}, optional={name: st.sampled_from(texts) for name, texts in OF_FIELDS.items()})
near_bounds_ms = (
    st.integers(-2 * DAY_MS, 2 * DAY_MS)
    | st.integers(END_MS - 2 * DAY_MS, END_MS + 2 * DAY_MS)
    | st.sampled_from([-62_135_596_800_000, 253_402_300_799_999])
)


@pytest.mark.parametrize("field", OF_FIELDS)
def test_scanner_and_validator_agree_at_each_bound_of_a_field(field: str) -> None:
    assert_agreement([base(**{field: text}) for text in OF_FIELDS[field]])


@given(st.lists(at_bounds.map(lambda fields: base(**fields)), max_size=8))
def test_scanner_and_validator_agree_on_several_fields_at_their_bounds(values: list[bytes]) -> None:
    assert_agreement(values)


def test_scanner_and_validator_agree_on_invalid_utf_8() -> None:
    for field in ("feature_id", "feature_uri", "metadata", "interaction_type"):
        texts = {"metadata": '{"a":"?"}', "interaction_type": '["?"]'}
        value = base(**{field: texts.get(field, '"?"')})
        assert_agreement([value.replace(b"?", raw) for raw in INVALID_UTF_8])


@given(near_bounds_ms)
@example(-1)
@example(0)
@example(END_MS - 1)
@example(END_MS)
def test_the_scanner_accepts_every_time_that_can_be_stored(time_ms: int) -> None:
    text = iso_ms(from_epoch_ms(time_ms))
    columns, (sure,) = scanned(base(occurred_at=f'"{text}"'))
    can_be_stored = 0 <= time_ms < END_MS
    assert sure == can_be_stored == isinstance(validate(base(occurred_at=f'"{text}"')), ValidEvent)
    assert not sure or columns.numbers[0, NUMBER_AT["occurred_at"]] == time_ms


@given(st.datetimes(EARLIEST, LATEST) | near_bounds_ms.map(from_epoch_ms))
@example(from_epoch_ms(0))
@example(from_epoch_ms(-1))
@example(from_epoch_ms(END_MS - 1))
@example(from_epoch_ms(END_MS))
def test_a_producer_accepts_exactly_the_times_that_can_be_stored(moment: datetime) -> None:
    verdict = validate(base(occurred_at=json.dumps(moment.isoformat())))
    try:
        value = encode_value(click(occurred_at=moment), MINTED)
    except ValidationError:
        assert not isinstance(verdict, ValidEvent)
    else:
        assert isinstance(verdict, ValidEvent)
        columns, (sure,) = scanned(value)
        assert sure
        assert columns.numbers[0, NUMBER_AT["occurred_at"]] == verdict.occurred_ms


@pytest.mark.parametrize(("position", "sure"), [(0, True), (MAX_INT32, True), (MAX_INT32 + 1, False)])
def test_the_scanner_accepts_every_position_that_can_be_stored(position: int, sure: bool) -> None:
    assert is_sure(base(position=str(position))) == [sure]


@given(st.lists(at_bounds.map(lambda fields: base(**fields)), max_size=8), st.data())
def test_an_unsure_scanner_changes_no_stored_row(values: list[bytes], data: st.DataObject) -> None:
    """A scanner that is unsure about any of its events at random changes no row and no verdict."""

    def unsure_scan(text: Bytes, firsts: Integers, ends: Integers, into: Columns) -> npt.NDArray[np.bool_]:
        sure = scan_events(text, firsts, ends, into)
        for line in range(len(sure)):
            sure[line] &= data.draw(st.booleans())
        return sure

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kernels.scanner.scan_events", unsure_scan)
        assert_agreement(values)
