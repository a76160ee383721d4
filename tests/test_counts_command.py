"""`tally learn counts`: state, recount and check."""

import asyncio
import json

from learning.weights.aggregates import count_all, count_once
from runtime.settings import Settings
from tests.cli_lab import CommandResult, command, environment
from tests.counts_lab import RETRIEVER, Configurations, StoredLog, summing_counter
from tests.lab import Lab


async def tally(settings: Settings, *arguments: str) -> CommandResult:
    return await asyncio.to_thread(command, "learn", "counts", *arguments, env=environment(settings))


async def test_state_recount_and_check(lab: Lab) -> None:
    done = await tally(lab.settings)
    assert (done.returncode, done.stderr) == (0, "namespace default has no learning configurations\n")
    log = StoredLog(lab)
    await Configurations(lab.database).put()
    await log.store(*(log.row(f"doc-{number}", day=number % 3) for number in range(7)))
    done = await tally(lab.settings, "--json")
    assert json.loads(done.stdout)["retrievers"] == [
        {
            "retriever": RETRIEVER,
            "days": 0,
            "first_day": None,
            "last_day": None,
            "pending": 0,
            "failed": 0,
            "results": 0,
        }
    ]
    done = await tally(lab.settings, "--recount")
    assert done.returncode == 0, done.stderr
    assert "3 days counted, 3 rows" in done.stderr
    assert "contains every event stored before" in done.stdout
    assert RETRIEVER in done.stdout

    done = await tally(lab.settings, "--recount", "--json", "--days", "40000")
    assert "3 days counted" in done.stderr
    (found,) = json.loads(done.stdout)["retrievers"]
    assert found == {
        "retriever": RETRIEVER, "days": 3, "first_day": "2026-02-01", "last_day": "2026-02-03", "pending": 0,
        "failed": 0, "results": 7,
    }  # fmt: skip
    assert "0 days counted" in (await tally(lab.settings, "--recount", "--days", "1")).stderr
    done = await tally(lab.settings, "--verify")
    assert (done.returncode, done.stderr) == (0, "3 of 3 days equal a count from scratch\n")


async def test_a_check_names_the_days_that_differ(lab: Lab) -> None:
    log = StoredLog(lab)
    await Configurations(lab.database).put()
    async with summing_counter(lab.settings) as counter:
        await log.store(log.row(), log.row(day=1), log.row(day=2))
        await count_all(counter)
        await log.store(log.row(kind="click", day=1))
        await count_all(counter)
    await log.store(log.row("doc-2", day=2))
    done = await tally(lab.settings, "--verify")
    assert done.returncode == 1
    assert f"{RETRIEVER}/2026-02-02: the counts differ" in done.stderr
    assert f"{RETRIEVER}/2026-02-03: not counted yet" in done.stderr
    assert "1 of 3 days equal" in done.stderr
    done = await tally(lab.settings, "--verify", "--json")
    assert json.loads(done.stdout) == {
        "namespace": "default", "checked": 3, "differing": [f"{RETRIEVER}/2026-02-02"],
        "waiting": [f"{RETRIEVER}/2026-02-03"],
    }  # fmt: skip
    await tally(lab.settings, "--recount")
    assert (await tally(lab.settings, "--verify")).returncode == 0
    assert await count_once(lab.settings) == {"default": []}


async def test_options_that_exclude_each_other(lab: Lab) -> None:
    for arguments, named in ((("--days", "3"), "--days"), (("--recount", "--verify"), "--verify")):
        done = await tally(lab.settings, *arguments)
        assert done.returncode == 2
        assert named in done.stderr
