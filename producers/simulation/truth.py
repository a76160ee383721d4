"""Truth of a simulation as one JSON object: world, people, behaviour, parameters, expected metrics and counts."""

from collections.abc import Mapping
from typing import Any

from producers.simulation import behaviour, people, timeline
from producers.simulation.expected import enumerate_cells, events_per_session
from producers.simulation.expected_metrics import expected_metrics
from producers.simulation.sessions import VARIANTS
from producers.simulation.simulator import Simulator
from producers.simulation.world import ORDERINGS, RETRIEVERS, Ranked, World, the_world
from schemas.rewards import DEFAULT_REWARDS

BEHAVIOUR = (
    "ATTRACTION",
    "SATISFACTION",
    "SKIPPED",
    "FILTER_TOGGLED",
    "MAX_EXECUTIONS",
    "CONTINUES_AFTER_ZERO",
    "CONTINUES_WITHOUT_CLICK",
    "CONTINUES_AFTER_CLICK",
    "REFINEMENT_RECORDED",
    "PURCHASE_AFTER_CART",
    "PURCHASE_WITHOUT_EXECUTION",
    "FIRST_CLICK_MS",
    "PER_POSITION_MS",
    "MEAN_DELAY_MS",
)
"""Constants of `producers.simulation.behaviour` that the truth lists, in lower case."""

EXPECTED_LEFT_OUT = "the expected metrics of shuffled executions are not enumerated"


def truth_of(simulator: Simulator) -> dict[str, Any]:
    """Return the truth of a simulator. The counts are those of the events that it has yielded so far.

    The expected metrics are exact for an endless stream without duplicates, late events and faults. With shuffled
    executions, "expected" is None: their metrics would need a sum over all orders.
    """
    world, users = the_world(), simulator.users
    emitted = simulator.emitted
    return {
        "parameters": simulator.parameters,
        "world": _world(world),
        "people": _people(users),
        "behaviour": {name.lower(): getattr(behaviour, name) for name in BEHAVIOUR}
        | {"after_click_by_grade": [dict(kinds) for kinds in behaviour.AFTER_CLICK], "rewards": dict(DEFAULT_REWARDS)},
        "expected": None if simulator.shuffle else _expected(users, simulator.lifts),
        "expected_left_out": EXPECTED_LEFT_OUT if simulator.shuffle else None,
        "emitted": {
            "events": emitted.events,
            "stored": emitted.stored,
            "duplicates": emitted.duplicates,
            "rejected": emitted.rejected,
            "late": emitted.late,
            "faults": dict(sorted(emitted.faults.items())),
        },
    }


def _expected(users: int, lifts: Mapping[str, float]) -> dict[str, Any]:
    enumeration = enumerate_cells(users, lifts)
    return {
        "executions_per_session": float(enumeration.runs.all.sum()),
        "events_per_session": events_per_session(users, lifts),
        **expected_metrics(enumeration),
    }


def _world(world: World) -> dict[str, Any]:
    return {
        "documents": [document._asdict() for document in world.documents],
        "queries": [
            query._asdict() | {"features": {name: each._asdict() for name, each in features.items()}}
            for query, features in zip(world.queries, world.features, strict=True)
        ],
        "retrievers": [retriever._asdict() for retriever in RETRIEVERS],
        "orderings_per_query": ORDERINGS,
        "results": {
            retriever.name: {
                query.text: [[_ranked(each) for each in ordering] for ordering in orderings]
                for query, orderings in zip(world.queries, found, strict=True)
            }
            for retriever, found in zip(RETRIEVERS, world.orderings, strict=True)
        },
    }


def _ranked(ranked: Ranked) -> dict[str, Any]:
    return {**ranked._asdict(), "document": ranked.document.id}


def _people(users: int) -> dict[str, Any]:
    shares = people.population(users).shares()
    return {
        "users": users,
        "share_of_sessions_with_user_id": people.KNOWN,
        "activity_spread": people.ACTIVITY_SPREAD,
        "daily_swing": timeline.DAILY_SWING,
        "busiest_hour_utc": timeline.BUSIEST_HOUR,
        "devices": {
            device.name: {
                "share": device.share,
                "depth": device.depth,
                "exponent": device.exponent,
                "examination": [device.examination(position) for position in range(device.depth)],
            }
            for device in behaviour.DEVICES
        },
        "tastes": {
            taste.name: {"share": taste.share, "factors": dict(taste.factors)}  # feature URIs; others have factor 1
            for taste in behaviour.TASTES
        },
        "variants": {RETRIEVERS[number].name: variant for number, variant in enumerate(VARIANTS)},
        "shares_of_sessions": [
            {
                "retriever": RETRIEVERS[retriever].name,
                "device": behaviour.DEVICES[device].name,
                "taste": behaviour.TASTES[taste].name,
                "share": share,
            }
            for (retriever, device, taste), share in shares.items()
        ],
    }
