"""ClickHouse's HTTP interface for the ClickHouse engine (chdb), for one machine without Docker."""
