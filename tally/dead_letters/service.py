"""Requests about dead letters, each of one caller: groups, lists, single letters, checks and replays."""

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from typing import Any, NamedTuple

from producers.collector.dry_run import tracking_warnings
from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.errors import StatementTimeout, TallyError, Unavailable
from runtime.faults.kafka import KAFKA_FATAL
from runtime.http.errors import ApiError, invalid, problem, unavailable
from runtime.http.in_flight import InFlightLimit
from runtime.settings import Settings
from schemas.letter import Letter, Origin
from tally.dead_letters.description import (
    MAX_VALUE_BYTES,
    describe_bounded,
    describe_problems,
    text_of,
)
from tally.dead_letters.letter_outcomes import LetterFilter, LetterOutcomes, LetterPosition
from tally.dead_letters.letter_store import LetterStore, selection_since
from tally.dead_letters.models import LetterReplayRequest
from tally.dead_letters.reading import read_letters
from tally.dead_letters.repair import Repair, repair
from tally.dead_letters.replay import MAX_NAMED, LetterReplay, batches_of

log = logging.getLogger("tally.api")


class LetterOwner(NamedTuple):
    """Caller of a request, as far as dead letters are concerned."""

    key_id: str
    namespace: str
    """Namespace of the letters; empty for those of none."""
    own: tuple[str, ...]
    """Namespaces of the key, the one of the request first."""


