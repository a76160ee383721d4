"""Claims: owners of deduplication keys in Redis, their leases and their rebuild from ClickHouse."""
