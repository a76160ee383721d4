"""Numbers, times and foreign text as people read them. Templates use these functions; Jinja escapes their results."""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

VERDICTS = ("stored", "duplicate", "rejected", "deleted", "moved")
"""Outcomes of an event, in the order in which they are shown."""
MAX_SHOWN_CHARACTERS = 200
SHORT_ID_CHARACTERS = 20
MAX_TITLE_CHARACTERS = 1_000
SMALLEST_SHOWN = 1e-6
"""Smallest number that is written without an exponent."""
MAX_INDENTED = 32
"""Levels of JSON that are indented, as many as a valid event has."""
NONE = "\u2013"
"""Sign of an unknown value."""
NO_NAME = "(none)"
"""Name of the events without a value, such as those of no retriever."""
_NOT_PLAIN = re.compile(r"[^ -~\n\t]")
_PLAIN_WORD = re.compile(r"[a-z]+[ ,:;]")
_STEPS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))
_BYTE_STEPS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def count(value: float | None) -> str:
    """Return a count with thousands separators."""
    return NONE if value is None else f"{value:,.0f}"


def counted(value: float | None, noun: str, plural: str = "") -> str:
    """Return a count with its noun: 1 letter, 2 letters. `plural` is that of a noun that takes more than an s."""
    return f"{count(value)} {noun if value == 1 else plural or f'{noun}s'}"


def sentence(text: Any) -> str:
    """Return a remark of the API with a capital at its beginning, unless it begins with a name such as user_id."""
    whole = str(text)
    return whole[0].upper() + whole[1:] if _PLAIN_WORD.match(whole) else whole


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with some significant digits."""
    if value is None or not math.isfinite(value):
        return NONE
    if value and abs(value) < SMALLEST_SHOWN:
        return f"{value:.2g}"
    if value == int(value) and abs(value) < 1e15:  # noqa: PLR2004  (integers up to the exact range of doubles)
        return f"{int(value):,}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(decimals, 9)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def share(value: float | None) -> str:
    """Return a share from 0 to 1 as a percentage."""
    if value is None:
        return NONE
    percent = value * 100
    return f"{percent:.1f} %" if abs(percent) < 99.95 or percent == 100 else f"{percent:.2f} %"  # noqa: PLR2004


def duration(ms: float | None) -> str:
    """Return milliseconds in the largest unit that leaves a number above 1."""
    if ms is None:
        return NONE
    for size, unit in _STEPS:
        if abs(ms) >= size:
            value = ms / size
            return f"{value:.1f} {unit}" if abs(value) < 10 and value != int(value) else f"{value:,.0f} {unit}"  # noqa: PLR2004
    return f"{ms:.0f} ms"


def size(value: float | None) -> str:
    """Return bytes in the largest binary unit that leaves a number above 1."""
    if value is None:
        return NONE
    for step, unit in _BYTE_STEPS:
        if value >= step:
            return f"{value / step:.1f} {unit}"
    return f"{value:,.0f} B"


def rate(value: float | None) -> str:
    """Return events per second."""
    return NONE if value is None else f"{number(value)} /s"


def parse_time(text: str) -> datetime | None:
    """Return the time of an ISO 8601 text in UTC; None for another text."""
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):  # an offset may lead out of the calendar
        return None


def iso(moment: datetime) -> str:
    """Return a time as the API writes it: ISO 8601 in UTC, with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time(text: str | None) -> Markup | str:
    """Return a time element in UTC, which the page's script shows in the viewer's zone, with UTC as its title."""
    moment = parse_time(text) if text else None
    if moment is None:
        return visible(text) if text else NONE
    shown = f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d} UTC"
    return Markup('<time datetime="{}" title="{}" data-local>{}</time>').format(iso(moment), shown, shown)


def clock(text: str | None) -> Markup | str:
    """Return a time as `time` does; the page's script leaves the date out if it is today's."""
    return Markup(str(time(text)).replace(" data-local>", ' data-local="clock">'))  # noqa: S704  (of time)


def ago(text: str | None) -> Markup | str:
    """Return a time element that shows how long ago a time was, with the time as its title."""
    moment = parse_time(text) if text else None
    if moment is None:
        return NONE
    age = duration(max(0.0, (datetime.now(UTC) - moment).total_seconds() * 1000))
    return Markup('<time datetime="{}" title="{:%Y-%m-%d %H:%M:%S} UTC" data-title-local>{} ago</time>').format(
        iso(moment), moment, age
    )


