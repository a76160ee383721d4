"""Naive loop, as in tutorials: pydantic, SET NX and a list per event, an insert per 1,000 events.

It runs in the project's environment; options are read as JSON, progress is written as JSON lines.
"""

import asyncio
import json
import sys
from typing import Any

import clickhouse_connect
import redis.asyncio
from aiokafka import AIOKafkaConsumer
from peer_table import COLUMNS, CREATE
from pydantic import BaseModel

ROWS_PER_INSERT = 1_000


class NaiveInteraction(BaseModel):
    """Event model of a tutorial."""

    interaction_id: str
    feature_id: str
    interaction_type: list[str]
    position: int
    metadata: dict[str, Any] | None = None
    user_id: str | None = None
    session_id: str | None = None
    execution_id: str | None = None
    retriever_id: str | None = None
    query_snapshot: dict[str, Any] | None = None
    document_score: float | None = None
    result_set_size: int | None = None
    feature_uri: str | None = None


async def work(options: dict[str, Any]) -> None:
    """Read, validate, deduplicate, insert and commit."""
    client = clickhouse_connect.get_client(dsn=options["clickhouse"])
    client.command(CREATE.format(table=options["table"]))
    claims = redis.asyncio.from_url(options["redis"])
    consumer = AIOKafkaConsumer(
        options["topic"],
        bootstrap_servers=options["kafka"],
        group_id=options["group"],
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    done, rows = 0, list[list[Any]]()
    async for record in consumer:
        event = NaiveInteraction.model_validate_json(record.value or b"")
        done += 1
        key = f"{event.execution_id}|{event.feature_id}|{','.join(event.interaction_type)}"
        if await claims.set(f"{options['group']}:{key}", event.interaction_id, nx=True, ex=300):
            fields = event.model_dump()
            rows.append([json.dumps(v) if isinstance(v := fields[name], dict) else v for name in COLUMNS])
        if len(rows) >= ROWS_PER_INSERT or done >= options["events"]:
            await asyncio.to_thread(client.insert, options["table"], rows, column_names=COLUMNS)
            await consumer.commit()
            rows = []
            print(json.dumps({"done": done}), flush=True)
        if done >= options["events"]:
            break
    await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(work(json.load(sys.stdin)))
