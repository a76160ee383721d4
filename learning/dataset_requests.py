"""Requests and responses of evaluation datasets: the models of the published client (`mixpeek`)."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from learning.interaction_datasets import POSITIVE_TYPES, DatasetDefinition
from learning.scoring import Documents, Grades
from schemas.interaction import InteractionType
from schemas.rewards import DEFAULT_REWARDS

MAX_NAME_CHARACTERS = 200
MAX_LOOKBACK_DAYS = 365
DEFAULT_LOOKBACK_DAYS = 30
DEFAULT_MIN_INTERACTIONS = 5
MAX_INTERACTIONS = 1_000_000_000


def _plain_name(name: str) -> str:
    if not name.isprintable() or name in (".", "..") or name != name.strip():
        raise ValueError("a name has printable characters, without spaces around them")
    return name


def _check_json(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("not_utf8", "holds half of a surrogate pair") from None
    except ValueError:
        raise PydanticCustomError("bad_number", "holds a number beyond the range of 64-bit floats") from None


def _distinct_documents(documents: list[str]) -> list[str]:
    if len(set(documents)) < len(documents):
        document = next(name for name, count in Counter(documents).items() if count > 1)
        raise ValueError(f"document {document[:60]!r} is repeated")
    return documents


DatasetName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS), AfterValidator(_plain_name)]


class GroundTruth(BaseModel):
    """Query with its relevant documents."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query_id: str = Field(min_length=1, max_length=512)
    query_input: dict[str, Any] = Field(examples=[{"text": "running shoes"}])
    relevant_documents: Annotated[Documents, AfterValidator(_distinct_documents)]
    relevance_scores: Grades | None = Field(None, description="relevance by document, 0 to 5, 5 the highest")


class DatasetRequest(BaseModel):
    """Dataset to store as it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dataset_name: DatasetName
    description: str | None = Field(None, max_length=10_000)
    queries: list[GroundTruth] = Field(min_length=1, fail_fast=True)
    metadata: dict[str, Any] | None = None

    @field_validator("queries")
    @classmethod
    def _distinct(cls, queries: list[GroundTruth]) -> list[GroundTruth]:
        if len({query.query_id for query in queries}) < len(queries):
            raise ValueError("two queries have the same query_id")
        return queries

    @field_validator("description", "queries", "metadata")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        _check_json([each.model_dump() for each in value] if isinstance(value, list) else value)
        return value

    def content(self) -> list[dict[str, Any]]:
        """Return the queries as they are stored."""
        return [query.model_dump() for query in self.queries]


class GenerateRequest(BaseModel):
    """Dataset to compute from the interactions of a retriever."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dataset_name: DatasetName | None = Field(None, description="default: auto_RETRIEVER_DATE")
    min_interactions: int = Field(
        DEFAULT_MIN_INTERACTIONS, ge=1, le=MAX_INTERACTIONS, description="fewest positive interactions of a query"
    )
    lookback_days: int = Field(DEFAULT_LOOKBACK_DAYS, ge=1, le=MAX_LOOKBACK_DAYS, description="event time until now")
    positive_interaction_types: list[InteractionType] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description=f"types with a reward above 0; default: {', '.join(POSITIVE_TYPES)}",
    )

    @field_validator("positive_interaction_types")
    @classmethod
    def _positive(cls, types: list[InteractionType] | None) -> list[InteractionType] | None:
        for name in types or ():
            if DEFAULT_REWARDS.get(name, 0) <= 0:
                allowed = ", ".join(each for each, reward in DEFAULT_REWARDS.items() if reward > 0)
                raise ValueError(f"{name} is no positive type; these are {allowed}")
        return types

    def name(self, retriever: str) -> str:
        """Return the name of the dataset. Raises ValueError where the default one is no valid name."""
        return self.dataset_name or default_name(retriever)

    def definition(self, retriever: str, query_path: tuple[str, ...]) -> DatasetDefinition:
        """Return the definition of the dataset until now, still without end offsets."""
        until = datetime.now(UTC)
        types = tuple(sorted(set(self.positive_interaction_types or POSITIVE_TYPES)))
        since = until - timedelta(days=self.lookback_days)
        return DatasetDefinition(retriever, since, until, self.min_interactions, types, query_path, {})


class DatasetResponse(BaseModel):
    """Dataset with its queries."""

    dataset_id: str
    dataset_name: str
    description: str | None
    queries: list[GroundTruth]
    created_at: datetime
    updated_at: datetime
    namespace_id: str
    internal_id: str
    query_count: int
    metadata: dict[str, Any] | None


class DatasetList(BaseModel):
    """Page of datasets, the newest first."""

    datasets: list[DatasetResponse]
    total: int
    page: int
    page_size: int


class DatasetPageQuery(BaseModel):
    """Page of a list."""

    model_config = ConfigDict(extra="forbid")

    page: int = Field(1, ge=1, le=1_000_000)
    page_size: int = Field(20, ge=1, le=1_000)


class DatasetDeleted(BaseModel):
    """Answer of a deletion."""

    message: str
    success: bool


def default_name(retriever: str) -> str:
    """Return the name of a generated dataset that has none. Raises ValueError where it would be no valid name."""
    name = f"auto_{retriever}_{datetime.now(UTC):%Y-%m-%d}"
    if len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(f"the default name has more than {MAX_NAME_CHARACTERS} characters: send one")
    return _plain_name(name)
