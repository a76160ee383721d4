"""Reports of simulated worlds hold the truth as often as their intervals state. `make analytics` is the campaign."""

from collections import Counter

from tests.analytics.coverage import covered
from tests.analytics.experiments import experiment, rejections
from tests.lab import Lab

SEEDS = range(10)


async def test_intervals_hold_the_truth(lab: Lab) -> None:
    held, made = Counter[str](), Counter[str]()
    async for seed in covered(lab.settings, lab.database, SEEDS):
        made.update(seed.keys())
        held.update(name for name, holds in seed.items() if holds)
    assert len(made) > 60
    # Ten seeds with a rate of 95 %: seven or more with a probability of 99.99 %.
    assert not {name: held[name] for name, count in made.items() if held[name] < count - 3}
    assert sum(held.values()) / sum(made.values()) > 0.92


async def test_a_difference_is_found_where_there_is_one(lab: Lab) -> None:
    same = await experiment(lab.settings, lab.database, 1, 300)
    assert not rejections(same, "adjusted_p")
    lifted = await experiment(lab.settings, lab.database, 2, 400, lift=1.5)
    assert {"mean_clicks", "ctr", "reward"} <= rejections(lifted, "adjusted_p")
    assert lifted["ctr"]["difference_low"] > 0 > lifted["abandonment"]["difference_high"]
