"""Preference `Prefer: wait=2` (RFC 7240, section 4.3): respond when the outcome is final, or after two seconds."""

import re
from collections.abc import Mapping
from typing import Protocol

_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,4})\"?\s*(?:$|[,;])", re.IGNORECASE)


class _WithHeaders(Protocol):
    @property
    def headers(self) -> Mapping[str, str]: ...


def wait_s(request: _WithHeaders, most_ms: int) -> float | None:
    """Return the seconds that a request wants to wait, at most `most_ms` milliseconds; None without a preference."""
    preference = request.headers.get("prefer")
    found = _WAIT.search(preference) if preference else None
    return min(int(found[1]), most_ms / 1000) if found else None


def preference_applied(seconds: float | None) -> dict[str, str]:
    """Return the header that confirms an applied preference."""
    return {} if seconds is None else {"Preference-Applied": f"wait={seconds:g}"}
