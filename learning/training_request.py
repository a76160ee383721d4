"""Request for a training set: its results, labels, features and split."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from learning.estimators.curve import CLIP, PropensityCurve
from learning.scope import MAX_TEXT_BYTES, LearningScope, ScopeError
from schemas.event_time import to_epoch_ms
from schemas.interaction import FIELDS
from schemas.rewards import RewardMap

TrainingLabel = Literal["click", "graded", "reward", "ips"]
TrainingFormat = Literal["parquet", "libsvm", "lightgbm"]

RECORD_FEATURES = tuple(
    field.name for field in FIELDS if field.kind in ("integer", "float") and field.name != "position"
)
"""Numeric fields of an event that may be features. The position is a column of its own."""
MAX_FEATURES = 200
DEFAULT_HORIZON_MS = 24 * 3_600_000
MAX_HORIZON_MS = 366 * 24 * 3_600_000


class TrainingRequest(NamedTuple):
    """Training set to make: a row for each result in the scope, by the event time of its first impression there."""

    scope: LearningScope
    label: TrainingLabel
    features: Sequence[str]
    """Fields of RECORD_FEATURES, and paths such as `metadata.price`."""
    format: TrainingFormat
    validation_from: datetime
    """Executions whose first impression is at this time or later are the validation set."""
    horizon_ms: int = DEFAULT_HORIZON_MS
    """Longest time from the impression of a result to an event that counts for its label and reward."""
    rewards: RewardMap = RewardMap()
    curves: Sequence[PropensityCurve] = ()
    clip: float = CLIP
    """Largest inverse propensity of a clicked result, for label `ips`."""

    def checked(self) -> "TrainingRequest":
        """Return the request. Raises ScopeError, which names the part to change."""
        self.scope.checked()
        check_features(self.features)
        if not self.scope.since <= self.validation_from <= self.scope.until:
            raise ScopeError("validation", "the validation set begins within the range, from since to until")
        if not 0 < self.horizon_ms <= MAX_HORIZON_MS:
            raise ScopeError("horizon-hours", "the horizon is longer than 0 and at most 366 days")
        if not 1 <= self.clip <= 1e9:  # noqa: PLR2004  (propensities below 1e-9 are errors of their estimate)
            raise ScopeError("clip", "the largest weight is from 1 to 1,000,000,000")
        self._check_curves()
        return self

    def _check_curves(self) -> None:
        if not self.curves:
            if self.label == "ips":
                raise ScopeError("propensities", "label ips needs the propensities of positions")
            if self.scope.segment_path:
                raise ScopeError("by", "segments are those of the propensities: name a file of propensities, too")
            return
        segments = [curve.segment for curve in self.curves]
        if len(set(segments)) < len(segments):
            raise ScopeError("propensities", "the propensities have two curves of one segment")
        if not self.scope.segment_path and segments != [""]:
            raise ScopeError("by", "the propensities have segments: name the path that they were estimated by")
        if self.scope.segment_path and segments == [""]:
            raise ScopeError("by", "the propensities have no segments: estimate them by the same path")
        for curve in self.curves:
            if any(not 0 <= value < float("inf") for value in curve.values().values()):
                raise ScopeError("propensities", "a propensity is a number from 0 on")

    @property
    def validation_from_ms(self) -> int:
        """Begin of the validation set in milliseconds since 1970."""
        return to_epoch_ms(self.validation_from)

    @property
    def has_train(self) -> bool:
        """Whether the split has a training part."""
        return self.validation_from > self.scope.since

    @property
    def has_validation(self) -> bool:
        """Whether the split has a validation part."""
        return self.validation_from < self.scope.until

    def propensities(self) -> Mapping[str, Mapping[int, float]]:
        """Return the known propensities of each segment, by position."""
        return {curve.segment: curve.values() for curve in self.curves}


def check_features(features: Sequence[str]) -> None:
    """Raise ScopeError for a name that is no feature, is repeated, or is one too many."""
    if len(features) > MAX_FEATURES:
        raise ScopeError("features", f"there are {len(features):,} features, at most {MAX_FEATURES} are possible")
    for name in features:
        if features.count(name) > 1:
            raise ScopeError("features", f"{name[:60]!r} is named twice")
        if name == "position":
            raise ScopeError("features", "position is a column of its own: as a feature it would teach the old ranking")
        head, *path = name.split(".")
        is_path = head == "metadata" and path and all(path) and len(name.encode(errors="replace")) <= MAX_TEXT_BYTES
        if not is_path and name not in RECORD_FEATURES:
            known = ", ".join(RECORD_FEATURES)
            raise ScopeError("features", f"{name[:60]!r} is no feature: {known}, or a path such as metadata.price")
