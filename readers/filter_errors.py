"""Filters of a URL's query, and errors of filters as they are answered."""

from readers.filter_fields import FilterError
from readers.filter_text import read_filter_json
from readers.filters import Group
from runtime.errors import StatementRefused
from runtime.faults.clickhouse import CLICKHOUSE_BAD_PATTERN
from runtime.http.errors import ApiError, invalid, problem


def read_filter_parameter(text: str | None) -> Group | None:
    """Read the parameter `filters` of a query. Raises ApiError."""
    try:
        return None if text is None else read_filter_json(text)
    except FilterError as error:
        raise invalid([problem("bad_filter", ["query", *error.where], str(error))]) from None


def refused_pattern(error: StatementRefused, part: str) -> ApiError | StatementRefused:
    """Return the error to answer: for a bad pattern in `filters` of this part of the request, else the error itself."""
    if error.code != CLICKHOUSE_BAD_PATTERN:
        return error
    return invalid([problem("bad_filter", [part, "filters"], "a pattern is not a regular expression (RE2)")])
