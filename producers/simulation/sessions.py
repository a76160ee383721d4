"""Sessions of simulated people: executions one after the other, with their events in the order of time."""

import random
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Any

from producers.simulation.behaviour import (
    CONTINUES_AFTER_CLICK,
    CONTINUES_AFTER_ZERO,
    CONTINUES_WITHOUT_CLICK,
    DEVICES,
    MAX_DEPTH_SHOWN,
    MAX_EXECUTIONS,
    REFINEMENT_RECORDED,
    SKIPPED,
    TASTES,
    attraction,
)
from producers.simulation.execution import NO_RESULT, Execution, SeenResult
from producers.simulation.faults import BOT_EXECUTIONS, BOT_PAUSE_MS, BOTS, FAULTS_OF_EXECUTIONS, Timed, plant
from producers.simulation.people import Person, Population
from producers.simulation.world import RETRIEVERS, Ranked, World
from schemas.interaction import Interaction

EXECUTION_PREFIX = "sim-"
VARIANTS = tuple("ABC")
"""`metadata.variant` by number of retriever: the arms of an experiment on users."""
RESPONSE_MS = 100, 400
"""Shortest and longest time in ms from a query to its results."""
NEXT_QUERY_MS = 5_000, 60_000
"""Shortest and longest time in ms from the last event of an execution, without purchases, to the next query."""

_BY_TIME = itemgetter(0)  # a stable sort by it keeps events of the same time in order


