"""The URL of a Redis or Valkey store: which servers, how to prove who one is, and where in them the keys are.

    redis://[USER[:PASSWORD]@]HOST[:PORT][/DB][?OPTION=VALUE&...]     rediss:// over TLS
    redis+cluster://HOST[:PORT][,HOST[:PORT]...]                      rediss+cluster:// over TLS

Options: `namespace`, `password_env` (the environment variable that holds the password), `ca`, `cert` and `key` (files).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import final
from urllib.parse import parse_qsl, unquote

from bedplate.config import URL_OPTIONS, without_password
from bedplate.errors import ConfigError, suggest

NAMESPACE = "bp"
"""What the names of all keys begin with, by default, before a colon."""

_FILES = ("ca", "cert", "key")
_PORT = 6379


@final
@dataclass(frozen=True, slots=True)
class RedisAddress:
    """What a URL says.

    Attributes:
        shown: the URL without its password.
        hosts: names and ports; of a cluster those that are asked first.
        tls: whether connections are encrypted.
        cluster: whether the servers are a cluster.
        db: number of the database.
        user: of the server; empty: the default one.
        password: empty: none.
        namespace: what the names of all keys begin with.
        ca: file with the certificates that are trusted; None: those of the system.
        cert: file with the certificate of this client, or None.
        key: file with its key, or None: it is in `cert`.
    """

    shown: str
    hosts: tuple[tuple[str, int], ...]
    tls: bool
    cluster: bool
    db: int
    user: str
    password: str = field(repr=False)
    namespace: str
    ca: Path | None
    cert: Path | None
    key: Path | None


def parse_address(url: str, root: Path | None = None) -> RedisAddress:
    """Reads a URL.

    Args:
        url: the URL.
        root: where a relative path of a file starts.

    Raises:
        ConfigError: it is not of the form, or names a file or an environment variable that is not there.

    >>> address = parse_address("redis://app:secret@cache:6380/2?namespace=shop")
    >>> address.hosts, address.db, address.namespace, address.shown
    ((('cache', 6380),), 2, 'shop', 'redis://app:***@cache:6380/2?namespace=shop')
    """
    shown = without_password(url)
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    servers, _, path = rest.partition("/")
    login, _, hosts = servers.rpartition("@")
    user, _, password = login.partition(":")
    if "@" in path or "@" in query:
        raise ConfigError(
            "an @ after the first / or ?",
            where=shown,
            hint="in a password write / as %2F, ? as %3F, # as %23 and @ as %40; or use ?password_env=NAME",
        )
    options = _options(query, shown)
    files = {name: _file(options[name], root, f"{shown}: {name}") for name in _FILES if name in options}
    cluster, tls = scheme.endswith("+cluster"), scheme.startswith("rediss")
    if files and not tls:
        raise ConfigError(
            f"got the option '{next(iter(files))}', which only connections over TLS have",
            where=shown,
            hint=f"begin the URL with {scheme.replace('redis', 'rediss')}://",
        )
    found = tuple(_host(text, shown) for text in hosts.split(","))
    if len(found) > 1 and not cluster:
        raise ConfigError(
            f"got {len(found)} hosts, expected one", where=shown, hint="those of a cluster: redis+cluster"
        )
    password = _password(unquote(password), options.get("password_env"), shown)
    namespace, db = options.get("namespace", NAMESPACE), _db(path, cluster, shown)
    trusted = (files.get(name) for name in _FILES)
    return RedisAddress(shown, found, tls, cluster, db, unquote(user), password, namespace, *trusted)


def _options(query: str, shown: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name not in URL_OPTIONS:
            named = f" '{name}'" if f"{name}=***" in shown else ""
            raise ConfigError(f"unknown option{named}", where=shown, hint=suggest(name, URL_OPTIONS, "options"))
        if not value:
            raise ConfigError(f"the option '{name}' is empty", where=shown)
    if set("{}") & set(options.get("namespace", "")):
        raise ConfigError(
            "a namespace has no braces", where=shown, hint="they say which keys of a cluster stay together"
        )
    return options


def _file(text: str, root: Path | None, where: str) -> Path:
    path = (root or Path()) / Path(text).expanduser()
    if not path.is_file():
        raise ConfigError(f"there is no file '{path}'", where=where)
    return path


def _host(text: str, shown: str) -> tuple[str, int]:
    """Name and port; an address of version 6 is in brackets."""
    name, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = text, str(_PORT)
    if not name or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ConfigError("expected redis://HOST:PORT/DB", where=shown)
    return unquote(name.strip("[]")), int(port)


def _db(path: str, cluster: bool, shown: str) -> int:
    if path and not path.isdigit():
        raise ConfigError(f"got the database '{path}', expected a number", where=shown)
    if cluster and int(path or 0):
        raise ConfigError(f"got the database {path}, and a cluster has only 0", where=shown, hint="use ?namespace=NAME")
    return int(path or 0)


def _password(given: str, variable: str | None, shown: str) -> str:
    if variable is None:
        return given
    if given:
        raise ConfigError("got a password and password_env, expected one of them", where=shown)
    if not os.environ.get(variable):
        raise ConfigError(
            f"the environment variable '{variable}' is not set", where=shown, hint="it holds the store's password"
        )
    return os.environ[variable]
