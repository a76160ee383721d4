"""Additions to the OpenAPI document: errors, and the schema of an interaction."""

import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field

from runtime.http import paths


class ErrorDetail(BaseModel):
    """An error's code, message and fields."""

    message: str = Field(examples=["body.position: Input should be a valid integer"])
    type: str = Field(examples=["ValidationError"])
    code: str | None = Field(examples=[None])
    details: dict[str, Any] = Field(
        examples=[{"validation_errors": [{"type": "wrong_type", "location": ["body", "position"], "message": "..."}]}]
    )


class ErrorResponse(BaseModel):
    """Body of every error."""

    success: Literal[False] = False
    status: int = Field(examples=[422])
    error: ErrorDetail


class HealthResponse(BaseModel):
    """Liveness of the process."""

    status: Literal["ok"]


class ReadinessResponse(BaseModel):
    """State of each dependency: ok, away, missing (requests proceed without it), or degraded (see `problems`)."""

    ready: bool
    dependencies: dict[str, Literal["ok", "away", "missing", "degraded"]]
    problems: list[str]


def error_responses(*statuses: int, ok: type[BaseModel] | None = None) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of an endpoint: these statuses and those of any endpoint; `ok` is the model of its 200."""
    good: dict[int | str, dict[str, Any]] = {} if ok is None else {200: {"model": ok}}
    return good | {status: {"model": ErrorResponse} for status in (*statuses, *_ANY_ENDPOINT)}


_ANY_ENDPOINT = (400, 401, 403, 422, 429, 500, 503)


_SECURITY = {
    "Key": {"type": "http", "scheme": "bearer", "description": "`tally keys create` makes one"},
    "NamespaceHeader": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Namespace",
        "description": "percent-encoded UTF-8; absent: the first namespace that the key is bound to",
    },
}


def document_generator(app: FastAPI, *, open_paths: Sequence[str]) -> Callable[[], dict[str, Any]]:
    """Return a generator of the OpenAPI document that adds the security schemes of all paths but the open ones.

    FastAPI adds them itself for its own security dependencies, but these cost a tenth of each request's time.
    """
    generated = app.openapi

    def completed() -> dict[str, Any]:
        found = generated()
        found.setdefault("components", {})["securitySchemes"] = _SECURITY
        for path, operations in found["paths"].items():
            for operation in operations.values() if path not in open_paths else ():
                operation["security"] = [{"Key": []}, {"Key": [], "NamespaceHeader": []}]
        return found

    return completed


def methods_of(document_generator: dict[str, Any], path: str) -> set[str]:
    """Return the methods of a path in the document; a literal path takes precedence over a parameter."""
    paths = document_generator["paths"]
    fitting = (
        [path] if path in paths else [each for each in paths if re.fullmatch(re.sub(r"{\w+}", "[^/]+", each), path)]
    )
    methods = {method.upper() for each in fitting for method in paths[each]}
    return methods | {"HEAD"} if "GET" in methods else methods


def explain_status(status: int, path: str, allowed: str) -> str:
    """Return the message of a 404 or 405 of the router, empty for other statuses. `allowed` are a path's methods."""
    if status == HTTPStatus.NOT_FOUND:
        return f"no endpoint has this path: interactions are at {paths.INTERACTIONS}, all endpoints at {paths.DOCS}"
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        listing = f" (lists: POST {paths.INTERACTIONS}/list)" if path == paths.INTERACTIONS else ""
        return f"this path does not have the method; it has {allowed or 'others'}{listing}"
    return ""


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """Return a schema with each reference replaced by its definition."""
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(value, definitions) for name, value in schema.items() if name != "$defs"}


def request_body(
    schema: dict[str, Any], example: Any, *, kinds: tuple[str, ...] = ("application/json",)
) -> dict[str, Any]:
    """Return the `openapi_extra` of an endpoint that reads its body itself."""
    plain = _inlined(schema, schema.get("$defs", {}))
    content = {kind: {"schema": plain, "example": example} for kind in kinds}
    return {"requestBody": {"required": True, "content": content}}
