"""Exact expectations of the simulation, by enumeration of retriever, query, ordering, device, taste and position.

A cell is one (retriever, query, ordering, device, taste). In a cell, results are clicked and skipped independently of
one another, so every metric of an execution is a product or a sum over positions. How often a cell occurs follows from
the shares of people and from the chain of a session: the next query depends on the last one and on whether a result of
it was clicked. Arrays have the axes in the order of the names above; S are the executions with results shown.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from producers.simulation.behaviour import (
    AFTER_CLICK,
    CONTINUES_AFTER_CLICK,
    CONTINUES_AFTER_ZERO,
    CONTINUES_WITHOUT_CLICK,
    DEVICES,
    FILTER_TOGGLED,
    MAX_DEPTH_SHOWN,
    MAX_EXECUTIONS,
    PURCHASE_AFTER_CART,
    PURCHASE_WITHOUT_EXECUTION,
    REFINEMENT_RECORDED,
    SKIPPED,
    TASTES,
    attraction,
)
from producers.simulation.people import population
from producers.simulation.world import ORDERINGS, RETRIEVERS, World, the_world
from schemas.interaction import InteractionType
from schemas.rewards import DEFAULT_REWARDS

Floats = npt.NDArray[np.float64]

NDCG_DEPTH = 10


def _of_grade(values: Mapping[InteractionType, float]) -> Floats:
    """Return, for each grade, the sum of values over the events after a click, each times its probability."""
    return np.array([sum(p * values.get(kind, 0) for kind, p in kinds) for kinds in AFTER_CLICK])


CART_OF_GRADE = _of_grade({"add_to_cart": 1})
RECORDED_PURCHASE = PURCHASE_AFTER_CART * (1 - PURCHASE_WITHOUT_EXECUTION)
"""Probability, after an add_to_cart, of a purchase with the `execution_id`."""
REWARD_OF_GRADE = (
    DEFAULT_REWARDS["click"]
    + _of_grade(DEFAULT_REWARDS)
    + CART_OF_GRADE * RECORDED_PURCHASE * DEFAULT_REWARDS["purchase"]
)
"""Expected reward of a click on a result of each grade, with the events after it."""
EVENTS_OF_GRADE = 1 + _of_grade({kind: 1 for kind, _ in AFTER_CLICK[0]}) + CART_OF_GRADE * PURCHASE_AFTER_CART


class Cells(NamedTuple):
    """Results of every cell. The last axis is positions; axes on which nothing depends have length 1."""

    shown: Floats
    """1 where a result is shown, else 0."""
    clicked: Floats
    """Probability of a click."""
    skipped: Floats
    """Probability of a skip."""
    grade: npt.NDArray[np.int64]
    document: npt.NDArray[np.int64]
    """Number of the document in the world's list."""
    has_results: Floats
    """1 where the retriever finds something for the query, else 0."""


def cells_of(world: World, lifts: Mapping[str, float]) -> Cells:
    """Enumerate the results of all cells."""
    numbers = {document.id: number for number, document in enumerate(world.documents)}
    shape = len(RETRIEVERS), len(world.queries), ORDERINGS, 1, 1, MAX_DEPTH_SHOWN
    grade, document = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    listed, by_taste = np.zeros(shape), np.zeros((*shape[:4], len(TASTES), MAX_DEPTH_SHOWN))
    for retriever, queries in enumerate(world.orderings):
        lift = lifts.get(RETRIEVERS[retriever].name, 1.0)
        for query, orderings in enumerate(queries):
            for number, ordering in enumerate(orderings):
                for position, ranked in enumerate(ordering):
                    place = retriever, query, number, 0, 0, position
                    grade[place], document[place] = ranked.grade, numbers[ranked.document.id]
                    listed[place] = 1
                    by_taste[(*place[:4], slice(None), position)] = [
                        attraction(ranked.grade, taste, ranked.feature_uri, lift) for taste in TASTES
                    ]
    depths = np.array([[position < device.depth for position in range(MAX_DEPTH_SHOWN)] for device in DEVICES], float)
    examined = np.array([[device.examination(position) for position in range(MAX_DEPTH_SHOWN)] for device in DEVICES])
    shown = listed * depths[:, None, :]
    seen = shown * examined[:, None, :]
    return Cells(
        shown=shown,
        clicked=seen * by_taste,
        skipped=seen * (1 - by_taste) * SKIPPED,
        grade=grade,
        document=document,
        has_results=listed[..., :1].max(axis=-1),
    )


class Runs(NamedTuple):
    """Expected executions per session of every cell; the axis of positions has length 1."""

    all: Floats
    continuing: Floats
    """Executions that are not the last possible ones of their session."""


