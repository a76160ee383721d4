"""Settings of the console: `TALLY_CONSOLE_<NAME>` in the environment."""

import logging
import os
import ssl
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "TALLY_CONSOLE_"
OF_OTHERS = {"TALLY_CONSOLE_URL", "TALLY_CONSOLE_IMAGE"}
"""Variables that the API and Compose read."""

log = logging.getLogger("tally.console")


class ConsoleSettingsError(Exception):
    """Invalid settings; the message names each variable."""


class ConsoleSettings(BaseSettings):
    """Settings of one console process. Times are in milliseconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    api: str = ""
    """Address of the API (its reader), such as http://reader:8080. Required."""
    docs: str = "/docs"
    """Address of the API's documentation as browsers reach it, for links. A path is one of the API's own address."""
    secrets: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Secrets that encrypt sessions, separated by commas, at least 16 characters each. The first one encrypts, all of
    them decrypt. Replicas share them. Empty: a random one, so sessions end when the process ends."""
    session_ms: int = Field(43_200_000, ge=60_000)
    """Milliseconds until a viewer has to sign in again. A session ends earlier when its API key is revoked."""
    secure_cookies: bool = False
    """Whether browsers send the session over HTTPS only. Set it wherever the console is served over HTTPS."""
    api_timeout_ms: int = Field(30_000, ge=100)
    """Milliseconds until a request to the API is given up."""
    api_connections: int = Field(100, ge=1, le=10_000)
    """Maximum requests to the API in flight. Further ones wait, up to TALLY_CONSOLE_API_TIMEOUT_MS."""
    api_answer_bytes: int = Field(16 * 1024 * 1024, ge=64 * 1024)
    """Largest answer of the API that the console shows. A larger one is an error that says so."""
    form_bytes: int = Field(1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    """Largest form that the console accepts, in bytes. A larger one is refused with 413."""
    connections: int = Field(1_000, ge=1)
    """Maximum requests that one console process serves at a time. Further ones are answered 503."""
    live_every_ms: int = Field(1_000, ge=200, le=60_000)
    """Milliseconds between two looks of the live events of one viewer."""
    refresh_every_ms: int = Field(5_000, ge=500, le=600_000)
    """Milliseconds between two refreshes of a panel of the overview."""
    tls_ca_file: str = ""
    """PEM file of the certificate authorities for the API. Empty: the system's."""
    log_format: Literal["text", "json"] = "text"
    """Log format: text, or json with one object per line."""

    @field_validator("secrets", mode="before")
    @classmethod
    def _secrets(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("secrets")
    @classmethod
    def _long_secrets(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(each.get_secret_value()) < 16 for each in value):  # noqa: PLR2004  (as the documentation says)
            raise ValueError("each secret must have at least 16 characters")
        return value

    @field_validator("api")
    @classmethod
    def _address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            is_address = False
        if value and (not is_address or parts.query or parts.fragment or "@" in parts.netloc):
            raise ValueError("must be an address such as http://127.0.0.1:8080, without a user, query or fragment")
        return value.rstrip("/")

    @field_validator("tls_ca_file")
    @classmethod
    def _authorities(cls, value: str) -> str:
        if value:
            try:
                ssl.create_default_context(cafile=value)
            except OSError as error:
                raise ValueError(f"cannot read certificates of {value}: {error.strerror or error}") from None
        return value

    @classmethod
    def load(cls, **overrides: object) -> Self:
        """Load the settings: overrides, then the environment, then defaults. Raises ConsoleSettingsError."""
        try:
            loaded = cls(**overrides)  # type: ignore[arg-type]
        except ValidationError as error:
            raise ConsoleSettingsError(
                "; ".join(
                    f"{PREFIX}{str(each['loc'][0]).upper()}: {each['msg'].removeprefix('Value error, ')}"
                    for each in error.errors(include_input=False)
                )
            ) from None
        known = {f"{PREFIX}{name.upper()}" for name in cls.model_fields} | OF_OTHERS
        for name in sorted({each for each in os.environ if each.startswith(PREFIX)} - known):
            log.warning("%s is ignored: no setting of the console has this name (docs/console.md)", name)
        if not loaded.api:
            raise ConsoleSettingsError(f"{PREFIX}API is not set: give the address of Tally's API, or start `tally up`")
        return loaded
