"""The worker: records are validated, deduplicated and written to ClickHouse."""
