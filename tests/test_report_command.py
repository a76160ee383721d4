"""`tally report`: questions as one command, in each form, with errors that name the option."""

import asyncio
import csv
import io
import json
import re
from pathlib import Path

import pytest

from schemas.analytics.catalogue import REPORTS
from tests.cli_lab import CommandResult, command, environment
from tests.lab import Lab, click

VISITS = 40


async def report(lab: Lab, *arguments: str) -> CommandResult:
    return await asyncio.to_thread(command, "report", *arguments, env=environment(lab.settings))


async def visited(lab: Lab) -> None:
    """Emit two retrievers' executions: every second one of `new` is clicked, every fourth one of `old`."""
    for number in range(VISITS):
        retriever = ("old", "new")[number % 2]
        fields = {"retriever_id": retriever, "user_id": f"u{number}", "session_id": f"s{number}"}
        about = {**fields, "query_snapshot": {"text": f"query {number % 4}"}, "metadata": {"device": "ios"}}
        await lab.emit(click("doc", f"exec-{number}", interaction_type=["impression"], **about))
        if number % 4 == 1 or number % 8 == 0:
            await lab.emit(click("doc", f"exec-{number}", **about))
    await lab.drain()


async def test_each_question_is_one_command(lab: Lab, tmp_path: Path) -> None:
    await visited(lab)
    done = await report(lab, "retrievers")
    assert done.returncode == 0, done.stderr
    assert "How well does search work with each retriever?" in done.stdout
    assert "50.0% (29.9-70.1)" in done.stdout
    done = await report(lab, "overview", "--by", "metadata.device", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert (row["period"], row["executions"], row["ctr"]) == ("ios", "40", "0.375")
    done = await report(lab, "compare", "old", "new", "--json", "--columns", "metric,a,b,difference")
    assert json.loads(done.stdout)[0] == {
        **{"metric": "ctr", "a": 0.25, "b": 0.5, "difference": 0.25},
        **{"difference_low": pytest.approx(-0.0574, abs=1e-4), "difference_high": pytest.approx(0.5574, abs=1e-4)},
    }
    done = await report(lab, "journey", "s1", "--json")
    assert [row["types"] for row in json.loads(done.stdout)] == ["impression", "click"]
    files = [tmp_path / "queries.parquet", tmp_path / "queries.svg"]
    options = ["--output", str(files[0]), "--plot", str(files[1]), "--min-support", "5"]
    done = await report(lab, "queries", "--sort", "ctr:desc", "--where", "retriever_id=new", *options)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.endswith(f"chart written to {files[1]}\n")
    assert [file.read_bytes()[:4] for file in files] == [b"PAR1", b"<?xm"]
    refused = await report(lab, "queries", "--plot", str(files[1]))
    assert (refused.returncode, refused.stderr) == (1, f"error: {files[1]} exists: --force replaces it\n")
    refused = await report(lab, "overview", "--output", str(files[0]))
    assert (refused.returncode, files[0].read_bytes()[:4]) == (1, b"PAR1")
    assert "--force replaces it" in refused.stderr
    done = await report(lab, "overview", "--output", str(files[0]), "--format", "csv", "--force")
    assert (done.returncode, files[0].read_bytes()[:6]) == (0, b"period")


async def test_a_table_has_fifty_rows_and_says_how_to_see_more(lab: Lab) -> None:
    await lab.emit(*(click(f"doc-{number:02}", interaction_type=["impression"]) for number in range(60)))
    await lab.drain()
    done = await report(lab, "features")
    assert done.stdout.count("doc-") == 50
    assert "only the first 50 rows are shown: see --limit, --sort and --output" in done.stderr
    assert (await report(lab, "features", "--format", "csv")).stdout.count("doc-") == 60
    assert (await report(lab, "features", "--limit", "3", "--json")).stdout.count("doc-") == 3


async def test_a_chart_has_the_rows_and_columns_that_the_table_leaves_out(lab: Lab, tmp_path: Path) -> None:
    await lab.emit(
        *(click("doc", f"e{number}", interaction_type=["impression"], position=number) for number in range(60))
    )
    await lab.drain()
    chart = tmp_path / "chart.svg"
    options = ("--columns", "clicks", "--min-support", "1", "--plot", str(chart))
    done = await report(lab, "positions", *options)
    assert done.stdout.count("\n│") == 50
    assert "only the first 50 rows are shown" in done.stderr
    assert re.findall(r"┃ +(\w+)", done.stdout) == ["position", "clicks"]
    assert chart.read_text().count("<use ") > 3 * 50, "a mark and two caps for each position"
    refused = await report(lab, "positions", "--plot-column", "clicks", "--force", *options)
    assert (refused.returncode, "plot_column: 'clicks' cannot be drawn; choose ctr" in refused.stderr) == (2, True)


async def test_positions_are_divided_by_the_largest_values_of_a_field(lab: Lab) -> None:
    await lab.emit(
        *(
            click("doc", f"{number}-{copy}", interaction_type=["impression"], metadata={"device": f"d{number}"})
            for number in range(10)
            for copy in range(1 + number)
        ),
        click("doc", "9-0", metadata={"device": "d9"}),
    )
    await lab.drain()
    done = await report(lab, "positions", "--by", "metadata.device", "--json")
    rows = json.loads(done.stdout)
    assert [row["value"] for row in rows] == [f"d{number}" for number in range(2, 10)]
    assert [row["impressions"] for row in rows] == list(range(3, 11))
    assert (rows[-1]["clicks"], rows[-1]["ctr"]) == (1, 0.1)
    done = await report(lab, "positions", "--by", "metadata.device", "--sort", "value:desc", "--columns", "ctr")
    assert re.findall(r"┃ +([\w.]+)", done.stdout) == ["position", "metadata.device", "ctr"]
    assert json.loads((await report(lab, "positions", "--json")).stdout)[0]["impressions"] == 55


async def test_a_report_of_nothing_names_the_namespaces_that_have_events(lab: Lab) -> None:
    await lab.emit(click())
    await lab.drain()
    done = await report(lab, "overview", "--namespace", "shop")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        *done.stderr.splitlines()[:1],
        "the namespace has no events in this range",
        "namespaces with events: default (1)",
    ]
    assert json.loads((await report(lab, "overview", "--namespace", "shop", "--json")).stdout) == []


