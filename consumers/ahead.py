"""What takes seconds the first time, done before a worker joins its group, where nobody waits for it yet."""

import logging
import time

from consumers.batch import Batch
from consumers.columns import interaction_rows
from consumers.records import PlainRecord, Records
from consumers.validation import Validation
from schemas.identity import derive_foreign_id

WORTH_TELLING_S = 1.0

log = logging.getLogger("tally.worker")


def compile_ahead() -> None:
    """Compile what is compiled at first use (`schemas.compiled`), by taking one event through it."""
    begun = time.monotonic()
    value = b'{"feature_id":"f","interaction_type":["view"],"position":0,"execution_id":"e","interaction_id":"%s"}'
    record = PlainRecord(0, 0, None, value % derive_foreign_id("", 0, 0, 0).encode(), ())
    judged = Validation("", "default", 1).judge(Batch.of({0: Records.read([record])}))
    interaction_rows("", judged.events)
    if time.monotonic() - begun > WORTH_TELLING_S:
        log.info("the scanner was compiled in %.1f s; later starts find it done", time.monotonic() - begun)
