"""Event times and byte order marks: the same spellings are accepted on the topic, over HTTP and in files."""

import io
import json
from codecs import BOM_UTF8
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.scan_event import NUMBER_AT
from producers.lines import read_lines
from schemas.event_time import from_epoch_ms, parse_occurred_at
from schemas.interaction import Interaction
from schemas.rejection import Rejection
from schemas.validator import validate
from schemas.wire import ValidEvent
from tests.http_lab import EVENT, PATH, api_of, with_key
from tests.lab import Lab
from tests.validating import validated

MOMENT = datetime(2026, 11, 27, 10, 0, tzinfo=UTC)
ACCEPTED = (
    *("2026-11-27 10:00:00+00", "2026-11-27 10:00:00.000000+00", "2026-11-27 15:30:00+05:30", "2026-11-27 02:00:00-08"),
    *("2026-11-27T10:00:00+0000", "2026-11-27T10:00:00Z", "2026-11-27t10:00:00z", "2026-11-27 10:00:00 +0000"),
    *("2026-11-27 10:00:00 +00:00", "2026-11-27T10:00", "2026-11-27 10:00Z", "2026-11-27T10:00:00.000000000-00:00"),
)
REFUSED = (
    *(
        "2026-11-27",
        "2026-11-27 10",
        "10:00:00",
        "2026-11-27T10:00:00+0",
        "2026-11-27T10:00:00+000",
        "2026-11-27T10:00:00 Z",
    ),
    *(
        "2026-11-27  10:00:00",
        "2026-11-27 10:00:00  +00",
        "2026-11-27T24:00:00Z",
        "2026-11-27T10:00:00+24",
        "1764237600",
    ),
    *(
        "2026-11-27T10:00:00.Z",
        "2026-11-27T10:00:00,5Z",
        "20261127T100000Z",
        "2026-11-27 10:00:00 UTC",
        " 2026-11-27T10:00:00Z",
    ),
    *("2026-11-27T10:00:00+00:00:00", "2026-11-27T10:00:00Z ", "\uff12026-11-27T10:00:00Z", "infinity", ""),
)


def with_time(text: str) -> bytes:
    return json.dumps(EVENT | {"occurred_at": text}).encode()


@pytest.mark.parametrize("text", ACCEPTED)
def test_time_formats_of_databases_and_programs_are_accepted(text: str) -> None:
    """By the model, by the validator, and to the column: one moment."""
    verdict = validate(with_time(text))
    assert isinstance(verdict, ValidEvent)
    assert from_epoch_ms(verdict.occurred_ms or 0) == MOMENT == parse_occurred_at(text)
    assert Interaction.model_validate(EVENT | {"occurred_at": text}).occurred_at == MOMENT
    events = validated([with_time(text)]).events
    assert from_epoch_ms(int(events.columns.numbers[0, NUMBER_AT["occurred_at"]])) == MOMENT


@pytest.mark.parametrize("text", REFUSED)
def test_any_other_spelling_is_named(text: str) -> None:
    verdict = validate(with_time(text))
    assert isinstance(verdict, Rejection)
    assert (verdict.reason, verdict.field) == ("bad_time", "occurred_at")
    assert not len(validated([with_time(text)]).events)


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2260, 1, 1)),
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
    st.sampled_from("Tt "),
    st.sampled_from(("", " ")),
    st.sampled_from(("{h}:{m}", "{h}{m}", "{h}")),
)
def test_each_spelling_is_the_same_moment(moment: datetime, ahead: int, between: str, blank: str, form: str) -> None:
    """Law: every combination of spellings means the same on every path."""
    if form == "{h}":
        ahead = int(ahead / 60) * 60
    sign, (hours, minutes) = "-" if ahead < 0 else "+", divmod(abs(ahead), 60)
    text = f"{moment.isoformat(between)}{blank}{sign}{form.format(h=f'{hours:02}', m=f'{minutes:02}')}"
    wanted = moment.replace(tzinfo=timezone(timedelta(minutes=ahead)))
    assert parse_occurred_at(text) == wanted
    events = validated([with_time(text)]).events
    occurred_ms = int(events.columns.numbers[0, NUMBER_AT["occurred_at"]])
    assert from_epoch_ms(occurred_ms) <= wanted < from_epoch_ms(occurred_ms + 1)


async def test_postgresql_times_and_marked_records_are_stored(lab: Lab) -> None:
    mark = BOM_UTF8 + json.dumps(EVENT | {"feature_id": "marked"}).encode()
    await lab.put(mark, key=b"default:e")
    async with api_of(with_key(lab.settings), "collector") as api:
        for number, text in enumerate(ACCEPTED):
            event = EVENT | {"feature_id": str(number), "occurred_at": text}
            assert (await api.post(PATH, json=event)).status_code == 200
    await lab.drain()
    rows = await lab.rows(
        "SELECT feature_id, occurred_at FROM interactions ORDER BY toUInt32OrZero(feature_id), feature_id"
    )
    assert sorted(rows, key=str) == sorted(
        [("marked", None), *((str(at), MOMENT) for at in range(len(ACCEPTED)))], key=str
    )


def lines(raw: bytes) -> list[Any]:
    return [
        (number, content if isinstance(content, Rejection) else content.feature_id)
        for number, content in read_lines(io.BytesIO(raw))
    ]


def test_a_file_may_begin_with_a_byte_order_mark() -> None:
    line = json.dumps(EVENT).encode() + b"\n"
    assert lines(BOM_UTF8 + line + line) == [(1, "doc-1"), (2, "doc-1")]
    assert lines(line + BOM_UTF8 + line) == [(1, "doc-1"), (2, "doc-1")], "of files put after each other"
    assert lines(BOM_UTF8 + b"\r\n" + line) == [(2, "doc-1")]
    assert lines(BOM_UTF8) == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_file_in_another_unicode_encoding_is_refused_as_a_whole(encoding: str) -> None:
    text = (json.dumps(EVENT) + "\n") * 3
    ((number, rejection),) = lines(text.encode(encoding))
    assert (number, rejection.reason) == (1, "not_utf8")
    assert "save it as UTF-8" in rejection.message
