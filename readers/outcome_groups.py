"""Outcomes of a namespace counted by one of their values: the senders of most duplicates or rejections."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from runtime.clickhouse import BoundParameters, ClickHouse
from schemas.event_time import iso_ms
from schemas.tables import DELETIONS, OUTCOMES

MAX_MINUTES = 7 * 24 * 60
MAX_GROUPS = 100

OutcomeValue = Literal["execution_id", "user_id", "duplicate_of", "reason", "field"]


class OutcomeGroupsQuery(BaseModel):
    """Outcomes of the last minutes, by append time, and the value to count them by."""

    model_config = ConfigDict(extra="forbid")

    verdict: Literal["duplicate", "rejected", "moved"] = "duplicate"
    by: OutcomeValue = "execution_id"
    minutes: int = Field(15, ge=1, le=MAX_MINUTES)
    limit: int = Field(10, ge=1, le=MAX_GROUPS)


class OutcomeGroup(BaseModel):
    """Events with one value; null: without one."""

    value: str | None
    events: int
    first: datetime = Field(description="append time of the first of them in the range")
    last: datetime
    example: str = Field(description="interaction_id of the last one")


class OutcomeGroupsResponse(BaseModel):
    """Groups with the most events, and the number of all events of the range."""

    groups: list[OutcomeGroup]
    events: int


async def read_outcome_groups(
    database: ClickHouse, timeout_ms: int, namespace: str, query: OutcomeGroupsQuery
) -> dict[str, Any]:
    """Return the body of an OutcomeGroupsResponse. Events count once, deleted ones not. Raises Unavailable."""
    bind = BoundParameters()
    space, verdict = bind.bind(namespace, "String"), bind.bind(query.verdict, "String")
    chosen = (
        f"SELECT {query.by} AS value, interaction_id, timestamp FROM {OUTCOMES} "
        f"WHERE namespace = {space} AND verdict = {verdict} "
        f"AND timestamp >= now64(3) - INTERVAL {query.minutes:d} MINUTE "
        f"AND interaction_id NOT IN (SELECT interaction_id FROM {DELETIONS} WHERE namespace = {space}) "
        "LIMIT 1 BY _topic, _partition, _offset"
    )
    sql = (
        "SELECT nullIf(toString(ifNull(value, '')), ''), count() AS events, min(timestamp), max(timestamp), "
        f"argMax(interaction_id, timestamp), sum(count()) OVER () FROM ({chosen}) GROUP BY value "
        f"ORDER BY events DESC, value LIMIT {query.limit:d}"
    )
    rows = await database.rows(sql, bind.values, limits={"max_execution_time": timeout_ms / 1000})
    names = ("value", "events", "first", "last", "example")
    groups = [dict(zip(names, row, strict=False)) for row in rows]
    for each in groups:
        each["first"], each["last"] = iso_ms(each["first"]), iso_ms(each["last"])
    return {"groups": groups, "events": int(rows[0][-1]) if rows else 0}
