"""Commands that answer, with stores that hang: they say so soon, and show nothing that they do not know."""

import asyncio
import json
import time
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from runtime.deletions import Deletion, Deletions
from runtime.errors import Unavailable
from runtime.settings import Settings
from schemas.identity import mint_id
from schemas.wire import NAMESPACE_HEADER
from tests.chaos.proxy import proxy_to
from tests.cli_lab import command, environment
from tests.lab import Lab, as_json, at_port, click

SOON_S = 40
"""Far below TALLY_QUERY_TIMEOUT_MS, the wait without a check of the store first."""
NAMES = {"kafka": "Kafka (TALLY_KAFKA)", "redis": "Redis (TALLY_REDIS)", "clickhouse": "ClickHouse (TALLY_CLICKHOUSE)"}


async def with_hanging(settings: Settings, store: str, *arguments: str) -> tuple[int, str, str]:
    """Run a command while one store accepts requests and never answers; return exit code, output and errors."""
    address = getattr(settings, store)
    url = address if isinstance(address, SecretStr) else SecretStr(f"kafka://{address}")
    async with proxy_to(urlsplit(url.get_secret_value()).port or 0) as proxy:
        proxy.hold_answers()
        there = at_port(url, proxy.port) if isinstance(address, SecretStr) else f"127.0.0.1:{proxy.port}"
        hanging = settings.model_copy(update={store: there, "connect_timeout_ms": 2_000, "query_timeout_ms": 60_000})
        begun = time.monotonic()
        done = await asyncio.to_thread(command, *arguments, env=environment(hanging))
        assert time.monotonic() - begun < SOON_S
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("store", list(NAMES))
async def test_status_reports_the_other_stores_when_one_hangs(lab: Lab, store: str) -> None:
    await lab.emit(click())
    await lab.drain()
    code, answer, remarks = await with_hanging(lab.settings, store, "status", "--json")
    assert (code, remarks) == (Unavailable.exit_code, "")
    status = json.loads(answer)
    assert status["problems"] == [f"{NAMES[store]} does not answer within 2 s (TALLY_CONNECT_TIMEOUT_MS)"]
    assert (status["lag"], status["stuck"]) == ((None, None) if store == "kafka" else (0, []))
    assert (status["partitions"] is None) == (store == "kafka")
    counted = (status["stored"], status["duplicates"], status["rejected"], status["withheld"])
    assert counted == ((None, None, None, None) if store == "clickhouse" else (1, 0, 0, {}))


async def test_status_does_not_print_unknown_counts_as_zero(lab: Lab) -> None:
    code, answer, _ = await with_hanging(lab.settings, "clickhouse", "status")
    assert code == Unavailable.exit_code
    assert "\nlag 0\n" in answer
    assert "stored" not in answer
    code, answer, _ = await with_hanging(lab.settings, "kafka", "status")
    assert code == Unavailable.exit_code
    assert "0 stored, 0 duplicates, 0 rejected\n" in answer
    assert "lag" not in answer


@pytest.mark.parametrize(
    ("store", "command"),
    [
        ("clickhouse", "lookup int_01900000000070008000000000000000"),
        ("clickhouse", "report verdicts"),
        ("clickhouse", "audit"),
        ("clickhouse", "keys list"),
        ("kafka", "dlq list"),
        ("redis", "replay --into again"),
    ],
)
async def test_a_hanging_store_is_an_error_of_one_line(lab: Lab, store: str, command: str) -> None:
    assert await with_hanging(lab.settings, store, *command.split()) == (
        Unavailable.exit_code,
        "",
        f"error: {NAMES[store]} does not answer within 2 s (TALLY_CONNECT_TIMEOUT_MS)\n",
    )


async def test_lookup_distinguishes_events_in_flight_from_unknown_ids(lab: Lab) -> None:
    settings = lab.settings.model_copy(update={"delivery_timeout_ms": 1_000, "clock_skew_ms": 0})

    async def looked_up(interaction_id: str) -> tuple[int, str, str]:
        done = await asyncio.to_thread(command, "lookup", interaction_id, env=environment(settings))
        return done.returncode, done.stdout, done.stderr

    old = "int_01900000000070008000000000000000"
    never = (1, "", f"error: no interaction {old} in namespace 'default'\n")
    (receipt,) = await lab.emit(click())
    code, _, said = await looked_up(receipt.interaction_id)
    assert (code, f"error: interaction {receipt.interaction_id} is in flight: accepted" in said) == (1, True), said
    assert await looked_up(old) == never
    await lab.drain()
    code, answer, _ = await looked_up(receipt.interaction_id)
    assert (code, json.loads(answer)["outcome"]) == (0, "stored")
    unsent = mint_id()
    assert (await looked_up(unsent))[2] == f"error: no interaction {unsent} in namespace 'default'\n"
    await Deletions(lab.database).note(Deletion(receipt.interaction_id, "default"))
    await Deletions(lab.database).erase([Deletion(receipt.interaction_id, "default")])
    code, answer, _ = await looked_up(receipt.interaction_id)
    assert (code, json.loads(answer)) == (0, {"outcome": "deleted"})


async def test_a_rejection_that_was_not_replayed_names_no_id(lab: Lab) -> None:
    await lab.put(as_json(position="first"), headers=[(NAMESPACE_HEADER, b"shop")])
    await lab.drain()
    ((rejected,),) = await lab.rows("SELECT interaction_id FROM outcomes")
    words = ("lookup", rejected, "--namespace", "shop")
    done = await asyncio.to_thread(command, *words, env=environment(lab.settings))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["reason"], answer["field"], answer["replayed_as"]) == ("wrong_type", "position", None)


async def test_status_names_namespaces_whose_held_events_can_be_replayed(lab: Lab) -> None:
    headers = [(NAMESPACE_HEADER, b"shop")]
    for number in range(40):
        await lab.put(b"no JSON", key=b"k", headers=headers, partition=number % 4)
    held = [await lab.put(as_json(f"doc-{number}", f"e{number}"), headers=headers) for number in range(4)]
    await lab.drain(reject_window=10, reject_policy="hold")
    done = await asyncio.to_thread(command, "status", env=environment(lab.settings))
    assert (
        f"{len(held)} valid events of shop held: once less than half of what it sends is rejected, "
        "tally dlq replay --reason namespace_held --namespace shop\n"
    ) in done.stdout
