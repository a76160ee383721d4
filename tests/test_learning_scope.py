"""Results that are learned from: impressions alone say where, for which query and how likely a result was shown."""

import random
from typing import Any

import pytest

from learning.judgments import JudgmentRequest, judge
from learning.policies import PolicyRequest, evaluate_policy
from learning.propensities import estimate
from learning.scope import LearningScope, Refusal, ScopeError, segment_path
from learning.target_policy import UniformPolicy
from schemas.interaction import Interaction
from tests.analytics.loading import load
from tests.lab import Lab
from tests.training_lab import BEGIN, END, RETRIEVER, event

SCOPE = LearningScope("default", RETRIEVER, BEGIN, END)


async def store(lab: Lab, events: list[Interaction]) -> None:
    await load(lab.database, "default", events)


async def test_the_logged_propensity_is_that_of_the_impression(lab: Lab) -> None:
    """Clicks with another propensity, and a second impression further down, change no estimate."""
    source, events = random.Random(9), list[Interaction]()
    for number in range(600):
        document, name = source.choice("abcd"), f"x{number}"
        events.append(event(document, at_s=number, execution=name, metadata={"propensity": 0.25}))
        events.append(event(document, at_s=number, execution=name, position=3, metadata={"propensity": 0.9}))
        if source.random() < (0.5 if document == "a" else 0.1):
            events.append(event(document, "click", number + 1, name, metadata={"propensity": 1.0}))
    await store(lab, events)
    found = (await evaluate_policy(lab.settings, lab.database, PolicyRequest(SCOPE, UniformPolicy(4)))).found
    weighted = [each.value for each in found.estimates if each.estimator in ("ips", "snips")]
    assert weighted == pytest.approx([found.logged.value] * 2)


async def test_a_click_counts_after_its_impression(lab: Lab) -> None:
    before = [event("early", "click", 0, "e1"), event("early", at_s=1, execution="e1")]
    await store(lab, [*before, event("late", at_s=0, execution="e2"), event("late", "click", 1, "e2")])
    judged = await judge(lab.settings, lab.database, SCOPE, JudgmentRequest("ctr"))
    assert {row.document: row.clicks for row in judged.rows()} == {"early": 0, "late": 1}


async def test_results_without_a_query_are_not_compared(lab: Lab) -> None:
    """Without texts, different queries would be one, whose documents change positions and attraction together."""
    source = random.Random(2)

    def searches(texts: dict[str, str], count: int) -> list[Interaction]:
        events = list[Interaction]()
        for number in range(count):
            order = "ab" if number % 2 else "ba"
            text = texts.get(order)
            more: dict[str, Any] = {"query_snapshot": {"text": text} if text else None}
            for position, document in enumerate(order):
                name = f"{text}{number}"
                events.append(event(document, at_s=number, execution=name, position=position, **more))
                if source.random() < (0.9 if position == 0 else 0.1):
                    events.append(event(document, "click", number + 1, name, position=position, **more))
        return events

    await store(lab, searches({}, 200))
    with pytest.raises(Refusal, match=r"has a query text at query_snapshot\.text"):
        await estimate(lab.settings, lab.database, SCOPE)
    await load(lab.database, "default", searches({"ab": "one", "ba": "two"}, 200), first=10_000)
    with pytest.raises(Refusal, match="no document was shown at two positions for the same query"):
        await estimate(lab.settings, lab.database, SCOPE)


async def test_a_segment_that_no_impression_has_is_refused(lab: Lab) -> None:
    await store(lab, [event("a", metadata={"device": "phone"}), event("a", "click", 1)])
    scope = SCOPE._replace(segment_path=("devise",))
    with pytest.raises(Refusal, match=r"no impression of .* has a text at metadata\.devise"):
        await estimate(lab.settings, lab.database, scope)
    with pytest.raises(Refusal, match=r"has a text at metadata\.devise"):
        await judge(lab.settings, lab.database, scope, JudgmentRequest("ctr"))


def test_names_are_valid_utf8() -> None:
    with pytest.raises(ScopeError, match="is not valid UTF-8"):
        SCOPE._replace(retriever="\udcff").checked()
    with pytest.raises(ScopeError, match="is not valid UTF-8"):
        segment_path("metadata.\udcff")
