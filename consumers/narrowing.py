"""Narrowing: an unexpected error costs the record that causes it, and no other.

No content of a record may end a worker. A batch in which something raises passes the same steps again in halves, in the
order of its offsets, and so on down to single records. A record that raises alone, twice, becomes a dead letter
(`internal_error`). Errors of the stores say nothing about a record: they are passed on.
"""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiokafka.errors import KafkaError
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from consumers.batch import Batch, ValidatedBatch
from consumers.claims.leases import FlushRequired
from consumers.pipeline import Pipeline
from runtime.errors import Restart, TallyError
from runtime.faults.redis import REDIS_FAILED
from runtime.metrics import INTERNAL_ERRORS
from schemas.letter import Origin
from schemas.rejection import Rejection

SPARE_BYTES = 32 * 1024 * 1024
"""A process that cannot allocate this much is out of memory, whatever record it is at."""

STORE_FAILED = (TallyError, KafkaError, *REDIS_FAILED, ClickHouseError, HTTPError, OSError)
"""Errors of stores and connections, which say nothing about the processed record."""

log = logging.getLogger("tally.worker")


class _Failure(NamedTuple):
    """Kind of an unexpected error, without the error itself: its traceback would keep the batch alive."""

    kind: type[Exception]
    validated: ValidatedBatch | None
    """Set when the records were examined before the error."""


class Narrowing:
    """Takes one batch through examination and decision, as a whole or in parts."""

    def __init__(self, topic: str, pipeline: Pipeline, settle: Callable[[], Awaitable[None]]) -> None:
        """`settle` commits everything that was decided before."""
        self._topic = topic
        self._pipeline = pipeline
        self._settle = settle
        self._held: dict[int, int] = {}
        """Partition -> offset of its first record of a newer schema: all later records wait, too."""

    async def process(self, records: Batch, *, is_counted: bool = False) -> None:
        """Decide about every record. Raises errors of the stores, and errors that no single record causes."""
        records = records.before(self._held)
        failure = await self._attempt(records, is_counted) if len(records) else None
        if failure is None:
            return
        is_counted = is_counted or failure.validated is not None
        if len(records) > 1:
            for half in records.halves:
                await asyncio.sleep(0)  # so that heartbeats are sent
                await self.process(half, is_counted=is_counted)
            return
        if issubclass(failure.kind, MemoryError):
            gc.collect()  # automatic collection is off in a worker (`consumers.memory`)
        failure = await self._attempt(records, is_counted, is_last=True)
        if failure is not None:
            await self._refuse(records, failure, is_counted=is_counted or failure.validated is not None)

    async def _attempt(self, records: Batch, is_counted: bool, *, is_last: bool = False) -> _Failure | None:
        try:
            batch, validated = await self._pipeline.examine(records, is_counted=is_counted)
        except STORE_FAILED:
            raise
        except Exception as error:
            return self._log_failure(records, error, None, is_last)
        self._held |= validated.held
        while True:
            try:
                await self._pipeline.decide(batch, validated)
            except FlushRequired:
                pass
            except STORE_FAILED:
                raise
            except Exception as error:
                return self._log_failure(batch, error, validated, is_last)
            else:
                return None
            await self._settle()

    def _log_failure(
        self, records: Batch, error: Exception, validated: ValidatedBatch | None, is_last: bool
    ) -> _Failure:
        kind = type(error)
        if len(records) > 1:
            log.warning("%s in a batch of %d records; processing its halves separately", kind.__name__, len(records))
        elif not is_last:
            log.warning("processing %s raised %s; trying it again", self._place_of(records), kind.__name__)
        else:
            log.error("processing %s raised %s again", self._place_of(records), kind.__name__, exc_info=error)
        return _Failure(kind, validated)

    async def _refuse(self, records: Batch, failure: _Failure, *, is_counted: bool) -> None:
        """Make a dead letter of the one record of a batch, after releasing its claim."""
        place, kind = self._place_of(records), failure.kind.__name__
        if issubclass(failure.kind, MemoryError) and not _has_memory():
            raise Restart(f"out of memory at {place}; lower TALLY_BATCH_BYTES, or give the worker more memory")
        log.error("%s becomes a dead letter (internal_error) after %s; the worker continues after it", place, kind)
        INTERNAL_ERRORS.inc()
        if (examined := failure.validated) is not None:
            await self._settled(lambda: self._pipeline.release(records, examined))
        why = Rejection("internal_error", "", f"processing the record raised {kind}, which is a fault in Tally")
        batch, validated = await self._pipeline.examine(records, why, is_counted=is_counted)
        await self._settled(lambda: self._pipeline.decide(batch, validated))

    async def _settled(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except FlushRequired:
            await self._settle()
            await work()

    def _place_of(self, records: Batch) -> str:
        return str(Origin(self._topic, int(records.records.partitions[0]), int(records.records.offsets[0])))


def _has_memory() -> bool:
    try:
        return len(bytearray(SPARE_BYTES)) == SPARE_BYTES
    except MemoryError:
        return False
