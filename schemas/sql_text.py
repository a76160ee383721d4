"""SQL texts that are made from our own names. Values of requests are bound parameters instead."""


def literal(text: str) -> str:
    """Return a text as a literal of ClickHouse's SQL."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
