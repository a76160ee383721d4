"""Ports of a data directory: its services keep them from one start to the next."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, RootModel, ValidationError

from runtime.errors import TallyError
from runtime.ports import free_port, is_free
from runtime.private_file import write_private

FILE_NAME = "ports.json"
FREE_PORTS_TRIED = 100

ServiceName = Literal["kafka", "kafka controller", "redis", "clickhouse", "api", "console"]


class NoFreePort(TallyError):
    """No port is free for a service. Another program has all that were tried."""


_Port = Annotated[int, Field(strict=True, ge=1, le=65_535)]


class _Ports(RootModel[dict[ServiceName, _Port]]):
    """Content of the file: a port for each service."""


class PortFile:
    """Ports of one data directory, kept in `ports.json`."""

    def __init__(self, path: Path, ports: dict[ServiceName, int], say: Callable[[str], None]) -> None:
        self._path = path
        self._ports = ports
        self._say = say

    @classmethod
    def of(cls, data_dir: Path, say: Callable[[str], None]) -> Self:
        """Read the ports of a data directory; `say` takes a line for each port that has to change.

        Raises TallyError when the file cannot be read.
        """
        path = data_dir / FILE_NAME
        try:
            ports = _Ports.model_validate_json(path.read_bytes()).root
        except FileNotFoundError:
            ports = {}
        except (OSError, ValidationError):
            raise TallyError(f"{path} cannot be read: delete it to choose new ports at the next start") from None
        return cls(path, ports, say)

    def port_of(self, name: ServiceName) -> int | None:
        """Return the port of a service at its last start; None before the first."""
        return self._ports.get(name)

    def choose(self, name: ServiceName, others: Iterable[int] | None = None, *, wanted: int | None = None) -> int:
        """Choose and keep a free port: `wanted` (default: the port of the last start), else one of `others`.

        Without `others`, any port may be chosen. Raises NoFreePort when none is free.
        """
        first = wanted if wanted is not None else self.port_of(name)
        used = {port for service, port in self._ports.items() if service != name}
        candidates = (free_port() for _ in range(FREE_PORTS_TRIED)) if others is None else others
        if first is not None and first not in used and is_free(first):
            chosen: int | None = first
        else:
            chosen = next((port for port in candidates if port not in used and is_free(port)), None)
        if chosen is None:
            raise NoFreePort(f"no port is free for {name}")
        if first is not None and chosen != first:
            self._say(f"port {first} is taken: {name} uses {chosen} from now on")
        if self._ports.get(name) != chosen:
            self._ports[name] = chosen
            write_private(self._path, _Ports(self._ports).model_dump_json(indent=2))
        return chosen
