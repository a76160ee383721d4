"""Errors of the API, in the published shape."""

from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse


class ApiError(Exception):
    """Ends a request with a status and the published error body."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        code: str | None = None,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.code = code
        self.details = details or {}
        self.headers = headers or {}

    def response(self) -> JSONResponse:
        """The response that says this error."""
        error = {"message": self.message, "type": self.kind, "code": self.code, "details": self.details}
        body = {"success": False, "status": self.status, "error": error}
        return JSONResponse(body, status_code=self.status, headers=self.headers)


async def answer_api_error(_request: Request, error: Exception) -> JSONResponse:
    """FastAPI's handler of ApiError."""
    if not isinstance(error, ApiError):
        raise error
    return error.response()


def not_found(interaction_id: str) -> ApiError:
    """No outcome of this id is recorded."""
    return ApiError(404, "NotFoundError", f"no interaction {interaction_id[:64]!r}", code="unknown")


def unauthorized(message: str) -> ApiError:
    """No key, or an unknown one."""
    return ApiError(401, "UnauthorizedError", message, headers={"WWW-Authenticate": "Bearer"})


def forbidden(message: str) -> ApiError:
    """A known key that may not do this."""
    return ApiError(403, "ForbiddenError", message)


def unavailable(message: str) -> ApiError:
    """A dependency cannot answer now."""
    return ApiError(503, "ServiceUnavailableError", message, headers={"Retry-After": "1"})
