"""Settings of Kafka: brokers, topics and producers."""

from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

from runtime.sizes import MIB
from schemas.letter import MOST_LETTER_BYTES


class KafkaSettings(BaseSettings):
    """Settings of Kafka: brokers, topics and producers."""

    kafka: str = ""
    """Kafka bootstrap servers: host:port[,host:port]."""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Security protocol of broker connections: SSL encrypts, SASL authenticates."""
    kafka_sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"
    """SASL mechanism. PLAIN sends the password to the broker, the SCRAM mechanisms do not."""
    kafka_username: str = ""
    """User name for SASL."""
    kafka_password: SecretStr = SecretStr("")
    """Password for SASL."""
    topic: str = "interactions"
    """Topic of events."""
    dead_letter_topic: str = ""
    """Topic of dead letters. Empty: the topic of events with .dead-letters appended."""
    partitions: int = Field(8, ge=1, le=1000)
    """Partitions of the topics that `tally init` creates."""
    replication: int = Field(1, ge=1, le=10)
    """Replication factor of the topics that `tally init` creates."""
    min_insync: int = Field(0, ge=0, le=10)
    """min.insync.replicas of the topics that `tally init` creates. 0: all replicas but one."""
    max_record_bytes: int = Field(2 * MIB, ge=64 * 1024, le=64 * MIB)
    """Largest record of the topic of events, in bytes (max.message.bytes)."""
    delivery_timeout_ms: int = Field(30_000, ge=1_000)
    """Milliseconds until a producer gives up a record that Kafka does not acknowledge."""
    emit_in_flight: int = Field(5_000, ge=1)
    """Maximum unacknowledged records of a Python producer."""

    @field_validator("kafka")
    @classmethod
    def _bootstrap(cls, value: str) -> str:
        for server in filter(None, value.split(",")):
            host, _, port = server.strip().rpartition(":")
            is_bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
            if not host or not port.isascii() or not port.isdigit() or is_bare_ipv6:
                raise ValueError("write host:port[,host:port], with IPv6 addresses in brackets: [::1]:9092")
        return value

    @property
    def dead_letter_topic_name(self) -> str:
        """Name of the dead-letter topic."""
        return self.dead_letter_topic or f"{self.topic}.dead-letters"

    @property
    def max_dead_letter_bytes(self) -> int:
        """Largest dead letter in bytes: a record and the headers that give the reason."""
        return self.max_record_bytes + MOST_LETTER_BYTES
