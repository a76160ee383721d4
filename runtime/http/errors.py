"""Errors of the API, in the published shape."""

import json
from collections.abc import Sequence
from typing import Any

from fastapi import Response

KINDS = {
    400: "BadRequestError",
    401: "UnauthorizedError",
    403: "ForbiddenError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "PayloadTooLargeError",
    415: "UnsupportedMediaTypeError",
    422: "ValidationError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}
MOST_PROBLEMS = 20
"""Of one request, that are told."""


class ApiError(Exception):
    """Ends a request with a status and the published error body."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.details = details or {}
        self.headers = headers or {}

    def response(self) -> Response:
        """The response that says this error."""
        kind = KINDS.get(self.status, "Error")
        error = {"message": self.message, "type": kind, "code": self.code, "details": self.details}
        body = {"success": False, "status": self.status, "error": error}
        text = json.dumps(body, ensure_ascii=False).encode(errors="replace")  # half a surrogate may be quoted
        return Response(text, self.status, self.headers, "application/json")


def problem(kind: str, location: Sequence[str | int], message: str) -> dict[str, Any]:
    """One entry of `validation_errors`: a machine's name for it, where, and a sentence."""
    return {"type": kind, "location": list(location), "message": message}


def invalid(problems: Sequence[dict[str, Any]], *, status: int = 422, code: str | None = None) -> ApiError:
    """A request that cannot be valid, with the first of its problems."""
    first = problems[0]
    where = ".".join(str(part) for part in first["location"])
    message = f"{where}: {first['message']}" if where else first["message"]
    if len(problems) > 1:
        message += f" (and {len(problems) - 1} more errors)"
    return ApiError(status, message, code=code, details={"validation_errors": list(problems[:MOST_PROBLEMS])})


def not_found(interaction_id: str, code: str = "unknown", headers: dict[str, str] | None = None) -> ApiError:
    """No record of this id can be answered; `code` says why."""
    return ApiError(404, f"no interaction {interaction_id[:64]!r}", code=code, headers=headers)


def unauthorized(message: str) -> ApiError:
    """No key, or an unknown one."""
    return ApiError(401, message, headers={"WWW-Authenticate": "Bearer"})


def forbidden(message: str) -> ApiError:
    """A known key that may not do this."""
    return ApiError(403, message)


def unavailable(message: str, retry_after_s: int = 1) -> ApiError:
    """A dependency cannot answer now."""
    return ApiError(503, message, headers={"Retry-After": str(retry_after_s)})
