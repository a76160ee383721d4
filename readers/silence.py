"""Silence of a namespace, and unusual shares of duplicates and rejections: the last 15 minutes, compared with the same
minutes of the days before.

Silence is a statement about the sender. So a namespace without a baseline is never silent, and neither is one whose
events still wait for a worker: windows end where every event has an outcome.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Self

from schemas.analytics.health import CHECKS
from schemas.analytics.intervals import Z

WINDOW_MS = 900_000
LATEST_MS = 300_000
"""Last part of the window, which tells whether an unusual share is still there."""
DAYS = 7
"""Days of a whole baseline, a week as in the alert TallySilence."""
MIN_EVENTS = 20
"""Fewest events of a day's window that make an empty one implausible: 2e-9 for independent events."""
MIN_SILENCE_MS = 600_000
"""Shortest silence that is reported, as in the alert TallySilence."""
MIN_SUPPORT = 100
"""Fewest events of a share that is compared."""
UNUSUAL = 2.0
"""Multiple of the usual share from which on a share is a problem."""
_MINUTE_MS = 60_000


class WindowCounts(NamedTuple):
    """Events of one window of WINDOW_MS. Moved events are not counted: their copies are."""

    events: int = 0
    duplicates: int = 0
    rejected: int = 0

    @classmethod
    def sum_of(cls, counts: Iterable[Self]) -> Self:
        """Add counts."""
        return cls(*map(sum, zip(*counts, strict=True)))


class Assessment(NamedTuple):
    """Comparison of a namespace's last window with its baseline. None: unknown."""

    expected: float | None
    silent: bool
    duplicate_share: float | None
    rejected_share: float | None
    expected_duplicate_share: float | None
    expected_rejected_share: float | None
    problems: Sequence[str]


def assess(
    last: WindowCounts, days: Sequence[WindowCounts], silence_ms: int | None, latest: WindowCounts
) -> Assessment:
    """Compare the last window with the same one of each of the days before, yesterday's first.

    `silence_ms`: time from the last event to the end of the window; None if that cannot be judged. `latest`: the part
    of the window in the last LATEST_MS.
    """
    known = _since_first_event(days)
    usual = WindowCounts.sum_of(known) if known else WindowCounts()
    expected = usual.events / len(known) if known else None
    is_quiet = expected is not None and last.events < expected / 2  # else a daily job's events were there, and ended
    is_silent = silence_ms is not None and silence_ms >= MIN_SILENCE_MS and is_quiet and _expects_events(known)
    found = [
        *(_silence(silence_ms, expected) if is_silent and silence_ms is not None and expected is not None else ()),
        *_unusual_share("duplicates", last, usual, latest),
        *_unusual_share("rejected", last, usual, latest),
    ]
    return Assessment(
        None if expected is None else round(expected, 1),
        is_silent,
        last.duplicates / last.events if last.events else None,
        last.rejected / last.events if last.events else None,
        _share(usual.duplicates, usual.events),
        _share(usual.rejected, usual.events),
        found,
    )


def _since_first_event(days: Sequence[WindowCounts]) -> Sequence[WindowCounts]:
    """Return the days from the first one with events: before it the namespace may not have been there."""
    number = max((at for at, day in enumerate(days, 1) if day.events), default=0)
    return days[:number]


def _expects_events(days: Sequence[WindowCounts]) -> bool:
    """Return whether an empty window is implausible: the same weekday and most days of a whole week had events.

    Weekends may be quiet, so a namespace without events a week ago is not known well enough.
    """
    busy = [day.events >= MIN_EVENTS for day in days]
    return len(busy) == DAYS and busy[-1] and 2 * sum(busy) > DAYS


def _silence(silence_ms: int, expected: float) -> Iterator[str]:
    minutes = round(silence_ms / _MINUTE_MS)
    long = f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"  # noqa: PLR2004  (two hours)
    if silence_ms >= WINDOW_MS:
        yield f"no event for {long}; {expected:,.0f} were expected in the last 15 min"
    else:
        yield f"no event for {long}; {expected * silence_ms / WINDOW_MS:,.0f} were expected"


def _share(number: int, of: int) -> float | None:
    return number / of if of >= MIN_SUPPORT else None


def _unusual_share(
    name: Literal["duplicates", "rejected"], last: WindowCounts, usual: WindowCounts, latest: WindowCounts
) -> Iterator[str]:
    """Describe a share that is surely above the limit of the tracking's health, and above UNUSUAL times the usual."""
    limit = next(check.limit for check in CHECKS if check.name == name)
    number, expected = getattr(last, name), _share(getattr(usual, name), usual.events)
    if last.events < MIN_SUPPORT or _lowest(number, last.events) <= max(limit, UNUSUAL * (expected or 0)):
        return
    now = f"{100 * getattr(latest, name) / latest.events:.0f} %" if latest.events else "no event"
    text = f"{100 * number / last.events:.0f} % {name} in the last 15 min ({now} in the last 5)"
    yield (
        f"{text}; {100 * expected:.2g} % are usual"
        if expected is not None
        else f"{text}; {100 * limit:g} % are acceptable"
    )


def _lowest(number: int, of: int) -> float:
    """Return the lower end of the 95 % interval of a share (Wilson, 1927)."""
    share = number / of
    middle = share + Z**2 / (2 * of)
    width = Z * math.sqrt(share * (1 - share) / of + Z**2 / (4 * of**2))
    return (middle - width) / (1 + Z**2 / of)
