"""Session signals of stored events: what counts, and that every event counts once, whatever crashes."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis as Server

from readers.session_erasure import SessionErasure
from runtime.deletions import Deletion, Deletions
from runtime.http.best_effort import BestEffortRedis
from runtime.redis import Redis
from runtime.session_signals import (
    AppliedRange,
    LiveSession,
    SessionEvents,
    SessionPlace,
    SessionSignals,
    StoredSession,
)
from runtime.settings import Settings
from schemas.interaction import Interaction
from schemas.type_sets import type_set
from schemas.wire import NAMESPACE_HEADER
from tally.replay import Replay
from tests.crashes import at_failpoint, crash_at
from tests.http_lab import PATH, api_of, assert_error, with_key
from tests.lab import Lab, as_json, click
from tests.sessions_lab import CLICK, OTHER, RETRIEVER, configure, connected, hash_of, is_whole, session_reader, stored

ACL_FILE = Path(__file__).parents[1] / "deploy" / "access" / "valkey.acl"
TEXT = "tally://text@v1"
S1 = LiveSession("default", RETRIEVER, 1, "s-1")


def event(feature: str = "doc-1", session: str | None = "s-1", **fields: Any) -> Interaction:
    """A live click in a session of the configured retriever."""
    return click(feature, session_id=session, **{"retriever_id": RETRIEVER, "feature_uri": TEXT} | fields)


async def test_live_events_of_configured_retrievers_count(lab: Lab, redis: Redis) -> None:
    """Not: duplicates, backfills, other retrievers, events without a session or without a feature."""
    await configure(lab.database)
    await lab.emit(
        event("a"),
        event("a"),
        event("b", interaction_type=["click", "purchase", "click"]),
        event("c", occurred_at="2026-11-01T00:00:00Z"),
        event("d", retriever_id=OTHER),
        event("e", retriever_id=None),
        event("f", session=None),
        event("g", session=""),
        event("h", feature_uri=None),
        event("i", feature_uri="say \"ü\" in 'x'"),
        event("j", session="s-2"),
    )
    await lab.drain()
    expected = {(TEXT, CLICK): 1, (TEXT, type_set(["click", "purchase"])): 1, ("say \"ü\" in 'x'", CLICK): 1}
    assert await hash_of(redis, lab.settings, S1.place) == expected
    assert await stored(lab.database, lab.settings.topic, "s-1") == expected
    async with session_reader(lab.settings, lab.database) as reader:
        assert await reader.events("default", RETRIEVER, 1, "s-1") == expected
        assert await reader.events("default", RETRIEVER, 1, "s-2") == {(TEXT, CLICK): 1}
        assert await reader.events("default", RETRIEVER, 2, "s-1") == expected, "another configuration, same events"
        assert await reader.events("default", RETRIEVER, 1, "s-9") == {}
        assert await is_whole(redis, lab.settings, S1.place)
        await lab.emit(event("k"))
        await lab.drain()
        assert await is_whole(redis, lab.settings, S1.place), "events are added to a whole session"
        assert (await reader.events("default", RETRIEVER, 1, "s-1") or {})[TEXT, CLICK] == 2


async def test_nothing_is_sent_without_a_configuration(lab: Lab, redis: Redis) -> None:
    await lab.emit(event("a"))
    await lab.drain()
    keys = [key async for key in redis.scan_iter(f"{lab.settings.key_prefix}*:s[0-9]*")]
    assert not keys


@pytest.mark.parametrize("failpoint", ["erased", "signalled", "recorded"])
async def test_a_crash_counts_no_event_twice_and_loses_none(lab: Lab, redis: Redis, failpoint: str) -> None:
    await configure(lab.database)
    await lab.emit(*(event(f"doc-{number}", f"s-{number % 3}") for number in range(20)))
    with crash_at(failpoint):
        await lab.drain()
    async with session_reader(lab.settings, lab.database) as reader:
        await reader.events("default", RETRIEVER, 1, "s-0")
        await lab.emit(event("late", "s-0"))
        await lab.drain(batch_rows=3)
        for number in range(3):
            session = f"s-{number}"
            expected = await stored(lab.database, lab.settings.topic, session)
            place = LiveSession("default", RETRIEVER, 1, session).place
            assert await hash_of(redis, lab.settings, place) == expected
            assert await reader.events("default", RETRIEVER, 1, session) == expected


async def test_events_from_before_a_configuration_count(lab: Lab, redis: Redis) -> None:
    """A worker that learns of a configuration makes no session whole that lacks earlier events."""
    await configure(lab.database, OTHER)
    await lab.emit(event("a"))
    await lab.drain()
    await configure(lab.database)
    async with session_reader(lab.settings, lab.database) as reader:
        await lab.emit(event("b"))
        await lab.drain()
        assert not await is_whole(redis, lab.settings, S1.place)
        assert await reader.events("default", RETRIEVER, 1, "s-1") == {(TEXT, CLICK): 2}


async def test_a_worker_notices_lost_signals_while_nothing_arrives(lab: Lab, redis: Redis) -> None:
    """As after a failover to a replica that lagged: the session looks whole, and lacks its last event."""
    await configure(lab.database)
    await lab.emit(event("a"))
    await lab.drain()
    signals = SessionSignals(lab.settings)
    keys = signals.session_key(S1.place), signals.state_key(S1.place.bucket)
    async with session_reader(lab.settings, lab.database) as reader:
        await reader.events("default", RETRIEVER, 1, "s-1")
        before = {key: await redis.dump(key) for key in keys}
        await lab.emit(event("b"))
        await lab.drain()
        for key, raw in before.items():
            assert raw is not None
            await redis.restore(key, 0, raw, replace=True)
        assert await reader.events("default", RETRIEVER, 1, "s-1") == {(TEXT, CLICK): 1}
        await lab.drain()
        assert await reader.events("default", RETRIEVER, 1, "s-1") == {(TEXT, CLICK): 2}


async def test_a_session_is_used_only_up_to_its_maximum_size(lab: Lab, redis: Redis) -> None:
    """The worker and the reader come to the same result, and other sessions are not concerned."""
    await configure(lab.database)
    narrow = Lab(lab.settings.model_copy(update={"session_bytes": 256}), lab.database, lab._raw)
    uris = [f"tally://{number:04}" for number in range(9)]
    size = len(f"{CLICK}:{uris[0]}") + 16
    fitting = 256 // size
    await narrow.emit(*(event(uri, "fits", feature_uri=uri) for uri in uris[:fitting]))
    await narrow.emit(*(event(f"large {uri}", "large", feature_uri=uri) for uri in uris[: fitting + 1]))
    await narrow.drain()
    async with session_reader(narrow.settings, lab.database) as reader:
        for _ in range(2):
            assert len(await reader.events("default", RETRIEVER, 1, "fits") or ()) == fitting
            assert await reader.events("default", RETRIEVER, 1, "large") is None
        await narrow.emit(event("one more", "fits", feature_uri="tally://another"))
        await narrow.drain()
        assert await reader.events("default", RETRIEVER, 1, "fits") is None
        place = LiveSession("default", RETRIEVER, 1, "fits").place
        assert await is_whole(redis, lab.settings, place), "no query at each read of a session that is too large"
        assert await hash_of(redis, lab.settings, place) == {}


async def test_the_oldest_sessions_are_dropped_first(lab: Lab, redis: Redis) -> None:
    await configure(lab.database)
    few = Lab(lab.settings.model_copy(update={"sessions": 32}), lab.database, lab._raw)
    for name in ("old", "new"):
        await few.emit(*(event(f"{name}-{number}", f"{name}-{number}") for number in range(100)))
        await few.drain()
    sessions = [
        LiveSession("default", RETRIEVER, 1, f"{name}-{number}") for name in ("old", "new") for number in range(100)
    ]
    left = [each for each in sessions if await hash_of(redis, lab.settings, each.place) is not None]
    assert 16 < len(left) <= 32
    dropped = {each.place.bucket for each in sessions[100:] if each not in left}
    assert dropped
    assert not [each for each in left if each.session_id.startswith("old") and each.place.bucket in dropped]
    async with session_reader(few.settings, lab.database) as reader:
        assert await reader.events("default", RETRIEVER, 1, "old-0") == {(TEXT, CLICK): 1}


async def test_names_with_escapes_count_and_other_namespaces_do_not(lab: Lab, redis: Redis) -> None:
    """The column test compares bytes as sent; the namespace is in a header."""
    name = 'say "ü"'
    await configure(lab.database, name)
    await lab.emit(event("a", retriever_id=name))
    await lab.put(as_json("b", retriever_id=name, session_id="s-1", feature_uri=TEXT))
    await lab.put(
        as_json("c", retriever_id=name, session_id="s-1", feature_uri=TEXT), headers=[(NAMESPACE_HEADER, b"shop")]
    )
    await lab.drain()
    assert await hash_of(redis, lab.settings, LiveSession("default", name, 1, "s-1").place) == {(TEXT, CLICK): 2}
    assert await hash_of(redis, lab.settings, LiveSession("shop", name, 1, "s-1").place) is None


async def test_a_deleted_event_does_not_count(lab: Lab, redis: Redis) -> None:
    """Neither one that was counted before, nor one that is erased in the flush that stores it."""
    await configure(lab.database)
    async with (
        session_reader(lab.settings, lab.database) as reader,
        api_of(with_key(lab.settings, learning_config_refresh_ms=50)) as api,
    ):
        first, *_ = await lab.emit(event("a"), event("b"))
        await lab.drain()
        assert await reader.events("default", RETRIEVER, 1, "s-1") == {(TEXT, CLICK): 2}
        assert (await api.delete(f"{PATH}/{first.interaction_id}")).status_code == 200
        assert not await is_whole(redis, lab.settings, S1.place)
        assert await reader.events("default", RETRIEVER, 1, "s-1") == {(TEXT, CLICK): 1}
        assert await is_whole(redis, lab.settings, S1.place), "the deletion has ended"

        (late,) = await lab.emit(event("c"))

        async def delete_when_stored(name: str) -> None:
            if name == "stored":
                await Deletions(lab.database).note(Deletion(late.interaction_id, "default"))

        with at_failpoint(delete_when_stored):
            await lab.drain()
        assert await reader.events("default", RETRIEVER, 1, "s-1") == {(TEXT, CLICK): 1}


async def test_a_deletion_empties_sessions_of_configurations_that_its_process_has_not_read(lab: Lab) -> None:
    """Other processes have read them: one from before the deletion, one while it erases."""
    await configure(lab.database, OTHER)
    settings = with_key(lab.settings, learning_config_refresh_ms=600_000)
    async with session_reader(lab.settings, lab.database) as reader, api_of(settings) as api:
        first, second = await lab.emit(event("a"), event("b"))
        await lab.drain()
        await configure(lab.database)
        assert await reader.events("default", RETRIEVER, 1, "s-1") == {(TEXT, CLICK): 2}
        assert (await api.delete(f"{PATH}/{first.interaction_id}")).status_code == 200
        assert await reader.events("default", RETRIEVER, 1, "s-1") == {(TEXT, CLICK): 1}

        await configure(lab.database, version=2, deleted=True)
        async with BestEffortRedis(settings).opened() as redis:
            await connected(redis)
            deletion = Deletion(second.interaction_id, "default")
            await Deletions(lab.database).note(deletion)
            async with SessionErasure(settings, redis, lab.database).around(deletion):
                await configure(lab.database, version=3)
                assert await reader.events("default", RETRIEVER, 3, "s-1") == {(TEXT, CLICK): 1}
                await Deletions(lab.database).erase([deletion])
        assert await reader.events("default", RETRIEVER, 3, "s-1") == {}


async def test_an_event_that_is_deleted_before_a_worker_sends_it_never_counts(lab: Lab) -> None:
    """The worker found no deletion; the event is deleted, and the session read, before the signals are sent."""
    await configure(lab.database)
    async with session_reader(lab.settings, lab.database) as reader, api_of(with_key(lab.settings)) as api:
        _, gone = await lab.emit(event("a"), event("b"))

        async def delete_when_looked_up(name: str) -> None:
            if name == "erased":
                assert (await api.delete(f"{PATH}/{gone.interaction_id}")).status_code == 200
                assert await reader.events("default", RETRIEVER, 1, "s-1") == {(TEXT, CLICK): 1}

        with at_failpoint(delete_when_looked_up):
            await lab.drain()
        assert await reader.events("default", RETRIEVER, 1, "s-1") == {(TEXT, CLICK): 1}


async def test_an_event_that_an_earlier_run_counted_is_taken_back(lab: Lab) -> None:
    """The run crashed before its commit, and the reader before it erased the row: the next run erases."""
    await configure(lab.database)
    async with session_reader(lab.settings, lab.database) as reader:
        _, gone = await lab.emit(event("a"), event("b"))
        with crash_at("signalled"):
            await lab.drain()
        assert await reader.events("default", RETRIEVER, 1, "s-1") == {(TEXT, CLICK): 2}
        await Deletions(lab.database).note(Deletion(gone.interaction_id, "default"))
        await lab.drain()
        assert await reader.events("default", RETRIEVER, 1, "s-1") == {(TEXT, CLICK): 1}


async def test_a_deletion_fails_before_it_erases_while_redis_is_away(lab: Lab) -> None:
    """Otherwise the session would count the event until it ends."""
    await configure(lab.database)
    counted, plain = await lab.emit(event("a"), click("b"))
    await lab.drain()
    nowhere = with_key(lab.settings, redis=SecretStr("redis://127.0.0.1:1"), redis_patience_ms=100)
    async with api_of(nowhere) as api:
        assert_error(await api.delete(f"{PATH}/{counted.interaction_id}"), 503, "ServiceUnavailableError")
        assert (await api.delete(f"{PATH}/{plain.interaction_id}")).status_code == 200
    async with api_of(with_key(lab.settings)) as api, session_reader(lab.settings, lab.database) as reader:
        assert (await api.delete(f"{PATH}/{counted.interaction_id}")).status_code == 200
        assert await reader.events("default", RETRIEVER, 1, "s-1") == {}


async def test_a_replay_touches_no_session_and_a_swap_makes_all_be_counted_again(lab: Lab, redis: Redis) -> None:
    await configure(lab.database)
    await lab.emit(event("a"))
    await lab.drain()
    async with session_reader(lab.settings, lab.database) as reader:
        await reader.events("default", RETRIEVER, 1, "s-1")
        assert await is_whole(redis, lab.settings, S1.place)
        into = f"{lab.settings.database}r"
        replay = Replay(lab.settings, into, lab.database)
        await replay.prepare(None, None)
        await replay.decide()
        keys = [key async for key in redis.scan_iter(f"{lab.settings.key_prefix}.{into}*:s[0-9]*")]
        assert not keys
        await replay.swap()
        assert not await is_whole(redis, lab.settings, S1.place)
        assert await reader.events("default", RETRIEVER, 1, "s-1") == {(TEXT, CLICK): 1}
        await lab.database.command(f"DROP DATABASE {into}")


async def test_the_users_of_deployments_have_the_rights_that_signals_need(narrow: Settings, redis: Redis) -> None:
    """Commands of a script need the rights of the user that runs it."""
    own = {"key_prefix": f"tally-{narrow.key_prefix}", "sessions": 16, "session_bytes": 256}
    settings = narrow.model_copy(update=own)
    signals, rules = SessionSignals(settings), ACL_FILE.read_text()
    place = S1.place
    clients = {}
    for role in ("worker", "reader"):
        (rights,) = (line.split()[4:] for line in rules.splitlines() if line.startswith(f"user tally_{role} "))
        name = f"{settings.key_prefix}-{role}"
        await redis.execute_command("ACL", "SETUSER", name, "on", ">word", *rights)
        address = urlsplit(settings.redis.get_secret_value())
        clients[role] = Server.from_url(f"redis://{name}:word@{address.hostname}:{address.port}/0")
    large = SessionEvents(place, [f"1:{'x' * 200}{number}" for number in range(2)], [1, 0, 0, 9, 2, 0, 1, 9])
    more = [
        SessionEvents(SessionPlace(place.bucket, f"{number:032x}"), ["1:x"], [1, 0, 2 + number, 9])
        for number in range(3)
    ]
    await signals.apply(clients["worker"], "f", [AppliedRange(0, 0, 5)], [large, *more], [place])
    (opened,) = await signals.open(clients["reader"], [place])
    assert await signals.write(clients["reader"], [(place, opened, StoredSession({("x", 1): 1}, {0: 1}, 0))]) == [True]
    assert (await signals.read(clients["reader"], [place]))[0] is not None
    assert await signals.empty(clients["reader"], {place: {0: 1}}, 1)
    for role, client in clients.items():
        await client.aclose()
        await redis.execute_command("ACL", "DELUSER", f"{settings.key_prefix}-{role}")
