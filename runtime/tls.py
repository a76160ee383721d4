"""Trusted certificate authorities for the stores."""

import ssl

from runtime.errors import SettingsError
from runtime.settings import Settings


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Return a context that verifies certificates and host names. Raises SettingsError for an unusable CA file."""
    path = settings.tls_ca_file
    try:
        return ssl.create_default_context(cafile=path or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"TALLY_TLS_CA_FILE: {path} cannot be read as PEM certificates: {error}") from None
