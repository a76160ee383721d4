"""Compilation before a worker joins its group: later it would miss heartbeats for seconds."""

import logging
import time
from functools import cache

from consumers.batch import Batch
from consumers.columns import interaction_rows
from consumers.records import DEFAULT_LIMITS, PlainRecord, Records
from consumers.validation import Validation
from kernels.boundary import ClaimIndex, read_batches, read_headers, release_compiler
from schemas.identity import derive_foreign_id

LOGGED_FROM_S = 5.0

log = logging.getLogger("tally.worker")


@cache
def precompile() -> None:
    """Compile the functions that numba compiles at first use (`kernels.compiled`) on one event, once per process."""
    begun = time.monotonic()
    value = b'{"feature_id":"f","interaction_type":["view"],"position":0,"execution_id":"e","interaction_id":"%s"}'
    record = PlainRecord(0, 0, None, value % derive_foreign_id("", 0, 0, 0).encode(), ())
    validated = Validation("", "default", 1).validate(Batch(Records.read({0: [record]}, DEFAULT_LIMITS)[0]))
    interaction_rows("", validated.events)
    read_batches([], DEFAULT_LIMITS).number_header_runs()
    read_headers(b"\0")
    ClaimIndex.precompile()
    release_compiler()  # 50 MiB that a worker does not need any more
    if time.monotonic() - begun > LOGGED_FROM_S:
        log.info("scanner compiled in %.1f s; later starts use the cached code", time.monotonic() - begun)
