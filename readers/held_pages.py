"""Memory bound of list pages, which are held from reading their records until the client has received them."""

from collections.abc import Callable

from fastapi import Request

from runtime.http.errors import invalid, problem, unavailable
from runtime.http.middleware import ON_COMPLETE
from runtime.settings import Settings


class HeldPages:
    """Bytes of the pages of one process, bounded for each page and for all together."""

    def __init__(self, settings: Settings) -> None:
        self._page_bytes = settings.list_page_bytes
        self._most_bytes = settings.lists_in_flight_bytes
        self._bytes = 0

    def page_of(self, request: Request) -> Callable[[int], None]:
        """Return a function that reserves bytes of a request's page until the request ends.

        It raises ApiError: 422 when the page is too large, 503 when all pages together are too large.
        """
        held = 0

        def take(size: int) -> None:
            nonlocal held
            if held + size > self._page_bytes:
                message = f"its records are larger than {self._page_bytes} bytes (TALLY_LIST_PAGE_BYTES)"
                raise invalid([problem("too_large", ["query", "limit"], f"{message}: request a smaller page")])
            if self._bytes + size > self._most_bytes:
                raise unavailable("too many large lists are being read (TALLY_LISTS_IN_FLIGHT_BYTES): retry shortly")
            held += size
            self._bytes += size

        def give_back() -> None:
            self._bytes -= held

        request.scope.setdefault(ON_COMPLETE, []).append(give_back)
        return take
