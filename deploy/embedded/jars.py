"""Jars pinned by version and SHA-256 in a lock file, and downloaded once. Kafka's are in `kafka-jars.txt`.

Pin a new Kafka: `python -m deploy.embedded.jars org.apache.kafka:kafka_2.13:4.4.1 > deploy/embedded/kafka-jars.txt`.
"""

import hashlib
import logging
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import jgo
import requests
import truststore
from jgo.maven import MavenContext

from runtime.errors import TallyError

LOCK_FILE = Path(__file__).parent / "kafka-jars.txt"
LOG_BINDING = "log4j-slf4j-impl"
"""SLF4J back end. Jars that log by log4j, as Kafka's, declare none, and would log nothing without it."""

DOWNLOADS_AT_ONCE = 4
TRIES = 3
TIMEOUT_S = 30
JARS_PER_REPORT = 10

ReportProgress = Callable[[str], None]


class Jar(NamedTuple):
    """Pinned jar."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """File name of the jar."""
        return f"{self.artifact}-{self.version}.jar"


def pinned_jars(lock_file: Path) -> list[Jar]:
    """Return the jars of a lock file."""
    jars = []
    for line in lock_file.read_text().splitlines():
        if not line.startswith("#"):
            coordinates, sha256 = line.split()
            group, artifact, version = coordinates.split(":")
            jars.append(Jar(group, artifact, version, sha256))
    return jars


def fetch(cache_dir: Path, progress: ReportProgress) -> Path:
    """Download missing jars of the embedded Kafka, and return the folder with every pinned one; see `fetch_pinned`."""
    return fetch_pinned("Kafka", LOCK_FILE, 43, cache_dir, progress)


def fetch_pinned(name: str, lock_file: Path, size_mb: int, cache_dir: Path, progress: ReportProgress) -> Path:
    """Download missing jars, and return the folder with every pinned jar. Safe to interrupt and to repeat.

    `name` and `size_mb` are for messages and for the folder's name. Raises TallyError when a jar cannot be downloaded,
    or does not match its SHA-256.
    """
    folder = cache_dir / f"{name.lower()}-{hashlib.sha256(lock_file.read_bytes()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    jars = pinned_jars(lock_file)
    missing = [jar for jar in jars if not (folder / jar.file_name).exists()]
    if not missing:
        return folder
    progress(f"{name}: fetching {len(missing)} of {len(jars)} jars ({size_mb} MB in all, once)")
    logging.getLogger("jgo").setLevel(logging.ERROR)
    truststore.inject_into_ssl()  # trusts this machine's certificates, like pip, not only certifi's list
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        try:
            running = [pool.submit(_fetch_one, jar, folder) for jar in missing]
            for done, future in enumerate(as_completed(running), 1):
                future.result()
                if done % JARS_PER_REPORT == 0 or done == len(missing):
                    progress(f"{name}: {done} of {len(missing)} jars fetched")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return folder


def _fetch_one(jar: Jar, folder: Path) -> None:
    """Download into a temporary folder and move the verified file, so `folder` never holds a partial jar."""
    for attempt in range(1, TRIES + 1):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            maven = MavenContext(repo_cache=Path(scratch), timeout=TIMEOUT_S)
            try:
                path = maven.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
            except (requests.RequestException, RuntimeError) as error:
                if attempt == TRIES:
                    raise TallyError(f"cannot fetch {jar.file_name} from Maven Central: {error}") from error
                continue
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found != jar.sha256:
                raise TallyError(f"{jar.file_name} has SHA-256 {found} instead of the pinned {jar.sha256}")
            path.replace(folder / jar.file_name)
            return


def lock(*coordinates: str) -> str:
    """Resolve `group:artifact:version` coordinates and return the text of their lock file."""
    artifacts = list(jgo.resolve("+".join(coordinates)))
    bindings = [
        artifact.context.project(artifact.groupId, LOG_BINDING).at_version(artifact.version).artifact()
        for artifact in artifacts
        if artifact.artifactId == "log4j-core"
    ]
    rows = []
    for artifact in (*artifacts, *bindings):
        sha256 = hashlib.sha256(artifact.resolve().read_bytes()).hexdigest()
        rows.append(f"{artifact.groupId}:{artifact.artifactId}:{artifact.version} {sha256}")
    return "\n".join([f"# {' '.join(coordinates)} and what they need at run time", *sorted(rows)]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(lock(*sys.argv[1:]))
