"""The embedded stack: Kafka, Valkey and the ClickHouse engine from packages."""
