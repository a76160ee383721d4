"""Random passwords of a data directory, generated at its first start and stored in it, readable by its owner only."""

import secrets
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runtime.errors import TallyError
from runtime.private_file import write_private

FILE_NAME = "credentials.json"
ROOT_KEY_PREFIX = "root_"
"""Prefix of TALLY_API_KEY. Keys of `tally keys` have another prefix, so the two are never confused."""

_SAFE = r"^[A-Za-z0-9_-]{32,128}$"
"""Characters that need no quoting in a URL, a shell or a configuration file."""


def _password() -> str:
    return secrets.token_urlsafe(32)


Password = Annotated[str, Field(default_factory=_password, pattern=_SAFE, repr=False)]


class Credentials(BaseModel):
    """Credentials of an embedded stack."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    api_key: Annotated[str, Field(default_factory=lambda: ROOT_KEY_PREFIX + _password(), pattern=_SAFE, repr=False)]
    clickhouse_password: Password
    analyst_password: Password
    valkey_password: Password

    @classmethod
    def of(cls, data_dir: Path) -> Self:
        """Return the passwords of a data directory; missing ones are generated and written first.

        Raises TallyError when the file cannot be read.
        """
        path = data_dir / FILE_NAME
        try:
            text = path.read_text()
        except FileNotFoundError:
            text = "{}"
        except (OSError, UnicodeDecodeError) as error:
            raise _unreadable(path) from error
        try:
            found = cls.model_validate_json(text)
        except ValidationError:
            raise _unreadable(path) from None  # the original error quotes the passwords
        if text == (complete := found.model_dump_json(indent=2)):
            path.chmod(0o600)
        else:
            write_private(path, complete)
        return found


def _unreadable(path: Path) -> TallyError:
    return TallyError(f"{path} cannot be read: restore it, or delete it to generate new passwords at the next start")
