"""Connection options of Kafka clients, and the diagnosis of failed connections."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from runtime import whole_batches
from runtime.errors import Fatal, SettingsError, TallyError, Unavailable, reason_of
from runtime.settings import Settings
from runtime.tls import tls_context

Client = TypeVar("Client")


def connection_options(settings: Settings) -> dict[str, Any]:
    """Return the connection options of every Kafka client. Raises SettingsError."""
    settings.need("kafka")
    protocol = settings.kafka_security_protocol
    options: dict[str, Any] = {"bootstrap_servers": settings.kafka, "security_protocol": protocol}
    if protocol.endswith("SSL"):
        options["ssl_context"] = tls_context(settings)
    if protocol.startswith("SASL"):
        username, password = settings.kafka_username, settings.kafka_password.get_secret_value()
        if not username or not password:
            raise SettingsError(f"with {protocol}, set TALLY_KAFKA_USERNAME and TALLY_KAFKA_PASSWORD")
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": username,
            "sasl_plain_password": password,
        }
    return options


async def connection_error(settings: Settings, error: Exception) -> TallyError:
    """Return the reason why a client cannot start. The client's own error names none, so each server is asked."""
    options = connection_options(settings)
    for server in options.pop("bootstrap_servers").split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            async with asyncio.timeout(settings.connect_timeout_ms / 1000):
                (await create_conn(host.strip("[]"), int(port), **options)).close()
        except (AuthenticationFailedError, SaslAuthenticationFailed):
            return Fatal("Kafka refused the credentials in TALLY_KAFKA_USERNAME and TALLY_KAFKA_PASSWORD")
        except UnsupportedSaslMechanismError:
            return Fatal(f"Kafka does not know TALLY_KAFKA_SASL_MECHANISM {settings.kafka_sasl_mechanism}")
        except ssl.SSLCertVerificationError as why:
            return Fatal(f"Kafka's certificate is not trusted (TALLY_TLS_CA_FILE): {why.verify_message}")
        except ssl.SSLError as why:
            return Fatal(f"Kafka does not speak TLS there (TALLY_KAFKA_SECURITY_PROTOCOL): {why.reason}")
        except (KafkaError, OSError, TimeoutError):
            continue
    hint = "" if settings.kafka_security_protocol != "PLAINTEXT" else "; with TLS, set TALLY_KAFKA_SECURITY_PROTOCOL"
    return Unavailable(f"Kafka at {settings.kafka} (TALLY_KAFKA) does not answer: {reason_of(error)}{hint}")


async def start_client(client: Any, settings: Settings) -> None:
    """Start a client. Raises Unavailable and Fatal with the reason of a failure."""
    try:
        async with asyncio.timeout(settings.connect_timeout_ms / 1000):
            await client.start()
    except (KafkaError, OSError, TimeoutError) as error:
        await stop_client(client)
        raise await connection_error(settings, error) from error


async def stop_client(client: Any) -> None:
    """Stop a producer or consumer, or close an admin client."""
    await (getattr(client, "stop", None) or client.close)()


@asynccontextmanager
async def running_client(client: Client, settings: Settings) -> AsyncIterator[Client]:
    """Start a client, and stop it when the block ends. Raises like `start_client`."""
    await start_client(client, settings)
    try:
        yield client
    finally:
        await stop_client(client)


@asynccontextmanager
async def log_client(
    settings: Settings, isolation_level: str, *, key_deserializer: Any = whole_batches.whole, **options: Any
) -> AsyncIterator[AIOKafkaConsumer]:
    """Open a client outside any group that returns whole batches where possible."""
    whole_batches.install()
    client = AIOKafkaConsumer(
        **connection_options(settings),
        key_deserializer=key_deserializer,
        isolation_level=isolation_level,
        auto_offset_reset="none",  # an offset that retention removed is an error, not a jump to the end
        **options,
    )
    async with running_client(client, settings):
        yield client
