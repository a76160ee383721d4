"""Errors of the API, in the published format."""

import json
import logging
from collections.abc import Sequence
from typing import Any

from runtime.http.answer import Answer

ERROR_TYPES = {
    400: "BadRequestError",
    401: "UnauthorizedError",
    403: "ForbiddenError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    409: "ConflictError",
    413: "PayloadTooLargeError",
    414: "UriTooLongError",
    415: "UnsupportedMediaTypeError",
    422: "ValidationError",
    429: "RateLimitError",
    431: "RequestHeadersTooLargeError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}
RETRY_AFTER_S = "1"
MAX_PROBLEMS = 20
"""Maximum problems that an error response names; further ones are counted."""
MAX_MESSAGE_CHARACTERS = 1_000
MAX_NAME_CHARACTERS = 1_000
"""Largest length of a key in an error's location."""
MAX_LOCATION_PARTS = 64

log = logging.getLogger("tally.api")


class ApiError(Exception):
    """Error response: a status and the published error body."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        namespace: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.details = details or {}
        self.headers = headers or {}
        self.namespace = namespace
        """Namespace of the known key whose request is refused; empty without one. It is not in the answer."""

    def answer(self) -> Answer:
        """Return the HTTP response of this error."""
        kind = ERROR_TYPES.get(self.status, "Error")
        error = {"message": self.message, "type": kind, "code": self.code, "details": self.details}
        body = {"success": False, "status": self.status, "error": error}
        text = json.dumps(body, ensure_ascii=False).encode(errors="replace")  # a quoted text may hold a lone surrogate
        return Answer.of(self.status, text, self.headers)


def problem(kind: str, location: Sequence[str | int], message: str) -> dict[str, Any]:
    """Return an entry of `validation_errors`: machine-readable type, location and message, each truncated."""
    places = [
        truncate(each, MAX_NAME_CHARACTERS) if isinstance(each, str) else each for each in location[:MAX_LOCATION_PARTS]
    ]
    plain = message.removeprefix("Value error, ")  # as pydantic begins the messages of validators
    return {"type": kind, "location": places, "message": truncate(plain, MAX_MESSAGE_CHARACTERS)}


def truncate(text: str, most: int) -> str:
    """Shorten a text to at most `most` characters, the last one an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def invalid(
    problems: Sequence[dict[str, Any]], *, status: int = 422, code: str | None = None, more: int = 0
) -> ApiError:
    """Return an error for an invalid request that names its first problems. `more` counts the omitted ones."""
    first = problems[0]
    where = ".".join(str(part) for part in first["location"])
    message = f"{where}: {first['message']}" if where else first["message"]
    if others := len(problems) - 1 + more:
        message += f" (and {others} more errors)"
    return ApiError(status, message, code=code, details={"validation_errors": list(problems[:MAX_PROBLEMS])})


_NOT_FOUND = {
    "unknown": "no interaction {}",
    "in_flight": "interaction {} is not stored yet, if it was accepted: retry shortly",
    "deleted": "interaction {} is deleted",
}


def not_found(interaction_id: str, code: str = "unknown", headers: dict[str, str] | None = None) -> ApiError:
    """Return 404 for an id without a record; `code` is unknown, in_flight or deleted."""
    return ApiError(404, _NOT_FOUND[code].format(repr(interaction_id[:64])), code=code, headers=headers)


def too_large(limit_bytes: int) -> ApiError:
    """Return 413 for a body that is too large, compressed or uncompressed."""
    return ApiError(413, f"the body is larger than {limit_bytes} bytes")


def unauthorized(message: str, namespace: str = "") -> ApiError:
    """Return 401 for a missing or unknown key, or an expired token of a namespace."""
    return ApiError(401, message, headers={"WWW-Authenticate": "Bearer"}, namespace=namespace)


def forbidden(message: str, namespace: str = "") -> ApiError:
    """Return 403 for a known key without the permission. `namespace` is one of the key's."""
    return ApiError(403, message, namespace=namespace)


def unavailable(message: str) -> ApiError:
    """Return 503 for a dependency that cannot answer now."""
    return ApiError(503, message, headers={"Retry-After": RETRY_AFTER_S})


def store_unavailable(error: Exception) -> ApiError:
    """Log that a store is unavailable, and return 503. It omits the error's text, which holds addresses."""
    log.warning("store unavailable, responding 503: %s", error)
    return unavailable("a store of this service does not answer: retry shortly")
