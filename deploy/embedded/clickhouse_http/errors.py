"""Errors in ClickHouse's format: a code, a name and a message, in a header and in the body."""

import re
from enum import IntEnum


class ErrorCode(IntEnum):
    """ClickHouse's codes of the errors that the front raises itself."""

    BAD_ARGUMENTS = 36
    NOT_IMPLEMENTED = 48
    SYNTAX_ERROR = 62
    READONLY = 164
    TOO_MANY_SIMULTANEOUS_QUERIES = 202
    SOCKET_TIMEOUT = 209
    CANNOT_DECOMPRESS = 354
    UNKNOWN_ACTION = 404
    ACCESS_DENIED = 497
    AUTHENTICATION_FAILED = 516
    UNKNOWN_EXCEPTION = 1002


# As ClickHouse's own HTTP handler maps them (exceptionCodeToHTTPStatus); everything else is 500.
_HTTP_STATUS: dict[int, int] = {
    **dict.fromkeys((6, 26, 27, ErrorCode.BAD_ARGUMENTS, 38, 41, 43, ErrorCode.SYNTAX_ERROR, 457), 400),
    **dict.fromkeys((ErrorCode.ACCESS_DENIED, ErrorCode.AUTHENTICATION_FAILED), 403),
    **dict.fromkeys((47, 60, 81, 115, ErrorCode.UNKNOWN_ACTION), 404),
    ErrorCode.NOT_IMPLEMENTED: 501,
    ErrorCode.TOO_MANY_SIMULTANEOUS_QUERIES: 503,
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


def error(code: ErrorCode, message: str) -> ClickHouseError:
    """Return an error of the front, worded like one of the engine."""
    return ClickHouseError(code, f"Code: {code}. DB::Exception: {message}. ({code.name})")


def from_engine(raised: BaseException) -> ClickHouseError:
    """Return the engine's error without the prefixes of its wrappers."""
    found = _ENGINE_MESSAGE.search(str(raised))
    if found:
        return ClickHouseError(int(found.group(1)), found.group(0).strip())
    return error(ErrorCode.UNKNOWN_EXCEPTION, str(raised).strip().rstrip("."))
