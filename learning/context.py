"""Context that the endpoints of learning share."""

from runtime.clickhouse import ClickHouse
from runtime.http.in_flight import InFlightLimit
from runtime.http.service import AppContext, CallerOf


class LearningContext:
    """Settings, callers by scope, limit and connection of the endpoints."""

    def __init__(self, app: AppContext) -> None:
        self.settings = app.settings
        self.reader: CallerOf = app.require_scope("read")
        self.writer: CallerOf = app.require_scope("write")
        self.deleter: CallerOf = app.require_scope("delete")
        self.limit = InFlightLimit(app.settings.learning_in_flight, "estimates", "TALLY_LEARNING_IN_FLIGHT")
        self.database: ClickHouse
        """Connection of lists, while the module is open."""
