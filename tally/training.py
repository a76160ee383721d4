"""Training sets as files: each appears under its name once all are complete, with its manifest."""

import hashlib
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple

from learning.training import Progress, take_snapshot, write_training
from learning.training_formats import DigestFile, FileDigest, suffixes_of
from learning.training_manifest import (
    MANIFEST_SUFFIX,
    MAX_MANIFEST_BYTES,
    Manifest,
    ManifestError,
    manifest_of,
    parse_manifest,
)
from learning.training_request import TrainingRequest
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from tally.output_file import check_target, complete_file

FileState = Literal["same", "changed", "gone"]
_PIECE_BYTES = 1024 * 1024


class TrainingExport(NamedTuple):
    """Training set in files."""

    manifest: Manifest
    manifest_file: Path
    seconds: float


def manifest_path(output: Path) -> Path:
    """Return the path of a training set's manifest."""
    return output.with_name(f"{output.name}{MANIFEST_SUFFIX}")


async def export_training(
    settings: Settings,
    database: ClickHouse,
    request: TrainingRequest,
    output: Path,
    report: Progress,
    *,
    force: bool,
) -> TrainingExport:
    """Write a training set and its manifest.

    The manifest gets its name before the files get theirs: no file is without one, and after a crash between the two
    `tally export verify` says that files are missing. Raises TallyError for a file that exists, unless `force`;
    Refusal, RangeTooLarge, Unavailable.
    """
    began = time.monotonic()
    paths = {suffix: output.with_name(f"{output.name}{suffix}") for suffix in suffixes_of(request)}
    for path in (*paths.values(), manifest_path(output)):
        check_target(path, force=force)
    snapshot = await take_snapshot(settings, database, request)
    with ExitStack() as opened:
        files = {
            suffix: DigestFile(suffix, opened.enter_context(complete_file(path, force=force)))
            for suffix, path in paths.items()
        }
        written = await write_training(settings, database, request, snapshot, files, report)
        manifest = manifest_of(request, snapshot, written, output.name)
        with complete_file(manifest_path(output), force=force) as file:
            file.write(manifest.text().encode())
    return TrainingExport(manifest, manifest_path(output), round(time.monotonic() - began, 3))


def read_manifest(path: Path) -> Manifest:
    """Read a manifest. Raises ManifestError."""
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ManifestError(f"{path}: a manifest has at most {MAX_MANIFEST_BYTES:,} bytes")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ManifestError(f"{path}: not a manifest of a training set") from None
    try:
        return parse_manifest(text)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None


def states_of(path: Path, manifest: Manifest) -> dict[str, FileState]:
    """Return the state of each file of a training set, which are in the folder of the manifest at `path`."""
    return {name: _state(path.with_name(Path(name).name), digest) for name, digest in manifest.files}


def _state(path: Path, digest: FileDigest) -> FileState:
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                found.update(piece)
    except OSError:
        return "gone"
    return "same" if found.hexdigest() == digest.sha256 else "changed"
