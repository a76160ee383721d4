"""Reports of events at the edges: empty ids, shared positions, negative rewards, groups by a field."""

from pathlib import Path
from typing import Any

from pyarrow import parquet

from schemas.interaction import Interaction
from tally.report_output import write
from tests.lab import Lab, click
from tests.reports_lab import made, only, rows_of


def event(feature: str, execution: str, kind: str = "impression", **fields: Any) -> Interaction:
    """An event about a result."""
    return click(feature, execution, interaction_type=[kind], **fields)


async def test_an_empty_user_or_session_is_none(lab: Lab) -> None:
    """Searches without a session are not the refinements of one another."""
    for query in ("red shoes", "blue hats"):
        await lab.emit(event("a", query, query_snapshot={"text": query}, session_id="", user_id=""))
    await lab.drain()
    names = "executions", "refinement_rate", "users", "sessions"
    assert await only(lab, "overview", *names, by="all") == [(2, 0.0, 0, 0)]


async def test_results_at_one_position_give_an_ndcg_of_at_most_1(lab: Lab) -> None:
    await lab.emit(*(event(feature, "e", kind) for feature in "abc" for kind in ("impression", "click")))
    await lab.drain()
    assert await only(lab, "overview", "mean_clicks", "ndcg", by="all") == [(3.0, 1.0)]


async def negative_rewards(lab: Lab) -> None:
    """Ten users with a reward of -2 or less see A, ten with -0.5 see B."""
    for number in range(20):
        group, kind = ("A", "negative_feedback") if number % 2 else ("B", "skip")
        about: dict[str, Any] = {"retriever_id": group, "user_id": f"u{number}"}
        await lab.emit(event("a", f"e{number}", **about), event("a", f"e{number}", kind, **about))
    await lab.emit(event("b", "e1", "negative_feedback", retriever_id="A", user_id="u1"))
    await lab.drain()


async def test_a_comparison_of_negative_means_keeps_the_sign_of_the_difference(lab: Lab) -> None:
    await negative_rewards(lab)
    found = {row["metric"]: row for row in await rows_of(lab, "compare", a="A", b="B")}
    reward = found["reward"]
    assert (reward["a"], reward["b"], reward["difference"]) == (-2.2, -0.5, 1.7)
    assert reward["relative"] == round(1.7 / 2.2, 9)
    assert reward["adjusted_p"] == reward["p_value"] < 0.001
    assert (found["ctr"]["p_value"], found["ctr"]["adjusted_p"]) == (None, None)


async def test_notes_do_not_depend_on_the_columns(lab: Lab) -> None:
    await negative_rewards(lab)
    found = await made(lab, "compare", a="A", b="B", share_b=0.01, columns=("difference", "metric"))
    assert found.columns == ["difference", "difference_low", "difference_high", "metric"]
    assert found.rows[0] == [0.0, None, None, "ctr"]
    assert list(found.notes) == list((await made(lab, "compare", a="A", b="B", share_b=0.01)).notes) != []


async def test_the_periods_of_an_overview_by_a_field_are_texts(lab: Lab, tmp_path: Path) -> None:
    await lab.emit(event("a", "e", metadata={"device": "ios"}))
    await lab.drain()
    found = await made(lab, "overview", by="metadata.device")
    assert found.report.columns[0].unit == "text"
    write(found, "parquet", tmp_path / "devices.parquet")
    assert parquet.read_table(tmp_path / "devices.parquet").column("period").to_pylist() == ["ios"]
    assert (await made(lab, "overview", by="week")).report.columns[0].unit == "time"
