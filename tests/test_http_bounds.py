"""Bounds of the HTTP service one by one; `tests/test_hostile_http.py` has them together, in a running process."""

import asyncio
import io
import json
import logging
import socket
import subprocess
import sys
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.boundary import count_commas
from runtime import log
from runtime.http.errors import MAX_PROBLEMS, invalid, problem
from runtime.http.turns import SMALL_BYTES, STARTED_TOGETHER, StartQueue, TurnQueue
from runtime.ports import free_port
from schemas.json_bounds import depth_of_text
from schemas.rejection import Rejection
from schemas.validator import MOST_UNKNOWN_KEYS, validate, validate_request

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('a,"\\[]{}é')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.sampled_from('a,"\\[]{}é')), inner),
)


def commas_by_hand(text: str) -> tuple[int, int]:
    """The commas inside one and inside two brackets, character by character."""
    found, depth, in_text, is_escaped = {1: 0, 2: 0}, 0, False, False
    for character in text:
        if in_text:
            in_text = is_escaped or character != '"'
            is_escaped = character == "\\" and not is_escaped
        elif character == '"':
            in_text = True
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth in found:
            found[depth] += 1
    return found[1], found[2]


@given(JSON, st.booleans())
def test_members_are_counted_without_parsing(value: Any, ascii_only: bool) -> None:
    """Commas are counted inside their brackets, for any content of strings."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert count_commas(text.encode()) == commas_by_hand(text)


@given(st.binary())
def test_members_of_any_bytes_can_be_counted(body: bytes) -> None:
    """Invalid JSON gives a number as well, and nothing outside of it is read."""
    assert sum(count_commas(body)) <= body.count(b",")


@given(JSON)
def test_the_depth_of_a_large_text_is_that_of_a_small_one(value: Any) -> None:
    """Both ways of measuring depth agree."""
    text = json.dumps([value])
    assert depth_of_text(text + " " * 5_000) == depth_of_text(text)


@given(st.integers(0, 3_000))
def test_unknown_keys_are_named_up_to_a_bound_and_counted(count: int) -> None:
    """However many keys an event has, a bounded number of problems tells of all of them."""
    event = {"feature_id": "f", "interaction_type": ["view"], "position": 0} | {f"k{n}": n for n in range(count)}
    refused = validate_request(json.dumps(event).encode())
    if not count:
        assert not isinstance(refused, Rejection)
        return
    rejections = [each for each in refused if isinstance(each, Rejection)]
    assert {each.reason for each in rejections} == {"unknown_field"}
    named = [each.field for each in rejections if each.field]
    assert named == [f"k{n}" for n in range(len(named))]
    left_out = sum(int(each.message.split()[0]) for each in rejections if not each.field)
    assert len(named) + left_out == count
    assert len(named) <= MOST_UNKNOWN_KEYS or count < MOST_UNKNOWN_KEYS + 20
    assert isinstance(validate(json.dumps(event).encode()), Rejection)


@given(
    st.lists(st.tuples(st.lists(st.text() | st.integers(), max_size=200), st.text()), min_size=1, max_size=50),
    st.integers(1, 100_000),
)
def test_the_length_of_an_error_is_bounded(problems: list[tuple[list[str | int], str]], factor: int) -> None:
    """Names and messages are truncated, and problems above a maximum number are only counted."""
    long = [
        problem("x", [each * factor if isinstance(each, str) else each for each in where], what * factor)
        for where, what in problems
    ]
    error = invalid(long, more=7)
    assert len(error.details["validation_errors"]) <= MAX_PROBLEMS
    assert f"(and {len(problems) + 6} more errors)" in error.message
    assert all(len(each["message"]) <= 1_000 for each in long)
    assert all(len(place) <= 1_000 for each in long for place in each["location"] if isinstance(place, str))


async def test_large_pieces_of_work_run_in_separate_rounds() -> None:
    """Between two large pieces the event loop runs other tasks; small pieces do not wait."""
    turns, rounds, seen, counting = TurnQueue(), 0, list[int](), True
    loop = asyncio.get_running_loop()

    def count() -> None:
        nonlocal rounds
        rounds += 1
        if counting:
            loop.call_soon(count)

    count()
    await asyncio.gather(*(turns.run(SMALL_BYTES + 1, lambda: seen.append(rounds)) for _ in range(50)))
    assert len(set(seen)) == 50
    seen.clear()
    await asyncio.gather(*(turns.run(SMALL_BYTES, lambda: seen.append(rounds)) for _ in range(50)))
    assert len(set(seen)) == 1
    counting = False  # the tests share one event loop, which would run without a pause until the last of them
    with pytest.raises(ZeroDivisionError):
        await turns.run(SMALL_BYTES + 1, lambda: 1 // 0)
    assert await turns.run(SMALL_BYTES + 1, lambda: "the next one") == "the next one"


async def test_requests_that_arrive_together_start_in_rounds() -> None:
    """A thousand requests start in their order, at most STARTED_TOGETHER of them in one round of the event loop."""
    starts, rounds = StartQueue(), 0
    loop = asyncio.get_running_loop()
    started: list[tuple[int, int]] = []
    ended = asyncio.Event()

    def count() -> None:
        nonlocal rounds
        rounds += 1
        if len(started) < 1_000:
            loop.call_soon(count)
        else:
            ended.set()

    count()
    for number in range(1_000):
        starts.start(loop, partial(lambda each: started.append((each, rounds)), number))
    await ended.wait()
    assert [number for number, _ in started] == list(range(1_000))
    assert max(Counter(round_ for _, round_ in started).values()) == STARTED_TOGETHER
    starts.start(loop, partial(started.append, (-1, 0)))
    assert started[-1] == (-1, 0), "one alone does not wait"


def test_repeated_log_lines_are_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand errors of one kind are ten lines and their number; other lines and the access log continue."""
    now = 0.0
    monkeypatch.setattr("runtime.log.time", SimpleNamespace(monotonic=lambda: now))
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(log.FloodFilter(10))

    def say(name: str, line: int, text: str) -> None:
        handler.handle(logging.LogRecord(name, logging.ERROR, "file.py", line, text, (), None))

    for number in range(1_000):
        say("tally.api", 1, f"request {number} failed")
        say("uvicorn.error", 2, f"connection {number}")
        say(log.ACCESS, 3, f"access {number}")
    lines = written.getvalue().splitlines()
    counts = Counter(line.split()[0] for line in lines)
    assert counts == {"request": 10, "connection": 10, "access": 1_000}
    now = log.FLOOD_S + 1
    say("tally.api", 1, "request 1000 failed")
    assert "request 1000 failed (990 lines like this one were suppressed" in written.getvalue()


