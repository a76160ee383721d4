"""Endpoint of refused events: counts of events that the collector has not accepted, by reason and minute."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from runtime.http.access import Caller
from runtime.http.errors import unavailable
from runtime.http.in_flight import InFlightLimit
from runtime.http.openapi import error_responses
from runtime.http.readiness import Check
from runtime.http.service import AppContext, Stores
from runtime.http.times import AnswerTime
from runtime.refusals import (
    KEPT_MINUTES,
    MAX_GROUPS,
    MAX_SENDERS,
    MINUTE_MS,
    OTHER,
    RefusalCounts,
    RefusalGroup,
    RefusalTotal,
)
from runtime.refusals import read_counts as read_refusals
from schemas.event_time import from_epoch_ms


class RefusalQuery(BaseModel):
    """Range of the counts."""

    model_config = ConfigDict(extra="forbid")

    minutes: int = Field(60, ge=1, le=KEPT_MINUTES, description="minutes until now, the current one included")


class RefusalSummary(BaseModel):
    """Refused events with one reason."""

    reason: str = Field(
        examples=["unknown_field"],
        description=f"reason of the validator, or why the request was refused; {OTHER}: groups beyond {MAX_GROUPS}",
    )
    field: str | None = Field(examples=["shelf"])
    endpoint: Literal["create", "batch", "beacon"]
    key_id: str | None = Field(description="API key of the requests; null: not authenticated, or several keys")
    refused: int = Field(description="events; a request that was refused as a whole counts as one")
    first: AnswerTime
    last: AnswerTime
    message: str = Field(description="of the last one, truncated")


class AcceptedSummary(BaseModel):
    """Accepted events of one API key."""

    key_id: str | None = Field(description=f"null: keys beyond {MAX_SENDERS} of an hour, together")
    accepted: int
    last: AnswerTime


class RefusalMinute(BaseModel):
    """Counts of one minute."""

    minute: AnswerTime = Field(description="start of the minute")
    accepted: int
    refused: int


class RefusalReport(BaseModel):
    """Accepted and refused events of a namespace, the groups with the most events first, minutes in order."""

    since: AnswerTime
    until: AnswerTime
    refused: int
    accepted: int
    groups: list[RefusalSummary]
    accepted_by: list[AcceptedSummary] = Field(description="API keys that sent events, those with the most first")
    per_minute: list[RefusalMinute]


class RefusalModule:
    """API module of refused events."""

    @asynccontextmanager
    async def opened(self, _base: AppContext, _stores: Stores) -> AsyncIterator[Mapping[str, Check]]:
        """Do nothing: the connection to Redis is that of the application."""
        yield {}

    def routes(self, base: AppContext) -> APIRouter:
        """Return the endpoint."""
        router, settings = APIRouter(tags=["outcomes"]), base.settings
        limit = InFlightLimit(settings.lists_in_flight, "requests for refusals", "TALLY_LISTS_IN_FLIGHT")
        reader = base.require_scope("read")

        @router.get("/v1/refusals", response_model=RefusalReport, responses=error_responses())
        async def refusals(
            caller: Annotated[Caller, Depends(reader)], query: Annotated[RefusalQuery, Query()]
        ) -> RefusalReport:
            """Count events that the collector refused, and that so have no outcome: by reason, field and minute.

            Requests with a known key that were refused as a whole (401, 403, 413, 429, ...) count as one event. Counts
            are lower than the truth after an outage of Redis.
            """
            if not settings.redis.get_secret_value():
                raise unavailable("counts of refused events are in Redis: TALLY_REDIS is not set")
            now_ms = int(time.time() * 1000)
            last = now_ms // MINUTE_MS
            first = last - query.minutes + 1
            read = partial(
                read_refusals, key_prefix=settings.key_prefix, namespace=caller.namespace, first=first, last=last
            )
            with limit.slot():
                counts = await base.redis.ask("refusals", read)
            if counts is None:
                raise unavailable("counts of refused events are in Redis (TALLY_REDIS), which does not answer")
            return _report(counts, range(first, last + 1), now_ms)

        return router


def _report(counts: RefusalCounts, minutes: range, now_ms: int) -> RefusalReport:
    per_minute = [
        RefusalMinute(
            minute=from_epoch_ms(minute * MINUTE_MS),
            accepted=counts.accepted.get(minute, 0),
            refused=counts.refused.get(minute, 0),
        )
        for minute in minutes
    ]
    groups = sorted(_bounded(counts.groups).items(), key=lambda each: (-each[1].refused, each[0]))
    return RefusalReport(
        since=from_epoch_ms(minutes[0] * MINUTE_MS),
        until=from_epoch_ms(now_ms),
        refused=sum(each.refused for each in per_minute),
        accepted=sum(each.accepted for each in per_minute),
        groups=[_summary(group, total) for group, total in groups],
        accepted_by=[
            AcceptedSummary(key_id=key_id or None, accepted=each.accepted, last=from_epoch_ms(each.last_ms))
            for key_id, each in sorted(counts.senders.items(), key=lambda each: (-each[1].accepted, each[0]))
        ],
        per_minute=per_minute,
    )


def _bounded(groups: Mapping[RefusalGroup, RefusalTotal]) -> dict[RefusalGroup, RefusalTotal]:
    """Return the MAX_GROUPS groups with the most events; the others are added up by endpoint."""
    found: dict[RefusalGroup, RefusalTotal] = {}
    for group, total in sorted(groups.items(), key=lambda each: -each[1].refused):
        place = group if len(found) < MAX_GROUPS else group.other
        if place in found:
            found[place].add(total)
        else:
            found[place] = total
    return found


def _summary(group: RefusalGroup, total: RefusalTotal) -> RefusalSummary:
    return RefusalSummary.model_validate(
        {
            "reason": group.reason,
            "field": group.field or None,
            "endpoint": group.endpoint,
            "key_id": group.key_id or None,
            "refused": total.refused,
            "first": from_epoch_ms(total.first_ms),
            "last": from_epoch_ms(total.last_ms),
            "message": total.message,
        }
    )
