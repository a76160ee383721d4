"""The embedded stack starts, reports its errors, survives a restart and leaves no processes."""

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deploy.embedded import jars, services
from deploy.embedded.stack import Stack
from producers.producer import Producer
from runtime.clickhouse import connect
from runtime.errors import TallyError
from runtime.kafka import create_topics
from runtime.migrate import migrate
from runtime.ports import free_port, is_free
from runtime.process.children import ChildFailed
from runtime.settings import Settings
from runtime.stack_file import process_exists
from tests.cli_lab import is_running
from tests.lab import Lab, click, reading
from tests.waiting import eventually


def failure_of(stack: Stack) -> str:
    """Return the stack's error for a dead service; empty while all run."""
    try:
        stack.check()
    except ChildFailed as failure:
        return str(failure)
    return ""


async def test_data_survives_a_restart_beside_another_stack(stack: Stack, tmp_path: Path) -> None:
    """The session's stack runs all the while: two side by side."""
    base = Settings(data_dir=tmp_path, partitions=2)
    with Stack(base) as first:
        settings = first.settings()
        await create_topics(settings)
        await migrate(settings)
        async with Producer(settings) as producer:
            receipt = await producer.emit(click())
        pids = [first.pid(name) for name in ("kafka", "redis", "clickhouse")]
        assert not set(pids) & {stack.pid(name) for name in ("kafka", "redis", "clickhouse")}
    assert not any(map(is_running, pids))
    with Stack(base) as second:
        settings = second.settings()
        async with reading(settings, settings.topic) as records:
            (record,) = records
            assert receipt.interaction_id.encode() in (record.value or b"")
        async with connect(settings) as database:
            assert await database.rows("SELECT count() FROM interactions") == [(0,)]


def test_a_data_directory_has_one_stack(stack: Stack) -> None:
    with pytest.raises(TallyError, match="already runs"), Stack(Settings(data_dir=stack.log_dir.parent)):
        pass


def test_a_failed_service_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Stack(Settings(data_dir=tmp_path)) as own:
        os.kill(own.pid("redis"), signal.SIGKILL)
        eventually(lambda: failure_of(own) != "")
        assert re.search(r"redis was ended by signal 9; the end of .*redis\.log:(.|\n)*Ready", failure_of(own))
        own.restart("redis")
        own.check()


def test_a_service_that_cannot_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "valkey").mkdir()
    (tmp_path / "valkey" / "dump.rdb").write_bytes(b"this is no snapshot")
    with pytest.raises(ChildFailed, match=r"redis exited with 1 while starting(.|\n)*Wrong signature"):
        Stack(Settings(data_dir=tmp_path)).__enter__()


def ports_of(stack: Stack) -> dict[str, int | None]:
    """The ports of a stack's services, by the addresses that other commands use."""
    endpoints = stack.stack_file().endpoints
    urls = {"kafka": f"kafka://{endpoints.kafka}", "redis": endpoints.redis, "clickhouse": endpoints.clickhouse}
    return {name: urlsplit(url).port for name, url in urls.items()}


def test_a_restart_keeps_ports_and_replaces_one_that_is_taken(tmp_path: Path) -> None:
    """Another program listens on ClickHouse's port at the second start, and no more at the third."""
    with Stack(Settings(data_dir=tmp_path)) as first:
        before = ports_of(first)
        assert len(set(before.values())) == 3
    lines: list[str] = []
    occupied = socket.create_server(("127.0.0.1", before["clickhouse"] or 0))
    with occupied, Stack(Settings(data_dir=tmp_path), lines.append) as second:
        second.check()
        moved = ports_of(second)
    assert moved == before | {"clickhouse": moved["clickhouse"]} != before
    assert f"port {before['clickhouse']} is taken: clickhouse uses {moved['clickhouse']} from now on" in lines
    lines.clear()
    with Stack(Settings(data_dir=tmp_path), lines.append) as third:
        assert ports_of(third) == moved
    assert not [line for line in lines if "taken" in line]


def test_a_port_that_is_taken_after_it_was_found_free_is_replaced(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Valkey's, the third that is chosen: a program takes it before Valkey listens."""
    taken = ports_of(stack)["redis"]
    found = itertools.chain([free_port(), free_port(), taken], iter(free_port, None))
    free = itertools.chain([True] * 4, iter(lambda: None, 0))
    monkeypatch.setattr("deploy.embedded.port_file.free_port", lambda: next(found))
    monkeypatch.setattr(
        "deploy.embedded.port_file.is_free", lambda port: is_free(port) if (fixed := next(free)) is None else fixed
    )
    with Stack(Settings(data_dir=tmp_path)) as other:
        other.check()
        assert taken not in ports_of(other).values()


@pytest.mark.parametrize("content", ['{"kafka": "many"}', '{"kafka": 0}', '{"kafka": 65536}', '{"kafka": true}', ""])
def test_a_damaged_file_of_ports_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "ports.json").write_text(content)
    with pytest.raises(TallyError, match=r"ports\.json cannot be read: delete it"):
        Stack(Settings(data_dir=tmp_path)).__enter__()


def test_no_process_is_left_when_the_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom deploy.embedded.stack import Stack\n"
        "from runtime.settings import Settings\n"
        f"with Stack(Settings(data_dir=Path({str(tmp_path)!r}))) as stack:\n"
        "    print(*(stack.pid(name) for name in ('kafka', 'redis', 'clickhouse')), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 3
    assert all(map(is_running, pids))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    eventually(lambda: not any(map(is_running, pids)))


def test_a_jar_that_is_not_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forged = tmp_path / "lock.txt"
    forged.write_text(f"org.slf4j:slf4j-api:1.7.36 {'0' * 64}\n")
    monkeypatch.setattr(jars, "LOCK_FILE", forged)
    with pytest.raises(TallyError, match="instead of the pinned 0000"):
        jars.fetch(tmp_path / "cache", lambda _line: None)
    assert not list((tmp_path / "cache").rglob("*.jar"))


@pytest.mark.skipif("JAVA_HOME" in os.environ, reason="the class cache is that of the packaged Java")
def test_kafka_reads_its_class_cache(stack: Stack) -> None:
    """`make` makes it. Java maps it only if it fits the jars and Java itself."""
    assert str(services.CLASS_CACHE) in Path(f"/proc/{stack.pid('kafka')}/maps").read_text()


def test_kafka_starts_with_a_class_cache_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formatting its log directory is a start of Java with the same options."""
    damaged = tmp_path / "kafka.aot"
    damaged.write_bytes(b"this is no cache")
    monkeypatch.setattr(services, "CLASS_CACHE", damaged)
    folder = jars.fetch(Settings().cache_dir, lambda _line: None)
    assert f"-XX:AOTCache={damaged}" in services.kafka_service(tmp_path, folder, free_port(), free_port()).command
    assert (tmp_path / "kafka" / "data" / "meta.properties").exists()


def test_a_java_home_without_java_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(TallyError, match="JAVA_HOME"):
        Stack(Settings(data_dir=tmp_path / "data")).__enter__()


def test_an_ended_process_does_not_exist() -> None:
    assert process_exists(os.getpid())
    assert not process_exists(2**22 + 1)


async def test_each_test_has_a_topic_of_its_own(lab: Lab) -> None:
    await lab.emit(click())
    async with reading(lab.settings, lab.settings.topic) as records:
        assert len(records) == 1
