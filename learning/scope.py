"""Scope of learning: the results that propensities, judgments and training sets are made from."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from runtime.analytics import range_parameters
from runtime.errors import TallyError
from schemas.analytics.base import IS_IMPRESSION, QUERY_TEXT_PATH, query_text, select_per_result
from schemas.sql_text import literal

MAX_TEXT_BYTES = 1_024
"""Largest retriever and namespace name in bytes."""


_NOT_LOGGED = -1e308
_LOGGED = (
    "if(JSONType(metadata, 'propensity') IN ('Int64', 'UInt64', 'Double'), JSONExtractFloat(metadata, 'propensity'), "
    f"{_NOT_LOGGED})"
)


class Refusal(TallyError):
    """Refusal to estimate. The message says what is missing in the events."""

    exit_code = 1


class ScopeError(TallyError):
    """Scope that is not valid. `parameter` names the part to change."""

    exit_code = 2

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


def segment_path(text: str | None) -> tuple[str, ...]:
    """Parse the path of a segment, such as `metadata.device`; None: no segments. Raises ScopeError."""
    if text is None:
        return ()
    _utf8("by", text)
    head, *path = text.split(".")
    if head != "metadata" or not path or not all(path) or len(text) > MAX_TEXT_BYTES:
        raise ScopeError("by", f"{text[:60]!r} is not a path in metadata, such as metadata.device")
    return tuple(path)


def _utf8(parameter: str, text: str) -> bytes:
    """Return a text in UTF-8. Raises ScopeError for a lone surrogate, as in an argument of another encoding."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ScopeError(parameter, f"{text[:60]!a} is not valid UTF-8") from None


def checked_retriever(name: str) -> str:
    """Return the name of a retriever. Raises ScopeError for one that is empty, too long, or not UTF-8."""
    if not 0 < len(_utf8("retriever", name)) <= MAX_TEXT_BYTES:
        raise ScopeError("retriever", f"a retriever's name has from 1 to {MAX_TEXT_BYTES:,} bytes")
    return name


class LearningScope(NamedTuple):
    """Results of one retriever shown from `since` up to, excluding, `until`, by event time.

    Only results with an impression count. Where impressions of a result name several retrievers, the largest counts.
    """

    namespace: str
    retriever: str
    since: datetime
    until: datetime
    segment_path: tuple[str, ...] = ()
    """Path of a text in `metadata` that divides the results into segments, such as ("device",). Empty: one segment."""
    query_path: tuple[str, ...] = QUERY_TEXT_PATH

    def checked(self) -> "LearningScope":
        """Return the scope. Raises ScopeError for a range that ends before it begins, and a name that is too long."""
        if self.since >= self.until:
            raise ScopeError("until", f"{self.until.isoformat()} is not later than since, {self.since.isoformat()}")
        checked_retriever(self.retriever)
        return self

    def check_shown(self, *, is_any: bool, has_query: bool, has_segment: bool) -> None:
        """Raise Refusal, with what is missing, where nothing was shown, for no query text, or in no segment."""
        name = self._name
        if not is_any:
            raise self.nothing_shown()
        if not has_query:
            path = ".".join(self.query_path)
            raise Refusal(f"no execution of {name} has a query text at query_snapshot.{path} (TALLY_QUERY_TEXT_PATH)")
        if self.segment_path and not has_segment:
            raise Refusal(f"no impression of {name} has a text at metadata.{'.'.join(self.segment_path)}")

    def nothing_shown(self) -> Refusal:
        """Return the refusal where the retriever showed no results in the range."""
        days = f"{self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M} UTC"
        return Refusal(f"{self._name} showed no results from {days}: only results with an impression count")

    @property
    def _name(self) -> str:
        return f"retriever {self.retriever[:60]!r} of namespace {self.namespace}"

    def parameters(self) -> dict[str, Any]:
        """Return the bound parameters of `select_shown`."""
        return {**range_parameters(self.namespace, self.since, self.until), "retriever": self.retriever}


def select_shown(scope: LearningScope, more: Mapping[str, str] | None = None) -> str:
    """Select a row for each result that was shown.

    Columns: `execution`, `segment`, `query`, `feature_id`, `position` (of the impression, from 0; the lowest of
    several), `clicked` (0 or 1: a click after an impression), `types` (all types of the result's events), `propensity`
    (`metadata.propensity` of the impression at that position: the probability with which the retriever shows this
    document there; NULL if it has no number).

    Impressions alone name the retriever, the query and the segment: a retriever named by clicks would select clicked
    results. `more`: further columns by name, as expressions over an event of the result; of each, the largest value.
    """
    path = ", ".join(map(literal, scope.segment_path))
    of_impressions = {
        "segment_text": f"JSONExtractString(metadata, {path})" if path else "''",
        "shown_by": "ifNull(retriever_id, '')",
        "shown_for": "query_snapshot",
    }
    own = {
        **{name: f"if({IS_IMPRESSION}, {value}, '')" for name, value in of_impressions.items()},
        # The largest of these is that of the impression at the lowest position.
        "best_impression": f"({IS_IMPRESSION}, -toInt64(position), {_LOGGED})",
        "last_click_ms": "if(has(interaction_type, 'click'), toUnixTimestamp64Milli(event_time), 0)",
    }
    further = "".join(f", {name}" for name in (more or {}))
    return f"""
SELECT
    execution, segment_text AS segment, {query_text(scope.query_path, "shown_for")} AS query, feature_id,
    place AS position, is_clicked AND last_click_ms >= toUnixTimestamp64Milli(assumeNotNull(shown_at)) AS clicked,
    types, nullIf(best_impression.3, {_NOT_LOGGED}) AS propensity{further}
FROM ({select_per_result(more={**own, **(more or {})})})
WHERE is_shown AND shown_by = {{retriever:String}}"""
