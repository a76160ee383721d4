"""Causes of failed connections, in the operating system's words."""

import ssl
from collections.abc import Iterator


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def untrusted(error: BaseException) -> str:
    """Why a server's certificate was not trusted; empty when an error has another cause."""
    found = (each.verify_message for each in _causes(error) if isinstance(each, ssl.SSLCertVerificationError))
    return next(found, "")


def network_reason(error: BaseException) -> str:
    """The operating system's own words for a failed connection; empty when an error has another cause."""
    found = [each for each in _causes(error) if isinstance(each, OSError)]
    return found[-1].strerror or str(found[-1]) if found else ""
