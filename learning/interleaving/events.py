"""Events of an experiment, draft by draft, with their tokens verified."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import NamedTuple

import msgspec

from learning.estimators.interleaving import Team
from learning.interleaving.tokens import (
    MAX_NAME_BYTES,
    TOKEN_KEY,
    DraftToken,
    InvalidReason,
    TokenVerifier,
    experiment_prefix,
    read_token,
)
from learning.scope import ScopeError
from runtime.analytics import bounded_stream, range_errors, range_parameters
from runtime.clickhouse import ClickHouse
from runtime.http.keys import ROOT
from runtime.settings import Settings
from schemas.analytics.base import EXECUTION, RANGE
from schemas.event_time import to_epoch_ms
from schemas.interaction import InteractionType
from schemas.sql_text import literal
from schemas.tables import INTERACTIONS

MAX_CLICKS = 100
"""Maximum clicks of a draft that are kept. Later ones are counted."""

_EVENTS = f"""
SELECT
    draft, interaction_id, {EXECUTION} AS execution, feature_id, toUnixTimestamp64Milli(timestamp) AS appended_ms,
    has(interaction_type, {{outcome:String}}) AS is_outcome, token
FROM (
    SELECT *, JSONExtractString(metadata, {literal(TOKEN_KEY)}) AS token, splitByChar('.', token)[2] AS draft
    FROM {INTERACTIONS} FINAL
    WHERE {RANGE} AND startsWith(token, {{prefix:String}})
)
WHERE {{after:String}} = '' OR draft > {{after:String}}
ORDER BY draft, timestamp, _topic, _partition, _offset
FORMAT JSONCompactEachRow"""


class ExperimentScope(NamedTuple):
    """Events of an experiment from `since` up to, excluding, `until`, by event time."""

    namespace: str
    experiment: str
    since: datetime
    until: datetime
    outcome_type: InteractionType = "click"
    """Type of the events that decide a draft."""

    def checked(self) -> "ExperimentScope":
        """Return the scope. Raises ScopeError for a range that ends before it begins, and for a bad name."""
        if self.since >= self.until:
            raise ScopeError("until", f"{self.until.isoformat()} is not later than since, {self.since.isoformat()}")
        try:
            size = len(self.experiment.encode())
        except UnicodeEncodeError:
            raise ScopeError("experiment", f"{self.experiment[:60]!a} is not valid UTF-8") from None
        if not 0 < size <= MAX_NAME_BYTES:
            raise ScopeError("experiment", f"an experiment's name has from 1 to {MAX_NAME_BYTES} bytes")
        return self


class DraftClick(NamedTuple):
    """Event of the outcome type on a result of a draft."""

    interaction_id: str
    execution_id: str
    feature_id: str
    appended_ms: int
    token: DraftToken


class DraftRecord(NamedTuple):
    """Draft that was shown."""

    interleaving_id: str
    execution_id: str
    """Execution of its first event."""
    first: Team
    """Team that the first coin named."""
    issued_ms: int
    names: tuple[str, str]
    winner: Team | None
    decided_by: DraftClick | None
    """First click, in the order of the log, on a result of one team alone."""
    others: tuple[DraftClick, ...]
    """Clicks that do not count, in the order of the log: at most MAX_CLICKS."""
    clicks: int
    """All clicks."""


class EventCounts:
    """Events whose token names the experiment, and those that do not verify, by reason."""

    def __init__(self) -> None:
        self.events = 0
        self.invalid = Counter[InvalidReason]()
        self.of_unknown_root = 0
        """Events with a token of TALLY_API_KEY, where this process has none that may write into the namespace."""
        self.made_before = 0
        """Drafts that were made before the range."""


class _Event(msgspec.Struct, array_like=True):
    draft: str
    interaction_id: str
    execution_id: str
    feature_id: str
    appended_ms: int
    is_outcome: int
    token: str


class _OpenDraft:
    """Draft whose events are being read."""

    def __init__(self, token: DraftToken, execution_id: str) -> None:
        self.token = token
        self._execution_id = execution_id
        self._decided_by: DraftClick | None = None
        self._others: list[DraftClick] = []
        self._clicks = 0

    def add(self, click: DraftClick) -> None:
        self._clicks += 1
        if self._decided_by is None and click.token.team != "both":
            self._decided_by = click
        elif len(self._others) < MAX_CLICKS:
            self._others.append(click)

    def record(self) -> DraftRecord:
        team = None if self._decided_by is None else self._decided_by.token.team
        of = self.token
        return DraftRecord(
            *(of.interleaving_id, self._execution_id, of.first, of.issued_ms, of.names),
            None if team == "both" else team,
            self._decided_by,
            tuple(self._others),
            self._clicks,
        )


class DraftParser:
    """Drafts in a stream of events that is sorted by draft and then by place in the log.

    Memory: one draft and one piece of the stream. Events with invalid tokens are counted and otherwise ignored. Drafts
    made before the range are left out: their first clicks may be outside of it.
    """

    def __init__(self, scope: ExperimentScope, verifier: TokenVerifier) -> None:
        self.counts = EventCounts()
        self._verifier = verifier
        self._since_ms = to_epoch_ms(scope.since)
        self._decoder = msgspec.json.Decoder(_Event)
        self._open: _OpenDraft | None = None
        self._rest = b""

    def feed(self, piece: bytes) -> list[DraftRecord]:
        """Return the drafts that are complete with a piece of the stream."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        found = list[DraftRecord]()
        for line in lines:
            event = self._decoder.decode(line)
            self.counts.events += 1
            token = self._verifier.verify(event.token, event.feature_id, event.appended_ms)
            if not isinstance(token, DraftToken):
                self._count_invalid(token, event.token)
                continue
            if self._open is None or self._open.token.interleaving_id != token.interleaving_id:
                found += self.end()
                self._open = _OpenDraft(token, event.execution_id)
            if event.is_outcome:
                self._open.add(
                    DraftClick(event.interaction_id, event.execution_id, event.feature_id, event.appended_ms, token)
                )
        return found

    def end(self) -> list[DraftRecord]:
        """Return the last draft, if any."""
        last, self._open = self._open, None
        if last is None:
            return []
        if last.token.issued_ms < self._since_ms:
            self.counts.made_before += 1
            return []
        return [last.record()]

    def _count_invalid(self, reason: InvalidReason, token: str) -> None:
        self.counts.invalid[reason] += 1
        if reason == "unknown_key" and (read := read_token(token)) is not None:
            self.counts.of_unknown_root += read[0].key_id == ROOT


async def read_drafts(
    settings: Settings, database: ClickHouse, scope: ExperimentScope, parser: DraftParser, after: str = ""
) -> AsyncGenerator[list[DraftRecord], None]:
    """Yield the drafts of an experiment in the order of their ids, those after an id alone.

    Raises RangeTooLarge, Unavailable.
    """
    values = {
        **range_parameters(scope.namespace, scope.since, scope.until),
        **{"prefix": experiment_prefix(scope.experiment), "outcome": scope.outcome_type, "after": after},
    }
    own = {"output_format_json_quote_64bit_integers": 0}
    with range_errors(settings, "the result of the experiment"):
        async with bounded_stream(settings, database, _EVENTS, values, own) as pieces:
            async for piece in pieces:
                yield await asyncio.to_thread(parser.feed, piece)
    yield parser.end()
