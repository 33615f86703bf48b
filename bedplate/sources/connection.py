"""How a PostgreSQL server is reached, and what it says when something is wrong, without the secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from adbc_driver_manager import Error
from adbc_driver_postgresql import dbapi  # pyright: ignore[reportMissingTypeStubs]

from bedplate.errors import BedplateError, DataError, DefinitionError

_SECRETS = ("password", "sslpassword", "passfile")
_PASSWORDS = re.compile(r"//[^/?#]*?:([^/?#]*)@|\b(?:ssl)?password\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE)
_HINTS = {
    "22023": "the server has ended the transaction that keeps the state: run it again",
    "28P01": "set the password in the environment: PGPASSWORD, or a file ~/.pgpass",
    "3F000": "name the table with its schema, as SQL writes it: shop.orders",
    "42501": "ask for the right to read it: GRANT SELECT ON the table TO the user",
    "42703": "the columns of the table were changed since they were looked up: run it again",
    "42P01": "name the table with its schema, as SQL writes it: shop.orders",
}
"""What to do, by the code that SQL gives an error."""


@final
@dataclass(frozen=True, slots=True)
class Server:
    """A server as a definition names it.

    Attributes:
        url: the URL without a password; empty: PostgreSQL's own environment variables say all.
        env: the environment variable that holds the URL in its place, which may have a password.
        place: what a message says it is for.

    Raises:
        DefinitionError: both are given, or the URL is none of PostgreSQL's or holds a password.
    """

    url: str
    env: str | None
    place: str

    def __post_init__(self) -> None:
        if self.url and self.env is not None:
            raise DefinitionError("got url and env, expected one of them", where=self.place)
        if self.url and not self.url.startswith(("postgresql://", "postgres://")):
            raise DefinitionError(
                "got a URL of another kind, expected postgresql://USER@HOST:PORT/DATABASE", where=self.place
            )
        if _PASSWORDS.search(self.url) or any(n in _SECRETS for n, _ in parse_qsl(urlsplit(self.url).query)):
            raise DefinitionError(
                "the URL holds a password, and a definition must hold none",
                where=self.place,
                hint="leave it out and set PGPASSWORD, or put the whole URL into an environment variable and name "
                "that: env='SHOP_DATABASE'",
            )

    def open(self, where: str) -> Any:
        """A new connection (`adbc_driver_manager.dbapi.Connection`), in a transaction.

        Args:
            where: what a message calls the table.

        Raises:
            DataError: the server can't be reached, or does not let the user in.
        """
        uri = self._uri(where)
        driver: Any = dbapi
        try:
            return driver.connect(uri)
        except Error as error:
            raise self.said(error, where) from None

    def said(self, error: Error, where: str) -> BedplateError:
        """The error of a server as one of Bedplate's, without a password.

        Args:
            error: what the driver raised.
            where: what a message calls the table.
        """
        text = str(error)
        said = re.split(r"\s*(?:\nLINE \d|\n\nQuery was:|\.\s*SQLSTATE: )", text.partition("ERROR:")[2] or text)[0]
        said = re.sub(r"^[A-Z_]+: (?:\[libpq\] )?(?:Failed to connect: )?", "", said.strip())
        if "connection info string" in said or "URI" in said:  # these quote what they could not read
            said = "the URL of the server is not valid"
        for secret in self._passwords():
            said = said.replace(secret, "...")
        hint = next((h for code, h in _HINTS.items() if code in (error.sqlstate or "") or code in text), None)
        if hint is None and "password" in said:
            hint = _HINTS["28P01"]
        return DataError(
            f"can't read the table: {' '.join(said.split())}",
            where=where,
            hint=hint or "check that the server is up, and its URL: postgresql://USER@HOST:PORT/DATABASE",
        )

    def _uri(self, where: str) -> str:
        if self.env is None:
            return self.url or "postgresql://"
        uri = os.environ.get(self.env, "")
        if not uri:
            raise DataError(
                f"the environment variable {self.env} is not set",
                where=where,
                hint="set it to the server's URL: postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
            )
        return uri

    def _passwords(self) -> list[str]:
        """The texts that must not be shown, the longest first."""
        uri = os.environ.get(self.env, "") if self.env else ""
        found = [t for groups in _PASSWORDS.findall(uri) for t in groups if t]
        found += [os.environ.get("PGPASSWORD", "")]
        return sorted({s for t in found for s in (t, unquote(t)) if s}, key=len, reverse=True)


def split_url(url: str, options: Sequence[str], place: str) -> tuple[str, dict[str, str]]:
    """A URL without some options, and these.

    >>> split_url("postgresql://db/shop?table=orders&sslmode=require", ["table"], "")
    ('postgresql://db/shop?sslmode=require', {'table': 'orders'})
    >>> split_url("postgresql:?table=orders", ["table"], "")
    ('', {'table': 'orders'})

    Raises:
        DefinitionError: one of the options is there twice or has no value.
    """
    before, _, query = url.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    own = {n: v for n, v in pairs if n in options}
    for name, value in own.items():
        if not value or [n for n, _ in pairs].count(name) > 1:
            raise DefinitionError(f"the option '{name}' has {'several values' if value else 'no value'}", where=place)
    rest = urlencode([(n, v) for n, v in pairs if n not in options])
    if before in ("postgresql:", "postgresql://") and not rest:
        return "", own
    return f"{before}?{rest}" if rest else before, own
