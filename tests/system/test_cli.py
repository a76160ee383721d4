"""The command line against `tally up`: commands in this process, and processes where a test is about processes."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from runtime.errors import Fatal, SettingsError, Unavailable
from runtime.ports import free_port, responds_to_http
from runtime.settings import without_password
from runtime.stack_file import StackPhase
from tally.cli import INTERRUPTED
from tests.cli_lab import CLEAN, TALLY, Running, command, is_running
from tests.waiting import eventually


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run `tally up --no-demo` for the tests of this file; it ends with Ctrl-C and must leave nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        running = Running(tmp_path_factory.mktemp("up") / "data", "--no-demo", "--workers", "2", "--port", str(port))
        try:
            eventually(running.is_ready)
            assert f"port {port} is taken: api uses" in running.output()
            yield running
            pids = running.pids()
        finally:
            running.process.send_signal(signal.SIGINT)
            assert running.process.wait(60) == INTERRUPTED, running.output()
        assert not any(map(is_running, pids))
        assert "stopping" in running.output()
        assert "Traceback" not in running.output()


def test_status_as_json_is_complete(up: Running) -> None:
    status = up.json("status")
    assert status["ready"] is True
    assert set(status["pids"]) == {"kafka", "redis", "clickhouse", "api", "console", "workers"}
    assert all(map(is_running, up.pids()))
    assert len(status["pids"]["workers"]) == 2
    assert set(status["endpoints"]) == {"kafka", "redis", "clickhouse", "api", "console"}
    assert (status["topic"], status["dead_letter_topic"]) == ("interactions", "interactions.dead-letters")
    assert (status["database"], status["table"]) == ("tally", "interactions")
    assert len(status["partitions"]) == 8


def test_the_console_is_started_named_first_and_reached_from_the_api(up: Running) -> None:
    endpoints = up.json("status")["endpoints"]
    addresses = up.output().split("Ctrl-C stops it\n")[1]
    assert addresses.split()[:2] == ["console", endpoints["console"]]
    led_to = httpx.get(endpoints["api"])
    assert (led_to.status_code, led_to.headers["location"]) == (307, endpoints["console"])
    with httpx.Client(base_url=endpoints["console"]) as browser:
        assert browser.get("/ready").json() == {"ready": True}
        key = up.json("status", "--show-secrets")["key"]
        assert browser.post("/sign-in", data={"key": key}).headers["location"] == "/"
        assert "Workers" in browser.get("/overview/pipeline").text


def test_the_console_is_served_alone(up: Running) -> None:
    with subprocess.Popen(
        [TALLY, "serve", "console", "--port", str(port := free_port()), "--data-dir", str(up.data_dir)],
        stderr=subprocess.PIPE,
        text=True,
        env=CLEAN,
    ) as serving:
        eventually(lambda: responds_to_http(f"http://127.0.0.1:{port}/ready"))
        serving.send_signal(signal.SIGINT)
        assert serving.wait(20) in (0, INTERRUPTED)
        assert serving.stderr is not None
        assert "Traceback" not in serving.stderr.read()
    nowhere = command("serve", "console", "--data-dir", str(up.data_dir / "nowhere"))
    assert "TALLY_CONSOLE_API is not set" in nowhere.stderr
    assert nowhere.returncode == SettingsError.exit_code


def test_keys_and_passwords_are_shown_when_asked_for(up: Running) -> None:
    found = up.json("status", "--show-secrets")
    credentials = json.loads((up.data_dir / "credentials.json").read_text())
    assert found["key"] == credentials["api_key"]
    shown = up.tally("status", "--show-secrets").stdout
    for name, secret in credentials.items():
        assert secret in shown, name
        for answer in (up.tally("status").stdout, up.tally("status", "--json").stdout):
            assert secret not in answer, name
    for user in ("clickhouse", "analyst"):
        url = found["endpoints"][user]
        assert httpx.get(url, params={"query": "SELECT count() FROM tally.interactions"}).status_code == 200


def test_no_secret_is_in_a_log_an_argument_or_a_file_for_others(up: Running) -> None:
    secrets = json.loads((up.data_dir / "credentials.json").read_text()).values()
    logs = {path.name: path.read_text() for path in (up.data_dir / "logs").iterdir()} | {"up": up.output()}
    assert {"kafka.log", "redis.log", "clickhouse.log", "api.log", "console.log", "worker-0.log"} <= set(logs)
    arguments = {str(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in [*up.pids(), up.process.pid]}
    for where, text in (logs | arguments).items():
        assert not [secret for secret in secrets if secret in text], where
    for path in (up.data_dir, *up.data_dir.rglob("*")):
        if path.exists() and not path.is_symlink():
            assert path.stat().st_mode & 0o077 == 0, path


def test_an_emitted_event_can_be_looked_up(up: Running) -> None:
    lines = '{"feature_id": "d", "interaction_type": ["click"], "position": 0}\n\nnot json\n'
    done = up.tally("emit", "-", "--json", given=lines)
    assert done.returncode == 1, "one line was refused"
    assert re.fullmatch(r"line 3: not_json: .*\n1 accepted, 1 refused in \d+\.\d s\n", done.stderr)
    receipt = json.loads(done.stdout)
    assert set(receipt) == {"interaction_id", "timestamp", "partition", "offset", "warning"}

    eventually(lambda: up.tally("lookup", receipt["interaction_id"]).returncode == 0)
    found = up.json("lookup", receipt["interaction_id"])
    assert (found["outcome"], found["record"]["feature_id"]) == ("stored", "d")

    status = up.json("status")
    url = f"{status['endpoints']['api']}/v1/retrievers/interactions/{receipt['interaction_id']}"
    answer = httpx.get(url, headers={"Authorization": f"Bearer {up.key()}"})
    assert answer.json() == found["record"]


def test_a_receipt_names_partition_and_offset(up: Running) -> None:
    lines = '{"feature_id": "d", "interaction_type": ["click"], "position": 0}\n' * 2
    done = up.tally("emit", "-", given=lines)
    assert done.returncode == 0
    assert re.fullmatch(r"(int_[0-9a-f]{32}  partition \d offset \d+\n){2}", done.stdout)
    assert re.fullmatch(r"2 accepted, 0 refused in \d+\.\d s\n", done.stderr)


def test_up_prints_every_address_and_the_next_command(up: Running) -> None:
    endpoints, said = up.json("status", "--show-secrets")["endpoints"], up.output()
    for address in (endpoints["api"], f"{endpoints['api']}/docs", endpoints["kafka"], str(up.data_dir)):
        assert f" {address}" in said
    for url in (endpoints["redis"], endpoints["analyst"]):
        assert f" {without_password(url)} " in said.replace("\n", " ")
    activate, here = Path(TALLY).with_name("activate"), Path.cwd()
    activate = activate.relative_to(here) if activate.is_relative_to(here) else activate
    assert f"next, in a second terminal: source {activate} && tally connect --data-dir {up.data_dir}\n" in said
    assert httpx.get(f"{endpoints['api']}/docs").status_code == 200


def test_a_statement_runs_as_the_analyst_of_the_stack(up: Running) -> None:
    assert int(up.tally("sql", "SELECT count() >= 0 FROM interactions", "--format", "jsonl").stdout[-3]) == 1
    refused = up.tally("sql", "SELECT * FROM api_keys")
    assert "Not enough privileges" in refused.stderr
    found = up.json("connect")
    assert (found["clickhouse"]["user"], found["clickhouse"]["read_only"]) == ("analyst", True)
    assert found["api"]["url"] == up.json("status")["endpoints"]["api"]


def test_an_own_clickhouse_is_not_read_with_the_analyst_of_a_stack(up: Running) -> None:
    own = CLEAN | {"TALLY_CLICKHOUSE": "http://me:mine@127.0.0.1:9"}
    done = command("sql", "SELECT 1", "--data-dir", str(up.data_dir), env=own)
    assert "TALLY_CLICKHOUSE" in done.stderr
    assert done.returncode == Unavailable.exit_code


def test_importing_twice_stores_once(up: Running) -> None:
    command = ("import", "open-bandit", "--policy", "bts", "--campaign", "men", "--limit", "500")
    none = {"rejected": 0, "deleted": 0, "moved": 0, "pending": 0, "failed": 0}
    assert up.json(*command) == {"accepted": 500, "stored": 500, "duplicates": 0} | none
    assert up.json(*command) == {"accepted": 500, "stored": 0, "duplicates": 500} | none
    assert "500 duplicates" in up.tally(*command).stdout


def test_counts_are_exact_after_workers_are_killed(up: Running) -> None:
    """30,000 events, 5 % duplicates, a worker killed twice on the way: stored + duplicates = 30,000."""
    before = up.status()
    simulate = subprocess.Popen(
        [TALLY, "simulate", "--events", "30000", "--rate", "0", "--json", "--data-dir", str(up.data_dir)],
        stdout=subprocess.PIPE,
        text=True,
        env=CLEAN,
    )
    for killed in range(1, 3):
        lagging = before["stored"] + killed * 5_000
        eventually(lambda least=lagging: up.status()["stored"] >= least)  # type: ignore[misc]
        os.kill(up.status()["pids"]["workers"][0], signal.SIGKILL)
    out, _ = simulate.communicate(timeout=120)
    counted = json.loads(out)
    assert counted["stored"] + counted["duplicates"] == counted["accepted"] == 30_000
    assert 0.04 < counted["duplicates"] / 30_000 < 0.06
    status = up.status()
    assert status["stored"] + status["duplicates"] - before["stored"] - before["duplicates"] == 30_000
    eventually(lambda: len(up.status()["pids"]["workers"]) == 2)
    accounts = up.json("audit")
    assert (accounts["balances"], accounts["difference"]) == (True, 0)
    assert up.output().count("was ended by signal 9; restarting in") == 2


def test_simulating_a_number_of_events_at_a_rate_ends(up: Running) -> None:
    counted = up.json("simulate", "--events", "20", "--rate", "100")
    assert counted["accepted"] == counted["stored"] + counted["duplicates"] == 20


def test_ctrl_c_ends_simulate_with_its_counts(up: Running) -> None:
    before = up.json("status")["stored"]
    command = [TALLY, "simulate", "--rate", "500", "--json", "--data-dir", str(up.data_dir)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=CLEAN)
    eventually(lambda: up.json("status")["stored"] > before + 100)
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=60)
    counted = json.loads(out)
    assert counted["accepted"] == counted["stored"] + counted["duplicates"] > 100


def test_event_text_with_markup_is_shown_unchanged(up: Running) -> None:
    event = {"feature_id": "d", "interaction_type": ["impression"], "position": 0, "retriever_id": "[/x] [red]r"}
    up.json("emit", "-", given=json.dumps(event))
    eventually(lambda: "[/x] [red]r" in up.tally("report", "retrievers").stdout)


def test_a_patch_that_nests_too_deep_is_refused(up: Running) -> None:
    done = up.tally("dlq", "replay", "--dry-run", "--patch", '{"a":' * 3_000 + "1" + "}" * 3_000)
    assert done.returncode == 2
    assert "nests 3000 levels, at most 32 are allowed" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_hints_name_commands_as_they_were_called(up: Running, tmp_path: Path) -> None:
    assert f"passwords and the API key: {TALLY} status --show-secrets" in up.output()
    here = Path(TALLY).parent

    def error_of(command: str, **more: str) -> str:
        words = [command, "status", "--data-dir", str(tmp_path)]
        return subprocess.run(words, cwd=here, env=CLEAN | more, capture_output=True, text=True, check=False).stderr

    assert "start one with `./tally up`" in error_of("./tally")
    assert f"start one with `{TALLY} up`" in error_of(TALLY, PATH="/usr/bin")
    assert "start one with `tally up`" in error_of(TALLY, PATH=f"{here}:/usr/bin")


def test_a_missing_topic_is_named(up: Running) -> None:
    for arguments in (["simulate", "--for", "1"], ["status"], ["emit", "-"]):
        environment = CLEAN | {"TALLY_TOPIC": "nowhere"}
        done = command(*arguments, "--data-dir", str(up.data_dir), env=environment)
        assert done.returncode != 0
        assert "TALLY_TOPIC" in done.stderr + done.stdout


def test_reports_answer_and_are_drawn(up: Running, tmp_path: Path) -> None:
    done = up.tally("report", "positions", "--plot", str(tmp_path / "p.png"))
    assert done.returncode == 0, done.stderr
    assert "How does attention fall with the position?" in done.stdout
    assert f"chart written to {tmp_path / 'p.png'}\n" in done.stderr
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert up.json("report", "verdicts")[0]["stored"] > 0
    wrong = up.tally("report", "nothing")
    assert wrong.returncode == 2
    assert "types, verdicts" in " ".join(wrong.stderr.split())


def test_draining_beside_running_workers_ends(up: Running) -> None:
    done = up.as_process("consume", "--until-caught-up", "--json")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["lag"] == 0
    assert counts["stored"] == up.json("status")["stored"]


def test_a_consumer_with_the_wrong_database_ends_with_a_fatal_error(up: Running) -> None:
    environment = CLEAN | {"TALLY_DATABASE": "nowhere"}
    command = [TALLY, "consume", "--data-dir", str(up.data_dir)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == Fatal.exit_code
    assert "TALLY_DATABASE" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_key_is_created_shown_once_and_revoked(up: Running) -> None:
    made = up.json("keys", "create", "a test's", "--scopes", "write,read", "--namespaces", "shop")
    api = up.json("status")["endpoints"]["api"]
    event = {"feature_id": "d", "interaction_type": ["click"], "position": 0}
    headers = {"Authorization": f"Bearer {made['key']}"}

    def answers(status: int) -> bool:
        return httpx.post(f"{api}/v1/retrievers/interactions", json=event, headers=headers).status_code == status

    eventually(lambda: answers(200))
    (listed,) = (each for each in up.json("keys", "list") if each["key_id"] == made["key_id"])
    assert (listed["name"], listed["namespaces"], listed["revoked_at"]) == ("a test's", ["shop"], None)
    assert made["key"] not in up.tally("keys", "list").stdout
    token = up.json("keys", "token", "https://shop.example", "--key", made["key"], "--namespace", "shop")["token"]
    beacon = f"{api}/v1/retrievers/interactions/beacon?token={token}"
    assert httpx.post(beacon, json=event, headers={"Origin": "https://shop.example"}).status_code == 204
    assert up.tally("keys", "revoke", made["key_id"]).returncode == 0
    eventually(lambda: answers(401))
    assert up.tally("keys", "revoke", "nothing").returncode == 1


def test_api_processes_share_a_port_and_are_restarted(up: Running) -> None:
    port = free_port()
    command = [TALLY, "serve", "all", "--workers", "2", "--port", str(port), "--data-dir", str(up.data_dir)]
    event = {"feature_id": "d", "interaction_type": ["click"], "position": 0}
    key = {"Authorization": f"Bearer {up.key()}"}

    def children() -> set[int]:
        found = Path(f"/proc/{serving.pid}/task/{serving.pid}/children").read_text().split()
        names = {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in found}
        return {pid for pid, name in names.items() if "tally.serve" in name}

    with subprocess.Popen(command, env=CLEAN, stderr=subprocess.PIPE, text=True) as serving:
        eventually(lambda: responds_to_http(f"http://127.0.0.1:{port}/v1/ready"))
        first = children()
        assert len(first) == 2
        again = subprocess.run(command, env=CLEAN, capture_output=True, text=True, check=False, timeout=60)
        assert (again.returncode, "is taken" in again.stderr) == (1, True)
        os.kill(min(first), signal.SIGKILL)
        eventually(lambda: len(children() | first) == 3 and responds_to_http(f"http://127.0.0.1:{port}/v1/ready"))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=key) as api:
            made = api.post("/v1/retrievers/interactions", json=event)
            assert api.get(f"/v1/retrievers/interactions/{made.json()['interaction_id']}").json() == made.json()
        serving.send_signal(signal.SIGTERM)
        said = serving.stderr.read() if serving.stderr else ""
        assert serving.wait(60) == 0, said
        assert "Traceback" not in said
        assert up.key() not in said
        assert "POST /v1/retrievers/interactions 200 " in said


def test_the_tail_ends_by_itself(up: Running) -> None:
    done = up.tally("tail", "--for", "1", "--json")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_stack_in_the_same_folder_is_refused(up: Running) -> None:
    done = up.as_process("up", "--no-demo")
    assert done.returncode == 1
    assert "already runs" in done.stderr


def test_a_starting_or_stopping_stack_is_not_reported_as_missing(tmp_path: Path) -> None:
    running = Running(tmp_path / "data", "--no-demo", "--workers", "1")
    pid = running.process.pid

    def says(doing: str) -> None:
        """Held at that point, it is found there by others."""
        eventually(lambda: StackPhase.of(running.data_dir) == (pid, doing))
        os.kill(pid, signal.SIGSTOP)
        done, again = running.tally("status"), running.as_process("up", "--no-demo")
        assert f"is {doing} (pid {pid})" in done.stderr + done.stdout, done
        assert done.returncode in (1, SettingsError.exit_code)
        assert f"a stack is {doing} in {running.data_dir} (pid {pid}): wait until that is done" in again.stderr
        assert again.returncode == 1
        os.kill(pid, signal.SIGCONT)

    try:
        says("starting")
        eventually(running.is_ready)
        running.process.terminate()
        says("stopping")
        assert running.process.wait(60) == 0, running.output()
        assert "no stack runs in" in running.tally("status").stderr
    finally:
        running.process.kill()
        running.process.wait()


def test_the_demo_ends_by_itself_with_a_summary(tmp_path: Path) -> None:
    running = Running(tmp_path / "data", "--for", "3", "--rate", "100")
    assert running.process.wait(120) == 0, running.output()
    said = running.output()
    assert "imported 10,000 Open Bandit rows: 10,000 stored, 0 duplicates" in said
    assert "simulated 7 days, " in said
    simulated = re.search(r"simulated (\d+) events in 3 s: ", said)
    assert simulated, said
    assert 200 < int(simulated[1]) < 400
    assert " 0 pending" in said
    assert said.count("Bearer ") == 1
    assert "curl -H 'Authorization: Bearer root_" in said
    assert " -H 'X-Namespace: open-bandit' http" in said
    assert "lag 0" in said


def test_no_process_is_left_when_up_is_killed(tmp_path: Path) -> None:
    running = Running(tmp_path / "data", "--no-demo")
    eventually(running.is_ready)
    pids = running.pids()
    assert all(map(is_running, pids))
    running.process.kill()
    running.process.wait()
    eventually(lambda: not any(map(is_running, pids)))
    assert running.tally("status").returncode == SettingsError.exit_code, "its stack.json is not believed"
