"""Errors in ClickHouse's format: a code, a name and a message, in a header and in the body."""

import re

UNKNOWN_EXCEPTION = 1002
SYNTAX_ERROR = 62
NOT_IMPLEMENTED = 48
BAD_ARGUMENTS = 36
CANNOT_DECOMPRESS = 354
AUTHENTICATION_FAILED = 516
ACCESS_DENIED = 497
READONLY = 164
SOCKET_TIMEOUT = 209
TOO_MANY_SIMULTANEOUS_QUERIES = 202
UNKNOWN_ACTION = 404

_NAMES = {
    UNKNOWN_EXCEPTION: "UNKNOWN_EXCEPTION",
    SYNTAX_ERROR: "SYNTAX_ERROR",
    NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    BAD_ARGUMENTS: "BAD_ARGUMENTS",
    CANNOT_DECOMPRESS: "CANNOT_DECOMPRESS",
    AUTHENTICATION_FAILED: "AUTHENTICATION_FAILED",
    ACCESS_DENIED: "ACCESS_DENIED",
    READONLY: "READONLY",
    SOCKET_TIMEOUT: "SOCKET_TIMEOUT",
    TOO_MANY_SIMULTANEOUS_QUERIES: "TOO_MANY_SIMULTANEOUS_QUERIES",
}

# As ClickHouse's own HTTP handler maps them (exceptionCodeToHTTPStatus); everything else is 500.
_HTTP_STATUS = {
    AUTHENTICATION_FAILED: 403,
    ACCESS_DENIED: 403,
    NOT_IMPLEMENTED: 501,
    SYNTAX_ERROR: 400,
    BAD_ARGUMENTS: 400,
    6: 400,
    26: 400,
    27: 400,
    38: 400,
    41: 400,
    43: 400,
    47: 404,
    60: 404,
    81: 404,
    115: 404,
    241: 500,
    457: 400,
    TOO_MANY_SIMULTANEOUS_QUERIES: 503,
    UNKNOWN_ACTION: 404,
}

_ENGINE_MESSAGE = re.compile(r"Code: (\d+)\. (?:DB::)?Exception: .*", re.DOTALL)


class ClickHouseError(Exception):
    """Error with ClickHouse's code; `text` is the body of its response."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @property
    def http_status(self) -> int:
        """HTTP status of ClickHouse for this code."""
        return _HTTP_STATUS.get(self.code, 500)


def error(code: int, message: str) -> ClickHouseError:
    """Return an error of the front, worded like one of the engine."""
    return ClickHouseError(code, f"Code: {code}. DB::Exception: {message}. ({_NAMES.get(code, 'ERROR')})")


def from_engine(raised: BaseException) -> ClickHouseError:
    """Return the engine's error without the prefixes of its wrappers."""
    found = _ENGINE_MESSAGE.search(str(raised))
    if found:
        return ClickHouseError(int(found.group(1)), found.group(0).strip())
    return error(UNKNOWN_EXCEPTION, str(raised).strip().rstrip("."))
