"""Features at a bound as a metric: which samples there are, and that they go."""

from prometheus_client import REGISTRY

from learning.estimators.posterior import ResultCount
from learning.weights import bound_watch
from learning.weights.bound_watch import BoundWatch, watching_bounds
from learning.weights.configs import LearningConfigVersions
from learning.weights.history import today_utc
from schemas.learning_config import LearningConfig
from tests.lab import Lab
from tests.test_weight_analytics import SPACE, counts_of, publish
from tests.waiting import eventually_async


def samples() -> dict[tuple[str, str], float]:
    """Return the samples of the metric by retriever and feature."""
    return {
        (sample.labels["retriever"], sample.labels["feature"]): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == "tally_weight_days_at_clip"
    }


def between_bounds(day: int) -> list[ResultCount]:
    """Return counts of two features that are clicked equally often."""
    return [each for name in ("middle", "other") for each in counts_of({day: (50, 50)}, name)]


async def test_features_at_a_bound_are_published_and_removed(lab: Lab) -> None:
    today = today_utc()
    versions = LearningConfigVersions(lab.settings, lab.database, SPACE)
    for name in ("r", "s"):
        await versions.put(name, LearningConfig())
    counts = counts_of({today - 20: (100, 0)}, "old") + counts_of({today - 3: (100, 0)}, "low")
    counts += between_bounds(today - 20)
    await publish(lab, "r", "global", "", counts)
    await publish(lab, "s", "global", "", counts_of({today: (100, 0)}, "low") + between_bounds(today))
    await publish(lab, "unconfigured", "global", "", counts)
    watch = BoundWatch(lab.settings, lab.database)
    found = await watch.measure()
    assert found == {(SPACE, "r", "old"): 14, (SPACE, "r", "low"): 4, (SPACE, "s", "low"): 1}
    watch.publish(found)
    assert samples() == {("r", "old"): 14, ("r", "low"): 4, ("s", "low"): 1}
    await versions.delete("r")
    watch.publish(await watch.measure())
    assert samples() == {("s", "low"): 1}
    watch.publish({})
    assert samples() == {}


async def test_the_number_of_samples_is_bounded(lab: Lab) -> None:
    today = today_utc()
    await LearningConfigVersions(lab.settings, lab.database, SPACE).put("r", LearningConfig())
    names = [f"feature-{number:03}" for number in range(bound_watch.MAX_SERIES + 1)]
    counts = [each for name in names for each in counts_of({today - 2: (100, 0)}, name)]
    older = counts_of({today - 5: (100, 0)}, "older") + counts_of({today - 5: (0, 100)}, "clicked")
    await lab.database.command(
        f"INSERT INTO learning_days SELECT '{SPACE}', 'r', toDate({today} - number), 1 FROM numbers(9)"
    )
    rows = ", ".join(
        f"('{SPACE}', 'r', 'global', '', toDate({each.day}), 1, "
        f"'{each.feature_uri}', {list(each.type_sets)}, {list(each.times)}, {each.results})"
        for each in counts + older
    )
    await lab.database.command(f"INSERT INTO learning_counts VALUES {rows}")
    found = await BoundWatch(lab.settings, lab.database).measure()
    assert len(found) == bound_watch.MAX_SERIES
    assert found[SPACE, "r", "older"] == 6
    assert (SPACE, "r", names[-1]) not in found


async def test_a_process_measures_until_it_stops(lab: Lab) -> None:
    await LearningConfigVersions(lab.settings, lab.database, SPACE).put("r", LearningConfig())
    counts = counts_of({today_utc(): (100, 0)}, "low") + between_bounds(today_utc())
    await publish(lab, "r", "global", "", counts)

    async def is_measured() -> bool:
        return samples() == {("r", "low"): 1}

    async with watching_bounds(lab.settings.model_copy(update={"weight_bounds_every_ms": 20})):
        await eventually_async(is_measured)
    assert samples() == {}
    async with watching_bounds(lab.settings.model_copy(update={"weight_bounds_every_ms": 0})):
        assert samples() == {}
