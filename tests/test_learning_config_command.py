"""`tally learn config`: a configuration from a file, standard input and single values; history; mistakes."""

import asyncio
import itertools
import json
from pathlib import Path

import pytest

from schemas.interaction import INTERACTION_TYPES
from tests.cli_lab import CommandResult, command, environment
from tests.lab import Lab

NUMBERS = itertools.count()


class ConfigCommands:
    """The commands for one retriever that no other test has."""

    def __init__(self, lab: Lab) -> None:
        self.retriever = f"of-commands-{next(NUMBERS)}"
        self._env = environment(lab.settings)

    async def run(self, name: str, *arguments: str, given: str = "") -> CommandResult:
        """Run a command in a thread: it has an event loop of its own."""
        options = ("learn", "config", name, self.retriever, *arguments)
        return await asyncio.to_thread(command, *options, given=given, env=self._env)


@pytest.fixture
def config(shared_lab: Lab) -> ConfigCommands:
    return ConfigCommands(shared_lab)


async def test_a_configuration_is_set_and_changed(config: ConfigCommands, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"min_interactions": 7, "reward_map": {"click": 1}}')
    first = await config.run("set", str(file))
    assert first.returncode == 0, first.stderr
    assert f"{config.retriever}: version 1 of" in first.stdout
    assert ["min_interactions", "null", "7"] in [line.split("│")[1:4] for line in _plain(first.stdout)]
    assert "TALLY_LEARNING_CONFIG_REFRESH_MS" in first.stderr
    second = await config.run("set", "--set", "reward_map=click=1,purchase=3", "--json")
    body = json.loads(second.stdout)
    assert body["changed"] == {
        "reward_map": {"before": {"click": 1.0}, "after": {"click": 1.0, "purchase": 3.0}},
    }
    assert body["learning_config"]["min_interactions"] == 7, "other names keep their values"
    again = await config.run("set", "--set", "min_interactions=7")
    assert "nothing changed, version 2 of" in again.stderr
    third = await config.run("set", "-", "--set", "prior_alpha=2", given='{"min_interactions": 9}')
    assert third.returncode == 0, third.stderr
    got = json.loads((await config.run("get", "--json")).stdout)
    assert (got["version"], got["retriever_id"]) == (3, config.retriever)
    assert {name: got["learning_config"][name] for name in ("min_interactions", "prior_alpha", "reward_map")} == {
        "min_interactions": 9,
        "prior_alpha": 2.0,
        "reward_map": None,
    }
    shown = (await config.run("get")).stdout
    assert ["prior_alpha", "2", "a number from 0.1 to 1,000,000"] in [line.split("│")[1:4] for line in _plain(shown)]
    values = [line for line in shown.splitlines() if line.startswith("│")]
    assert len(values) == len(got["learning_config"]), "a line for each value"
    assert max(map(len, shown.splitlines())) <= 130


async def test_history_and_deletion(config: ConfigCommands) -> None:
    await config.run("set", "--set", "min_interactions=7")
    await config.run("set", "--set", "min_interactions=8")
    assert "no learning configuration any more (version 3" in (await config.run("delete")).stderr
    lines = [line.split("│")[1:5] for line in _plain((await config.run("history")).stdout) if line.startswith("│")]
    assert [(version, text) for version, _, _, text in lines[:2]] == [
        ("3", "deleted"),
        ("2", "min_interactions 7 to 8"),
    ]
    assert lines[2][3] == "min_interactions 7", "without the values that are defaults"
    found = json.loads((await config.run("history", "--limit", "2", "--json")).stdout)
    assert ([each["version"] for each in found["versions"]], found["truncated"]) == ([3, 2], True)
    at = found["versions"][1]["changed_at"]
    only = json.loads((await config.run("history", "--at", at, "--json")).stdout)["versions"]
    assert only == [found["versions"][1]]
    early = await config.run("history", "--at", "2020-01-01")
    assert "had no learning configuration at 2020-01-01" in early.stderr
    gone = await config.run("get")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "has no learning configuration" in gone.stderr


async def test_a_long_change_continues_on_the_next_line(config: ConfigCommands) -> None:
    rewards = ",".join(f"{name}=2" for name in INTERACTION_TYPES)
    await config.run("set", "--set", f"reward_map={rewards}")
    shown = (await config.run("history")).stdout
    assert max(map(len, shown.splitlines())) <= 130
    assert INTERACTION_TYPES[-1] in shown


@pytest.mark.parametrize(
    ("arguments", "given", "says"),
    [
        ((), "", "name a FILE, or values with --set"),
        (("--set", "min_interaction=3"), "", "did you mean min_interactions?"),
        (("--set", "min_interactions=300"), "", "min_interactions: must be a whole number from 1 to 100"),
        (("--set", "prior_beta=1", "--set", "prior_beta=2"), "", "prior_beta is set twice"),
        (("-",), "{", "-: is not JSON"),
        (("-",), "[]", "a learning configuration is a JSON object"),
        (("-",), " " * 70_000, "has more than 65,536 bytes"),
        (("no-such-file",), "", "no-such-file: No such file or directory"),
    ],
)
async def test_mistakes_are_found_before_a_store_is_used(arguments: tuple[str, ...], given: str, says: str) -> None:
    done = await asyncio.to_thread(command, "learn", "config", "set", "r", *arguments, given=given)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in " ".join(done.stderr.replace("│", "").split())


async def test_a_retriever_has_a_name() -> None:
    for name in ("", "x" * 1_025):
        done = await asyncio.to_thread(command, "learn", "config", "set", name, "--set", "prior_beta=1")
        assert done.returncode == 2
        assert "has from 1 to 1,024 bytes" in " ".join(done.stderr.replace("│", "").split())


def _plain(text: str) -> list[str]:
    """Return the lines of a table without the blanks around its cells."""
    return ["│".join(each.strip() for each in line.split("│")) for line in text.splitlines()]
