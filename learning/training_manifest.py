"""Manifest of a training set: the request and the snapshot that give its bytes again, as JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from pydantic import ValidationError

from learning.propensity_file import curves_as_json, first_error
from learning.scope import ScopeError
from learning.training import Snapshot, TrainingCounts, TrainingSet
from learning.training_formats import FileDigest
from learning.training_manifest_file import ManifestDocument
from learning.training_request import TrainingRequest
from runtime.errors import TallyError
from schemas.event_time import iso_ms

FORMAT_VERSION = 1
MANIFEST_SUFFIX = ".manifest.json"
MAX_MANIFEST_BYTES = 64 * 1024 * 1024

_MEANINGS = {
    "qid": "execution; its rows are consecutive",
    "query": "text of the query: NFKC, lower case, white space collapsed",
    "document": "feature_id of the result",
    "shown_at": "event time of the first impression of the result",
    "position": "position of that impression, 0-based",
    "segment": "segment of that impression, by the path of the request",
    "reward": "sum of the capped rewards of the result's events within the horizon",
    "propensity": "probability of examination at the position, relative to the reference position; null if unknown",
    "weight": "weight of the row in training",
    "split": "train, or validation: executions whose first impression is at validation_from or later",
}
_LABELS = {
    "click": "1 if the result was clicked within the horizon, else 0",
    "graded": "0 to 4, by the highest reward of an event within the horizon",
    "reward": "sum of the capped rewards of the result's events within the horizon",
    "ips": "1 if the result was clicked within the horizon, else 0; the weight is that of the execution's clicks",
}
_NO_MANIFEST = "not a manifest of a training set"


class ManifestError(TallyError):
    """Manifest that cannot be used. The message names the part that is wrong."""

    exit_code = 2


class Manifest(NamedTuple):
    """Manifest of a training set."""

    request: TrainingRequest
    snapshot: Snapshot
    counts: TrainingCounts
    files: Sequence[tuple[str, FileDigest]]
    """Names of the files, relative to the folder of the manifest, with their digests."""
    columns: Sequence[Mapping[str, str]]
    """Name, type and meaning of each column."""
    writer: str
    """Version of pyarrow: another one may write the same rows as other bytes."""

    def text(self) -> str:
        """Return the manifest as JSON."""
        return f"{json.dumps(_as_json(self), indent=2, ensure_ascii=True, allow_nan=False)}\n"


def manifest_of(request: TrainingRequest, snapshot: Snapshot, written: TrainingSet, name: str) -> Manifest:
    """Return the manifest of a training set that was written to files whose names begin with `name`."""
    columns = [
        {"name": field.name, "type": str(field.type), "meaning": _meaning(request, field.name)}
        for field in written.schema
    ]
    files = [(f"{name}{digest.suffix}", digest) for digest in written.files]
    return Manifest(request, snapshot, written.counts, files, columns, pa.__version__)


def _meaning(request: TrainingRequest, column: str) -> str:
    if column == "label":
        return _LABELS[request.label]
    return _MEANINGS.get(column) or f"feature {column}: its value in the first impression; null if it had none"


def _as_json(manifest: Manifest) -> dict[str, Any]:
    request, snapshot = manifest.request, manifest.snapshot
    scope = request.scope
    return {
        "format_version": FORMAT_VERSION,
        "created_at": iso_ms(snapshot.created_at),
        "request": {
            "namespace": scope.namespace,
            "retriever": scope.retriever,
            "since": iso_ms(scope.since),
            "until": iso_ms(scope.until),
            "by": scope.segment_path,
            "query_path": scope.query_path,
            "label": request.label,
            "features": request.features,
            "format": request.format,
            "validation_from": iso_ms(request.validation_from),
            "horizon_ms": request.horizon_ms,
            "rewards": request.rewards.rewards,
            "max_reward": request.rewards.most,
            "clip": request.clip,
            "propensities": curves_as_json(request.curves),
        },
        "schema": manifest.columns,
        "counts": manifest.counts.as_json(),
        "offsets": [part._asdict() for part in snapshot.parts],
        "files": [{"name": name, **digest._asdict()} for name, digest in manifest.files],
        "writer": {"pyarrow": manifest.writer},
    }


def parse_manifest(text: str) -> Manifest:
    """Parse a manifest. Raises ManifestError."""
    try:
        found = json.loads(text)
        if isinstance(found, dict) and found.pop("format_version", None) != FORMAT_VERSION:
            raise ManifestError(f"format_version: this version of Tally reads {FORMAT_VERSION}")
        document = ManifestDocument.model_validate(found)
        columns = [each.model_dump() for each in document.columns]
        return Manifest(
            document.request.request(),
            document.snapshot(),
            document.counts.all_counts(),
            document.digests(),
            columns,
            document.writer.pyarrow,
        )
    except ScopeError as error:
        raise ManifestError(f"{_NO_MANIFEST}: request.{error.parameter}: {error}") from None
    except ValidationError as error:
        raise ManifestError(f"{_NO_MANIFEST}: {first_error(error)}") from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise ManifestError(f"{_NO_MANIFEST}: {str(error)[:200]}") from None
