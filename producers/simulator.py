"""Seeded simulator of search sessions, with known rates of duplicates and late events.

Clicks follow the examination and attraction model (Craswell et al., 2008, "An experimental comparison of click
position-bias models"): a person examines position p with probability (p + 1)^-0.7, and clicks attractive results. The
rates of events after a click are round numbers, not measurements.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from schemas.interaction import Interaction, InteractionType

EXAMINATION_EXPONENT = 0.7
RETRIEVERS = ("hybrid", "dense", "keyword")
_WORDS = ("running", "shoes", "linen", "shirt", "rain", "jacket", "leather", "boots", "wool", "socks")
_DEVICES = ("ios", "android", "desktop")
_FEATURE_URIS = ("tally://text@v1/embedding", "tally://image@v1/embedding", None)
CATALOGUE = 5_000
MAX_REPEAT_DISTANCE = 2_000
"""Largest number of events between a duplicate and its original."""
MAX_LATE_MINUTES = 50

# Events that may follow a click on a result, with their probabilities.
_AFTER_CLICK: tuple[tuple[InteractionType, float], ...] = (
    ("view", 0.9),
    ("dwell", 0.6),
    ("long_view", 0.25),
    ("return_to_results", 0.35),
    ("add_to_cart", 0.12),
    ("wishlist", 0.06),
    ("bookmark", 0.04),
    ("share", 0.02),
    ("positive_feedback", 0.03),
    ("negative_feedback", 0.02),
)
PURCHASE_AFTER_CART = 0.4
MAX_SHARE = 0.9
_KNOWN_USERS = 0.8
_FILTER_TOGGLED = 0.1
_SKIPPED = 0.03
_WITHOUT_RESULTS = 0.03
_SCROLL_EXPONENT = 0.25


class Simulator:
    """Endless stream of interactions. The same seed and clock yield the same stream.

    `duplicates` and `late` are shares of all events, from 0 to 0.9. A duplicate repeats the execution, feature and
    types of an earlier event. A late event has an `occurred_at` of up to 50 minutes ago.
    """

    def __init__(
        self,
        seed: int,
        *,
        duplicates: float = 0.05,
        late: float = 0.02,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if not (0 <= duplicates <= MAX_SHARE and 0 <= late <= MAX_SHARE):
            raise ValueError(f"the shares of duplicates and late events must be between 0 and {MAX_SHARE}")
        self._random = random.Random(seed)
        self._duplicates = duplicates
        self._late = late
        self._clock = clock
        self._recent: deque[Interaction] = deque(maxlen=MAX_REPEAT_DISTANCE)
        self._run = f"{self._random.getrandbits(32):08x}"
        self._searches = 0

    def __iter__(self) -> Iterator[Interaction]:
        """Yield interactions without end."""
        while True:
            for interaction in self._session():
                while self._recent and self._random.random() < self._duplicates:
                    yield self._random.choice(self._recent)
                self._recent.append(interaction)
                yield interaction

    def _session(self) -> Iterator[Interaction]:
        person = self._random.randrange(20_000)
        common = {
            "user_id": f"user-{person}" if self._random.random() < _KNOWN_USERS else None,
            "session_id": f"s-{self._random.getrandbits(48):012x}",
        }
        device = self._random.choice(_DEVICES)
        for query_number in range(1 + min(3, int(self._random.expovariate(1.2)))):
            self._searches += 1
            search = _Search(self._random, f"exec-{self._run}-{self._searches}", common, device)
            if query_number:
                yield self._event(search, "query_refinement", position=0)
            yield from self._results(search)

    def _results(self, search: "_Search") -> Iterator[Interaction]:
        if not search.features:
            yield self._event(search, "zero_results", position=0)
            return
        if self._random.random() < _FILTER_TOGGLED:
            yield self._event(search, "filter_toggle", position=0)
        for position in range(len(search.features)):
            if self._random.random() > (position + 1) ** -_SCROLL_EXPONENT:
                break  # scrolled no further
            yield self._event(search, "impression", position)
            examined = self._random.random() < (position + 1) ** -EXAMINATION_EXPONENT
            if examined and self._random.random() < search.attraction:
                yield from self._after_click(search, position)
            elif examined and self._random.random() < _SKIPPED:
                yield self._event(search, "skip", position)

    def _after_click(self, search: "_Search", position: int) -> Iterator[Interaction]:
        yield self._event(search, "click", position)
        for kind, chance in _AFTER_CLICK:
            if self._random.random() < chance:
                yield self._event(search, kind, position)
                if kind == "add_to_cart" and self._random.random() < PURCHASE_AFTER_CART:
                    yield self._event(search, "purchase", position)

    def _event(self, search: "_Search", kind: InteractionType, position: int) -> Interaction:
        occurred_at = None
        if self._random.random() < self._late:
            occurred_at = self._clock() - timedelta(minutes=self._random.uniform(1, MAX_LATE_MINUTES))
        # The fields are valid by construction; validating each event would take half the simulator's time.
        empty = {"result_set_size": 0} if kind == "zero_results" else {}
        return Interaction.model_construct(
            **search.fields | empty,
            feature_id=search.features[position] if search.features else "none",
            interaction_type=[kind],
            position=position,
            document_score=round(1 / (position + 1), 6) if search.features else None,
            occurred_at=occurred_at,
        )


class _Search:
    """Execution of a search: query, user and results."""

    def __init__(self, source: random.Random, execution_id: str, common: dict[str, Any], device: str) -> None:
        found = 0 if source.random() < _WITHOUT_RESULTS else source.randint(3, 20)
        self.features = [f"doc-{number}" for number in source.sample(range(CATALOGUE), found)]
        self.attraction = source.uniform(0.1, 0.4)
        self.fields = {
            **common,
            "execution_id": execution_id,
            "retriever_id": source.choice(RETRIEVERS),
            "query_snapshot": {"text": " ".join(source.sample(_WORDS, 2)), "top_k": 20},
            "metadata": {
                "device": device,
                "app_version": f"4.{source.randrange(12)}",
                "experiment": execution_id[-1],
            },
            "result_set_size": found or None,
            "feature_uri": source.choice(_FEATURE_URIS),
        }
