"""Class cache of Kafka: its classes as Java loads and links them, read at a start instead of being made again.

`python -m deploy.embedded.class_cache` makes it, once after an installation. Kafka starts without it as well. Java
ignores the cache of other jars or of another Java.
"""

import dataclasses
import os
import sys
import tempfile
from pathlib import Path

from deploy.embedded import jars
from deploy.embedded.services import CLASS_CACHE, Service, kafka_service, wait_until
from runtime.errors import TallyError
from runtime.ports import free_port
from runtime.process.children import Children
from runtime.settings import Settings

STOP_TIMEOUT_S = 120
"""Timeout of Kafka's stop, during which Java writes the cache."""
_FAST_START = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""Options that halve the cost of the cache. It serves other compilers and collectors as well."""


def make(cache_dir: Path, progress: jars.ReportProgress) -> None:
    """Start and stop Kafka once, and write its class cache of 70 MB. With JAVA_HOME there is none.

    Raises TallyError when a jar cannot be downloaded, or Kafka does not start.
    """
    if os.environ.get("JAVA_HOME"):
        return
    folder = jars.fetch(cache_dir, progress)
    CLASS_CACHE.parent.mkdir(parents=True, exist_ok=True)
    CLASS_CACHE.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=CLASS_CACHE.parent) as scratch:
        written = Path(scratch, CLASS_CACHE.name)
        service = kafka_service(Path(scratch), folder, free_port(), free_port())
        java, *options = service.command
        command = (java, *_FAST_START, f"-XX:AOTCacheOutput={written}", *options)
        _run(dataclasses.replace(service, command=command), Path(scratch))
        written.replace(CLASS_CACHE)


def _run(service: Service, folder: Path) -> None:
    children = Children()
    try:
        child = service.start(children, folder / "kafka.log")
        if not wait_until(service.answers, lambda: child.exit_code is None, service.start_timeout_s):
            raise child.failure("did not start")
        children.stop(child, STOP_TIMEOUT_S)
    finally:
        children.close()


def main() -> None:
    """Make the cache; without it, say why."""
    try:
        make(Settings().cache_dir, _say)
    except (TallyError, OSError) as error:
        _say(f"Kafka starts without a class cache: {error}")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
