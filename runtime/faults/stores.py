"""Union of the errors of all stores."""

from aiokafka.errors import KafkaError
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from runtime.errors import TallyError
from runtime.faults.redis import REDIS_FAILED

STORE_FAILED = (TallyError, KafkaError, *REDIS_FAILED, ClickHouseError, HTTPError, OSError)
"""Errors of stores and connections, which say nothing about the processed record."""