class Sessions:
    """Source of sessions.

    `lifts` are factors of attraction by name of retriever; `bad` and `shuffle` are shares of executions.
    """

    def __init__(
        self,
        source: random.Random,
        world: World,
        people: Population,
        *,
        lifts: Mapping[str, float],
        bad: float,
        shuffle: float,
        is_dated: bool,
    ) -> None:
        self._source = source
        self._world = world
        self._people = people
        self._lifts = [lifts.get(each.name, 1.0) for each in RETRIEVERS]
        self._bad = bad
        self._shuffle = shuffle
        self._is_dated = is_dated
        self._run = f"{source.getrandbits(32):08x}"
        self._executions = 0
        self._seen: dict[tuple[int, int, int, int, int], list[SeenResult]] = {}
        self._query_numbers = range(len(world.queries))
        self._cumulated = list(accumulate(query.probability for query in world.queries))
        self._snapshots = [{"text": query.text, "top_k": MAX_DEPTH_SHOWN} for query in world.queries]

    def next(self, start_ms: int) -> list[Timed]:
        """Return the events of a session that starts at this time, in ms since 1970, in the order of time."""
        if self._bad and self._source.random() < self._bad / BOT_EXECUTIONS:
            return self._bot_session(start_ms)
        person, session_id = self._people.draw(self._source), self._new_session_id()
        events, query, query_ms = list[Timed](), self._draw_query(), start_ms
        for number in range(1, MAX_EXECUTIONS + 1):
            execution = self._execute(person, session_id, query, query_ms)
            following = self._continue(query, execution) if number < MAX_EXECUTIONS else None
            events += self._with_faults(execution.events) if self._bad else execution.events
            if following is None:
                break
            query, query_ms = following
        events.sort(key=_BY_TIME)
        return events

    def _execute(self, person: Person, session_id: str, query: int, query_ms: int) -> Execution:
        is_shuffled = bool(self._shuffle) and self._source.random() < self._shuffle
        results = self._results(person, query, is_shuffled=is_shuffled)
        self._executions += 1
        template = Interaction.model_construct(
            feature_id=NO_RESULT,
            interaction_type=[],
            position=0,
            metadata=_metadata(person, is_shuffled=is_shuffled),
            user_id=person.user_id,
            session_id=session_id,
            execution_id=f"{EXECUTION_PREFIX}{self._run}-{self._executions}",
            retriever_id=RETRIEVERS[person.retriever].name,
            query_snapshot=self._snapshots[query],
            result_set_size=len(results) or None,  # 0 is valid in a zero_results only
        )
        shown_ms = query_ms + self._uniform(RESPONSE_MS)
        return Execution(self._source, template, results, shown_ms, is_dated=self._is_dated)

    def _results(self, person: Person, query: int, *, is_shuffled: bool) -> list[SeenResult]:
        """Return the results of an execution: one of the retriever's orderings, as far as the device shows it."""
        orderings = self._world.orderings[person.retriever][query]
        if not orderings:
            return []
        chosen = int(self._source.random() * len(orderings))
        shown = orderings[chosen][: DEVICES[person.device].depth]
        if is_shuffled:
            moved = [each._replace(propensity=1 / len(shown)) for each in shown]
            self._source.shuffle(moved)
            return self._seen_by(person, query, moved)
        key = person.retriever, query, chosen, person.device, person.taste
        if (found := self._seen.get(key)) is None:
            found = self._seen[key] = self._seen_by(person, query, shown)
        return found

    def _seen_by(self, person: Person, query: int, shown: Sequence[Ranked]) -> list[SeenResult]:
        device, taste, lift = DEVICES[person.device], TASTES[person.taste], self._lifts[person.retriever]
        features, found = self._world.features[query], list[SeenResult]()
        for position, ranked in enumerate(shown):
            document = ranked.document
            examined = device.examination(position)
            attracted = attraction(ranked.grade, taste, ranked.feature_uri, lift)
            clicked = examined * attracted
            found.append(
                SeenResult(
                    document_id=document.id,
                    price=document.price,
                    metadata={"price": document.price, "propensity": ranked.propensity}
                    | features[document.id]._asdict(),
                    score=ranked.score,
                    feature_uri=ranked.feature_uri,
                    grade=ranked.grade,
                    position=position,
                    clicked=clicked,
                    skipped=clicked + examined * (1 - attracted) * SKIPPED,
                )
            )
        return found

    def _continue(self, query: int, execution: Execution) -> tuple[int, int] | None:
        """Choose whether the session continues: return its next query and the time of it, or None."""
        if execution.has_click:
            likely = CONTINUES_AFTER_CLICK
        else:
            likely = CONTINUES_AFTER_ZERO if execution.is_empty else CONTINUES_WITHOUT_CLICK
        if self._source.random() >= likely:
            return None
        next_ms = execution.end_ms + self._uniform(NEXT_QUERY_MS)
        if execution.has_click:
            return self._draw_query(), next_ms
        others = [each for each in self._world.intents[self._world.queries[query].intent] if each != query]
        if self._source.random() < REFINEMENT_RECORDED:
            execution.add_search_event("query_refinement", next_ms)
        return others[int(self._source.random() * len(others))], next_ms

    def _bot_session(self, start_ms: int) -> list[Timed]:
        name, session_id = f"bot-{self._source.randrange(BOTS)}", self._new_session_id()
        bot, events = Person(name, 2, 2, 0, "1.0"), list[Timed]()
        for number in range(BOT_EXECUTIONS):
            events += self._execute(bot, session_id, self._draw_query(), start_ms + number * BOT_PAUSE_MS).events
        events.sort(key=_BY_TIME)
        events[0] = events[0]._replace(fault="bot")
        return events

    def _with_faults(self, events: list[Timed]) -> list[Timed]:
        if self._source.random() >= self._bad:
            return events
        events.sort(key=_BY_TIME)
        return plant(self._source.choice(FAULTS_OF_EXECUTIONS), events, self._source)

    def _draw_query(self) -> int:
        return self._source.choices(self._query_numbers, cum_weights=self._cumulated)[0]

    def _new_session_id(self) -> str:
        return f"s-{self._source.getrandbits(48):012x}"

    def _uniform(self, bounds: tuple[int, int]) -> int:
        return int(self._source.uniform(*bounds))


def _metadata(person: Person, *, is_shuffled: bool) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "device": DEVICES[person.device].name,
        "app_version": person.app_version,
        "variant": VARIANTS[person.retriever],
    }
    return metadata | {"shuffled": True} if is_shuffled else metadata
