"""Exports: every format holds exactly the stored records of a range, and memory does not grow with them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from readers.export_format import EXPORT_FORMATS, ExportFormat
from readers.export_options import read_columns
from readers.filter_fields import FilterError
from readers.filter_text import read_filter
from readers.filters import read_filters
from runtime.deletions import Deletion, Deletions
from schemas.identity import mint_id
from schemas.interaction import NO_FEATURE_URI
from schemas.record import RECORD_FIELDS
from tests.export_lab import TEXT, Record, export_bytes, insert_many, read_back, request_of
from tests.http_lab import PATH, api_of, with_key
from tests.lab import Lab, click

LARGE = {"text": TEXT * 100, TEXT: [None, 1, 12345678901234567890, 0.1, {"deep": [True]}]}

every_format = pytest.mark.parametrize("output", EXPORT_FORMATS)


async def listed(lab: Lab, body: dict[str, Any] | None = None) -> list[Record]:
    """All records that the list call returns, by id."""
    async with api_of(with_key(lab.settings)) as api:
        answer = await api.post(f"{PATH}/list", params={"limit": 1000}, json=body or {})
    records: list[Record] = answer.json()["results"]
    return sorted(records, key=lambda record: record["interaction_id"])


async def export(lab: Lab, output: ExportFormat = "jsonl", **request: Any) -> list[Record]:
    return read_back(await export_bytes(lab.database, request_of(output, **request)), output)


async def emit_all_kinds(lab: Lab) -> None:
    await lab.emit(
        click(TEXT[:100], TEXT[:99], user_id=TEXT, session_id="x" * 512, metadata=LARGE, query_snapshot=LARGE),
        click("plain", None, feature_uri="tally://a", document_score=1e300, result_set_size=3, retriever_id="r"),
        click(
            "sums",
            "e-2",
            interaction_type=["click", "view"],
            document_score=-0.1,
            occurred_at="2026-01-02T03:04:05.678Z",
        ),
        click("largest", "e-3", metadata={"text": "ä" * (32 * 1024 - 10)}),
    )
    on_lines = b'{\r\n  "a": 1,\n\t"b": "\\n"\r\n}'
    await lab.put(b'{"feature_id": "f", "interaction_type": ["view"], "position": 7, "metadata": %b}' % on_lines)
    await lab.drain()


@every_format
async def test_an_export_has_the_records_of_the_api(lab: Lab, output: ExportFormat) -> None:
    await emit_all_kinds(lab)
    records = await listed(lab)
    assert len(records) == 5
    assert await export(lab, output) == records


async def test_lines_and_columns_have_the_order_of_the_record(lab: Lab) -> None:
    await emit_all_kinds(lab)
    lines = (await export_bytes(lab.database, request_of("jsonl"))).decode().split("\n")
    assert len(lines) == 5 + 1
    assert tuple(json.loads(lines[0])) == RECORD_FIELDS
    head, _, _ = (await export_bytes(lab.database, request_of("csv"))).partition(b"\n")
    assert tuple(head.decode().split(",")) == RECORD_FIELDS


TEXTS = st.lists(st.text(max_size=40) | st.sampled_from([TEXT, "", "\\N", '"', "\r", "\n", ",", "null"]), max_size=12)


@given(TEXTS)
@hypothesis_settings(max_examples=25)
async def test_any_text_survives(shared_lab: Lab, texts: list[str]) -> None:
    namespace = mint_id()
    objects = [json.dumps({"text": text, text: text}, ensure_ascii=len(text) % 2 == 0) for text in texts]
    await shared_lab.database.command(
        "INSERT INTO interactions (namespace, interaction_id, feature_id, user_id, interaction_type, metadata, "
        "feature_uri) SELECT {namespace:String}, concat('int_', leftPad(toString(number), 32, '0')), "
        "arrayElement({texts:Array(String)}, number + 1), arrayElement({texts:Array(String)}, number + 1), "
        "['click'], arrayElement({objects:Array(String)}, number + 1), 'tally://a' FROM numbers({size:UInt64})",
        {"namespace": namespace, "texts": texts, "objects": objects, "size": len(texts)},
    )
    for output in EXPORT_FORMATS:
        records = await export(shared_lab, output, namespace=namespace)
        null_for_empty = output == "csv"
        shown = [text or (None if null_for_empty else "") for text in texts]
        assert [record["feature_id"] for record in records] == shown, output
        assert [record["user_id"] for record in records] == shown, output
        assert [record["metadata"] for record in records] == [{"text": text, text: text} for text in texts], output


@every_format
async def test_a_range_holds_its_begin_and_not_its_end(lab: Lab, output: ExportFormat) -> None:
    await insert_many(lab.database, 100)
    within = {"since": "2026-01-01T00:00:10Z", "until": "2026-01-01T00:00:20Z"}
    times = [record["timestamp"] for record in await export(lab, output, **within)]
    assert times == [f"2026-01-01T00:00:{second}.000Z" for second in range(10, 20)]
    assert await export(lab, output, since="2026-01-01T00:01:00Z") == (await export(lab, output))[60:]
    assert await export(lab, output, until="2026-01-01T00:01:00Z") == (await export(lab, output))[:60]


async def test_the_same_range_gives_the_same_bytes(lab: Lab) -> None:
    """Also after rows were inserted again, in parts that are not merged yet, and with later rows."""
    await insert_many(lab.database, 3_000)
    within = {"until": "2026-01-01T00:40:00Z"}
    before = [await export_bytes(lab.database, request_of(output, **within)) for output in EXPORT_FORMATS]
    await lab.database.command("INSERT INTO interactions SELECT * FROM interactions WHERE position < 7")
    await insert_many(lab.database, 100, namespace="other")
    assert [await export_bytes(lab.database, request_of(output, **within)) for output in EXPORT_FORMATS] == before


@pytest.mark.parametrize(
    "filters",
    [
        {"user_id": "user-7"},
        {"position": {"gte": 3, "lt": 5}, "NOT": [{"feature_id": {"ends_with": "7"}}]},
        {"OR": [{"metadata": {"text": "zebra"}}, {"metadata.device": "phone"}], "interaction_type": "click"},
        {"metadata": {"is_null": True}},
        {"feature_uri": {"exists": True}},
    ],
)
async def test_a_filter_selects_what_the_list_call_selects(lab: Lab, filters: dict[str, Any]) -> None:
    """A condition means the stored column, although the export has another expression under its name."""
    await insert_many(lab.database, 500)
    await lab.emit(click("no-object", "e-1", feature_uri="tally://a"), click("zebra", "e-2", metadata={"a": "Zebra"}))
    await lab.drain()
    expected = await listed(lab, {"filters": filters})
    assert expected
    for output in EXPORT_FORMATS:
        assert await export(lab, output, filters=[read_filters(filters)]) == expected


@every_format
async def test_a_deleted_record_is_gone(lab: Lab, output: ExportFormat) -> None:
    """Also while its row and its tombstone are in two parts, and only its row meets the filter."""
    await lab.database.command("ALTER TABLE interactions MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1")
    await insert_many(lab.database, 5_000)
    gone = f"int_{'7'.rjust(32, '0')}"
    mine = {"filters": [read_filters({"user_id": "user-7"})]}
    assert (await export(lab, output, **mine))[0]["interaction_id"] == gone
    await Deletions(lab.database).erase([Deletion(gone, "default")])
    assert len(await export(lab, output)) == 4_999
    assert len(await export(lab, output, **mine)) == 4


async def test_an_export_without_records_has_a_header_and_a_schema(lab: Lab) -> None:
    nothing = {"until": "1971-01-01"}
    assert await export_bytes(lab.database, request_of("jsonl", **nothing)) == b""
    assert await export_bytes(lab.database, request_of("csv", **nothing)) == f"{','.join(RECORD_FIELDS)}\n".encode()
    assert await export(lab, "parquet", **nothing) == []
    assert (await export_bytes(lab.database, request_of("parquet", **nothing))).startswith(b"PAR1")


@every_format
async def test_chosen_columns_come_in_their_order(lab: Lab, output: ExportFormat) -> None:
    await insert_many(lab.database, 3)
    records = await export(lab, output, columns=read_columns("position, warning,feature_id"))
    warning = NO_FEATURE_URI
    assert [list(record.items()) for record in records] == [
        [("position", n), ("warning", warning), ("feature_id", f"doc-{n}")] for n in range(3)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user_id=ada", {"user_id": "ada"}),
        ("user_id=a=b", {"user_id": "a=b"}),
        ("user_id=", {"user_id": ""}),
        ("position=3", {"position": 3}),
        ("document_score=-2.5e3", {"document_score": -2500.0}),
        ("timestamp=2026-01-01", {"timestamp": "2026-01-01"}),
        ("metadata.device=ios", {"metadata.device": ["ios"]}),
        ("metadata.n=3", {"metadata.n": ["3", 3]}),
        ("metadata.flag=true", {"metadata.flag": ["true", True]}),
        ('{"position": {"lte": 5}}', {"position": {"lte": 5}}),
    ],
)
def test_a_condition_as_text_is_a_filter(text: str, expected: dict[str, Any]) -> None:
    assert read_filter(text).all_of == read_filters(expected).all_of


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user_id", "neither field=value nor a JSON object"),
        ("user=ada", "is not a field"),
        ("=ada", "is not a field"),
        ("position=first", "is not a number"),
        ("position=NaN", "is not a number"),
        ("position=true", "is not a number"),
        ("timestamp=yesterday", "is not an ISO 8601"),
        ("metadata=x", "whole object"),
        ("{", "is not JSON"),
        ('{"position": NaN}', "is not JSON"),
        ('{"AND": {}}', "must be a list"),
        ("{" * 2_000, "levels"),
        (f'{{"user_id": "{"x" * 300_000}"}}', "characters"),
    ],
)
def test_an_invalid_condition_is_refused(text: str, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        read_filter(text)


@pytest.mark.parametrize("text", ["", "feature", "feature_id,", "feature_id,feature_id", "_offset", "*"])
def test_an_unknown_column_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a field|is named twice"):
        read_columns(text)
