"""The search application of docs/learning.md runs as it stands, and its clicks change its weights."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from learning.estimators.posterior import ResultCount
from learning.weights.counts import GLOBAL
from schemas.learning_config import LearningConfig
from schemas.type_sets import TYPE_SET_SQL
from tests.http_lab import KEY, served, with_key
from tests.lab import Lab
from tests.test_docs import blocks
from tests.waiting import eventually_async
from tests.weights_lab import publish_config, publish_counts, today

RETRIEVER = "shop-search"
RESULTS = f"""
SELECT feature_uri, arraySort(groupUniqArray({TYPE_SET_SQL})) FROM interactions FINAL
WHERE retriever_id = '{RETRIEVER}' GROUP BY execution_id, feature_id, feature_uri
"""


async def test_clicks_change_the_weights_of_the_application(lab: Lab) -> None:
    config = LearningConfig(exploration_floor=0, decay_factor=1, circuit_breaker_timeout_ms=30_000)
    await publish_config(lab.database, RETRIEVER, config)
    async with served(with_key(lab.settings, weights_refresh_ms=50, learning_config_refresh_ms=50)) as url:
        with patch.dict("os.environ", {"API": url, "KEY": KEY}):
            program: dict[str, Any] = {"__name__": "fused_search"}
            exec(blocks("docs/learning.md", "python")[1], program)  # noqa: S102  (the page's own program)

        async def use(name: str, *arguments: Any) -> Any:
            function: Callable[..., Any] = program[name]
            return await asyncio.to_thread(function, *arguments)

        weights, results = await use("search", "ada", "visit-1")
        assert weights == {"text": 0.5, "image": 0.5}
        assert [each["feature_id"] for each in results] == ["doc-3", "doc-1", "doc-2", "doc-4"]
        found_by_image = [each for each in results if each["feature_uri"] == "image"]
        assert [each["feature_id"] for each in found_by_image] == ["doc-3", "doc-4"]
        answer = await use("send", "click", found_by_image)
        assert answer["failed"] == 0

        await lab.drain()
        counted: Counter[tuple[str, tuple[int, ...]]] = Counter(
            (feature, tuple(sets)) for feature, sets in await lab.database.rows(RESULTS)
        )
        counts = [
            ResultCount(today(), feature, sets, (1,) * len(sets), number) for (feature, sets), number in counted.items()
        ]
        assert sum(each.results for each in counts) == 4
        await publish_counts(lab.database, RETRIEVER, {GLOBAL: counts})

        async def are_changed() -> bool:
            nonlocal results
            _, results = await use("search", "bob", "visit-2")
            return bool(results[0]["metadata"]["learned_fusion_context"]["context_level"] == "global")

        await eventually_async(are_changed)
    context = results[0]["metadata"]["learned_fusion_context"]
    assert context["posterior"] == {"text": [1, 3], "image": [3, 1]}
    decisions = await lab.database.rows("SELECT DISTINCT metadata FROM interactions FINAL")
    assert all('"context_level":"static"' in metadata.replace(" ", "") for (metadata,) in decisions)
