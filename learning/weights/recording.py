"""Record of decisions in `signals`: a convenient copy without user ids. The log has the caller's own copy.

Decisions wait in memory for an insert a second. They are lost if the process crashes, and dropped beyond
TALLY_SIGNALS_WAITING or TALLY_SIGNALS_WAITING_BYTES while ClickHouse does not answer: a request never waits for its
record.
"""

import asyncio
import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import islice

import msgspec

from learning.weights.decisions import Decision, WeightRequest
from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError
from runtime.metrics import SIGNALS_DROPPED
from runtime.settings import Settings
from runtime.tasks import running
from schemas.event_time import from_epoch_ms, iso_ms
from schemas.tables import SIGNALS

LEARNED_WEIGHTS = "learned_weights"
"""Type of the signals that record decisions about weights."""
ROWS_PER_INSERT = 5_000
EVERY_S = 1.0
STOP_TIMEOUT_S = 5.0
"""Time for the last inserts of a process that stops."""

_COLUMNS = ("namespace", "retriever_id", "signal_type", "timestamp", "signal_id", "execution_id", "signal_data")

log = logging.getLogger("tally.learning")


class DecisionRecorder:
    """Queue of decisions that are to be recorded."""

    def __init__(self, settings: Settings, database: ClickHouse) -> None:
        self._most = settings.signals_waiting
        self._most_bytes = settings.signals_waiting_bytes
        self._database = database
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._sent: list[bytes] = []
        """The oldest decisions, while their insert is not confirmed. A retry has the same rows and token."""
        self._many = asyncio.Event()
        """Set while an insert's rows wait."""
        self._is_dropping = self._is_failing = False

    def add(self, request: WeightRequest, decision: Decision) -> None:
        """Record a decision soon, and put the id of its signal into its context."""
        if len(self._waiting) >= self._most or self._waiting_bytes >= self._most_bytes:
            self._drop(1)
            return
        signal_id = decision.context["signal_id"] = f"sig_{os.urandom(16).hex()}"
        row = {
            "namespace": request.namespace,
            "retriever_id": request.retriever,
            "signal_type": LEARNED_WEIGHTS,
            "timestamp": iso_ms(from_epoch_ms(time.time_ns() // 1_000_000)).removesuffix("Z"),
            "signal_id": signal_id,
            "execution_id": request.execution_id,
            "signal_data": msgspec.json.encode(signal_data(decision)).decode(),
        }
        encoded = msgspec.json.encode(row)
        self._waiting.append(encoded)
        self._waiting_bytes += len(encoded)
        if len(self._waiting) >= ROWS_PER_INSERT:
            self._many.set()

    @asynccontextmanager
    async def recording(self) -> AsyncIterator["DecisionRecorder"]:
        """Insert until the block ends; then insert what is left, or count it as dropped after STOP_TIMEOUT_S."""
        try:
            async with running(self._keep_inserting(), "recording decisions"):
                yield self
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    while self._waiting and await self._insert():
                        pass
            if self._waiting:
                self._drop(len(self._waiting))
                self._waiting.clear()
                self._waiting_bytes = 0

    async def _keep_inserting(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._many.wait()
            if self._waiting and not await self._insert():
                await asyncio.sleep(EVERY_S)

    async def _insert(self) -> bool:
        """Insert the oldest decisions, and return whether that succeeded. They stay in the queue until it has."""
        self._sent = self._sent or list(islice(self._waiting, ROWS_PER_INSERT))
        lines = b"\n".join(self._sent)
        try:
            await self._database.insert_lines(SIGNALS, _COLUMNS, lines, hashlib.sha256(lines).hexdigest())
        except TallyError as error:
            if not self._is_failing:
                log.warning(
                    "decisions about weights are not recorded until ClickHouse answers, and at most %d wait "
                    "(TALLY_SIGNALS_WAITING): %s",
                    self._most,
                    error,
                )
            self._is_failing = True
            return False
        self._is_failing = self._is_dropping = False
        for _ in self._sent:
            self._waiting_bytes -= len(self._waiting.popleft())
        self._sent = []
        if len(self._waiting) < ROWS_PER_INSERT:
            self._many.clear()
        return True

    def _drop(self, count: int) -> None:
        SIGNALS_DROPPED.inc(count)
        if not self._is_dropping:
            log.error("decisions about weights are not recorded any more: %d wait for ClickHouse", len(self._waiting))
        self._is_dropping = True


def signal_data(decision: Decision) -> dict[str, object]:
    """Return what is recorded of a decision: its context, the served weights, those of the draw, and its seed."""
    seed = {} if decision.seed is None else {"seed": f"{decision.seed:016x}"}
    return {**decision.context, "weights": decision.weights, "learned_weights": decision.learned, **seed}