class DeadLetterService:
    """Dead letters of one process. Every method raises ApiError and Unavailable."""

    def __init__(self, settings: Settings, database: ClickHouse) -> None:
        self._settings = settings
        self._database = database
        self._outcomes = LetterOutcomes(settings, database)
        self._store = LetterStore(settings)
        self._limit = InFlightLimit(settings.lists_in_flight, "lists of dead letters", "TALLY_LISTS_IN_FLIGHT")
        self._is_replaying = False

    async def groups(self, owner: LetterOwner, wanted: LetterFilter) -> dict[str, Any]:
        """Return the numbers of letters by reason and field."""
        with self._limit.slot(), _store_errors():
            return await self._outcomes.groups(owner.namespace, wanted)

    async def page(self, owner: LetterOwner, wanted: LetterFilter, limit: int, cursor: str | None) -> dict[str, Any]:
        """Return a page of letters."""
        with self._limit.slot(), _store_errors():
            after = _position(cursor)
            letters, following = await self._outcomes.page(owner.namespace, wanted, limit, after)
            await self._outcomes.add_statuses(owner.own, letters)
        return {"letters": letters, "next_cursor": None if following is None else str(following)}

    async def letter(self, owner: LetterOwner, partition: int, offset: int) -> dict[str, Any]:
        """Return a letter with its content, and the problems of its value today."""
        described, letter = await self._read(owner, partition, offset)
        with _store_errors():
            await self._outcomes.add_statuses(owner.own, [described])
        found = await asyncio.to_thread(repair, letter, None, owner.own[0])
        return {
            **described,
            "namespace": letter.namespace,
            **await asyncio.to_thread(describe_bounded, letter),
            "problems": describe_problems(found.problems),
            "problems_total": len(found.problems),
        }

    async def check(
        self, owner: LetterOwner, place: tuple[int, int], patch: dict[str, Any] | None, as_namespace: str | None
    ) -> dict[str, Any]:
        """Return the verdict about a letter with a patch."""
        _require_encodable(patch)
        letter = self._store.kept.get((owner.namespace, *place))
        if letter is None:
            _, letter = await self._read(owner, *place)
        return await asyncio.to_thread(self._verdict, letter, patch, as_namespace or owner.own[0])

    def _verdict(self, letter: Letter, patch: dict[str, Any] | None, namespace: str) -> dict[str, Any]:
        found: Repair = repair(letter, patch, namespace)
        warnings = (
            []
            if found.event is None or found.problems
            else tracking_warnings(found.event, self._settings.query_path, time.time_ns() // 1_000_000)
        )
        return {
            "valid": not found.problems,
            "problems": describe_problems(found.problems),
            "problems_total": len(found.problems),
            "patched": text_of(found.value, MAX_VALUE_BYTES),
            "patched_truncated": len(found.value or b"") > MAX_VALUE_BYTES,
            "warnings": [each.model_dump() for each in warnings],
        }

    async def _read(self, owner: LetterOwner, partition: int, offset: int) -> tuple[dict[str, Any], Letter]:
        """Return a letter's outcome and content. Raises ApiError 404."""
        key = owner.namespace, partition, offset
        with _store_errors():
            found = await self._outcomes.one(*key)
            if found is None:
                self._store.kept.forget(key)
                raise ApiError(404, f"no dead letter {partition}/{offset}")
            self._require_kafka()
            described, append_ms = found
            letter = self._store.kept.get(key) or await self._store.read(key, append_ms)
        if letter is None:
            message = f"the dead-letter topic does not hold {partition}/{offset} any more (its retention)"
            raise ApiError(404, message, code="expired")
        return described, letter

    async def replay(self, owner: LetterOwner, request: LetterReplayRequest) -> dict[str, Any]:
        """Replay letters, or try it. One replay at a time writes to the topic."""
        _require_encodable(request.patch)
        self._require_kafka()
        with self._store.limit.slot() if request.dry_run else self._one_replay(), _store_errors():
            return await self._replay(owner, request)

    async def _replay(self, owner: LetterOwner, request: LetterReplayRequest) -> dict[str, Any]:
        wanted, most, after = request.conditions(), self._settings.replay_letters, _position(request.cursor)
        found, replayed_before, more = await self._outcomes.waiting(owner.namespace, wanted, most, after)
        namespace = request.as_namespace or owner.own[0]
        async with AsyncExitStack() as opened:
            is_real = found and not request.dry_run
            producer = await opened.enter_async_context(kafka.producer(self._settings)) if is_real else None
            run = LetterReplay(self._settings, self._database, producer, request.patch, namespace)
            try:
                await self._add_letters(owner, found, run)
            finally:
                if not request.dry_run:
                    _log_replay(owner, request, run)
        done = run.done
        return {
            "dry_run": request.dry_run,
            "letters": len(found) + replayed_before,
            "would_pass": done.passing if request.dry_run else None,
            "replayed": None if request.dry_run else done.passing,
            "still_rejected": done.failing.total(),
            "settled": done.settled + replayed_before,
            "missing": len(found) - done.read,
            "why": dict(done.failing.most_common(MAX_NAMED)),
            "more": more,
            "next_cursor": str(found[-1]) if more else None,
            "replayed_as": [
                {"origin": f"{origin.partition}/{origin.offset}", "interaction_id": new_id}
                for origin, new_id in done.named
            ],
        }

    async def _add_letters(self, owner: LetterOwner, found: list[LetterPosition], run: LetterReplay) -> None:
        """Read letters from Kafka and add them to a replay. Raises ApiError 503 when reading takes too long."""
        if not found:
            return
        origins = frozenset(Origin(self._settings.topic, each.partition, each.offset) for each in found)
        selection = selection_since(self._settings, owner.namespace, found[0].append_ms, origins)
        left_s = self._settings.list_timeout_ms / 1000
        async with (
            aclosing(read_letters(self._settings, selection)) as letters,
            aclosing(batches_of(letters)) as batches,
        ):
            while True:
                begun = time.monotonic()
                try:
                    async with asyncio.timeout(left_s):
                        batch = await anext(batches, None)
                except TimeoutError:
                    raise unavailable(
                        f"reading takes longer than TALLY_LIST_TIMEOUT_MS, {run.done.read} of {len(found)} letters are "
                        "processed: repeat the call, with a shorter time range if it was a dry run"
                    ) from None
                if batch is None:
                    return
                left_s -= time.monotonic() - begun
                await run.add(batch)

    @contextmanager
    def _one_replay(self) -> Iterator[None]:
        if self._is_replaying:
            raise unavailable("a replay runs in this process: repeat the call when it has ended")
        self._is_replaying = True
        try:
            yield
        finally:
            self._is_replaying = False

    def _require_kafka(self) -> None:
        if not self._settings.kafka:
            raise unavailable("contents of dead letters are in Kafka: this API needs TALLY_KAFKA")


@contextmanager
def _store_errors() -> Iterator[None]:
    """Turn a timeout, and a refusal by a store, into ApiError 503. An Unavailable is left to the application."""
    try:
        yield
    except StatementTimeout:
        raise unavailable("it takes longer than TALLY_LIST_TIMEOUT_MS: use a shorter time range") from None
    except TallyError as error:
        if isinstance(error, Unavailable) and not isinstance(error.__cause__, KAFKA_FATAL):
            raise
        log.error("dead letters: %s", error)
        message = "a store refuses this API's user: rights of a reader are in deploy/access, its log has the reason"
        raise unavailable(message) from None


def _log_replay(owner: LetterOwner, request: LetterReplayRequest, run: LetterReplay) -> None:
    """Log who replayed which letters, without values of events."""
    selected = request.model_dump(include={"reason", "field", "since", "until"}, exclude_none=True, mode="json")
    log.info(
        "dead letters of namespace %r replayed by key %s into %r: selected by %s, %s, %d origins, %s; "
        "%d read, %d put on the topic, %d still rejected, %d settled",
        owner.namespace,
        owner.key_id,
        request.as_namespace or owner.own[0],
        selected or "nothing",
        "a message" if request.message is not None else "any message",
        len(request.origins or ()),
        "with a patch" if request.patch else "without a patch",
        run.done.read,
        run.done.passing,
        run.done.failing.total(),
        run.done.settled,
    )


def _position(cursor: str | None) -> LetterPosition | None:
    return None if cursor is None else LetterPosition.parse(cursor)


def _require_encodable(patch: dict[str, Any] | None) -> None:
    """Raise ApiError 422 for a patch that no JSON text in UTF-8 expresses: half surrogates, infinite numbers."""
    try:
        json.dumps(patch, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        message = "has a number that is larger than any double, or half of a surrogate pair"
        raise invalid([problem("bad_patch", ["body", "patch"], message)]) from None
