"""Bearer tokens: who may ask. A token is only ever compared, by its hash and in constant time; nothing shows it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path
from typing import final

from bedplate.errors import ConfigError

LEAST_LENGTH = 16
"""The fewest characters of a token."""


@final
class Tokens:
    """The tokens that are accepted; without any, everybody may ask.

    Args:
        tokens: each of at least 16 characters without spaces.

    Raises:
        ConfigError: a token is too short or holds a space; says which one by its position, not its text.

    >>> tokens = Tokens(["a-token-of-the-team"])
    >>> tokens.accepts(b"Bearer a-token-of-the-team"), tokens.accepts(b"Bearer another"), tokens.accepts(None)
    (True, False, False)
    """

    __slots__ = ("_hashes",)

    def __init__(self, tokens: Iterable[str]) -> None:
        self._hashes: list[bytes] = []
        for i, token in enumerate(tokens, 1):
            if len(token) < LEAST_LENGTH or any(c.isspace() for c in token):
                raise ConfigError(
                    f"token {i} has {len(token)} characters, expected at least {LEAST_LENGTH}, and no spaces",
                    where="tokens",
                    hint="for example the output of: openssl rand -hex 32",
                )
            self._hashes.append(_hash(token.encode()))

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._hashes)

    def accepts(self, authorization: bytes | None) -> bool:
        """Whether the value of an `Authorization` header is one of the tokens."""
        if not self._hashes:
            return True
        scheme, _, given = (authorization or b"").strip().partition(b" ")
        hashed = _hash(given.strip())
        found = False
        for known in self._hashes:  # all of them: how long it takes says nothing about which one it is
            found |= hmac.compare_digest(known, hashed)
        return found and scheme.lower() == b"bearer"


def read_tokens(path: Path) -> list[str]:
    """The tokens of a file, one a line; empty lines and those that begin with # are left out.

    Raises:
        ConfigError: the file can't be read, or holds no token.
    """
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read the tokens: {error}", where=str(path)) from None
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise ConfigError("the file holds no token", where=str(path), hint="write one a line")
    return found


def _hash(token: bytes) -> bytes:
    return hashlib.blake2b(token, digest_size=32).digest()
