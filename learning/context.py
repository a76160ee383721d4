"""Context that the endpoints of learning share."""

from learning.weights.serving import WeightService
from runtime.clickhouse import ClickHouse
from runtime.http.in_flight import InFlightLimit
from runtime.http.service import AppContext, CallerOf


class LearningContext:
    """Settings, callers by scope, limits and connection of the endpoints."""

    def __init__(self, app: AppContext) -> None:
        self.settings = app.settings
        self.admit = app.admit
        self.reader: CallerOf = app.require_scope("read")
        self.writer: CallerOf = app.require_scope("write")
        self.deleter: CallerOf = app.require_scope("delete")
        self.limit = InFlightLimit(app.settings.learning_in_flight, "estimates", "TALLY_LEARNING_IN_FLIGHT")
        self.body_limit = InFlightLimit(
            app.settings.learning_bodies_in_flight, "bodies of estimates", "TALLY_LEARNING_BODIES_IN_FLIGHT"
        )
        """Limit of bodies that are read and parsed: a slow one takes none of the slots of estimates."""
        self.draft_limit = InFlightLimit(
            app.settings.interleavings_in_flight, "interleavings", "TALLY_INTERLEAVINGS_IN_FLIGHT"
        )
        self.access = app.access
        self.database: ClickHouse
        """Connection of lists, while the module is open."""
        self.weights: WeightService
        """Weights of this process, while the module is open."""