def runs_of(world: World, cells: Cells, users: int) -> Runs:
    """Follow the chain of a session: how often each query is run by each kind of person."""
    people = np.zeros((len(RETRIEVERS), len(DEVICES), len(TASTES)))
    for place, share in population(users).shares().items():
        people[place] = share
    # From here to the end, axes are retriever, device, taste, query.
    no_click = np.moveaxis(np.prod(1 - cells.clicked, axis=-1).mean(axis=2), 1, -1)
    is_empty = np.moveaxis(1 - cells.has_results[:, :, 0], 1, -1)
    refines = np.where(is_empty == 1, CONTINUES_AFTER_ZERO, no_click * CONTINUES_WITHOUT_CLICK)
    renews = (1 - no_click) * CONTINUES_AFTER_CLICK
    first = np.array([query.probability for query in world.queries])
    reformulate = np.zeros((len(first), len(first)))
    for intent in world.intents:
        reformulate[np.ix_(intent, intent)] = (1 - np.eye(len(intent))) / (len(intent) - 1)
    run = np.broadcast_to(first, no_click.shape)
    runs = [run]
    for _ in range(MAX_EXECUTIONS - 1):
        run = (run * refines) @ reformulate + (run * renews).sum(axis=-1, keepdims=True) * first
        runs.append(run)

    def of_cells(count: Floats) -> Floats:
        weighed = np.moveaxis(count * people[..., None], -1, 1)[:, :, None, :, :, None]
        return np.repeat(weighed, ORDERINGS, axis=2) / ORDERINGS

    return Runs(of_cells(np.sum(runs, axis=0)), of_cells(np.sum(runs[:-1], axis=0)))


class Expectations(NamedTuple):
    """Expected values of one execution in every cell, without the axis of positions."""

    no_click: Floats
    quiet: Floats
    """Probability of neither click nor skip."""
    clicks: Floats
    reciprocal_rank: Floats
    ndcg: Floats
    cart: Floats
    """Probability of an add_to_cart."""
    purchase: Floats
    """Probability of a purchase with the `execution_id`."""
    any_purchase: Floats
    """Probability of a purchase of a result, with or without the `execution_id`."""
    reward: Floats


def expectations_of(cells: Cells) -> Expectations:
    """Compute the expected values of one execution in every cell."""
    clicked = cells.clicked
    cart = clicked * CART_OF_GRADE[cells.grade]
    first = np.ones((*clicked.shape[:-1], 1))
    not_clicked_above = np.concatenate([first, np.cumprod(1 - clicked[..., :-1], axis=-1)], axis=-1)
    ranks = np.arange(1, MAX_DEPTH_SHOWN + 1)
    return Expectations(
        no_click=np.prod(1 - clicked, axis=-1),
        quiet=np.prod(1 - clicked - cells.skipped, axis=-1),
        clicks=clicked.sum(axis=-1),
        reciprocal_rank=(clicked * not_clicked_above / ranks).sum(axis=-1),
        ndcg=expected_ndcg(clicked),
        cart=1 - np.prod(1 - cart, axis=-1),
        purchase=1 - np.prod(1 - cart * RECORDED_PURCHASE, axis=-1),
        any_purchase=1 - np.prod(1 - cart * PURCHASE_AFTER_CART, axis=-1),
        reward=(clicked * REWARD_OF_GRADE[cells.grade] + cells.skipped * DEFAULT_REWARDS["skip"]).sum(axis=-1),
    )


def expected_ndcg(clicked: Floats) -> Floats:
    """Return the expected nDCG@10 of clicks with gain 1, and 0 without a click.

    nDCG is the sum over clicked positions p of discount(p) / ideal(n) for n clicks. Given a click on p, n - 1 has the
    Poisson binomial distribution of the other positions, which is built up position by position.
    """
    positions = clicked.shape[-1]
    discounts = 1 / np.log2(np.arange(2, positions + 2))
    ideal = np.cumsum(discounts)[np.minimum(np.arange(positions), NDCG_DEPTH - 1)]
    total = np.zeros(clicked.shape[:-1])
    for position in range(min(positions, NDCG_DEPTH)):
        others = np.zeros(clicked.shape)  # last axis: number of clicks on other positions
        others[..., 0] = 1
        for other in range(positions):
            if other != position:
                chance = clicked[..., other, None]
                more = others * chance
                others *= 1 - chance
                others[..., 1:] += more[..., :-1]
        total += clicked[..., position] * discounts[position] * (others / ideal).sum(axis=-1)
    return total


class Enumeration(NamedTuple):
    """Cells, how often they occur, and what is expected in them."""

    world: World
    cells: Cells
    runs: Runs
    each: Expectations


def enumerate_cells(users: int, lifts: Mapping[str, float]) -> Enumeration:
    """Return the enumeration for a number of users and lifts; the last ones are kept."""
    return _enumerated(users, tuple(sorted(lifts.items())))


@lru_cache(4)
def _enumerated(users: int, lifts: tuple[tuple[str, float], ...]) -> Enumeration:
    world = the_world()
    cells = cells_of(world, dict(lifts))
    return Enumeration(world, cells, runs_of(world, cells, users), expectations_of(cells))


def events_per_session(users: int, lifts: Mapping[str, float]) -> float:
    """Return the expected number of events of a session, without duplicates and faults."""
    found = enumerate_cells(users, lifts)
    cells, runs = found.cells, found.runs
    of_results = (cells.shown + cells.clicked * EVENTS_OF_GRADE[cells.grade] + cells.skipped).sum(axis=-1)
    of_execution = np.where(cells.has_results == 1, FILTER_TOGGLED, 1) + of_results
    refined = np.where(cells.has_results == 1, found.each.no_click * CONTINUES_WITHOUT_CLICK, CONTINUES_AFTER_ZERO)
    events = runs.all[..., 0] * of_execution + runs.continuing[..., 0] * refined * REFINEMENT_RECORDED
    return float(events.sum())
