"""The reject ceiling: a topic full of records nobody can parse is a mistake upstream, or a deploy that went wrong
here. Rather than drain it into the dead letters, the worker stops and leaves it unread."""

from collections import deque

from consumers.batch import Judged
from runtime.errors import TooManyRejects
from schemas.rejection import Rejection


class RejectCeiling:
    """Watches the share of rejections over the last `window` records."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._batches: deque[tuple[int, int]] = deque()
        self._records = 0
        self._rejected = 0

    def check(self, judged: Judged) -> None:
        """Count a batch. Raises TooManyRejects when half of a whole window or more was rejected."""
        first = judged.rejected[0].rejection if judged.rejected else None
        self._count(len(judged.rejected) + len(judged.events), len(judged.rejected), first)

    def refused(self, rejection: Rejection) -> None:
        """Count an event, already counted with its batch, that turned out to be one to reject. Raises likewise."""
        self._count(0, 1, rejection)

    def _count(self, records: int, rejected: int, first: Rejection | None) -> None:
        self._batches.append((records, rejected))
        self._records += records
        self._rejected += rejected
        while self._records - self._batches[0][0] >= self._window:
            old_records, old_rejected = self._batches.popleft()
            self._records -= old_records
            self._rejected -= old_rejected
        if self._records >= self._window and 2 * self._rejected >= self._records:
            example = f", for example {first.reason} {first.field}: {first.message}" if first else ""
            raise TooManyRejects(
                f"{self._rejected:,} of the last {self._records:,} records were rejected{example}. This batch "
                "is not committed. Mend what produces them, or go on with `tally consume --accept-rejects`"
            )
