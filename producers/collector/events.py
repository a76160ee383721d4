"""Conversion of request bodies to records. It has no I/O; the validator decides, and this module words HTTP errors."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import Raw

from kernels.boundary import count_commas
from producers.collector.accepted import AcceptedEvent, scan_texts
from producers.collector.bulk import MIN_EVENTS, ScannedBatch, encode_bulk, scan_body, scan_items
from runtime.http import paths
from runtime.http.errors import MAX_PROBLEMS, ApiError, invalid, problem
from runtime.http.turns import TurnQueue
from runtime.settings import Settings
from schemas.json_bounds import MAX_DEPTH
from schemas.rejection import Reason, Rejection
from schemas.validator import first_of, validate_request
from schemas.wire import ValidEvent

MALFORMED: frozenset[Reason] = frozenset({"empty", "not_utf8", "not_json"})
"""Errors answered with 400; every other validation error is a 422."""


USUAL_COMMAS_PER_EVENT = 50
"""Commas of the largest usual event. A batch with more commas has its events counted before they are parsed."""
LARGE_BYTES = 256 * 1024
"""Size from which a batch is counted and scanned in a thread, where compiled code does not block the event loop."""
BATCH_FORM = '{"interactions": [...]}'
"""Form of a batch, for error messages."""
WHITESPACE = b" \t\r\n"
_COMMA = ord(",")
_BATCH_KEY = b'"interactions"'
_IS_BATCH = re.compile(rb'\s*\{\s*"interactions"\s*:').match

Input = TypeVar("Input")
Result = TypeVar("Result")


class _BatchRequest(msgspec.Struct, forbid_unknown_fields=True):
    interactions: list[Raw]


class RequestValidator:
    """Validation of requests: by the validator, and within the bounds of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._event_bytes = settings.http_event_bytes
        self._most_items = settings.http_batch_items
        self._turns = TurnQueue()

    async def validate(self, value: bytes | Raw) -> ValidEvent | Sequence[Rejection]:
        """Validate one event. Return it, or its rejections."""
        return await self._turns.run(len(value), lambda: self._validate(bytes(value)))

    def _validate(self, value: bytes) -> ValidEvent | Sequence[Rejection]:
        if len(value) > self._event_bytes:
            limit = f"the event is {len(value)} bytes of JSON, at most {self._event_bytes} are allowed here"
            return [Rejection("too_large", "", f"{limit} (TALLY_HTTP_EVENT_BYTES)")]
        return validate_request(value)

    async def validate_all(self, items: Sequence[Raw]) -> list[AcceptedEvent | Sequence[Rejection]]:
        """Validate many events, each by itself. An event that the scanner accepts keeps its text."""
        found: list[AcceptedEvent | Sequence[Rejection] | None] = [
            *await run_by_size(sum(map(len, items)), partial(scan_texts, max_bytes=self._event_bytes), items)
        ]
        for index, item in enumerate(items):
            if found[index] is None:
                validated = await self.validate(item)
                found[index] = AcceptedEvent.validated(validated) if isinstance(validated, ValidEvent) else validated
                await asyncio.sleep(0)  # validating takes 50 us, and other requests wait
        return [each for each in found if each is not None]

    async def scan_body(self, body: bytes) -> ScannedBatch | None:
        """Scan a batch in its body. None if it is small, or if the validator has to decide about it."""
        scan = partial(scan_body, body, self._event_bytes, self._most_items)
        return await (self._turns.run(len(body), scan) if len(body) < LARGE_BYTES else asyncio.to_thread(scan))

    async def items(self, body: bytes) -> list[Raw]:
        """Return the events of a batch, not validated yet. Raises ApiError when the body is not a batch."""
        lists = 1
        if await self._turns.run(len(body), partial(self._is_unusual, body)):
            # Counted before they are parsed: 10 MiB of numbers would become half a gigabyte of objects.
            others, more_items = await run_by_size(len(body), count_commas, body)
            self._check_count(1 + more_items)
            lists += others
        try:
            items = await self._turns.run(len(body), lambda: msgspec.json.decode(body, type=_BatchRequest).interactions)
        except msgspec.ValidationError as error:
            raise invalid([problem("malformed_batch", ["body"], f"{error}; a batch is {BATCH_FORM}")]) from None
        except RecursionError:
            raise invalid([problem("too_deep", ["body"], f"nests deeper than {MAX_DEPTH} levels")]) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise invalid([problem("not_json", ["body"], str(error))], status=400) from None
        if lists > 1:
            raise invalid([problem("malformed_batch", ["body"], f"holds the key `interactions` {lists} times")])
        self._check_count(len(items))
        return items

    def _is_unusual(self, body: bytes) -> bool:
        """Return whether a body may hold too many events, or two lists of events: a key may be spelled with escapes."""
        commas = np.count_nonzero(np.frombuffer(body, np.uint8) == _COMMA)
        is_long = bool(commas > USUAL_COMMAS_PER_EVENT * self._most_items)
        return is_long or body.count(_BATCH_KEY) != 1 or b"\\u" in body

    async def page_items(self, body: bytes) -> list[Raw]:
        """Read a page's body: one event, a list of them, or a batch. Raises ApiError."""
        start = body.lstrip(WHITESPACE)[:1]
        if start == b"[":
            return await self.items(b'{"interactions":' + body + b"}")
        if _IS_BATCH(body):
            return await self.items(body)
        try:
            return await self.items(body)
        except ApiError:
            return [Raw(body.strip(WHITESPACE))]  # one event, for the validator

    def _check_count(self, count: int) -> None:
        if not 1 <= count <= self._most_items:
            message = f"has {count} events, 1 to {self._most_items} are allowed (TALLY_HTTP_BATCH_ITEMS)"
            raise invalid([problem("too_many" if count else "too_few", ["body", "interactions"], message)])