OUT_OF_FILES = """
import asyncio, os, resource, sys
from fastapi import FastAPI
from runtime import log
from runtime.http.server import ApiServer
from runtime.ports import listening_sockets
from runtime.settings import Settings

async def serve(port):
    server = ApiServer(FastAPI(), Settings())
    with listening_sockets("127.0.0.1", port) as sockets:
        serving = asyncio.create_task(server.serve(sockets))
        while not server.started:
            await asyncio.sleep(0.01)
        until_told, files = asyncio.create_task(asyncio.to_thread(sys.stdin.readline)), []
        await asyncio.sleep(0.1)
        try:
            while True:
                files.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            os.write(1, b"full\\n")
        await until_told
        for file in files:
            os.close(file)
        os.write(1, b"empty\\n")
        await asyncio.to_thread(sys.stdin.readline)
        server.stop()
        await serving

resource.setrlimit(resource.RLIMIT_NOFILE, (600, 600))
log.configure(max_lines=10)
asyncio.run(serve(int(sys.argv[1])))
"""


def test_a_process_out_of_descriptors_logs_a_line_and_serves_later_connections() -> None:
    """A process that cannot accept any more logs that in a line, without a stack trace, and accepts again later."""
    port = free_port()
    command = [sys.executable, "-c", OUT_OF_FILES, str(port)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "full\n"
        waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        logged = []
        while "ulimit -n" not in (line := process.stderr.readline()):
            logged.append(line)
            assert line, logged
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "empty\n"
        waiting[0].sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert waiting[0].recv(100).startswith(b"HTTP/1.1 404 ")
        for each in waiting:
            each.close()
        _, rest = process.communicate("\n", timeout=60)
        assert "Traceback" not in "".join(logged) + rest
        assert rest.count("ulimit -n") <= 10
        assert process.returncode == 0


@pytest.mark.parametrize(("soft", "hard", "served"), [(300, 20_000, 4_096), (600, 600, 152), (100, 100, 1)])
def test_connections_are_bounded_by_the_open_file_limit(soft: int, hard: int, served: int) -> None:
    """The soft limit is raised as far as the system allows; if that is too little, a line is logged."""
    program = (
        "import logging, resource\n"
        f"logging.basicConfig(); resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "from runtime.http.connection_limits import ConnectionLimits, within_descriptors\n"
        "from runtime.settings import Settings\n"
        "limits = within_descriptors(ConnectionLimits.of(Settings()))\n"
        "print(limits.connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    connections, files = map(int, done.stdout.split())
    assert connections == served
    assert files == min(hard, 4_544)
    assert ("TALLY_HTTP_CONNECTIONS" in done.stderr) == (served < 4_096)
