"""Endpoints of analytics that the published client has: recorded decisions, and performance over time."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from learning.context import LearningContext
from learning.scope import LearningScope, ScopeError
from learning.scope_query import DEFAULT_RANGE, RetrieverId, learning_errors
from learning.weights.performance import Performance, Period, read_performance
from learning.weights.signals import MAX_HOURS, MAX_SIGNALS, read_signals
from runtime.http.access import Caller
from runtime.http.answer import json_answer
from runtime.http.errors import invalid, problem
from runtime.http.openapi import error_responses
from runtime.http.times import Time
from runtime.settings import Settings
from schemas.event_time import iso_ms

_ANALYTICS = "/v1/analytics/retrievers/{retriever_id}"
NO_LATENCY = "events have no latencies: executions, clicks and rewards are what is measured"


class SignalQuery(BaseModel):
    """Signals to list."""

    model_config = ConfigDict(extra="forbid")

    signal_type: str | None = Field(None, max_length=200, description="type: Tally records learned_weights")
    limit: int = Field(100, ge=1, le=MAX_SIGNALS, description="maximum signals, the newest ones")
    hours: int = Field(24, ge=1, le=MAX_HOURS, description="hours until now")


class SignalResponse(BaseModel):
    """Recorded decision. Its execution_id is empty if the caller named none."""

    timestamp: datetime
    execution_id: str
    signal_type: str
    signal_data: dict[str, Any]
    metadata: dict[str, Any] | None


class PerformanceQuery(BaseModel):
    """Range of event time, by default of the last seven days, and the length of its periods."""

    model_config = ConfigDict(extra="forbid")

    start_date: Time | None = Field(None, description="earliest event time, inclusive, ISO 8601")
    end_date: Time | None = Field(None, description="event time before which events are read, ISO 8601")
    group_by: Period = Field("day", description="hour, day or week (from Monday), UTC")

    def scope(self, settings: Settings, namespace: str, retriever: str) -> LearningScope:
        """Return the scope. Raises ApiError 422."""
        return range_scope(settings, namespace, retriever, self.start_date, self.end_date, "end_date")


class PerformanceResponse(BaseModel):
    """Performance over time; `time_range` has `start` and `end`. Null: unknown, such as a rate of nothing."""

    retriever_id: str
    time_range: dict[str, datetime]
    metrics: list[dict[str, Any]] = Field(
        description="time_bucket, execution_count, and the metrics ctr, mrr and reward of the reports with intervals"
    )
    summary: dict[str, Any] = Field(description="the same of the whole range, and notes")


def add_analytics_routes(router: APIRouter, context: LearningContext) -> None:
    """Add the endpoints, which need the scope read."""
    reader, settings = context.reader, context.settings

    @router.get(f"{_ANALYTICS}/signals", response_model=list[SignalResponse], responses=error_responses())
    async def get_retriever_signals(
        retriever_id: RetrieverId, caller: Annotated[Caller, Depends(reader)], query: Annotated[SignalQuery, Query()]
    ) -> Response:
        """List recorded decisions about weights, the newest first. They contain no user ids."""
        since = datetime.now(UTC) - timedelta(hours=query.hours)
        with context.limit.slot():
            found = await read_signals(
                context.database, caller.namespace, retriever_id, query.signal_type, since, query.limit
            )
            return await json_response([each.body() for each in found])

    @router.get(f"{_ANALYTICS}/performance", response_model=PerformanceResponse, responses=error_responses())
    async def get_retriever_performance(
        retriever_id: RetrieverId,
        caller: Annotated[Caller, Depends(reader)],
        query: Annotated[PerformanceQuery, Query()],
    ) -> Response:
        """Return executions, click-through rate, MRR and reward of a retriever over time, with 95 % intervals."""
        scope = query.scope(settings, caller.namespace, retriever_id)
        with context.limit.slot(), learning_errors("start_date"):
            found = await read_performance(settings, context.database, scope, query.group_by)
            return await json_response(_performance_body(found))


def range_scope(
    settings: Settings,
    namespace: str,
    retriever: str,
    since: datetime | None,
    until: datetime | None,
    end_name: str = "until",
) -> LearningScope:
    """Return the scope of a range. `end_name`: parameter with its end. Raises ApiError 422."""
    end = until or datetime.now(UTC)
    begin = since or end - DEFAULT_RANGE
    try:
        return LearningScope(namespace, retriever, begin, end, query_path=settings.query_path).checked()
    except ScopeError as error:
        place = ["query", end_name] if error.parameter == "until" else ["path", "retriever_id"]
        raise invalid([problem("bad_scope", place, str(error))]) from None


def _performance_body(found: Performance) -> dict[str, Any]:
    scope, whole = found.scope, found.whole or {"executions": 0}
    return {
        "retriever_id": scope.retriever,
        "time_range": {"start": iso_ms(scope.since), "end": iso_ms(scope.until)},
        "metrics": [
            {"time_bucket": iso_ms(each.begin), **_renamed(each.values, "execution_count")} for each in found.periods
        ],
        "summary": {**_renamed(whole, "total_executions"), "notes": [NO_LATENCY]},
    }


def _renamed(values: Mapping[str, Any], executions: str) -> dict[str, Any]:
    """Return the values with the published client's name of the number of executions."""
    return {executions if name == "executions" else name: value for name, value in values.items()}


async def json_response(body: Any) -> Response:
    """Return a 200 with JSON, which is encoded in a thread."""
    return await asyncio.to_thread(lambda: json_answer(body).response())
