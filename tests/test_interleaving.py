"""Results of experiments from stored events: each draft counts once, by its first click, if its token verifies."""

import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from learning.interleaving.drafts import RankingSpec
from learning.interleaving.events import ExperimentScope
from learning.interleaving.results import DraftFilter, list_drafts, read_result
from learning.interleaving.tokens import signing_secret
from learning.scope import Refusal, ScopeError
from runtime.http.key_store import KeyStore
from runtime.http.keys import ApiKey, hash_of
from schemas.interaction import Interaction
from tests.analytics.loading import load
from tests.interleaving_lab import (
    NOW,
    SINCE,
    UNTIL,
    clicked,
    draft,
    event_of,
    made_at,
    result,
    result_of,
    root_key,
    shown,
    space,
    with_root,
)
from tests.lab import Lab

CHOICES = [(), ("a",), ("b",), ("both",), ("both", "a"), ("b", "a"), ("both", "b", "a")]


def decided(teams: tuple[str, ...]) -> str:
    """Return the outcome of a draft from the teams of its clicks."""
    return next((team for team in teams if team != "both"), "tie")


async def test_a_draft_is_decided_by_its_first_click_on_a_team(shared_lab: Lab) -> None:
    namespace, events = space(), list[Interaction]()
    for number, teams in enumerate(CHOICES):
        events += clicked(draft(namespace, f"e{number}"), f"e{number}", teams)
    await load(shared_lab.database, namespace, events)
    found = await result(shared_lab, namespace)
    wanted = Counter(map(decided, CHOICES))
    assert (found.drafts, found.wins, found.ties) == (len(CHOICES), {"a": wanted["a"], "b": wanted["b"]}, wanted["tie"])
    assert (found.shared_only, found.names, found.verdict) == (1, [("old", "new")], "undecided")
    assert (found.preference.successes, found.preference.trials) == (wanted["b"], wanted["a"] + wanted["b"])


async def test_the_result_of_random_events_is_that_of_a_plain_count(shared_lab: Lab) -> None:
    """Clicks in any order of time and with repeats, counted in Python."""
    namespace, source = space(), random.Random(5)
    events, outcomes, firsts = list[Interaction](), Counter[str](), Counter[str]()
    for number in range(300):
        execution = f"e{number}"
        found = draft(namespace, execution)
        events += shown(found, execution)
        clicks = [
            (source.randrange(1, 10_000) / 10, source.choice(found["results"])) for _ in range(source.randrange(4))
        ]
        events += [event_of(each, execution, "click", second) for second, each in clicks]
        outcomes[decided(tuple(each["team"] for _, each in sorted(clicks, key=lambda click: click[0])))] += 1
        firsts[found["first"]] += 1
    source.shuffle(events)
    await load(shared_lab.database, namespace, events)
    counted = await result(shared_lab, namespace)
    assert (counted.wins["a"], counted.wins["b"], counted.ties) == (outcomes["a"], outcomes["b"], outcomes["tie"])
    assert (counted.sample_ratio.successes, counted.sample_ratio.trials) == (firsts["b"], 300)
    assert counted.counts.events == len(events)


async def test_repeated_rows_count_once_and_deleted_ones_never(shared_lab: Lab) -> None:
    namespace = space()
    found = draft(namespace, "e")
    events = list(clicked(found, "e", ("a", "b")))
    for _ in range(2):
        await load(shared_lab.database, namespace, events, first=700_000)
    before = await result(shared_lab, namespace)
    assert (before.drafts, before.wins, before.counts.events) == (1, {"a": 1, "b": 0}, len(events))
    decider = f"int_{700_000 + len(events) - 2:032x}"
    await shared_lab.database.command(
        "INSERT INTO interactions SELECT * REPLACE (1 AS is_deleted, version + 1 AS version) FROM interactions FINAL "
        "WHERE namespace = {namespace:String} AND interaction_id = {id:String}",
        {"namespace": namespace, "id": decider},
    )
    after = await result(shared_lab, namespace)
    assert (after.drafts, after.wins) == (1, {"a": 0, "b": 1}), "as in a log without the first click"


