"""Bearer tokens: who may ask for what. A token is only ever compared, by its hash; nothing shows it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import final

from bedplate.errors import ConfigError

LEAST_LENGTH = 16
"""The fewest characters of a token."""


class Role(IntEnum):
    """What the holder of a token may do; each may do what those before it may.

    `READ`: features, metadata and metrics. `INFER`: ask models. `OPERATE`: load and unload them.
    """

    READ = 1
    INFER = 2
    OPERATE = 3


@final
@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a token: a name that may be shown, and the role."""

    name: str
    role: Role


@final
class Tokens:
    """The tokens that are accepted; without any, everybody may ask.

    Args:
        tokens: each a line of a file of tokens: `TOKEN`, `ROLE TOKEN` or `ROLE NAME TOKEN`. A role is `read`, `infer`
            (that of a token without one) or `operate`; the name is shown in place of the token. A token has at least 16
            characters and no spaces.

    Raises:
        ConfigError: a token is too short, no header can hold it, or another line gives it another role; or a line has
            another form. Says which one by its position, not its text.

    >>> tokens = Tokens(["a-token-of-the-team", "read dashboard another-token-of-ours"])
    >>> tokens.accepts(b"Bearer a-token-of-the-team"), tokens.accepts(b"Bearer another"), tokens.accepts(None)
    (True, False, False)
    >>> tokens.holder(b"Bearer another-token-of-ours").name
    'dashboard'
    """

    __slots__ = ("_holders",)

    def __init__(self, tokens: Iterable[str]) -> None:
        self._holders: list[tuple[bytes, Holder]] = [_entry(line, i) for i, line in enumerate(tokens, 1)]
        roles: dict[bytes, tuple[int, Role]] = {}
        for i, (hashed, holder) in enumerate(self._holders, 1):
            first, role = roles.setdefault(hashed, (i, holder.role))
            if role != holder.role:
                got = f"token {i} is token {first}, which has the role '{role.name.lower()}'"
                raise ConfigError(got, where="tokens", hint="give each token one role")

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._holders)

    def accepts(self, authorization: bytes | None) -> bool:
        """Whether the value of an `Authorization` header is one of the tokens."""
        return not self._holders or self.holder(authorization) is not None

    def holder(self, authorization: bytes | None) -> Holder | None:
        """Whose token the value of an `Authorization` header holds; None: nobody's."""
        scheme, _, given = (authorization or b"").strip().partition(b" ")
        hashed = _hash(given.strip())
        found: Holder | None = None
        for known, holder in self._holders:  # all of them: how long it takes says nothing about which one it is
            if hmac.compare_digest(known, hashed):
                found = holder
        return found if scheme.lower() == b"bearer" else None

    def replace(self, others: Tokens) -> None:
        """Accepts other tokens from now on."""
        self._holders = others._holders


def read_tokens(path: Path) -> list[str]:
    """The tokens of a file, one a line; empty lines and those that begin with # are left out.

    Raises:
        ConfigError: the file can't be read, or holds no token; or a line has another form, or is no token: says which.
    """
    try:
        # Some editors begin a file with a mark of its encoding, which would be a part of the first token.
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read the tokens: {error}", where=str(path)) from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
    if not numbered:
        raise ConfigError("the file holds no token", where=str(path), hint="write one a line")
    for position, (number, line) in enumerate(numbered, 1):
        try:
            _entry(line, position)
        except ConfigError as error:
            raise ConfigError(error.message, where=f"{path}:{number}", hint=error.hint) from None
    found = [line for _, line in numbered]
    try:
        Tokens(found)
    except ConfigError as error:
        raise ConfigError(error.message, where=str(path), hint=error.hint) from None
    return found


def _entry(line: str, position: int) -> tuple[bytes, Holder]:
    parts = line.split()
    roles = {role.name.lower(): role for role in Role}
    if len(parts) > 3 or (len(parts) > 1 and parts[0] not in roles):
        raise ConfigError(
            f"token {position} has another form than TOKEN, ROLE TOKEN or ROLE NAME TOKEN",
            where="tokens",
            hint=f"a token holds no spaces; the roles are {', '.join(roles)}",
        )
    token = parts[-1] if parts else ""
    if len(token) < LEAST_LENGTH:
        raise ConfigError(
            f"token {position} has {len(token)} characters, expected at least {LEAST_LENGTH}, and no spaces",
            where="tokens",
            hint="for example the output of: openssl rand -hex 32",
        )
    if not (token.isascii() and token.isprintable()):
        raise ConfigError(f"token {position} has characters that no header can hold", where="tokens", hint="use ASCII")
    role = roles[parts[0]] if len(parts) > 1 else Role.INFER
    return _hash(token.encode()), Holder(parts[1] if len(parts) == 3 else f"token {position}", role)


def _hash(token: bytes) -> bytes:
    return hashlib.blake2b(token, digest_size=32).digest()
