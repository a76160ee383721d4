"""Causes of failed connections, as the operating system words them."""

import ssl
from collections.abc import Iterator


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its chain of causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def untrusted(error: BaseException) -> str:
    """Return the reason why a server's certificate is not trusted; empty when the error has another cause."""
    found = (each.verify_message for each in _causes(error) if isinstance(each, ssl.SSLCertVerificationError))
    return next(found, "")


def network_reason(error: BaseException) -> str:
    """Return the operating system's message for a failed connection; empty when the error has another cause."""
    found = [each for each in _causes(error) if isinstance(each, OSError)]
    return found[-1].strerror or str(found[-1]) if found else ""
