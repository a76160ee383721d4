"""`tally learn weights`: what is served and why, from the tables, and recorded draws again."""

import asyncio
import json
from typing import Any

import pytest

from learning.weights.counts import GLOBAL, ContextKey
from schemas.learning_config import LearningConfig
from tests.cli_lab import CommandResult, command, environment
from tests.http_lab import api_of, with_key
from tests.lab import Lab
from tests.weights_lab import count, publish_config, publish_counts

CONFIG = LearningConfig(min_interactions=3, decay_factor=1.0, demographic_features=("INPUT.device",))
COUNTS = {
    ContextKey("personal", "ann"): [count("image", 3, impression=1, click=1)],
    GLOBAL: [
        count("image", 3, impression=1, click=1),
        count("text", 5, age=2, impression=1),
        count("text", 2, age=400, impression=1, click=1),
    ],
}


async def weights(lab: Lab, *arguments: str) -> CommandResult:
    return await asyncio.to_thread(command, "learn", "weights", *arguments, env=environment(lab.settings))


async def as_json(lab: Lab, *arguments: str) -> dict[str, Any]:
    done = await weights(lab, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
async def learned(lab: Lab) -> Lab:
    await publish_config(lab.database, "dense", CONFIG)
    await publish_counts(lab.database, "dense", COUNTS)
    return lab


async def test_weights_are_shown_with_what_they_follow_from(learned: Lab) -> None:
    done = await weights(learned, "dense", "--user", "ann", "--mean")
    assert done.returncode == 0, done.stderr
    assert "Weights of dense: personal:" in done.stdout
    assert "rewarded interactions: personal 3 (needs 3), global 3 (needs none); configuration 1, explor" in done.stdout
    assert "0.8000 (0.3976 to 0.9937)" in done.stdout
    assert (await weights(learned, "show", "dense", "--user", "ann", "--mean")).stdout == done.stdout
    found = await as_json(learned, "dense", "--mean", "--user", "bob")
    assert found["learned_fusion_context"]["context_level"] == "global"
    assert found["interactions"] == {"personal": 0, "global": 3}
    image, text = found["features"]
    assert (image["positive"], image["unrewarded"], image["alpha"], image["beta"]) == (3, 0, 4, 1)
    assert (text["positive"], text["unrewarded"], text["alpha"], text["beta"]) == (0, 5, 1, 6)
    assert image["low"] < image["mean"] == 0.8 < image["high"]


async def test_events_after_the_day_do_not_count(learned: Lab) -> None:
    found = await as_json(learned, "dense", "--mean", "--at", "2020-01-01", "--features", "image")
    assert found["learned_fusion_context"]["reason"] == "no_data"
    done = await weights(learned, "dense", "--at", "2020-01-01")
    assert (done.returncode, done.stderr) == (
        1,
        "error: no counted results of retriever 'dense' have a feature_uri: stored events are counted within 30,000 ms "
        "(TALLY_AGGREGATES_EVERY_MS), `tally learn counts` shows the state; name --features meanwhile\n",
    )


async def test_errors_name_what_to_change(learned: Lab) -> None:
    done = await weights(learned, "other")
    assert done.returncode == 1
    assert "retriever 'other' of namespace default has no learning configuration" in done.stderr
    done = await weights(learned, "dense", "--features", "a,,b")
    assert done.returncode == 2
    assert "--features: a name is empty" in " ".join(done.stderr.replace("│", " ").split())


async def test_a_recorded_decision_is_drawn_again(learned: Lab) -> None:
    async with api_of(with_key(learned.settings)) as api:
        answer = await api.get(
            "/v1/retrievers/dense/weights", params={"feature_uris": "text,image", "execution_id": "search-1"}
        )
    ((signal,),) = await learned.database.rows("SELECT signal_id FROM signals")
    sql = ("sql", "SELECT any(signal_id) FROM signals", "--format", "tsv")
    example = await asyncio.to_thread(command, *sql, env=environment(learned.settings))
    assert example.stdout.splitlines()[-1] == signal, "as the help gets it"
    found = await as_json(learned, "explain", "dense", signal)
    assert found["equal"] is True
    assert found["draws"] == answer.json()["learned_fusion_context"]["sampled_weights"]
    done = await weights(learned, "explain", "dense", signal)
    assert (done.returncode, done.stderr) == (0, "the same draws\n")
    assert ", execution search-1, configuration 1\n" in done.stdout
    assert "level global, context global, exploration 0.97, reason -" in done.stdout
    forged = 'ALTER TABLE signals UPDATE signal_data = replace(signal_data, \'"seed":"\', \'"seed":"1\') WHERE true'
    await learned.database.command(f"{forged} SETTINGS mutations_sync = 1")
    assert (await weights(learned, "explain", "dense", signal)).returncode == 1
    assert (await weights(learned, "explain", "dense", "sig_unknown")).returncode == 1


@pytest.mark.parametrize(
    ("config", "asked", "says", "equal"),
    [
        (CONFIG.model_copy(update={"rollout_pct": 0.0}), {}, "equal weights were served, for the reason rollout", None),
        (CONFIG, {"mean": "true"}, "no draw: means were served (exploration 0), and the same are computed", True),
    ],
)
async def test_a_decision_without_a_draw_is_explained(
    lab: Lab, config: LearningConfig, asked: dict[str, str], says: str, equal: bool | None
) -> None:
    await publish_config(lab.database, "dense", config)
    await publish_counts(lab.database, "dense", COUNTS)
    async with api_of(with_key(lab.settings)) as api:
        await api.get("/v1/retrievers/dense/weights", params={"feature_uris": "text,image", **asked})
    ((signal,),) = await lab.database.rows("SELECT signal_id FROM signals")
    done = await weights(lab, "explain", "dense", signal)
    assert (done.returncode, says in done.stderr) == (0, True), done.stderr
    assert (await as_json(lab, "explain", "dense", signal))["equal"] is equal
