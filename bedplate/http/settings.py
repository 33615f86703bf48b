"""How a server is to serve: where, for whom, and how much."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from bedplate.http.message import Limits
from bedplate.http.tls import Certificate
from bedplate.http.tokens import Tokens, read_tokens


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a server.

    Attributes:
        host: a name or an address.
        port: 0 for a free one.
        limits: what a client may ask for.
        grace_seconds: how long requests under way may take when it stops.
        tokens: who may ask; without any, everybody.
        token_file: where they are from; it is read again when it changes.
        more_tokens: those that are not in the file.
        certificate: for TLS; None: without.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    limits: Limits = field(default_factory=Limits)
    grace_seconds: float = 10.0
    tokens: Tokens = field(default_factory=lambda: Tokens([]))
    token_file: Path | None = None
    more_tokens: tuple[str, ...] = field(default=(), repr=False)
    certificate: Certificate | None = None

    def read_tokens(self) -> None:
        """Reads the file of tokens; from now on those in it are accepted, and no others.

        Raises:
            ConfigError: it can't be read, or a line is wrong; then those before stay.
        """
        in_file = [] if self.token_file is None else read_tokens(self.token_file)
        self.tokens.replace(Tokens([*in_file, *self.more_tokens]))


def allow_descriptors() -> None:
    """Raises the limit of open files to what the process may have: each connection is one."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
