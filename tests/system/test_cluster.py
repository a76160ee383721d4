"""The same on clusters: claims spread over Valkey nodes, records copied to several brokers, and some of them die."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from pydantic import SecretStr
from redis.asyncio import RedisCluster

from consumers.supervised import supervised_workers
from deploy.embedded.stack import Stack
from producers.producer import Producer, Receipt
from readers.audit import audit
from readers.lookup import Lookups
from runtime import kafka as kafka_client
from runtime.process.supervisor import Supervisor
from runtime.redis import connect_redis
from runtime.settings import Settings
from runtime.tasks import cancel_and_wait
from tests.cluster_lab import brokers, running_children, valkey_nodes
from tests.lab import Lab, lab_of, settings_of_its_own
from tests.traffic import keyed_traffic
from tests.waiting import eventually_async

EVENTS = 12_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecretStr]:
    """The address of one node of a running cluster."""
    with running_children() as children:
        yield valkey_nodes(children, tmp_path_factory.mktemp("valkey"), masters=3).url


async def test_a_cluster_is_detected_and_used(lab: Lab, cluster: SecretStr) -> None:
    lab.settings = lab.settings.model_copy(update={"redis": cluster})
    await lab.emit_all(itertools.islice(keyed_traffic(21, duplicates=0.3), 2_000))
    counts = await lab.drain(batch_rows=300)
    assert counts.stored + counts.duplicates == 2_000
    ((rows, tuples),) = await lab.rows(
        "SELECT count(), uniqExact(execution_id, feature_id, arraySort(interaction_type)) FROM interactions"
    )
    assert rows == tuples == counts.stored
    async with connect_redis(lab.settings) as redis:
        assert isinstance(redis, RedisCluster)
        held = [await redis.dbsize(target_nodes=node) for node in redis.get_primaries()]
        assert sum(1 for keys in held if keys) >= 2, "partitions spread over nodes"


async def test_claims_lost_by_one_node_are_rebuilt(lab: Lab, cluster: SecretStr) -> None:
    lab.settings = lab.settings.model_copy(update={"redis": cluster, "key_prefix": f"{lab.settings.key_prefix}-2"})
    traffic = list(itertools.islice(keyed_traffic(22, duplicates=0), 500))
    await lab.emit_all(traffic)
    assert (await lab.drain()).stored == 500
    async with connect_redis(lab.settings) as redis:
        assert isinstance(redis, RedisCluster)
        await redis.flushall(target_nodes=redis.get_primaries()[0])
    await lab.emit_all(traffic)
    counts = await lab.drain()
    assert (counts.stored, counts.duplicates) == (0, 500)


async def test_events_survive_the_failure_of_a_broker_and_a_master(stack: Stack, tmp_path: Path) -> None:
    """Three brokers, three masters with a replica each, four workers; one of each is killed under load."""
    with (
        running_children() as children,
        brokers(children, stack.settings().cache_dir, tmp_path / "kafka", 3) as kafka,
    ):
        valkey = valkey_nodes(children, tmp_path / "valkey", masters=3, replicas=1)
        update = {"kafka": kafka.servers, "redis": valkey.url, "replication": 3, "session_timeout_ms": 6_000}
        settings = settings_of_its_own(stack, tmp_path).model_copy(update=update)
        async with lab_of(settings) as lab:
            await assert_in_sync(settings)
            workers = supervised_workers(
                children, settings, workers=4, instance_prefix="host", log_dir=tmp_path / "workers"
            )
            workers.start()
            looking_after = asyncio.create_task(poll(workers))
            traffic = keyed_traffic(23, duplicates=0.1)
            receipts: list[Receipt] = []

            async def are_stored() -> bool:
                return await lab.count("interactions") > len(receipts) // 2

            async with Producer(settings) as producer:
                for victim in (kafka.processes[1], valkey.masters[1], None):
                    async for result in producer.emit_many(itertools.islice(traffic, EVENTS // 3)):
                        assert isinstance(result, Receipt), result
                        receipts.append(result)
                        if len(receipts) % (EVENTS // 30) == 0:
                            await eventually_async(are_stored)
                        if victim and len(receipts) % (EVENTS // 3) == EVENTS // 6:
                            victim.process.kill()
            assert len(receipts) == EVENTS

            async def is_done() -> bool:
                return sum([each.in_flight async for each in audit(settings, lab.database)]) == 0

            await eventually_async(is_done, 120)
            await cancel_and_wait(looking_after)
            workers.stop()
            parts = [each async for each in audit(settings, lab.database)]
            assert all(each.balances for each in parts), parts
            assert sum(each.accepted for each in parts) >= EVENTS
            ((rows, tuples),) = await lab.rows(
                "SELECT count(), uniqExact(execution_id, feature_id, arraySort(interaction_type)) "
                "FROM interactions FINAL"
            )
            assert rows == tuples, "no duplicate was let through"
            found = await Lookups(lab.database, EVENTS).get(settings.namespace, receipts[-1].interaction_id)
            assert found is not None


async def poll(workers: Supervisor) -> None:
    """Restart workers that end."""
    while workers.poll():  # noqa: ASYNC110  (the end of a process raises no event)
        await asyncio.sleep(0.1)


async def assert_in_sync(settings: Settings) -> None:
    """A record of the topic is on all three brokers, and acknowledged by two."""
    async with kafka_client.admin(settings) as admin:
        (topic,) = await admin.describe_topics([settings.topic])
        assert all(len(part["replicas"]) == 3 for part in topic["partitions"])
        wanted = ConfigResource(ConfigResourceType.TOPIC, settings.topic, configs={"min.insync.replicas": ""})
        answers: Any = await admin.describe_configs([wanted])
        assert answers[0].resources[0][4][0][1] == "2"
