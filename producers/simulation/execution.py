"""Events of one simulated execution: impressions, clicks in plausible order, and events after each click."""

import random
from typing import Any, NamedTuple

from producers.simulation.behaviour import (
    AFTER_CLICK,
    FILTER_TOGGLED,
    MEAN_DELAY_MS,
    PURCHASE_AFTER_CART,
    PURCHASE_WITHOUT_EXECUTION,
    click_delay_ms,
)
from producers.simulation.faults import Timed
from schemas.event_time import from_epoch_ms
from schemas.interaction import Interaction, InteractionType

NO_RESULT = "none"
"""`feature_id` of events that concern no single result: zero_results, filter_toggle, query_refinement."""
LONG_VIEW_MS = 30_000
VIEW_MS = 400
"""Time in ms from a click to its `view`."""
SHORTEST_DWELL_MS, MEAN_FURTHER_DWELL_MS = 2_000, 20_000
SWITCH_MS = 1_000
"""Time in ms from the end of a dwell to the next click, at least."""
PURCHASE_MS = 60_000, 600_000
"""Shortest and longest time in ms from an add_to_cart to the purchase."""


class SeenResult(NamedTuple):
    """Result as one person sees it. Of a number from 0 to 1: below `clicked` a click, else below `skipped` a skip."""

    document_id: str
    price: float
    metadata: dict[str, Any]
    """Metadata that events about this result have besides those of the execution."""
    score: float
    feature_uri: str | None
    grade: int
    position: int
    clicked: float
    skipped: float


class Execution:
    """Execution whose results have been shown at `shown_ms`, in ms since 1970.

    `template` has the fields that all events of the execution share. Events are added in no order.
    """

    def __init__(
        self, source: random.Random, template: Interaction, results: list[SeenResult], shown_ms: int, *, is_dated: bool
    ) -> None:
        self._source = source
        self._chance = source.random
        self._template = template
        self._metadata = template.metadata or {}
        self._is_dated = is_dated
        self.events: list[Timed] = []
        self.is_empty = not results
        self.has_click = False
        self.end_ms = shown_ms
        """Time of the last event, without purchases."""
        if results:
            self._act(results, shown_ms)
        else:
            self._append(shown_ms, {"interaction_type": ["zero_results"], "result_set_size": 0})

    def _act(self, results: list[SeenResult], shown_ms: int) -> None:
        clicks = list[tuple[int, SeenResult]]()
        for result in results:
            self._add("impression", result, shown_ms)
            point = self._chance()
            if point < result.skipped:
                at_ms = shown_ms + self._delay_ms(result.position)
                if point < result.clicked:
                    clicks.append((at_ms, result))
                else:
                    self._add("skip", result, at_ms)
                    self.end_ms = max(self.end_ms, at_ms)
        if self._chance() < FILTER_TOGGLED:
            at_ms = shown_ms + self._delay_ms(0)
            self.add_search_event("filter_toggle", at_ms)
            self.end_ms = max(self.end_ms, at_ms)
        free_ms = shown_ms
        for at_ms, result in sorted(clicks):
            # One document at a time: the next is opened after the return from the last.
            free_ms = self._click(result, max(at_ms, free_ms))
            self.end_ms = max(self.end_ms, free_ms)
            self.has_click = True

    def _delay_ms(self, position: int) -> int:
        return click_delay_ms(position) + int(self._source.expovariate(1 / MEAN_DELAY_MS))

    def _click(self, result: SeenResult, at_ms: int) -> int:
        """Add a click and the events after it; return the time in ms at which another result can be clicked."""
        self._add("click", result, at_ms)
        chance = self._chance
        kinds = [kind for kind, probability in AFTER_CLICK[result.grade] if chance() < probability]
        dwell_ms = SHORTEST_DWELL_MS + int(self._source.expovariate(1 / MEAN_FURTHER_DWELL_MS))
        if "long_view" in kinds:
            dwell_ms += LONG_VIEW_MS
        fixed = {"view": VIEW_MS, "long_view": LONG_VIEW_MS, "dwell": dwell_ms, "return_to_results": dwell_ms}
        for kind in kinds:
            kind_ms = at_ms + (fixed.get(kind) or VIEW_MS + int(chance() * (dwell_ms - VIEW_MS)))
            self._add(kind, result, kind_ms, {"dwell_ms": dwell_ms} if kind == "dwell" else None)
            if kind == "add_to_cart" and chance() < PURCHASE_AFTER_CART:
                self._purchase(result, kind_ms + int(self._source.uniform(*PURCHASE_MS)))
        return at_ms + dwell_ms + SWITCH_MS

    def _purchase(self, result: SeenResult, at_ms: int) -> None:
        if self._chance() >= PURCHASE_WITHOUT_EXECUTION:
            self._add("purchase", result, at_ms)
            return
        self._append(
            at_ms,
            {
                "feature_id": result.document_id,
                "interaction_type": ["purchase"],
                "metadata": {**self._metadata, "price": result.price},
                "execution_id": None,
                "retriever_id": None,
                "query_snapshot": None,
                "result_set_size": None,
            },
        )

    def add_search_event(self, kind: InteractionType, at_ms: int) -> None:
        """Add an event about the execution as a whole."""
        self._append(at_ms, {"interaction_type": [kind]})

    def _add(self, kind: InteractionType, result: SeenResult, at_ms: int, more: dict[str, Any] | None = None) -> None:
        """Add an event about a result."""
        metadata = self._metadata | result.metadata
        self._append(
            at_ms,
            {
                "feature_id": result.document_id,
                "interaction_type": [kind],
                "position": result.position,
                "metadata": metadata if more is None else metadata | more,
                "document_score": result.score,
                "feature_uri": result.feature_uri,
            },
        )

    def _append(self, at_ms: int, fields: dict[str, Any]) -> None:
        if self._is_dated:
            fields["occurred_at"] = from_epoch_ms(at_ms)
        # A copy costs half of a construction. The fields are valid by construction.
        self.events.append(Timed(at_ms, self._template.model_copy(update=fields)))
