"""Kafka's jars, pinned by version and SHA-256 in `kafka-jars.txt`, and downloaded once into the cache directory.

Pin a new Kafka: `python -m deploy.embedded.jars 4.4.1 > deploy/embedded/kafka-jars.txt`.
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
KAFKA = "org.apache.kafka:kafka_2.13"
LOG_BINDING = "log4j-slf4j-impl"
"""SLF4J back end. Kafka's jars declare none, and would log nothing without it."""

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


def pinned_jars() -> list[Jar]:
    """Return the pinned jars of the embedded Kafka."""
    jars = []
    for line in LOCK_FILE.read_text().splitlines():
        if not line.startswith("#"):
            coordinates, sha256 = line.split()
            group, artifact, version = coordinates.split(":")
            jars.append(Jar(group, artifact, version, sha256))
    return jars


def fetch(cache_dir: Path, progress: ReportProgress) -> Path:
    """Download missing jars, and return the folder with every pinned jar. Safe to interrupt and to repeat.

    Raises TallyError when a jar cannot be downloaded, or does not match its SHA-256.
    """
    folder = cache_dir / f"kafka-{hashlib.sha256(LOCK_FILE.read_bytes()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    jars = pinned_jars()
    missing = [jar for jar in jars if not (folder / jar.file_name).exists()]
    if not missing:
        return folder
    progress(f"Kafka: fetching {len(missing)} of {len(jars)} jars (43 MB in all, once)")
    logging.getLogger("jgo").setLevel(logging.ERROR)
    truststore.inject_into_ssl()  # trusts this machine's certificates, like pip, not only certifi's list
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        try:
            running = [pool.submit(_fetch_one, jar, folder) for jar in missing]
            for done, future in enumerate(as_completed(running), 1):
                future.result()
                if done % JARS_PER_REPORT == 0 or done == len(missing):
                    progress(f"Kafka: {done} of {len(missing)} jars fetched")
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


def lock(version: str) -> str:
    """Resolve a Kafka version and return the text of its lock file."""
    artifacts = list(jgo.resolve(f"{KAFKA}:{version}"))
    (log4j,) = [artifact for artifact in artifacts if artifact.artifactId == "log4j-core"]
    binding = log4j.context.project(log4j.groupId, LOG_BINDING).at_version(log4j.version).artifact()
    rows = []
    for artifact in (*artifacts, binding):
        sha256 = hashlib.sha256(artifact.resolve().read_bytes()).hexdigest()
        rows.append(f"{artifact.groupId}:{artifact.artifactId}:{artifact.version} {sha256}")
    return "\n".join([f"# {KAFKA}:{version} and what it needs at run time", *sorted(rows)]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(lock(sys.argv[1]))
