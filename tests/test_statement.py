"""The ClickHouse front classifies a statement without parsing SQL."""

import pytest

from deploy.embedded.clickhouse_http.statement import first_word, is_insert, plan, split_insert


@pytest.mark.parametrize(
    ("sql", "word"),
    [
        ("SELECT 1", "select"),
        ("  -- SELECT\n insert into t", "insert"),
        ("/* INSERT */ with x as (select 1) select 2", "with"),
        ("(select 1)", "select"),
        ("", ""),
        ("'select'", ""),
        ("/* select", ""),
        ("- select", ""),
        ("/**/" * 2_000 + "1", ""),
    ],
)
def test_the_first_word_of_a_statement_is_found(sql: str, word: str) -> None:
    assert first_word(sql) == word


@pytest.mark.parametrize(
    ("head", "sql", "data"),
    [
        (b"INSERT INTO t FORMAT Native\n\x01\x02", "INSERT INTO t", b"\x01\x02"),
        (b"insert into `a FORMAT b` (x) format CSV\r\n1\n", "insert into `a FORMAT b` (x)", b"1\n"),
        (b"INSERT INTO t VALUES (1); SELECT 2", "INSERT INTO t", b" (1); SELECT 2"),
        (b"INSERT INTO t SETTINGS a='FORMAT x' FORMAT TSV \n", "INSERT INTO t SETTINGS a='FORMAT x'", b""),
        (
            b"INSERT INTO t /* FORMAT no */ FORMAT CSV\n'FORMAT Native",
            "INSERT INTO t /* FORMAT no */",
            b"'FORMAT Native",
        ),
    ],
)
def test_an_insert_is_split_after_its_format(head: bytes, sql: str, data: bytes) -> None:
    assert is_insert(head)
    statement = split_insert(head)
    assert statement is not None
    assert (statement.kind, statement.sql, statement.data) == ("stream_in", sql, data)


def test_an_insert_with_an_incomplete_format_waits() -> None:
    assert split_insert(b"INSERT INTO t FORMAT Arrow") is None
    assert split_insert(b"INSERT INTO t (a, b) FOR") is None


@pytest.mark.parametrize("tail", [b"SELECT 1", b"with x as (select 1) select * from x"])
def test_an_insert_of_a_query_runs_at_once(tail: bytes) -> None:
    statement = split_insert(b"INSERT INTO t " + tail)
    assert statement is not None
    assert statement.kind == "at_once"


@pytest.mark.parametrize(
    ("sql", "default", "kind", "output"),
    [
        ("SELECT 1", None, "stream_out", "TabSeparated"),
        ("SELECT 1 FORMAT Native", None, "stream_out", "Native"),
        ("SELECT 1", "JSON", "at_once", "JSON"),
        ("SELECT 'FORMAT JSON' FORMAT CSV", None, "stream_out", "CSV"),
        ("SELECT format AS f, x.format FROM t", None, "stream_out", "TabSeparated"),
        ("SELECT 1 FORMAT JSON SETTINGS max_threads = 1;", None, "at_once", "JSON"),
        ("CREATE TABLE t (a Int8) ENGINE = Memory", "Native", "at_once", "Native"),
        ("SHOW TABLES", None, "at_once", "TabSeparated"),
    ],
)
def test_results_are_streamed_if_their_format_allows(sql: str, default: str | None, kind: str, output: str) -> None:
    statement = plan(sql, default)
    assert (statement.kind, statement.format) == (kind, output)
