"""Interaction: the public model, the table of its fields, their bounds and the vocabulary of types.

The validator decides by the model (`schemas.validator`), and Python producers fill it in. The lists of fields elsewhere
are derived from `FIELDS`. A property test holds the model and the compiled scanner (`kernels.scan_event`) together.
"""

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.event_time import parse_occurred_at, to_epoch_ms
from schemas.fields import FieldKind, FieldSpec, FieldType, Kept, fields_of
from schemas.json_bounds import MAX_DEPTH, depth_of

InteractionType = Literal[
    "impression",
    "view",
    "click",
    "dwell",
    "positive_feedback",
    "negative_feedback",
    "purchase",
    "add_to_cart",
    "wishlist",
    "long_view",
    "share",
    "bookmark",
    "query_refinement",
    "zero_results",
    "filter_toggle",
    "skip",
    "return_to_results",
    # Known to the newer published client, not to the reference service:
    "play",
    "download",
    "save",
    "add_to_project",
    "rating",
]
INTERACTION_TYPES: tuple[str, ...] = get_args(InteractionType)
REFERENCE_TYPES: tuple[str, ...] = INTERACTION_TYPES[:17]

MAX_INT32 = 2**31 - 1
MAX_ID_BYTES = 512
MAX_URI_BYTES = 2048
MAX_OBJECT_BYTES = 64 * 1024
MAX_TYPES = 64
MAX_NAMESPACE_BYTES = 128

NO_FEATURE_URI = (
    "accepted, but the weights of features (learned fusion) are not learned from this event: send the feature_uri of "
    "the feature, such as an embedding, that found the result (docs/api.md, section 'Feature URI')"
)


def warning_for(feature_uri: str | None) -> str | None:
    """Return the API's warning for an accepted interaction that may not act as its sender intends, or None."""
    return NO_FEATURE_URI if feature_uri is None else None


def _within(limit_bytes: int) -> AfterValidator:
    def check(text: str) -> str:
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise PydanticCustomError("not_utf8", "holds half of a surrogate pair") from error
        if size > limit_bytes:
            raise PydanticCustomError(
                "too_large", "is {size} bytes, at most {limit} are allowed", {"size": size, "limit": limit_bytes}
            )
        return text

    return AfterValidator(check)


def encode_object(value: dict[str, Any]) -> bytes:
    """Encode an object field as JSON text: the bounds apply to these bytes, and these bytes are sent."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _plain_json_object(value: dict[str, Any]) -> dict[str, Any]:
    """Return the object; raise PydanticCustomError if it cannot be written as JSON within the bounds."""
    try:
        if depth_of(value, max_nodes=MAX_OBJECT_BYTES) + 1 > MAX_DEPTH:
            raise PydanticCustomError("too_deep", "nests deeper than {limit} levels", {"limit": MAX_DEPTH})
        encoded = encode_object(value)
    except PydanticCustomError:
        raise
    except (TypeError, ValueError) as error:
        raise PydanticCustomError("not_json", "cannot be written as JSON: {why}", {"why": str(error)}) from error
    if len(encoded) > MAX_OBJECT_BYTES:
        raise PydanticCustomError(
            "too_large",
            "is {size} bytes of JSON, at most {limit} are allowed",
            {"size": len(encoded), "limit": MAX_OBJECT_BYTES},
        )
    return value


def _occurred_at(value: object) -> object:
    if isinstance(value, str):
        return parse_occurred_at(value)
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        to_epoch_ms(aware)  # raises outside 1970 to 2262
        return aware
    raise PydanticCustomError("wrong_type", "is not a text: send ISO 8601, such as 2026-11-27T10:00:00Z")


Id = Annotated[str, FieldType("text", MAX_ID_BYTES), _within(MAX_ID_BYTES)]
Uri = Annotated[str, FieldType("text", MAX_URI_BYTES), _within(MAX_URI_BYTES)]
Types = Annotated[list[InteractionType], FieldType("types"), Field(min_length=1, max_length=MAX_TYPES)]
Int32 = Annotated[int, FieldType("integer"), Field(ge=0, le=MAX_INT32)]
Float = Annotated[float, FieldType("float"), Field(allow_inf_nan=False)]
JsonObject = Annotated[dict[str, Any], FieldType("object", MAX_OBJECT_BYTES), AfterValidator(_plain_json_object)]
OccurredAt = Annotated[datetime, FieldType("time"), BeforeValidator(_occurred_at)]


class Interaction(BaseModel):
    """One thing a person did with one search result.

    Numbers and strings are strict (`"3"` is no position) and a key that is not listed is refused by name.
    `document_id` is accepted for `feature_id`. Omit `occurred_at` for live events.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    # The table of fields. One more is a line here, of one of the types above, and a migration that adds its column.
    feature_id: Annotated[Id, Kept] = Field(
        validation_alias=AliasChoices("feature_id", "document_id"),
        description="The document or feature that was interacted with; at most 512 bytes.",
    )
    interaction_type: Annotated[Types, Kept] = Field(description="What happened; one entry or several.")
    position: Int32 = Field(description="0-based place in the list of results.")
    metadata: JsonObject | None = Field(default=None, description="At most 64 KiB of JSON.")
    user_id: Id | None = None
    session_id: Id | None = None
    execution_id: Annotated[Id | None, Kept] = Field(default=None, description="The search that showed the result.")
    retriever_id: Id | None = None
    query_snapshot: JsonObject | None = Field(default=None, description="At most 64 KiB of JSON.")
    document_score: Float | None = None
    result_set_size: Int32 | None = Field(default=None, description="0 only together with zero_results.")
    feature_uri: Uri | None = Field(
        default=None, description="The feature, such as an embedding, that found the result; at most 2048 bytes."
    )
    occurred_at: OccurredAt | None = Field(
        default=None, description="ISO 8601 with a time; without an offset it is UTC. 1970 to 2262."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_feature(cls, data: Any) -> Any:
        if isinstance(data, dict) and "document_id" in data and "feature_id" in data:
            if data["document_id"] != data["feature_id"]:
                raise PydanticCustomError(
                    "conflict", "document_id is an alias of feature_id, and the two differ: send one of them"
                )
            return {key: value for key, value in data.items() if key != "document_id"}
        return data

    @model_validator(mode="after")
    def _empty_only_for_zero_results(self) -> Self:
        if self.result_set_size == 0 and "zero_results" not in self.interaction_type:
            raise PydanticCustomError("empty_result_set", "result_set_size 0 needs interaction_type zero_results")
        return self


FIELDS: tuple[FieldSpec, ...] = fields_of(Interaction)
"""Fields of an interaction, in the order of their declaration."""


def names_of(*kinds: FieldKind) -> tuple[str, ...]:
    """Return the names of the fields of some kinds, kind after kind."""
    return tuple(field.name for kind in kinds for field in FIELDS if field.kind == kind)


OBJECT_FIELDS = names_of("object")
