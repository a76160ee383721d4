"""Weights of a retriever on past days, computed from the counts of results with the configuration in force."""

import asyncio
import time
from datetime import date, timedelta
from typing import Any, NamedTuple

from learning.estimators.posterior import day_sums
from learning.estimators.weight_history import WeightDay, weight_days
from learning.scope import Refusal, ScopeError
from learning.weights.config_text import ConfigError, parse_config
from learning.weights.configs import ConfigVersion
from learning.weights.counts import ContextKey, Level, read_counts
from runtime.clickhouse import ClickHouse
from schemas.learning_config import LearningConfig

DAY_S = 86_400
MAX_DAYS = 366
MAX_TERMS = 2_000_000
"""Maximum number of sums, by feature and day, that are added up for all days together: a second of work, about."""
_EPOCH = date(1970, 1, 1)


class HistoryRequest(NamedTuple):
    """Days and context of a history of weights. Empty texts: not given."""

    retriever: str
    days: int = 30
    level: Level = "global"
    segment: str = ""
    """Texts at the paths of demographic_features, joined by `|`."""
    user_id: str = ""

    @classmethod
    def of(cls, retriever: str, days: int, level: Level | None, segment: str, user_id: str) -> "HistoryRequest":
        """Return a request. Without a level, that of the user or segment. Raises ScopeError for a contradiction."""
        if user_id and segment:
            raise ScopeError("segment", "a history is of a user or of a segment: leave one of them out")
        meant: Level = "personal" if user_id else "segment" if segment else "global"
        if level not in (None, meant) and meant != "global":
            name = "user_id" if user_id else "segment"
            raise ScopeError("level", f"contradicts the {name} that is given, which means the level {meant}")
        return cls(retriever, days, level or meant, segment, user_id)

    def key(self, config: LearningConfig) -> ContextKey:
        """Return the context. Raises ScopeError for one that is not named, or that the configuration does not have."""
        if self.level == "personal":
            if not self.user_id:
                raise ScopeError("user_id", "the level personal needs a user_id")
            if not config.is_personal:
                raise ScopeError("level", "the learning configuration has no weights by user (context_features is [])")
            return ContextKey("personal", self.user_id)
        if self.level == "segment":
            if not self.segment:
                raise ScopeError("segment", "the level segment needs a segment")
            if not config.segment_paths:
                raise ScopeError("level", "the learning configuration has no segments (demographic_features is null)")
            return ContextKey("segment", self.segment)
        return ContextKey("global")


class WeightHistory(NamedTuple):
    """Weights of a context by day."""

    request: HistoryRequest
    config_version: int
    days: list[WeightDay]
    """Days with results inside the window, in ascending order."""

    def body(self, namespace: str) -> dict[str, Any]:
        """Return the history as JSON values. It does not contain the user."""
        return {
            "retriever_id": self.request.retriever,
            "namespace": namespace,
            "level": self.request.level,
            "config_version": self.config_version,
            "days": [
                {
                    "day": date_of(each.day).isoformat(),
                    "interactions": each.interactions,
                    "effective_exploration": each.effective_exploration,
                    "features": [feature._asdict() for feature in each.features],
                }
                for each in self.days
            ],
        }


async def read_history(
    database: ClickHouse, namespace: str, version: ConfigVersion, request: HistoryRequest
) -> WeightHistory:
    """Return the weights of the last days, today included, with a configuration that is in force.

    Raises ScopeError for a context that does not exist, Refusal for too many features and days and for a configuration
    of a newer version of Tally, Unavailable.
    """
    try:
        config = parse_config(dict(version.values or {}))
    except ConfigError as error:
        raise Refusal(f"the learning configuration is of a newer version of Tally: {error}") from None
    today = today_utc()
    counts = await read_counts(database, namespace, request.retriever, [request.key(config)], today)
    found = [each for rows in counts.values() for each in rows]

    def compute() -> list[WeightDay]:
        sums = day_sums(found, config.rewards.in_micros())
        if len(sums) * request.days > MAX_TERMS:
            raise Refusal(
                f"{len(sums):,} counts by feature and day are too many for {request.days} days: choose fewer days"
            )
        return weight_days(sums, config, today - request.days + 1, today)

    return WeightHistory(request, version.version, await asyncio.to_thread(compute))


def today_utc() -> int:
    """Return today as days since 1970-01-01, UTC."""
    return int(time.time()) // DAY_S


def date_of(day: int) -> date:
    """Return the date of a number of days since 1970-01-01."""
    return _EPOCH + timedelta(days=day)
