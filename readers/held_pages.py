"""Pages of lists that are held in memory: from reading their records until the client has them all."""

from collections.abc import Callable

from fastapi import Request

from runtime.http.errors import invalid, problem, unavailable
from runtime.http.middleware import ON_COMPLETE
from runtime.settings import Settings


class HeldPages:
    """Bytes of the pages of one process, each of them and all together within a bound."""

    def __init__(self, settings: Settings) -> None:
        self._page_bytes = settings.list_page_bytes
        self._most_bytes = settings.lists_in_flight_bytes
        self._bytes = 0

    def page_of(self, request: Request) -> Callable[[int], None]:
        """Return a function that is told of every byte of a request's page; the request's end gives them back.

        It raises ApiError: 422 when the page is too large, 503 when all pages together are.
        """
        held = 0

        def take(size: int) -> None:
            nonlocal held
            if held + size > self._page_bytes:
                message = f"its records are larger than {self._page_bytes} bytes (TALLY_LIST_PAGE_BYTES)"
                raise invalid([problem("too_large", ["query", "limit"], f"{message}: ask for fewer at a time")])
            if self._bytes + size > self._most_bytes:
                raise unavailable("many large lists are being read (TALLY_LISTS_IN_FLIGHT_BYTES): again in a moment")
            held += size
            self._bytes += size

        def give_back() -> None:
            self._bytes -= held

        request.scope.setdefault(ON_COMPLETE, []).append(give_back)
        return take
