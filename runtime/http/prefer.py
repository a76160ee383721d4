"""The preference `Prefer: wait=2` (RFC 7240, section 4.3): answer when the outcome is final, or after that many."""

import re

from fastapi import Request

_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,4})\"?\s*(?:$|[,;])", re.IGNORECASE)


def wait_s(request: Request, most_ms: int) -> float | None:
    """How long this request may wait; None when it does not say. What it asks beyond `most_ms` it does not get."""
    found = _WAIT.search(request.headers.get("prefer", ""))
    return min(int(found[1]), most_ms / 1000) if found else None


def preference_applied(seconds: float | None) -> dict[str, str]:
    """The header that says that a preference was honoured."""
    return {} if seconds is None else {"Preference-Applied": f"wait={seconds:g}"}
