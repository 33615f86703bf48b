"""TLS of a server: a certificate and its key, read again when they are renewed."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import final

from bedplate.errors import ConfigError


@final
class Certificate:
    """A server's certificate. TLS 1.2 and later are spoken.

    Args:
        certificate: a PEM file with the certificate and those that signed it.
        key: a PEM file with its private key, without a passphrase.

    Attributes:
        paths: both files.
        context: what connections are encrypted with.

    Raises:
        ConfigError: a file can't be read, or they don't belong together.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self.paths = (certificate, key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.reload()

    def reload(self) -> None:
        """Reads the files; connections that are made from now on get what they hold.

        Raises:
            ConfigError: as on creation; then the certificate before stays.
        """
        certificate, key = self.paths
        place = f"{certificate}, {key}"
        try:
            # First into another one: a context that takes half of a pair is of no use.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
            self.context.load_cert_chain(certificate, key, password="")
        except OSError as error:  # ssl.SSLError is one
            reason = error.strerror or str(error)
            hint = "PEM files are expected, the key without a passphrase"
            raise ConfigError(f"can't use the certificate: {reason}", where=place, hint=hint) from None
