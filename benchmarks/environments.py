"""Environments of peers: packages and jars that must not enter the project's own lock files.

They are created at first use, below the folder of results.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from deploy.embedded import jars
from deploy.embedded.services import TEMPLATES
from runtime.errors import TallyError

PEERS = Path(__file__).parent / "peers"

PACKAGES = {
    "engine": ("chdb==3.7.2",),
    "quix": ("quixstreams==3.28.0", "clickhouse-connect>=1.12,<2"),
    "confluent": ("confluent-kafka==2.16.1",),
    "clax": ("clax-models==0.1.1", "jax==0.7.2", "jaxlib==0.7.2"),
    "pathway": ("pathway==0.33.0", "clickhouse-connect>=1.12,<2"),
    "obp": ("numpy>=2,<3", "pandas>=2", "scikit-learn>=1.5,<2"),
    "bandits": ("mabwiser==2.7.4", "numpy>=2,<3", "vowpalwabbit==9.11.9"),
}

JAVA_OPTIONS = ("-Xmx2g", "-XX:+UseParallelGC")
"""Heap that never fills, and the collector that took the least CPU time."""

FLINK_MB, CONNECT_MB = 72, 19


class PeerUnavailable(TallyError):
    """Peer whose environment cannot be prepared; the message gives the reason."""


class Environment(NamedTuple):
    """Interpreter and script of a peer, and the options that its environment adds."""

    python: Path
    script: Path
    options: dict[str, object]


def prepare(peer: str, folder: Path, cache_dir: Path) -> Environment:
    """Create the environment of a peer below `folder` if it is missing. Raises PeerUnavailable.

    `cache_dir` holds the jars of the embedded Kafka.
    """
    return _PREPARATIONS[peer](folder, cache_dir)


def _naive(_folder: Path, _cache_dir: Path) -> Environment:
    return Environment(Path(sys.executable), PEERS / "naive.py", {})


def _engine(folder: Path, _cache_dir: Path) -> Environment:
    return Environment(_python_of("engine", folder), PEERS / "engine.py", {})


def _quix(folder: Path, _cache_dir: Path) -> Environment:
    return Environment(_python_of("quix", folder), PEERS / "quix.py", {})


def _confluent(folder: Path, _cache_dir: Path) -> Environment:
    # Not confluent.py, like pathway_job.py below.
    return Environment(_python_of("confluent", folder), PEERS / "confluent_producer.py", {})


def _clax(folder: Path, _cache_dir: Path) -> Environment:
    return Environment(_python_of("clax", folder), PEERS / "clax_propensities.py", {})


def _pathway(folder: Path, _cache_dir: Path) -> Environment:
    # Not pathway.py: the script's folder is searched first, and the package has that name.
    return Environment(_python_of("pathway", folder), PEERS / "pathway_job.py", {})


def _obp(folder: Path, _cache_dir: Path) -> Environment:
    return Environment(_python_of("obp", folder), PEERS / "obp_estimates.py", {})


def _bandits(folder: Path, _cache_dir: Path) -> Environment:
    return Environment(_python_of("bandits", folder), PEERS / "bandits.py", {})


def _flink(folder: Path, _cache_dir: Path) -> Environment:
    java, compiler = _program("java"), _program("javac")
    found = _jars("Flink", PEERS / "flink-jars.txt", FLINK_MB, folder)
    classes = folder / "flink-classes"
    options = ["-nowarn", "-d", str(classes), "-cp", f"{found}/*", *map(str, PEERS.glob("*.java"))]
    done = subprocess.run([compiler, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerUnavailable(f"javac (17 or newer is needed) refused the job: {done.stderr.strip()}")
    run = [java, *JAVA_OPTIONS, "-cp", f"{classes}:{found}/*", "FlinkJob"]
    return Environment(Path(sys.executable), PEERS / "flink.py", {"run": run})


def _connect(folder: Path, cache_dir: Path) -> Environment:
    java, plugins = _program("java"), folder / "connect-plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    if not any(plugins.rglob("clickhouse-kafka-connect*.jar")):
        raise PeerUnavailable(
            f"the sink is not on Maven Central: unpack a release of clickhouse-kafka-connect into {plugins}"
        )
    kafka = jars.fetch(cache_dir, print)
    found = _jars("Connect", PEERS / "connect-jars.txt", CONNECT_MB, folder)
    logs = f"-Dlog4j2.configurationFile={TEMPLATES / 'log4j2.properties'}"
    run = [java, *JAVA_OPTIONS, logs, "-cp", f"{kafka}/*:{found}/*", "org.apache.kafka.connect.cli.ConnectStandalone"]
    return Environment(Path(sys.executable), PEERS / "connect.py", {"run": run, "plugins": str(plugins)})


_PREPARATIONS: dict[str, Callable[[Path, Path], Environment]] = {
    "engine": _engine,
    "quix": _quix,
    "naive": _naive,
    "flink": _flink,
    "confluent": _confluent,
    "clax": _clax,
    "pathway": _pathway,
    "connect": _connect,
    "obp": _obp,
    "bandits": _bandits,
}


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise PeerUnavailable(f"no {name} on the PATH: install a JDK, 17 or newer")
    return found


def _jars(name: str, lock_file: Path, size_mb: int, folder: Path) -> Path:
    try:
        return jars.fetch_pinned(name, lock_file, size_mb, folder, print)
    except TallyError as failed:
        raise PeerUnavailable(str(failed)) from failed


def _python_of(peer: str, folder: Path) -> Path:
    """Return the interpreter of a peer's environment, which is created if missing."""
    home = folder / peer
    python = home / "bin" / "python"
    ready = home / "ready"
    if not ready.exists():
        print(f"creating the environment of {peer} (once)", flush=True)
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
            subprocess.run([*pip, *PACKAGES[peer]], check=True)
        except subprocess.CalledProcessError as failed:
            raise PeerUnavailable(f"pip cannot install {', '.join(PACKAGES[peer])}: {failed}") from failed
        ready.touch()
    return python
