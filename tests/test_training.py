"""Training sets on hand-made events: what is a row, what counts for its label, and in which order."""

from datetime import timedelta
from typing import Any

import pytest

from learning.estimators.curve import PropensityCurve, PropensityPoint
from learning.scope import Refusal, ScopeError
from schemas.rewards import RewardMap
from tests.lab import Lab
from tests.training_lab import BEGIN, columns_of, event, made, request_for, store

HOUR_S = 3600


def curve(values: dict[int, float | None], segment: str = "") -> PropensityCurve:
    points = tuple(PropensityPoint(place, 100, 10, 5, value, None, None, "") for place, value in values.items())
    return PropensityCurve(segment, "em", 0, points)


async def test_only_events_within_the_horizon_after_the_impression_count(lab: Lab) -> None:
    await store(
        lab.database,
        [
            *(event(name, at_s=100) for name in ("before", "at", "end", "after", "none")),
            event("before", "click", 99.999),
            event("at", "click", 100),
            event("end", "click", 100 + HOUR_S),
            event("after", "click", 100.001 + HOUR_S),
            event("never shown", "click", 101),
            event("none", "click", 101, execution="e2"),
        ],
    )
    found = await columns_of(lab, request_for(horizon_ms=HOUR_S * 1000), "document", "label", "reward")
    assert found == [("after", 0, 0.0), ("at", 1, 1.0), ("before", 0, 0.0), ("end", 1, 1.0), ("none", 0, 0.0)]


async def test_features_and_position_are_those_of_the_first_impression(lab: Lab) -> None:
    events = [
        event("doc", at_s=5, document_score=0.5, position=3, metadata={"price": 5}),
        event("doc", at_s=1, document_score=0.1, position=7, metadata={"price": 1.5}),
        event("doc", at_s=1, document_score=0.9, position=1, metadata={"price": 9}),  # the smaller id counts
        event("doc", "click", 9, document_score=0.9, position=2, metadata={"price": 2}),
    ]
    await store(lab.database, events)
    request = request_for(features=("document_score", "metadata.price"))
    names = ("position", "document_score", "metadata.price", "label")
    assert await columns_of(lab, request, *names) == [(7, 0.1, 1.5, 1)]


async def test_a_feature_is_a_finite_number_or_null(lab: Lab) -> None:
    values = [1, 2.5, True, "3", None, [1], {"x": 1}]
    await store(lab.database, [event(str(at), metadata={"a": {"b": value}}) for at, value in enumerate(values)])
    await lab.database.command(
        "INSERT INTO interactions (namespace, interaction_id, feature_id, interaction_type, position, metadata, "
        "execution_id, retriever_id, timestamp, _event_time_ms, _topic, _offset) SELECT 'default', 'int_x', '7', "
        """['impression'], 0, '{"a":{"b":1e999}}', 'e1', 'hybrid', {at:DateTime64(3, 'UTC')}, {ms:Int64}, 't', 1""",
        {"at": BEGIN, "ms": int(BEGIN.timestamp() * 1000)},
    )
    found = await columns_of(lab, request_for(features=("metadata.a.b",)), "metadata.a.b")
    assert [value for (value,) in found] == [1.0, 2.5, 1.0, None, None, None, None, None]


async def test_labels(lab: Lab) -> None:
    """Grades by the highest reward of one event, rewards as sums of capped ones, and negative ones."""
    kinds = {
        "bookmark": ["bookmark"],
        "bought": ["purchase", "purchase"],
        "carted": ["add_to_cart"],
        "clicked": ["click", "click"],
        "disliked": ["negative_feedback"],
        "skipped": ["skip", "click"],
    }
    events = [event(name) for name in kinds]
    events += [event(name, kind, 10 + at) for name, types in kinds.items() for at, kind in enumerate(types)]
    events += [event("all at once"), event("all at once", ["purchase", "add_to_cart", "click"], 10)]
    await store(lab.database, events)
    names = ("document", "label", "reward")
    graded = await columns_of(lab, request_for("graded"), *names)
    assert graded == [
        ("all at once", 4, 5.0),
        ("bookmark", 2, 1.5),
        ("bought", 4, 6.0),
        ("carted", 3, 2.0),
        ("clicked", 1, 2.0),
        ("disliked", 0, -2.0),
        ("skipped", 1, 0.5),
    ]
    rewards = RewardMap({"click": 0.1, "purchase": 1e300}, 0.3)
    found = {name: label for name, label, _ in await columns_of(lab, request_for("reward", rewards=rewards), *names)}
    assert found == {
        **{"all at once": 0.3, "bookmark": 0.0, "bought": 0.6, "carted": 0.0},
        **{"clicked": 0.2, "disliked": 0.0, "skipped": 0.1},
    }
    clicked = {name for name, label, _ in await columns_of(lab, request_for(), *names) if label}
    assert clicked == {"all at once", "clicked", "skipped"}