async def test_tokens_that_do_not_verify_are_counted_apart(shared_lab: Lab) -> None:
    namespace = space()
    good, other = draft(namespace, "e"), draft("another", "e")
    forger = ApiKey("root", hash_of("guess"), ("write",), (namespace,))
    events = [
        *clicked(good, "e", ("a",)),
        event_of(result_of(other, "b"), "e2", "click"),  # of another namespace
        event_of(result_of(draft(namespace, "e3", key=forger), "b"), "e3", "click"),
        event_of({**result_of(good, "b"), "feature_id": "elsewhere"}, "e4", "click"),
        event_of({**result_of(good, "b"), "token": result_of(good, "b")["token"][:-8]}, "e5", "click"),
        event_of({**result_of(good, "b"), "token": result_of(good, "b")["token"][:20]}, "e6", "click"),
        event_of(
            result_of(draft(namespace, "e7", key=root_key(namespace)._replace(key_id="gone")), "b"), "e7", "click"
        ),
        event_of(result_of(draft(namespace, "e8", experiment="test2"), "b"), "e8", "click"),  # no event of this one
        event_of({**result_of(good, "b"), "token": ["no text"]}, "e9", "click"),
    ]
    await load(shared_lab.database, namespace, events)
    found = await result(shared_lab, namespace)
    assert (found.drafts, found.wins) == (1, {"a": 1, "b": 0})
    assert found.counts.invalid == {"signature": 3, "malformed": 2, "unknown_key": 1}
    described = found.described()["tokens"]
    assert (described["events"], described["invalid"]) == (5 + 1 + 6, 6)
    assert described["invalid_share"] == pytest.approx(0.5)
    assert "6 of 12 events have tokens that do not verify" in found.notes[0]


async def test_a_key_of_the_table_signs_and_its_revocation_keeps_earlier_events(lab: Lab) -> None:
    store = KeyStore(lab.database)
    key_id, text = await store.create("search", ("write",), ("default",))
    reader_id, reader = await store.create("dashboard", ("read",), ("default",))
    keys = [ApiKey(key_id, hash_of(text), ("write",), ("default",)), ApiKey(reader_id, hash_of(reader), (), ())]
    events = list[Interaction]()
    for number, (key, day) in enumerate([(keys[0], -1), (keys[0], 2), (keys[1], -1)]):
        found = draft("default", f"e{number}", key=key)
        events.append(event_of(result_of(found, "b"), f"e{number}", "click", 86_400 * day))
    await load(lab.database, "default", events)
    around = {"since": NOW - timedelta(days=3), "until": NOW + timedelta(days=3)}
    valid = await result(lab, "default", **around)
    assert (valid.wins["b"], valid.counts.invalid) == (2, {"unknown_key": 1}), "a key that only reads signs nothing"
    await store.revoke(key_id)
    revoked = await result(lab, "default", **around)
    assert (revoked.wins["b"], revoked.counts.invalid) == (1, {"unknown_key": 1, "revoked_key": 1})


async def test_a_forged_token_that_names_the_root_key_refuses_no_result(lab: Lab) -> None:
    """Where TALLY_API_KEY is not set, nobody can tell whether it signed a token."""
    key_id, text = await KeyStore(lab.database).create("search", ("write",), ("default",))
    key = ApiKey(key_id, hash_of(text), ("write",), ("default",))
    forger = ApiKey("root", hash_of("guess"), ("write",), ("default",))
    valid = clicked(draft("default", "e1", key=key), "e1", ("b",))
    forged = draft("default", "e2", key=forger)
    await load(lab.database, "default", [*valid, event_of(result_of(forged, "a"), "e2", "click")])
    scope, settings = ExperimentScope("default", "test", SINCE, UNTIL), with_root(lab.settings, "another")
    found = await read_result(settings, lab.database, scope)
    assert (found.wins, found.counts.invalid) == ({"a": 0, "b": 1}, {"unknown_key": 1})
    assert "1 of these tokens name TALLY_API_KEY" in found.notes[1]
    assert len((await list_drafts(settings, lab.database, scope, DraftFilter(None, 10))).drafts) == 1


async def test_drafts_made_before_the_range_are_left_out(shared_lab: Lab) -> None:
    namespace, events = space(), list[Interaction]()
    for number, days in enumerate((0, -2)):
        each = result_of(draft(namespace, f"e{number}"), "b")
        token = made_at(each["token"], NOW + timedelta(days=days), namespace, each["feature_id"])
        events.append(event_of({**each, "token": token}, f"e{number}", "click"))
    await load(shared_lab.database, namespace, events)
    found = await result(shared_lab, namespace)
    assert (found.drafts, found.counts.made_before) == (1, 1)
    assert "1 drafts are left out" in found.notes[-1]
    assert (await result(shared_lab, namespace, since=SINCE - timedelta(days=9))).drafts == 2


