"""Compilation before a worker joins its group: later it would take seconds in which heartbeats are missed."""

import logging
import time
from functools import cache

import numpy as np

from consumers.batch import Batch
from consumers.columns import interaction_rows
from consumers.validation import Validation
from kernels.claim_index import PLACES, SMALLEST, ClaimIndex
from kernels.record_format import read_headers, runs_of_headers
from runtime.batch_reader import read_batches
from runtime.records import PlainRecord, Records
from schemas.identity import derive_foreign_id

WORTH_TELLING_S = 5.0

log = logging.getLogger("tally.worker")


@cache
def precompile() -> None:
    """Compile what is compiled at first use (`kernels.compiled`), by taking one event through it; once a process."""
    begun = time.monotonic()
    value = b'{"feature_id":"f","interaction_type":["view"],"position":0,"execution_id":"e","interaction_id":"%s"}'
    record = PlainRecord(0, 0, None, value % derive_foreign_id("", 0, 0, 0).encode(), ())
    validated = Validation("", "default", 1).validate(Batch(Records.read_all({0: [record]})))
    interaction_rows("", validated.events)
    nothing = read_batches([])
    runs_of_headers(nothing.text, nothing.lines, np.empty(0, np.int32))
    read_headers(b"\0")
    index = ClaimIndex()
    for number in range(2):  # the second fills it beyond what it holds, so that it is built again
        index.add(
            np.ones(SMALLEST * PLACES, np.uint32) + np.uint32(number), np.arange(SMALLEST * PLACES, dtype=np.uint32)
        )
    index.find(np.ones(1, np.uint32))
    if time.monotonic() - begun > WORTH_TELLING_S:
        log.info("the scanner was compiled in %.1f s; later starts find it done", time.monotonic() - begun)
