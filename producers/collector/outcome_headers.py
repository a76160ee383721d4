"""Headers of a created event: its id, its outcome as far as it is known, and where to ask for the outcome."""

from runtime.http import paths
from runtime.http.prefer import preference_applied
from schemas.outcome import Deleted, DuplicateOf, Outcome, RejectedFor, Stored

OUTCOME = "X-Outcome"
PENDING = {OUTCOME: "pending"}
"""Headers of an answer before the verdict: Kafka has the events, and a worker will decide about them."""
_NAMES: dict[type[Outcome], str] = {
    Stored: "stored",
    DuplicateOf: "duplicate",
    RejectedFor: "rejected",
    Deleted: "deleted",
}


def headers_of_created(interaction_id: str, final: Outcome | None, waited_s: float | None) -> dict[str, str]:
    """Return the headers of an event's answer. `final` is its outcome, None while it is pending.

    `waited_s` is the applied preference to wait. The relation `status` of the link is that of RFC 8631.
    """
    headers = {
        "X-Interaction-Id": interaction_id,
        OUTCOME: "pending" if final is None else _NAMES.get(type(final), "pending"),
        "Link": f'<{paths.INTERACTIONS}/{interaction_id}/status>; rel="status"',
    }
    return headers if waited_s is None else headers | preference_applied(waited_s)
