"""Preference `Prefer: wait=2` (RFC 7240, section 4.3): respond when the outcome is final, or after two seconds."""

import re

from fastapi import Request

_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,4})\"?\s*(?:$|[,;])", re.IGNORECASE)


def wait_s(request: Request, most_ms: int) -> float | None:
    """Return the seconds that a request wants to wait, at most `most_ms` milliseconds; None without a preference."""
    found = _WAIT.search(request.headers.get("prefer", ""))
    return min(int(found[1]), most_ms / 1000) if found else None


def preference_applied(seconds: float | None) -> dict[str, str]:
    """Return the header that confirms an applied preference."""
    return {} if seconds is None else {"Preference-Applied": f"wait={seconds:g}"}
