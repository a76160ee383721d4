"""Errors that people see, and their meaning for the process.

TallyError                  a person can act on it; the command ends with `exit_code`
 +-- SettingsError          a setting is missing or wrong; the message names it
 +-- Fatal                  continuing would lose or duplicate events: exit 3
 +-- Restart                this process cannot continue, a new one can: exit 4
 +-- Unavailable            a dependency did not answer in time; a retry may help
 |    +-- StatementTimeout  ClickHouse cancelled a statement for its duration; a smaller request may help
 +-- RecordRefused          Kafka will never accept this record
 +-- StatementRefused       ClickHouse will never run this statement
 |    +-- RowsRefused       ClickHouse will never store at least one of these rows
 +-- Degraded               requests are served, but an operator has to act; the message is safe to publish
"""


def reason_of(error: BaseException) -> str:
    """Return an error's message, or the name of its type when it has none, such as a timeout."""
    return str(error) or type(error).__name__


class TallyError(Exception):
    """Base of every error that is shown as one line instead of a stack trace."""

    exit_code = 1


class SettingsError(TallyError):
    """A setting is missing or wrong. The message names the setting to change."""

    exit_code = 2


class Fatal(TallyError):
    """Error that waiting cannot repair. The message names the setting or store to change."""

    exit_code = 3


class Restart(TallyError):
    """Error after which only a new process can continue: exit, and be restarted."""

    exit_code = 4


class Unavailable(TallyError):
    """Unreachable dependency, or one that missed its deadline. `kind` is the metric label: store and error."""

    exit_code = 4

    def __init__(self, message: str, *, kind: str = "other") -> None:
        super().__init__(message)
        self.kind = kind


class StatementTimeout(Unavailable):
    """Statement that exceeded its time limit."""


class Degraded(TallyError):
    """Condition that an operator must repair while requests are still served. The message names no address."""


class RecordRefused(TallyError):
    """Permanent refusal of a record by Kafka: too large, or not allowed."""


class StatementRefused(TallyError):
    """Permanent refusal of a statement by ClickHouse; `code` is its error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class RowsRefused(StatementRefused):
    """Permanent refusal of rows for their content: at least one of them can never be stored."""
