"""OpenAPI schemas of bodies that the collector reads itself."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from runtime.http.keys import MAX_TOKEN_LIFE_S
from runtime.http.openapi import request_body
from runtime.http.origins import serialized_origin
from schemas.interaction import Interaction

EXAMPLE = {
    "feature_id": "doc-17",
    "interaction_type": ["click"],
    "position": 2,
    "execution_id": "search-4711",
    "user_id": "ada",
    "metadata": {"device": "phone"},
    "feature_uri": "tally://text@v1/embedding",
}


def _origin(text: str) -> str:
    try:
        return serialized_origin(text)
    except ValueError as error:
        raise PydanticCustomError("bad_origin", "{why}", {"why": str(error)}) from None


class TokenRequest(BaseModel, extra="forbid", strict=True):
    """Request for a page token: origin of the pages, and lifetime in seconds."""

    origin: Annotated[str, AfterValidator(_origin)] = Field(examples=["https://shop.example"])
    expires_in_s: int = Field(3_600, ge=1, le=MAX_TOKEN_LIFE_S)


class ItemResult(BaseModel):
    """Result of one event of a batch."""

    index: int
    interaction_id: str = Field(description="empty for a failed event")
    status: str = Field(examples=["created"], description="created or failed")


class BulkResponse(BaseModel):
    """Results of a batch."""

    created: int
    failed: int
    errors: list[str] | None = None
    results: list[ItemResult]


_ONE: dict[str, Any] = Interaction.model_json_schema() | {"title": "Interaction"}
# One of the two names of the feature is required, which "required" alone cannot express.
_ONE["properties"]["document_id"] = {"type": "string", "description": "The older name of feature_id."}
_ONE["required"] = [name for name in _ONE["required"] if name != "feature_id"]
_ONE["anyOf"] = [{"required": ["feature_id"]}, {"required": ["document_id"]}]
_MANY = {"type": "array", "minItems": 1, "items": {"type": "object"}, "description": "Each is validated by itself."}
_BATCH = {
    "type": "object",
    "properties": {"interactions": _MANY},
    "required": ["interactions"],
    "additionalProperties": False,
}

CREATE = request_body(_ONE, EXAMPLE)
BATCH = request_body(_BATCH, {"interactions": [EXAMPLE]})
TOKEN = request_body(TokenRequest.model_json_schema(), {"origin": "https://shop.example"})
DRY_RUN = request_body({"anyOf": [_ONE, _BATCH]}, EXAMPLE)
BEACON = request_body({"anyOf": [_ONE, _MANY, _BATCH]}, [EXAMPLE], kinds=("text/plain", "application/json"))
