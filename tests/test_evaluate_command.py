"""`tally evaluate`: scores, verdicts with their exit codes, and datasets from their making to a judged run."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.cli_lab import CommandResult, command, environment
from tests.evaluation_lab import days_since_loaded, loaded, namespace, traffic
from tests.lab import Lab

QUERIES = [f"q{number:02}" for number in range(20)]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a folder with judgments, a run of good rankings, one of worse and one without a query."""
    (tmp_path / "qrels").write_text("".join(f"{query} 0 a 2\n{query} 0 b 1\n" for query in QUERIES))
    for name, documents in {"good": "abx", "worse": "xba"}.items():
        lines = [
            f"{query} Q0 {document} {rank} {-rank} {name}\n"
            for query in QUERIES
            for rank, document in enumerate(documents)
        ]
        (tmp_path / name).write_text("".join(lines))
    (tmp_path / "short").write_text("".join((tmp_path / "good").read_text().splitlines(keepends=True)[:-3]))
    return tmp_path


def evaluate(folder: Path, name: str, *arguments: str, **runs: str) -> CommandResult:
    options = [part for option, file in runs.items() for part in (f"--{option}", str(folder / file))]
    return command("evaluate", name, *options, "--qrels", str(folder / "qrels"), *arguments)


def test_a_run_is_scored(files: Path) -> None:
    done = evaluate(files, "score", "--metrics", "mrr,ndcg@2,precision", "--k", "2", run="worse")
    assert done.returncode == 0, done.stderr
    assert "Scores of 20 queries, k = 2" in done.stdout
    assert [line.split()[1:6:2] for line in done.stdout.splitlines() if "@2" in line] == [
        ["mrr@2", "0.5000", "0.5000"],
        ["ndcg@2", "0.2398", "0.2398"],
        ["precision@2", "0.5000", "0.5000"],
    ]
    found = json.loads(evaluate(files, "score", "--json", run="good").stdout)
    assert found["aggregate"]["ndcg@10"] == 1.0
    assert found["per_item"][3] | {"recall@10": 1.0, "query_id": "q03"} == found["per_item"][3]
    short = evaluate(files, "score", run="short")
    assert (short.returncode, short.stdout) == (2, "")
    assert "short has no ranking of 1 of 20 judged queries: q19; --missing zero" in short.stderr
    skipped = evaluate(files, "score", "--missing", "skip", "--json", run="short")
    assert (json.loads(skipped.stdout)["count"], json.loads(skipped.stdout)["aggregate"]["ndcg@10"]) == (19, 1.0)
    assert skipped.stderr == "left out, since a run lacks them: 1 of 20 judged queries\n"
    zero = json.loads(evaluate(files, "score", "--missing", "zero", "--json", run="short").stdout)
    assert zero["aggregate"]["ndcg@10"] == pytest.approx(0.95)


def test_runs_by_text_meet_judgments_by_id(files: Path) -> None:
    (files / "queries.tsv").write_text("".join(f"{query}\tred shoes {query[1:]}\n" for query in QUERIES))
    (files / "text").write_text(json.dumps({f"Red  Shoes {query[1:]}": ["a", "b"] for query in QUERIES}))
    refused = evaluate(files, "score", run="text")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "has none of the 20 judged queries" in refused.stderr
    assert "--queries" in refused.stderr
    names = ("--queries", str(files / "queries.tsv"))
    found = json.loads(evaluate(files, "score", *names, "--json", run="text").stdout)
    assert (found["aggregate"]["ndcg@10"], found["per_item"][3]["query_id"]) == (1.0, "q03")
    assert evaluate(files, "gate", *names, baseline="worse", candidate="text").returncode == 0


def test_the_gate_has_an_exit_code_for_each_verdict(files: Path) -> None:
    guards = ("--guards", "mrr,recall@2")
    passed = evaluate(files, "gate", *guards, baseline="worse", candidate="good")
    assert passed.returncode == 0, passed.stderr
    assert passed.stdout.endswith("passed: ndcg@10 rose, and mrr, recall@2 held\n")
    assert (passed.stdout.count("passed"), passed.stderr) == (1, "")
    assert "+0.5000" in passed.stdout
    refused = evaluate(files, "gate", *guards, "--json", baseline="good", candidate="worse")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["regressed_metrics"] == ["ndcg@10", "mrr", "recall@2"]
    level = evaluate(files, "gate", baseline="good", candidate="good")
    assert (level.returncode, level.stderr) == (1, "")
    assert level.stdout.endswith("not passed: ndcg@10 did not rise: its interval contains 0\n")
    missing = evaluate(files, "gate", baseline="good", candidate="short")
    assert (missing.returncode, missing.stdout) == (2, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--primary", "dcg"), "'dcg' is not a metric"),
        (("--primary", "map,mrr"), "is one metric"),
        (("--primary", ""), "names no metric"),
        (("--guards", "ndcg@0"), "must be from 1 to"),
        (("--tolerance", "nan"), "tolerance"),
        (("--tolerance", "-1"), "--tolerance"),
        (("--missing", "ignore"), "'ignore' is not one of refuse, zero, skip"),
    ],
)
def test_unusable_options_are_named(files: Path, arguments: tuple[str, ...], says: str) -> None:
    done = evaluate(files, "gate", *arguments, baseline="good", candidate="good")
    assert done.returncode == 2, done.stdout
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_unusable_files_are_named(files: Path) -> None:
    (files / "broken").write_text("q00 Q0 a 1 high x\n")
    for name, says in {"nothing": "nothing: No such file", "broken": "the score 'high' is not a number"}.items():
        done = evaluate(files, "score", run=name)
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr


