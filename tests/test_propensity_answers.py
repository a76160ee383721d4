"""Propensities as answers: the command with its table, file and chart, the API call, and the file read again."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from learning.estimators.curve import PropensityCurve, PropensityPoint
from learning.propensity_file import PropensityFileError, curves_document, read_curves
from tally.plot_propensities import draw_propensities
from tests.analytics.loading import load
from tests.cli_lab import CommandResult, command, environment
from tests.http_lab import api_of, with_key
from tests.lab import Lab
from tests.learning.logs import scope_of
from tests.test_propensities import swapped

SINCE = "2026-03-01"
RETRIEVER = "swapping"
PATH = f"/v1/retrievers/{RETRIEVER}/propensities"


@pytest.fixture(scope="module")
async def stored(shared_lab: Lab) -> Lab:
    """Load executions of one retriever on two devices into the default namespace of the shared tables."""
    for number, device in enumerate(("ios", "desktop")):
        events = swapped(metadata={"device": device}, retriever_id=RETRIEVER)
        renamed = [event.model_copy(update={"execution_id": f"{device}-{event.execution_id}"}) for event in events]
        await load(shared_lab.database, "default", renamed, first=number * 10_000)
    return shared_lab


@pytest.fixture
async def api(stored: Lab) -> AsyncIterator[httpx.AsyncClient]:
    async with api_of(with_key(stored.settings), "reader") as client:
        yield client


async def learn(lab: Lab, *arguments: str) -> CommandResult:
    options = "learn", "propensities", *arguments
    return await asyncio.to_thread(command, *options, env=environment(lab.settings))


async def test_the_command_shows_writes_and_draws_a_curve_for_each_segment(
    stored: Lab, api: httpx.AsyncClient, tmp_path: Path
) -> None:
    file, chart = tmp_path / "r.json", tmp_path / "r.svg"
    options = RETRIEVER, "--since", SINCE, "--until", "2026-12-01", "--by", "metadata.device"
    done = await learn(stored, *options, "--output", str(file), "--plot", str(chart))
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if "ios" in line or "desktop" in line]
    assert [row[1::2][:5] for row in rows[:2]] == [
        ["desktop", "0", "400", "200", "2"],
        ["desktop", "1", "400", "100", "2"],
    ]
    assert "0.500 (0.4" in done.stdout
    assert done.stderr.splitlines() == [f"propensities written to {file}", f"chart written to {chart}"]
    assert all(f">{name}<" in chart.read_text() for name in ("device", "desktop", "ios"))
    printed = json.loads((await learn(stored, *options, "--json")).stdout)
    assert printed == json.loads(file.read_text())
    query = {"since": SINCE, "until": "2026-12-01", "by": "metadata.device"}
    answer = await api.get(PATH, params=query)
    assert (answer.status_code, answer.json()) == (200, printed)
    curves = read_curves(file.read_bytes())
    assert [(curve.segment, curve.values()) for curve in curves] == [
        ("desktop", {0: 1.0, 1: 0.5}),
        ("ios", {0: 1.0, 1: 0.5}),
    ]


async def test_a_refusal_of_the_command_names_the_missing_data(stored: Lab, tmp_path: Path) -> None:
    done = await learn(stored, RETRIEVER, "--since", SINCE, "--method", "randomised")
    assert done.returncode == 1
    assert "1,600 of 1,600 shown results have no number in metadata.propensity" in done.stderr
    done = await learn(stored, RETRIEVER, "--since", SINCE, "--by", "device")
    assert (done.returncode, "is not a path in metadata" in done.stderr) == (2, True)
    there = tmp_path / "there.json"
    there.write_text("{}")
    done = await learn(stored, RETRIEVER, "--since", SINCE, "--output", str(there))
    assert (done.returncode, "--force" in done.stderr, there.read_text()) == (1, True, "{}")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"since": SINCE, "method": "randomised"}, "no number in metadata.propensity"),
        ({"since": "2026-01-01", "until": "2026-02-01"}, "showed no results from"),
        ({"since": "2026-02-02", "until": "2026-02-01"}, "is not later than since"),
        ({"method": "regression"}, "method"),
        ({"by": "device"}, "is not a path in metadata"),
        ({"unknown": "1"}, "unknown"),
    ],
)
async def test_a_call_that_cannot_be_answered_says_why(
    api: httpx.AsyncClient, query: dict[str, Any], says: str
) -> None:
    answer = await api.get(PATH, params=query)
    assert answer.status_code == 422, answer.text
    assert says in answer.text


async def test_the_call_needs_a_key_that_reads(api: httpx.AsyncClient) -> None:
    assert (await api.get(PATH, headers={"Authorization": "Bearer none"})).status_code in (401, 503)


HAND_MADE: dict[str, Any] = {
    "curves": [
        {"method": "randomised", "reference": 0, "points": [{"position": 1, "value": 0.5}, {"position": 0, "value": 1}]}
    ]
}


def test_a_file_by_hand_needs_positions_and_values() -> None:
    (curve,) = read_curves(json.dumps(HAND_MADE))
    assert [(point.position, point.value, point.impressions) for point in curve.points] == [(0, 1.0, 0), (1, 0.5, 0)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"value": 0}, r"curves\[0\].points\[0\].value: Input should be greater than 0"),
        ({"value": float("nan")}, r"curves\[0\].points\[0\].value: .* finite number"),
        ({"value": "1"}, r"curves\[0\].points\[0\].value: Input should be a valid number"),
        ({"value": 50.0, "low": None, "high": None}, "position 1: 50 is not from 0.000001 to 10"),
        ({"value": 1e-9, "low": None, "high": None}, "position 1: 1e-09 is not from 0.000001 to 10"),
        ({"reason": "\ud800"}, r"curves\[0\].points\[0\].reason: a text has a lone surrogate"),
        ({"position": -1}, r"curves\[0\].points\[0\].position"),
        ({"position": 0}, r"curves\[0\]: position 0 occurs more than once"),
        ({"low": 0.6}, r"curves\[0\].points\[0\]: low, value and high must ascend"),
        ({"propensity": 1}, r"curves\[0\].points\[0\].propensity: Extra inputs"),
    ],
)
def test_an_error_of_a_file_names_its_entry(change: dict[str, Any], says: str) -> None:
    document = json.loads(json.dumps(HAND_MADE))
    document["curves"][0]["points"][0] |= change
    with pytest.raises(PropensityFileError, match=says):
        read_curves(json.dumps(document))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "the file: Input should be"),
        ('{"curves": []}', "curves: List should have at least 1 item"),
        (json.dumps({"curves": HAND_MADE["curves"] * 2}), "segment '' occurs more than once"),
    ],
)
def test_a_text_that_is_no_file_of_propensities_is_refused(text: str, says: str) -> None:
    with pytest.raises(PropensityFileError, match=says):
        read_curves(text)


def point(position: int, value: float | None) -> PropensityPoint:
    has_ends = value not in (None, 1)
    low, high = ((value or 0) * 0.9, (value or 0) * 1.1) if has_ends else (None, None)
    return PropensityPoint(position, 100, 10, 5, value, low, high, "" if value else "no clicks")


def test_a_chart_has_the_eight_largest_segments_and_texts_as_they_are(tmp_path: Path) -> None:
    points = point(0, 1.0), point(1, 0.5), point(2, None)
    curves = [PropensityCurve(f"$dev-{number}$", "em", 0, points) for number in range(9)]
    scope = scope_of("a$b$", "device", namespace="shop")
    note = draw_propensities(scope, curves, tmp_path / "a.svg")
    assert note.endswith("a.svg; 1 segments are not drawn: at most 8")
    assert "$dev-7$" in (tmp_path / "a.svg").read_text()
    draw_propensities(scope, curves, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_written_file_is_read_as_the_same_curves() -> None:
    curves = [PropensityCurve("ios", "harvesting", 0, (point(0, 1.0), point(3, 0.25), point(4, None)), 7)]
    assert read_curves(json.dumps(curves_document(scope_of("r", "device", namespace="shop"), curves))) == curves


@pytest.mark.parametrize(
    ("document", "by", "says"),
    [
        ({"by": "metadata.device"}, None, "add --by with that path"),
        ({"by": "metadata.device"}, "country", "are by metadata.device, and --by is metadata.country"),
        ({"retriever": "other"}, None, "are of retriever 'other', and 'r' is asked for"),
        ({}, "device", "have no segments, and --by is metadata.device"),
    ],
)
def test_propensities_of_other_results_are_refused(document: dict[str, Any], by: str | None, says: str) -> None:
    text = json.dumps({**document, "curves": [{"points": [{"position": 0, "value": 1}]}]})
    scope = scope_of("r", by) if by else scope_of("r")
    with pytest.raises(PropensityFileError, match=says):
        read_curves(text, scope)
