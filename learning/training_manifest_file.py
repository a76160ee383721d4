"""JSON form of manifests as they are read again: each part is checked before the log is read with it."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from learning.estimators.curve import PropensityCurve
from learning.propensity_file import STRICT, Text, curves_from_json
from learning.scope import LearningScope
from learning.training import PartCounts, Snapshot, TrainingCounts
from learning.training_formats import FileDigest
from learning.training_request import MAX_HORIZON_MS, TrainingFormat, TrainingLabel, TrainingRequest
from learning.training_sql import LogPart
from schemas.event_time import parse_occurred_at
from schemas.rewards import rewards_of

MAX_NAME_BYTES = 255


def _file_name(name: str) -> str:
    if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name) or len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError("not the name of a file in the folder of the manifest")
    return name


StoredCount = Annotated[int, Field(ge=0, lt=2**63)]
PathPart = Annotated[Text, Field(min_length=1)]


class RequestOfManifest(BaseModel):
    """Request for a training set."""

    model_config = STRICT

    namespace: Text
    retriever: Text
    since: Text
    until: Text
    by: list[PathPart]
    query_path: list[PathPart] = Field(min_length=1)
    label: TrainingLabel
    features: list[Text]
    format: TrainingFormat
    validation_from: Text
    horizon_ms: int = Field(gt=0, le=MAX_HORIZON_MS)
    rewards: dict[Text, float]
    max_reward: float
    clip: float
    propensities: list[Any]

    def request(self) -> TrainingRequest:
        """Return the request. Raises ValueError, and ScopeError, which names the part."""
        since, until = parse_occurred_at(self.since), parse_occurred_at(self.until)
        curves: tuple[PropensityCurve, ...] = curves_from_json(self.propensities) if self.propensities else ()
        return TrainingRequest(
            LearningScope(self.namespace, self.retriever, since, until, tuple(self.by), tuple(self.query_path)),
            self.label,
            tuple(self.features),
            self.format,
            parse_occurred_at(self.validation_from),
            self.horizon_ms,
            rewards_of(self.rewards, self.max_reward),
            curves,
            self.clip,
        ).checked()


class PartOfManifest(BaseModel):
    """Rows of one partition of the log."""

    model_config = STRICT

    topic: Text
    partition: int = Field(ge=0, lt=2**31)
    first: StoredCount
    last: StoredCount
    rows: StoredCount


class CountsOfPart(BaseModel):
    """Counts of the training or validation part."""

    model_config = STRICT

    rows: StoredCount
    executions: StoredCount
    positives: StoredCount

    def counts(self) -> PartCounts:
        """Return the counts."""
        return PartCounts(self.rows, self.executions, self.positives)


class CountsOfManifest(CountsOfPart):
    """Counts of a training set."""

    train: CountsOfPart
    validation: CountsOfPart
    open_horizon: StoredCount
    unknown_propensity: StoredCount
    nulls: dict[Text, StoredCount]

    def all_counts(self) -> TrainingCounts:
        """Return the counts of both parts."""
        return TrainingCounts(
            self.train.counts(), self.validation.counts(), self.open_horizon, self.unknown_propensity, self.nulls
        )


class FileOfManifest(BaseModel):
    """File of a training set."""

    model_config = STRICT

    name: Annotated[Text, AfterValidator(_file_name)]
    suffix: Text
    bytes: StoredCount
    sha256: Text


class ColumnOfManifest(BaseModel):
    """Column of a training set."""

    model_config = STRICT

    name: Text
    type: Text
    meaning: Text


class WriterOfManifest(BaseModel):
    """Version of the program that wrote the files."""

    model_config = STRICT

    pyarrow: Text


class ManifestDocument(BaseModel):
    """Manifest of a training set, without the version of its format."""

    model_config = STRICT

    created_at: Text
    request: RequestOfManifest
    columns: list[ColumnOfManifest] = Field(alias="schema")
    counts: CountsOfManifest
    offsets: list[PartOfManifest]
    files: list[FileOfManifest]
    writer: WriterOfManifest

    def snapshot(self) -> Snapshot:
        """Return the snapshot. Raises ValueError."""
        parts = [LogPart(each.topic, each.partition, each.first, each.last, each.rows) for each in self.offsets]
        return Snapshot(parse_occurred_at(self.created_at), parts)

    def digests(self) -> list[tuple[str, FileDigest]]:
        """Return the names and digests of the files."""
        return [(each.name, FileDigest(each.suffix, each.bytes, each.sha256)) for each in self.files]