async def test_a_dataset_is_made_listed_shown_and_used(shared_lab: Lab, tmp_path: Path) -> None:
    space = namespace()
    await loaded(shared_lab, space, *traffic(24))

    async def dataset(*arguments: str) -> CommandResult:
        own = environment(shared_lab.settings) | {"TALLY_NAMESPACE": space}
        return await asyncio.to_thread(command, "evaluate", *arguments, env=own)

    days = ("--days", str(days_since_loaded()))
    made = await dataset("dataset", "generate", "dense", "clicked", *days, "--min-interactions", "2")
    assert made.returncode == 0, made.stderr
    assert made.stderr.startswith("dataset clicked (ds_")
    assert made.stderr.endswith(") has 3 queries\n")
    shown = await dataset("dataset", "show", "clicked")
    assert '{"text": "query 0"}' in shown.stdout
    assert "doc-0: 3, doc-1: 3" in shown.stdout
    listed = json.loads((await dataset("dataset", "list", "--json")).stdout)
    assert [(each["dataset_name"], each["query_count"]) for each in listed] == [("clicked", 3)]
    assert "dense" in (await dataset("dataset", "list")).stdout
    whole = (await dataset("dataset", "show", "clicked", "--json")).stdout
    (tmp_path / "clicked.json").write_text(whole)
    run = {query["query_id"]: query["relevant_documents"] for query in json.loads(whole)["queries"]}
    (tmp_path / "run.json").write_text(json.dumps(run))
    scored = await dataset(
        *("score", "--run", str(tmp_path / "run.json"), "--qrels", str(tmp_path / "clicked.json"), "--json")
    )
    assert json.loads(scored.stdout)["aggregate"]["ndcg@10"] == 1.0
    by_text = {query["query_input"]["text"].upper(): run[query["query_id"]] for query in json.loads(whole)["queries"]}
    (tmp_path / "text.json").write_text(json.dumps(by_text))
    scored = await dataset(
        *("score", "--run", str(tmp_path / "text.json"), "--qrels", str(tmp_path / "clicked.json"), "--json")
    )
    assert json.loads(scored.stdout)["aggregate"]["ndcg@10"] == 1.0
    body = {"dataset_name": "copy", "queries": json.loads(whole)["queries"]}
    (tmp_path / "copy.json").write_text(json.dumps(body))
    copied = json.loads((await dataset("dataset", "create", str(tmp_path / "copy.json"), "--json")).stdout)
    assert copied["queries"] == json.loads(whole)["queries"]
    taken = await dataset("dataset", "create", str(tmp_path / "copy.json"))
    assert (taken.returncode, "is taken by dataset" in taken.stderr) == (2, True)
    assert (await dataset("dataset", "delete", "copy")).stderr == "dataset copy is deleted\n"
    gone = await dataset("dataset", "show", "copy")
    assert (gone.returncode, gone.stderr) == (1, "error: no evaluation dataset 'copy'\n")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("generate", "nobody"), 1, "retriever 'nobody' has no results in this range"),
        (("generate", "dense", "--types", "love"), 2, "positive_interaction_types.0"),
        (("generate", "x" * 300), 2, "the default name has more than 200 characters"),
        (("generate", "x" * 2_000, "name"), 2, "a retriever's name has from 1 to"),
        (("generate", "dense", "a\tb"), 2, "printable characters"),
        (("generate", "dense", "--days", "366"), 2, "--days"),
        (("create", "/nowhere.json"), 2, "No such file"),
    ],
)
async def test_a_dataset_that_cannot_be_made_is_an_error(
    shared_lab: Lab, arguments: tuple[str, ...], code: int, says: str
) -> None:
    own = environment(shared_lab.settings)
    done = await asyncio.to_thread(command, "evaluate", "dataset", *arguments, env=own)
    assert done.returncode == code, done.stderr
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["{", "[]", '{"dataset_name": "x", "queries": []}', '{"a": 1}', "\ufeff", "\x00"])
async def test_an_unusable_dataset_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    done = await asyncio.to_thread(command, "evaluate", "dataset", "create", str(tmp_path / "a.json"))
    assert done.returncode == 2
    assert "Invalid value" in done.stderr


async def test_an_empty_namespace_is_named(shared_lab: Lab) -> None:
    own = environment(shared_lab.settings) | {"TALLY_NAMESPACE": "bare"}
    done = await asyncio.to_thread(command, "evaluate", "dataset", "list", env=own)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr == "namespace bare has no evaluation datasets\n"
    listed = await asyncio.to_thread(command, "evaluate", "dataset", "list", "--json", env=own)
    assert json.loads(listed.stdout) == []


async def test_messages_are_those_of_tally(tmp_path: Path) -> None:
    query = {"query_id": "q", "query_input": {}, "relevant_documents": ["a"]}
    (tmp_path / "twice.json").write_text(json.dumps({"dataset_name": "x", "queries": [query, query]}))
    done = await asyncio.to_thread(command, "evaluate", "dataset", "create", str(tmp_path / "twice.json"))
    assert done.returncode == 2
    assert "two queries have the same query_id" in " ".join(done.stderr.replace("│", " ").split())
    assert "Value error" not in done.stderr
