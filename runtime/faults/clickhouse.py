"""Meaning of ClickHouse's errors."""

from clickhouse_connect.driver.exceptions import ClickHouseError

from runtime.errors import Fatal, RowsRefused, StatementRefused, StatementTimeout, TallyError, Unavailable
from runtime.faults.network import network_reason, untrusted

CLICKHOUSE_POISON = {
    6: "CANNOT_PARSE_TEXT",
    26: "CANNOT_PARSE_QUOTED_STRING",
    27: "CANNOT_PARSE_INPUT_ASSERTION_FAILED",
    38: "CANNOT_PARSE_DATE",
    41: "CANNOT_PARSE_DATETIME",
    69: "ARGUMENT_OUT_OF_BOUND",
    70: "CANNOT_CONVERT_TYPE",
    72: "CANNOT_PARSE_NUMBER",
    117: "INCORRECT_DATA",
    131: "TOO_LARGE_STRING_SIZE",
    153: "ILLEGAL_DIVISION",
    321: "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE",
    349: "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN",
    395: "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO",
    407: "DECIMAL_OVERFLOW",
    469: "VIOLATED_CONSTRAINT",
}
CLICKHOUSE_LOGIN = (192, 193, 194, 516)
CLICKHOUSE_CREDENTIALS = (*CLICKHOUSE_LOGIN, 497)
CLICKHOUSE_READONLY = 164
CLICKHOUSE_TIMEOUT = 159
CLICKHOUSE_BAD_PATTERN = 427
CLICKHOUSE_MISSING = {60: "UNKNOWN_TABLE", 81: "UNKNOWN_DATABASE"}
CLICKHOUSE_FATAL = {
    8: "THERE_IS_NO_COLUMN",
    16: "NO_SUCH_COLUMN_IN_TABLE",
    20: "NUMBER_OF_COLUMNS_DOESNT_MATCH",
    36: "BAD_ARGUMENTS",
    43: "ILLEGAL_TYPE_OF_ARGUMENT",
    44: "ILLEGAL_COLUMN",
    46: "UNKNOWN_FUNCTION",
    47: "UNKNOWN_IDENTIFIER",
    48: "NOT_IMPLEMENTED",
    50: "UNKNOWN_TYPE",
    53: "TYPE_MISMATCH",
    57: "TABLE_ALREADY_EXISTS",
    62: "SYNTAX_ERROR",
    73: "UNKNOWN_FORMAT",
    80: "INCORRECT_QUERY",
    115: "UNKNOWN_SETTING",
    CLICKHOUSE_READONLY: "READONLY",
    386: "NO_COMMON_TYPE",
    427: "CANNOT_COMPILE_REGEXP",
    457: "BAD_QUERY_PARAMETER",
}
"""Codes of a wrong statement or table. Every other code is retried: 252 too many parts, 241 memory, 159 timeout, a
quota, a deadlock, a disk. An unknown code must not stop a whole deployment."""


def error_code(error: BaseException) -> int:
    """Return ClickHouse's code of an error; 0 for an error of the network or a proxy."""
    return getattr(error, "code", None) or 0


def clickhouse_fault(error: ClickHouseError) -> TallyError:
    """Translate an error of ClickHouse."""
    if why := untrusted(error):
        return Fatal(f"ClickHouse's certificate is not trusted (TALLY_TLS_CA_FILE): {why}")
    code = error_code(error)
    if code in CLICKHOUSE_CREDENTIALS:
        return Fatal("ClickHouse refused the credentials in TALLY_CLICKHOUSE")
    if code in CLICKHOUSE_MISSING:
        return Fatal(f"ClickHouse lacks Tally's tables (`tally init` creates them; TALLY_DATABASE): {error}")
    if code in CLICKHOUSE_POISON or code in CLICKHOUSE_FATAL:
        refused = RowsRefused if code in CLICKHOUSE_POISON else StatementRefused
        return refused(code, f"ClickHouse refused a statement: {error}")
    if why := network_reason(error):
        return Unavailable(f"ClickHouse (TALLY_CLICKHOUSE) does not answer: {why}", kind="clickhouse network")
    fault = StatementTimeout if code == CLICKHOUSE_TIMEOUT else Unavailable
    return fault(f"ClickHouse (TALLY_CLICKHOUSE) cannot answer now: {error}", kind=f"clickhouse {code or 'network'}")