async def test_a_strong_winner_is_decided_and_a_chosen_sample_is_refused(shared_lab: Lab) -> None:
    namespace, skewed, events, chosen = space(), space(), list[Interaction](), list[Interaction]()
    for number in range(80):
        found = draft(namespace, f"e{number}")
        events += clicked(found, f"e{number}", ("b",))
        other = draft(skewed, f"e{number}")
        if other["first"] == "b":  # as if the events of the others were lost
            chosen += clicked(other, f"e{number}", ("b",))
    await load(shared_lab.database, namespace, events)
    await load(shared_lab.database, skewed, chosen)
    assert (await result(shared_lab, namespace)).verdict == "b"
    refused = await result(shared_lab, skewed)
    assert refused.preference.p_value < 0.05
    assert refused.verdict == "refused"
    assert "the first coin named b in" in refused.problems[0]


async def test_rankings_with_several_names_are_refused(shared_lab: Lab) -> None:
    namespace, events = space(), list[Interaction]()
    for number in range(80):
        name = RankingSpec("new" if number else "newer", ["z", "w"])
        events += clicked(draft(namespace, f"e{number}", b=name), f"e{number}", ("b",))
    await load(shared_lab.database, namespace, events)
    found = await result(shared_lab, namespace)
    assert (found.verdict, len(found.names)) == ("refused", 2)
    assert "old and new, old and newer" in found.problems[0]


async def test_other_types_may_decide(shared_lab: Lab) -> None:
    namespace = space()
    found = draft(namespace, "e")
    events = [*clicked(found, "e", ("a", "b")), event_of(result_of(found, "b"), "e", "purchase", 9)]
    await load(shared_lab.database, namespace, events)
    assert (await result(shared_lab, namespace, outcome_type="purchase")).wins == {"a": 0, "b": 1}
    assert (await result(shared_lab, namespace)).wins == {"a": 1, "b": 0}


async def test_drafts_are_listed_page_by_page_with_their_events(shared_lab: Lab) -> None:
    namespace, events, wanted = space(), list[Interaction](), dict[str, str]()
    for number in range(30):
        found = draft(namespace, f"e{number}")
        teams = CHOICES[number % len(CHOICES)]
        wanted[found["interleaving_id"]] = decided(teams)
        events += clicked(found, f"e{number}", teams)
    events.append(event_of({**result_of(found, "b"), "token": "ti_dGVzdA.il_"}, "forged", "click"))
    await load(shared_lab.database, namespace, events, first=900_000)
    settings, scope = with_root(shared_lab.settings, namespace), ExperimentScope(namespace, "test", SINCE, UNTIL)
    for outcome in ("a", "b", "tie", None):
        pages, after = list[dict[str, Any]](), ""
        while after is not None:
            page = await list_drafts(settings, shared_lab.database, scope, DraftFilter(outcome, 4, after))
            assert 0 < len(page.drafts) <= 4
            pages += page.drafts
            after = page.next_cursor  # type: ignore[assignment]
        assert {each["interleaving_id"]: each["outcome"] for each in pages} == {
            name: team for name, team in wanted.items() if outcome in (None, team)
        }
        assert [each["interleaving_id"] for each in pages] == sorted(each["interleaving_id"] for each in pages)
    both_and_b = next(each for each in pages if each["clicks"] == 3)
    assert both_and_b["decided_by"]["team"] == "b"
    assert [each["team"] for each in both_and_b["other_clicks"]] == ["both", "a"]
    assert both_and_b["decided_by"]["execution_id"] == both_and_b["execution_id"]
    stored = await shared_lab.rows(
        "SELECT feature_id, position FROM interactions FINAL WHERE interaction_id = {id:String}",
        id=both_and_b["decided_by"]["interaction_id"],
    )
    assert stored == [(both_and_b["decided_by"]["feature_id"], both_and_b["decided_by"]["position"])]


async def test_an_experiment_that_cannot_be_counted_is_refused(shared_lab: Lab) -> None:
    namespace = space()
    with pytest.raises(Refusal, match=r"no event of namespace .* has a token of experiment 'test'"):
        await result(shared_lab, namespace)
    await load(shared_lab.database, namespace, clicked(draft(namespace, "e"), "e", ("a",)))
    scope = ExperimentScope(namespace, "test", SINCE, UNTIL)
    for ask in (
        read_result(shared_lab.settings, shared_lab.database, scope),
        list_drafts(shared_lab.settings, shared_lab.database, scope, DraftFilter(None, 10)),
    ):
        with pytest.raises(Refusal, match="6 events have tokens signed by TALLY_API_KEY, which is not set here"):
            await ask
    with pytest.raises(ScopeError, match="an experiment's name"):
        scope._replace(experiment="x" * 200).checked()
    with pytest.raises(ScopeError, match="is not later than since"):
        scope._replace(until=SINCE).checked()


def test_secrets_of_keys_differ_from_their_hashes() -> None:
    key = root_key("default")
    assert signing_secret(key) != key.hashed