async def test_inverse_propensity_weights(lab: Lab) -> None:
    """All rows of an execution have the mean of its clicks' clipped 1 / propensity; rows without one are left out."""
    places = [(execution, place) for execution in range(6) for place in (0, 1, 2, 3, 4)]
    events = [event(f"{execution}{place}", position=place, execution=str(execution)) for execution, place in places]
    clicked = {0: [0], 1: [1], 2: [2], 3: [3, 1], 4: [4]}
    events += [
        event(f"{execution}{place}", "click", 1, position=place, execution=str(execution))
        for execution, clicks in clicked.items()
        for place in clicks
    ]
    await store(lab.database, events)
    curves = [curve({0: 1.0, 1: 0.5, 2: 0.0, 3: 1e-9, 4: None})]
    found = dict(await columns_of(lab, request_for("ips", curves=curves, clip=10.0), "document", "weight"))
    of_execution = {0: 1.0, 1: 2.0, 2: 10.0, 3: 6.0, 4: 1.0, 5: 1.0}
    assert found == {f"{number}{place}": of_execution[number] for number, place in places if place != 4}
    _, written = await made(lab, request_for("ips", curves=curves))
    assert written.counts.unknown_propensity == 6
    with pytest.raises(Refusal, match="propensity is known"):
        await made(lab, request_for("ips", curves=[curve({17: 0.5})]))
    assert set(await columns_of(lab, request_for(), "propensity", "weight")) == {(None, 1.0)}


async def test_propensities_are_those_of_the_segment(lab: Lab) -> None:
    devices = ["phone", "desktop", "watch", None]
    await store(
        lab.database,
        [
            event(f"d{at}", position=1, metadata={"device": device} if device else None)
            for at, device in enumerate(devices)
        ],
    )
    curves = [curve({0: 1.0, 1: 0.2}, "phone"), curve({0: 1.0, 1: 0.6}, "desktop")]
    request = request_for("ips", curves=curves, by=("device",))
    found = await columns_of(lab, request, "segment", "propensity", "weight")
    assert found == [("phone", 0.2, 1.0), ("desktop", 0.6, 1.0)]


async def test_rows_are_in_a_total_order_with_whole_executions(lab: Lab) -> None:
    """By time of the execution, its id, position and document, with gaps in positions and equal positions."""
    await store(
        lab.database,
        [
            event("z", at_s=50, execution="late", position=0),
            event("b", at_s=20, execution="b-same-time", position=9),
            event("a", at_s=20, execution="b-same-time", position=9),
            event("c", at_s=30, execution="b-same-time", position=2),
            event("d", at_s=20, execution="a-same-time", position=4_000_000),
            event("e", at_s=60, execution="a-same-time", position=7),
        ],
    )
    assert await columns_of(lab, request_for(), "qid", "position", "document") == [
        ("a-same-time", 7, "e"),
        ("a-same-time", 4_000_000, "d"),
        ("b-same-time", 2, "c"),
        ("b-same-time", 9, "a"),
        ("b-same-time", 9, "b"),
        ("late", 0, "z"),
    ]


async def test_an_execution_is_in_one_part_of_the_split(lab: Lab) -> None:
    await store(
        lab.database,
        [
            event("a", at_s=10, execution="e1"),
            event("b", at_s=30, execution="e1"),
            event("a", at_s=20, execution="e2"),
            event("a", "click", 25, execution="e2"),
        ],
    )
    request = request_for(validation_from=BEGIN + timedelta(seconds=20))
    assert await columns_of(lab, request, "qid", "document", "split") == [
        ("e1", "a", "train"),
        ("e1", "b", "train"),
        ("e2", "a", "validation"),
    ]
    counts = (await made(lab, request))[1].counts
    assert (counts.train, counts.validation, counts.total) == ((2, 1, 0), (1, 1, 1), (3, 2, 1))


