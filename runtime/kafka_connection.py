"""How brokers are reached, and what it means when they are not."""

import asyncio
import ssl
from typing import Any

from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from runtime.errors import Fatal, SettingsError, TallyError, Unavailable, reason_of
from runtime.settings import Settings
from runtime.tls import tls_context


def connection_options(settings: Settings) -> dict[str, Any]:
    """How brokers are reached: what every client of theirs is made with. Raises SettingsError."""
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
    """The reason why a client cannot start: its own error is the same for all, so the servers are asked."""
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
    """Start a client, or say why it cannot. Raises Unavailable and Fatal."""
    try:
        async with asyncio.timeout(settings.connect_timeout_ms / 1000):
            await client.start()
    except (KafkaError, OSError, TimeoutError) as error:
        stop = getattr(client, "stop", None) or client.close
        await stop()
        raise await connection_error(settings, error) from error