def short_id(text: str, most: int = SHORT_ID_CHARACTERS) -> Markup | str:
    """Return an id without its middle if it has more than `most` characters: beginnings of ids are often alike."""
    end = most * 2 // 5
    return visible(text if len(text) <= most else f"{text[:end]}…{text[-end:]}")


def id_end(text: str) -> Markup | str:
    """Return the last characters of an id: the beginning of an interaction id is its time."""
    return visible(f"…{text[-8:]}" if len(text) > 8 else text)  # noqa: PLR2004


def brief(text: Any, most: int = SHORT_ID_CHARACTERS) -> Markup | str:
    """Return foreign text in at most `most` characters, with the text as title where it is cut."""
    whole = "" if text is None else str(text)
    if len(whole) <= most:
        return visible(text)
    title = written_out(whole[:MAX_TITLE_CHARACTERS]) + ("…" if len(whole) > MAX_TITLE_CHARACTERS else "")
    return Markup('<span title="{}">{}<span class="cut">…</span></span>').format(title, visible(whole[: most - 1], 0))


def visible(text: Any, most: int = MAX_SHOWN_CHARACTERS) -> Markup | str:
    """Return foreign text with its invisible characters written out, cut at `most` characters (0: never).

    Control, format and private characters (Unicode C*) could reorder or hide what people read, so they are shown as
    their code points. A cut text says how long it is.
    """
    if text is None:
        return NONE
    whole = str(text)
    cut = whole if not most or len(whole) <= most else whole[:most]
    parts = [Markup(_NOT_PLAIN.sub(_visible_character, str(escape(cut))))]  # noqa: S704  (escaped)
    if len(cut) < len(whole):
        parts.append(Markup('<span class="cut" title="{} characters in all">…</span>').format(f"{len(whole):,}"))
    return Markup("").join(parts)


def written_out(text: str) -> str:
    """Return foreign text as `visible` shows it, whole and without elements: for charts and titles."""
    return _NOT_PLAIN.sub(lambda found: _code_point(found[0]) if _is_invisible(found[0]) else found[0], text)


def _visible_character(found: re.Match[str]) -> str:
    character = found[0]
    return f'<span class="code-point">{_code_point(character)}</span>' if _is_invisible(character) else character


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character).startswith("C")


def _code_point(character: str) -> str:
    return f"\\u{{{ord(character):x}}}"


def pretty_json(value: Any) -> str:
    """Return JSON text with two blanks of indentation.

    A text stays as it is if it is not JSON, nests deeply (indentation would multiply its size), or would lose
    something: a repeated name, or the spelling of a number.
    """
    if not isinstance(value, str):
        return json.dumps(value, indent=2, ensure_ascii=False)
    try:
        found = json.loads(value, object_pairs_hook=_object_of, parse_float=_float_of)
    except (ValueError, RecursionError):
        return value
    return value if _is_deep(found) else json.dumps(found, indent=2, ensure_ascii=False)


def _object_of(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is repeated")
    return found


def _float_of(text: str) -> float:
    if repr(found := float(text)) != text:
        raise ValueError("the number has another spelling")
    return found


def _is_deep(value: Any) -> bool:
    """Return whether a value nests deeper than MAX_INDENTED levels."""
    level = [value]
    for _ in range(MAX_INDENTED + 1):
        level = [inner for each in level for inner in _inner_values(each)]
    return bool(level)


def _inner_values(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


FORMATS = {
    each.__name__: each
    for each in (
        *(count, counted, number, share, duration, size, rate, time, clock, ago),
        *(visible, brief, short_id, id_end, written_out, sentence, pretty_json),
    )
}
"""Filters of the templates by name."""


_BY_UNIT: Mapping[str, Callable[[float], str]] = {"count": count, "share": share, "ms": duration, "p": "{:.3g}".format}


def name_of(value: Any) -> str:
    """Return the name of a group; one without a name is said to have none."""
    return NO_NAME if value in ("", None) else str(value)


def unit_format(unit: str, value: Any) -> Any:
    """Return a value of a report in its unit."""
    if value is None:
        return NONE
    if unit == "time":
        return time(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _BY_UNIT.get(unit, number)(value)
    if isinstance(value, list):
        return visible(", ".join(map(str, value)))
    return visible(name_of(value) if value == "" else value)
