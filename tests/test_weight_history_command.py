"""`tally learn weight-history` and `tally learn session-use`: tables, JSON, a chart, and mistakes."""

import asyncio
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from learning.estimators.weight_history import FeatureWeight, WeightDay
from learning.weights.configs import LearningConfigVersions
from learning.weights.history import HistoryRequest, WeightHistory, date_of, today_utc
from schemas.learning_config import LearningConfig
from tally.plot_weights import draw_weights
from tests.cli_lab import CommandResult, command, environment
from tests.evaluation_lab import loaded
from tests.lab import Lab
from tests.test_weight_analytics import DAY, SPACE, counts_of, publish, retriever, search


async def learn(lab: Lab, *arguments: str) -> CommandResult:
    """Run a command in a thread: it has an event loop of its own."""
    return await asyncio.to_thread(command, "learn", *arguments, "--namespace", SPACE, env=environment(lab.settings))


async def test_weights_are_shown_by_day(shared_lab: Lab, tmp_path: Path) -> None:
    name, today, chart = retriever(), today_utc(), tmp_path / "weights.svg"
    await LearningConfigVersions(shared_lab.settings, shared_lab.database, SPACE).put(
        name, LearningConfig(decay_factor=1)
    )
    counts = counts_of({today - 1: (3, 1)}, "text") + counts_of({today: (7, 0)}, "image")
    await publish(shared_lab, name, "global", "", counts)
    done = await learn(shared_lab, "weight-history", name, "--plot", str(chart))
    assert done.returncode == 0, done.stderr
    rows = [[each.strip() for each in line.split("│")[1:5]] for line in done.stdout.splitlines() if "│" in line]
    assert [(day, feature, weight, mean.split()[0]) for day, feature, weight, mean in rows] == [
        (str(date_of(today - 1)), "text", "1.0000", "0.3333"),
        (str(date_of(today)), "image", "0.2500", "0.1111"),
        ("", "text", "0.7500", "0.3333"),
    ]
    assert f"chart written to {chart}" in done.stderr
    assert "Mean reward of a shown result by feature" in chart.read_text()
    assert f">{date_of(today):%d %b}<" in chart.read_text()
    found = json.loads((await learn(shared_lab, "weight-history", name, "--json", "--days", "1")).stdout)
    assert [each["day"] for each in found["days"]] == [str(date_of(today))]
    empty = await learn(shared_lab, "weight-history", name, "--user", "ann")
    assert (empty.returncode, empty.stdout) == (0, "")
    assert "has no counts at the level personal" in empty.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--level", "personal"), 2, "Invalid value for --user: the level personal needs a user_id"),
        (("--level", "segment", "--segment", "x"), 2, "Invalid value for --level: the learning configuration has no"),
        (("--user", "ann", "--segment", "de"), 2, "--segment: a history is of a user or of a segment"),
        (("--user", "ann", "--level", "global"), 2, "--level: contradicts the user_id that is given"),
        (("--segment", "de", "--level", "personal"), 2, "--level: contradicts the segment that is given"),
        (("--segment", "x"), 2, "Invalid value for --level: the learning configuration has no segments"),
        (("--days", "367"), 2, "--days"),
        (("--plot", "weights.gif"), 2, ".png or .svg"),
    ],
)
async def test_a_mistake_names_the_option(shared_lab: Lab, arguments: tuple[str, ...], code: int, says: str) -> None:
    await LearningConfigVersions(shared_lab.settings, shared_lab.database, SPACE).put("plain", LearningConfig())
    done = await learn(shared_lab, "weight-history", "plain", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in " ".join(done.stderr.replace("│", "").split())


async def test_a_retriever_without_configuration_is_named(shared_lab: Lab) -> None:
    done = await learn(shared_lab, "weight-history", "nobody")
    assert done.returncode == 1
    assert "retriever 'nobody' has no learning configuration" in done.stderr


async def test_use_of_session_signals_is_shown(shared_lab: Lab) -> None:
    name = retriever()
    decisions: list[dict[str, Any]] = [{"context_level": "global", "session": number == 0} for number in range(4)]
    events = [search(name, DAY, clicked=True, decision=each) for each in decisions]
    await loaded(shared_lab, SPACE, *itertools.chain(*events))
    asked = ("session-use", name, "--since", "2026-03-01", "--until", "2026-03-20")
    done = await learn(shared_lab, *asked)
    assert done.returncode == 0, done.stderr
    lines = [[each.strip() for each in line.split("│")[1:4]] for line in done.stdout.splitlines() if "│" in line]
    assert [(use, number, share.split()[0]) for use, number, share in lines] == [
        ("learned weights, without", "3", "0.7500"),
        ("learned weights, with signals of the session", "1", "0.2500"),
    ]
    assert "not what the signals cause" in " ".join(done.stderr.split())
    assert "groups of few executions (3, 1; fewer than 100)" in done.stderr
    groups = json.loads((await learn(shared_lab, *asked, "--json")).stdout)["groups"]
    assert {use: values["executions"] for use, values in groups.items()} == {"session": 1, "no_session": 3}
    nothing = await learn(shared_lab, "session-use", name, "--days", "1")
    assert "has no executions in this range" in nothing.stderr


def test_the_chart_of_one_day_is_a_day_wide(tmp_path: Path) -> None:
    feature = FeatureWeight("text", 3, 6, 0.33, 0.1, 0.6, 1.0)
    found = WeightHistory(HistoryRequest("r"), 1, [WeightDay(today_utc(), 3, 0.9, (feature,))])
    chart = tmp_path / "weights.svg"
    draw_weights(found, "default", chart)
    assert re.findall(r">(\d\d \w{3})<", chart.read_text()) == [f"{date_of(today_utc()):%d %b}"]