async def test_the_range_is_that_of_impressions(lab: Lab) -> None:
    """Clicks after the end of the range count, impressions before its begin and at its end do not."""
    await store(
        lab.database,
        [
            event("before", at_s=9.999),
            event("first", at_s=10),
            event("last", at_s=19.999),
            event("last", "click", 3000),
            event("last", at_s=30, position=9),
            event("end", at_s=20),
            event("end", "click", 21),
        ],
    )
    begin, end = BEGIN + timedelta(seconds=10), BEGIN + timedelta(seconds=20)
    request = request_for(since=begin, until=end, validation_from=end)
    assert await columns_of(lab, request, "document", "position", "label") == [("first", 0, 0), ("last", 0, 1)]


async def test_a_result_is_of_the_retriever_of_its_own_impressions(lab: Lab) -> None:
    """Two retrievers in one execution, an id that is used again, and a retriever that only clicks name."""
    other: dict[str, Any] = {"retriever_id": "sparse", "query_snapshot": {"text": "z"}}
    await store(
        lab.database,
        [
            event("a", at_s=1, execution="both"),
            event("a", at_s=0, execution="both", position=9, **other),
            event("other", at_s=0, execution="both", **other),
            *(event(document, "click", 2, execution="both") for document in ("a", "other")),
            event("later", at_s=4, execution="both", query_snapshot={"text": "zebra"}),
            event("c", execution="other", **other),
            event("d", retriever_id=None, execution="clicks"),
            event("d", "click", 1, execution="clicks"),
            event("e", at_s=9, execution=None),
            event("e", "click", 10, execution=None),
        ],
    )
    found = await columns_of(lab, request_for(), "qid", "document", "query", "position", "label")
    query = "running shoes"
    single = (f"int_{10 - 1:032x}", "e", query, 0, 0)
    assert found == [("both", "a", query, 0, 1), ("both", "later", query, 0, 0), single]


async def test_hostile_texts_arrive_unchanged(lab: Lab) -> None:
    text = 'ש"לום # \n\t 1:2 qid:3 \x00\u2028'
    long = "x" * 60_000
    await store(
        lab.database,
        [event(text, execution=text, query_snapshot={"text": long}, metadata={"d": text}), event("b", execution="e2")],
    )
    request = request_for(by=("d",), curves=[curve({0: 0.5}, text)])
    found = await columns_of(lab, request, "qid", "document", "query", "segment", "propensity")
    assert sorted(found) == [("e2", "b", "running shoes", "", None), (text, text, long, text, 0.5)]
    files, _ = await made(lab, request_for(output="libsvm"))
    assert len(files[""].decode().splitlines()) == 2


async def test_without_results_there_is_no_training_set(lab: Lab) -> None:
    with pytest.raises(Refusal, match="showed no results"):
        await made(lab, request_for())
    await store(lab.database, [event("a", "click"), event("b", retriever_id="other")])
    with pytest.raises(Refusal, match="showed no results"):
        await made(lab, request_for())


async def test_a_feature_without_a_number_in_any_row_is_refused(lab: Lab) -> None:
    await store(lab.database, [event("a", metadata={"price": 1}), event("b", metadata={"price": "2"})])
    with pytest.raises(Refusal, match=r"no result has a number at metadata\.pirce"):
        await made(lab, request_for(features=("metadata.price", "metadata.pirce")))
    _, written = await made(lab, request_for(features=("metadata.price", "document_score")))
    assert written.counts.nulls == {"metadata.price": 1, "document_score": 0}
    files, _ = await made(lab, request_for(features=(), output="libsvm"))
    assert len(files[""].splitlines()) == 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"features": ("position",)}, "features"),
        ({"features": ("user_id",)}, "features"),
        ({"features": ("metadata",)}, "features"),
        ({"features": ("metadata..x",)}, "features"),
        ({"features": ("document_score", "document_score")}, "features"),
        ({"features": tuple(f"metadata.f{number}" for number in range(201))}, "features"),
        ({"label": "ips"}, "propensities"),
        ({"curves": (curve({0: 1.0}, "ios"),)}, "by"),
        ({"by": ("device",)}, "by"),
        ({"by": ("device",), "curves": (curve({0: 1.0}),)}, "by"),
        ({"curves": (curve({0: 1.0}), curve({0: 1.0}))}, "propensities"),
        ({"curves": (curve({0: float("nan")}),)}, "propensities"),
        ({"horizon_ms": 0}, "horizon-hours"),
        ({"clip": 0.5}, "clip"),
        ({"validation_from": BEGIN - timedelta(seconds=1)}, "validation"),
    ],
)
def test_an_invalid_request_names_its_part(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ScopeError) as error:
        request_for(**changes)  # type: ignore[arg-type]
    assert error.value.parameter == named
