"""Errors that people see, and what each means for the process.

TallyError              something a person can act on; the command ends with `exit_code`
 +-- SettingsError      a setting is missing or wrong; the message names it
 +-- Fatal              going on would lose or double events: stop, say why, exit 3
 +-- Restart            this process cannot continue, a new one can: exit 4, and be started again
 +-- Unavailable        a dependency did not answer in time; trying again may help
 |    +-- TookTooLong   ClickHouse gave a statement up for its time: asking for less may help
 +-- RefusedByBroker    Kafka will never take this record
 +-- Degraded           requests are answered, and somebody has to look; the message may be shown to anybody
"""


def reason_of(error: BaseException) -> str:
    """Return an error in its own words; one without words, such as a timeout, by the name of its type."""
    return str(error) or type(error).__name__


class TallyError(Exception):
    """Base of every error that is shown as one line instead of a stack trace."""

    exit_code = 1


class SettingsError(TallyError):
    """A setting is missing or wrong. The message names the setting to change."""

    exit_code = 2


class Fatal(TallyError):
    """Nothing that waiting could repair. The message names what to change."""

    exit_code = 3


class Restart(TallyError):
    """Error after which a new process can continue and this one cannot: leave, and be restarted."""

    exit_code = 4


class Unavailable(TallyError):
    """A dependency could not be reached or did not answer before its deadline. `kind` says which, and in what way."""

    exit_code = 4

    def __init__(self, message: str, *, kind: str = "other") -> None:
        super().__init__(message)
        self.kind = kind


class StatementTimeout(Unavailable):
    """A statement took longer than it may."""


class Degraded(TallyError):
    """Something needs a person while requests are answered all the same. Its message names no address."""


class RecordRefused(TallyError):
    """Kafka refused a record for good: too large, or not allowed."""


class StatementRefused(TallyError):
    """ClickHouse refused a statement for good; `code` is its error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class RowsRefused(StatementRefused):
    """ClickHouse refused rows for what is in them; at least one of them can never be stored."""
