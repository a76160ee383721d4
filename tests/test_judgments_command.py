"""`tally learn judgments`: tables and files from stored events, and errors that name the option."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import ir_measures
import pytest
from pyarrow import parquet

from tests.cli_lab import CommandResult, command, environment, names_in
from tests.judgments_lab import stored
from tests.lab import Lab

RANGE = ("--since", "2026-03-01", "--until", "2026-04-01")


async def learn(lab: Lab, *arguments: str, days: Sequence[str] = RANGE) -> CommandResult:
    return await asyncio.to_thread(command, "learn", "judgments", "r", *days, *arguments, env=environment(lab.settings))


def said(done: CommandResult) -> str:
    """Return the text of standard error without the frame around it."""
    return " ".join(done.stderr.replace("│", " ").split())


@pytest.fixture(scope="module")
async def searched(shared_lab: Lab) -> Lab:
    """Tables with three results in the default namespace."""
    await stored(
        shared_lab,
        "default",
        ("red\x1b[31m shoes", "doc%20a", "e1", "click", "purchase"),
        ("red\x1b[31m shoes", "b", "e1"),
        ("red\x1b[31m shoes", "b", "e2", "click"),
        ("hat", "b", "e3"),
        ("hat", "x" * 100, "e3"),
        (None, "b", "e4"),
    )
    await stored(shared_lab, "spaces", ("hat", "b", "e1", "click"), ("hat", "doc a", "e1"))
    return shared_lab


async def test_a_table_has_values_with_intervals_and_notes(searched: Lab) -> None:
    done = await learn(searched)
    assert done.returncode == 0, done.stderr
    assert "How good is each document for each query? (ctr)" in done.stdout
    assert "red\\x1b[31m shoes" in done.stdout
    assert "x" * 59 + "…" in done.stdout
    assert "0.431 (0.178-0.705)" in done.stdout
    assert done.stderr == "1 impression of executions without a query text is left out\n"
    done = await learn(searched, "--method", "graded", "--min-impressions", "2")
    assert [line.split("│")[3].strip() for line in done.stdout.splitlines() if "│" in line] == ["1"]
    assert "3 items with fewer than 2 impressions are left out" in done.stderr


async def test_json_has_every_judgment(searched: Lab) -> None:
    done = await learn(searched, "--json", "--method", "coec")
    answer = json.loads(done.stdout)
    assert (answer["retriever_id"], answer["method"], answer["since"][:10]) == ("r", "coec", "2026-03-01")
    assert answer["notes"] == ["1 impression of executions without a query text is left out"]
    assert answer["judgments"][2] == {
        **{"query": "red\x1b[31m shoes", "document": "doc%20a", "value": 2.5, "low": pytest.approx(0.0633, abs=1e-4)},
        **{"high": pytest.approx(13.93, abs=0.01), "grade": 4, "impressions": 1, "clicks": 1, "effective_n": 0.4},
    }


async def test_files_are_complete_and_readable(searched: Lab, tmp_path: Path) -> None:
    qrels, queries = tmp_path / "r.qrels", tmp_path / "queries.tsv"
    done = await learn(searched, "--method", "graded", "--output", str(qrels), "--queries", str(queries))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.splitlines()[0] == f"4 judgments written to {qrels}"
    read = list(ir_measures.read_trec_qrels(str(qrels)))  # type: ignore[no-untyped-call]
    assert [(each.query_id, each.doc_id, each.relevance) for each in read] == [
        *(("q1", "b", 0), ("q1", "x" * 100, 0), ("q2", "doc%20a", 4), ("q2", "b", 1))
    ]
    assert queries.read_text() == "q1\that\nq2\tred\x1b[31m shoes\n"
    for name, options in (("r.jsonl", []), ("r.parquet", []), ("r.json", ["--dataset-name", "shoes"])):
        done = await learn(searched, "--output", str(tmp_path / name), *options)
        assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert lines == parquet.read_table(tmp_path / "r.parquet").to_pylist()
    assert len(lines) == 4
    assert (tmp_path / "r.json").read_bytes().endswith(b"}\n")
    dataset = json.loads((tmp_path / "r.json").read_text())
    assert (dataset["dataset_name"], len(dataset["queries"])) == ("shoes", 2)
    done = await learn(searched, "--output", str(qrels), "--queries", str(tmp_path / "other.tsv"))
    assert (done.returncode, (tmp_path / "other.tsv").exists()) == (1, False)
    assert "--force replaces it" in done.stderr
    assert len(names_in(tmp_path)) == 5


async def test_qrels_that_cannot_be_written_leave_no_file_of_queries(searched: Lab, tmp_path: Path) -> None:
    files = ("--output", str(tmp_path / "r.qrels"), "--queries", str(tmp_path / "queries.tsv"))
    done = await learn(searched, "--namespace", "spaces", *files)
    assert done.returncode == 1
    assert "document 'doc a' is empty, or has white space" in said(done)
    assert names_in(tmp_path) == []


async def test_propensities_come_from_a_file(searched: Lab, tmp_path: Path) -> None:
    curves = tmp_path / "curves.json"
    curves.write_text('{"curves": [{"points": [{"position": 0, "value": 0.5}]}]}')
    done = await learn(searched, "--method", "ips", "--propensities", str(curves), "--json")
    assert [row["value"] for row in json.loads(done.stdout)["judgments"]] == [0, 0, 2, 1]
    done = await learn(searched, "--method", "ips", "--propensities", str(tmp_path / "none.json"))
    assert (done.returncode, "No such file" in said(done)) == (2, True)
    curves.write_text('{"curves": [{"points": [{"position": 0, "value": 0}]}]}')
    done = await learn(searched, "--method", "ips", "--propensities", str(curves))
    assert (done.returncode, "greater than 0" in said(done)) == (2, True)


async def test_the_default_range_is_the_last_seven_days(searched: Lab) -> None:
    done = await learn(searched, days=())
    assert done.returncode == 1
    assert "retriever 'r' of namespace default showed no results from" in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--method", "best"], "--method"),
        (["--min-impressions", "0"], "--min-impressions"),
        (["--clip", "0.5"], "--clip"),
        (["--prior-strength", "nan"], "--prior-strength"),
        (["--rewards", "click"], "--rewards"),
        (["--max-reward", "1000"], "--max-reward"),
        (["--grades", "3,2,1"], "--grades"),
        (["--grades", "a,b"], "--grades: 'a,b' is not a list of numbers"),
        (["--by", "device"], "Invalid value for --by: 'device' is not a path in metadata"),
        (["--format", "qrels"], "--queries"),
        (["--format", "jsonl", "--queries", "q.tsv"], "--queries"),
        (["--output", "judgments.xml"], "--output"),
        (["--output", "/nowhere/r.jsonl"], "there is no folder /nowhere"),
        (["--json", "--format", "jsonl"], "--json"),
        (["--format", "qrels", "--output", "same", "--queries", "same"], "is the file of --output"),
        (["--dataset-name", "", "--format", "dataset"], "--dataset-name: the name of a dataset has from 1"),
        (["--method", "ips"], "every result was shown at position 0"),
    ],
)
async def test_errors_name_the_option(searched: Lab, options: list[str], says: str) -> None:
    done = await learn(searched, *options)
    assert done.returncode in (1, 2)
    assert says in said(done)
    assert (done.stdout, "Traceback" in done.stderr) == ("", False)
