"""Causes of failed connections, as the operating system words them."""

import os
import re
import ssl
from collections.abc import Iterator

_ASYNCIO = re.compile(r"\[Errno (\d+)\] Connect call failed")
"""asyncio's words for a connection that failed, at one or at several addresses."""


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
    if not found:
        return ""
    refused = _ASYNCIO.search(str(found[-1]))
    return os.strerror(int(refused.group(1))) if refused else found[-1].strerror or str(found[-1])