async def test_a_report_of_nothing_says_which_condition_no_event_meets(lab: Lab) -> None:
    ios, android = {"device": "ios"}, {"device": "android"}
    await lab.emit(click(session_id="s1", metadata=ios), click("b", session_id="s1", metadata=android))
    await lab.drain()

    async def reasons(session: str, *conditions: str) -> list[str]:
        done = await report(lab, "journey", session, *(part for each in conditions for part in ("--where", each)))
        found, *lines, namespaces, hint = done.stderr.splitlines()
        assert re.fullmatch(r"nothing found: namespace default, .{16} to .{16} UTC(, where .*)?", found), found
        assert (namespaces, hint.endswith(f"`tally report journey {session} --days 30`")) == (
            "namespaces with events: default (2)",
            True,
        )
        return lines

    none_of = "none of the 2 events in this range"
    assert await reasons("s1", "metadata.devise=ios") == [f"{none_of} has metadata.devise"]
    assert await reasons("s1", "metadata.device=iOS") == [f"{none_of} meets: metadata.device = iOS"]
    assert await reasons("s1", "metadata.device=ios", "metadata.device=android") == [
        "each condition is met by some events, but no event meets all of them"
    ]
    assert await reasons("s2") == [
        "2 events are in this range, but none is one of this report, with session = s2",
    ]
    done = await report(lab, "funnel", "--namespace", "shop")
    assert "impression" in done.stdout
    assert "the namespace has no events in this range" in done.stderr
    done = await report(lab, "journey", "s1", "--where", "metadata.device!=ios", "--format", "csv")
    assert [row["feature_id"] for row in csv.DictReader(io.StringIO(done.stdout))] == ["b"]


async def test_a_comparison_with_a_group_that_nobody_has_names_those_that_exist(lab: Lab) -> None:
    await visited(lab)
    done = await report(lab, "compare", "old", "nwe")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: b: 'nwe' has no executions in this range; retriever_id has new (20 executions), old (20 executions)\n"
    )
    assert (await report(lab, "compare", "ios", "web", "--of", "metadata.device")).returncode == 1
    done = await report(lab, "compare", "old", "new", "--namespace", "shop")
    assert done.stderr.splitlines()[1] == "the namespace has no events in this range"


async def test_the_reports_are_listed(lab: Lab) -> None:
    done = await report(lab)
    assert all(name in done.stdout for name in REPORTS)
    assert {each["name"] for each in json.loads((await report(lab, "--json")).stdout)} == set(REPORTS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "name: 'nothing' is not a report; known are overview"),
        (["overview", "--by", "minute"], "by: 'minute' is not a field"),
        (["compare", "old"], "b: is needed by the report compare"),
        (["compare", "a", "b", "c"], "'c' is one argument too many"),
        (["overview", "--days", "1", "--hours", "1"], "choose one of --since, --days and --hours"),
        (["overview", "--since", "yesterday"], "write 2026-11-22T14:30:00Z"),
        (["overview", "--since", "2026-03-02", "--until", "2026-03-01"], "ends at 2026-03-01, before it begins"),
        (["overview", "--where", "nothing=1"], "'nothing' is not a field"),
        (["overview", "--columns", "ctr,nothing"], "columns: 'nothing' is not a column"),
        (["overview", "--plot", "chart.pdf"], "name the file .png or .svg"),
        (["overview", "--plot", "/nowhere/chart.png"], "there is no folder /nowhere"),
        (["overview", "--output", "/nowhere/report.csv"], "cannot write /nowhere/report.csv: there is no folder"),
        (["overview", "--format", "parquet"], "needs --output FILE"),
        (["overview", "--output", "report.txt"], "name the file .csv, .json or .parquet"),
        (["overview", "--json", "--format", "csv"], "choose --json or --format"),
        (["sessions", "--plot", "chart.png"], "the report sessions has no chart"),
    ],
)
async def test_errors_name_the_option(lab: Lab, arguments: list[str], says: str) -> None:
    done = await report(lab, *arguments)
    assert done.returncode in (1, 2)
    assert says in " ".join(done.stderr.replace("│", " ").split()), done.stderr
    assert "Traceback" not in done.stderr