def refusal(rejections: Sequence[Rejection]) -> ApiError:
    """Return the error response for an invalid event."""
    status = 400 if rejections[0].reason in MALFORMED else 422
    shown = [_problem(each) for each in rejections[:MAX_PROBLEMS]]
    return invalid(shown, status=status, more=len(rejections) - len(shown))


def refusal_of_create(rejections: Sequence[Rejection]) -> ApiError:
    """Return the error response for an invalid event of create, which names the path of batches if it was meant."""
    error = refusal(rejections)
    if any(each.reason == "not_an_object" or each.field == "interactions" for each in rejections):
        error.message += f"; for several events send {BATCH_FORM} to {paths.INTERACTIONS}/batch"
    return error


def refusal_of_all(refused: Mapping[int, Sequence[Rejection]]) -> ApiError:
    """Return the error response for several invalid events, by index."""
    if len(refused) == 1:
        return refusal(next(iter(refused.values())))
    each_one = chain.from_iterable(((index, each) for each in rejections) for index, rejections in refused.items())
    shown = [_problem(each, index) for index, each in islice(each_one, MAX_PROBLEMS)]
    return invalid(shown, more=sum(map(len, refused.values())) - len(shown))


def _problem(rejection: Rejection, *index: int) -> dict[str, Any]:
    parts = rejection.field.split(".") if rejection.field else []
    places = [int(part) if part.isascii() and part.isdigit() else part for part in parts]
    return problem(rejection.reason, ["body", *index, *places], rejection.message)


def error_of_item(index: int, rejections: Sequence[Rejection]) -> str:
    """Return the error message for one event of a batch."""
    first = first_of(rejections)
    return f"{index}: {first.field}{': ' if first.field else ''}{first.message}"


def precompile() -> None:
    """Compile functions that numba compiles at first use, so that no request waits for it."""
    event = b'{"feature_id":"f","interaction_type":["view"],"position":0,"execution_id":"e"}'
    scan_texts([event], LARGE_BYTES)
    scan_items([Raw(event)], LARGE_BYTES)
    scanned = scan_body(b'{"interactions":[%b]}' % b",".join([event] * MIN_EVENTS), LARGE_BYTES, MIN_EVENTS)
    assert scanned is not None  # noqa: S101  (all its events are valid)
    encode_bulk(scanned, 1, "n", [])
    count_commas(b"[]")


async def run_by_size(size: int, work: Callable[[Input], Result], given: Input) -> Result:
    """Run compiled work, in a thread when its input is large."""
    return work(given) if size < LARGE_BYTES else await asyncio.to_thread(work, given)
