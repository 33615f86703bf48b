"""Feast's Redis online store as the URL of Bedplate's: which servers, TLS, user and database. No password is copied."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final
from urllib.parse import quote, urlencode

PASSWORD_ENV = "ONLINE_STORE_PASSWORD"
"""The environment variable that holds the password, where Feast's own names none."""

_TYPES = ("redis", "feast.infra.online_stores.redis.RedisOnlineStore")
_FILES = {"ssl_ca_certs": "ca", "ssl_certfile": "cert", "ssl_keyfile": "key"}
_KNOWN = {"db", "ssl", "username", "password", *_FILES}
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")


@final
@dataclass(frozen=True, slots=True)
class RedisUrl:
    """What became of Feast's settings.

    Attributes:
        url: of Bedplate's store; empty: there is none.
        password_env: the environment variable that must hold the password; empty: none is needed.
        reason: why there is no URL.
        left: settings that the URL has no place for.
    """

    url: str = ""
    password_env: str = ""
    reason: str = ""
    left: tuple[str, ...] = ()


def is_redis(kind: str) -> bool:
    """Whether Feast's type of an online store is the one for Redis."""
    return kind in _TYPES


def redis_url(settings: object, project: str, root: Path) -> RedisUrl:
    """The URL for Feast's `online_store` of type redis.

    The project becomes the namespace: in Feast several may share a database.

    Args:
        settings: the value of `online_store`.
        project: the name of Feast's project.
        root: where a relative path of a file starts.

    >>> given = {"type": "redis", "connection_string": "cache:6380,ssl=true,password=secret,db=2"}
    >>> redis_url(given, "shop", Path()).url
    'rediss://cache:6380/2?namespace=shop&password_env=ONLINE_STORE_PASSWORD'
    """
    given: Mapping[str, Any] = settings if isinstance(settings, Mapping) else {}  # pyright: ignore[reportUnknownVariableType]
    kind = str(given.get("redis_type", "redis"))
    if kind not in ("redis", "redis_cluster"):
        return RedisUrl(reason=f"Bedplate does not ask servers of the kind {kind} where the data is")
    text = str(given.get("connection_string", "localhost:6379"))
    parts = [part.strip() for part in text.split(",") if part.strip()]
    params = dict(part.split("=", 1) for part in parts if "=" in part)
    password = params.get("password", "")
    variable = _VARIABLE.fullmatch(password)
    hosts = [os.path.expandvars(part) for part in parts if "=" not in part]
    if not hosts or any(_VARIABLE.search(host) for host in hosts):
        return RedisUrl(reason="its address is in an environment variable that is not set")
    if any("," in host or "=" in host for host in hosts):
        return RedisUrl(reason="its address is in an environment variable, and may hold a password")
    params = {name: os.path.expandvars(value) for name, value in params.items() if name != "password"}
    cluster = kind == "redis_cluster"
    options = {"namespace": project}
    password_env = variable.group(1) if variable else PASSWORD_ENV if password else ""
    if password_env:
        options["password_env"] = password_env
    tls = _value(params.get("ssl", "false")) is True
    if tls:
        files = {_FILES[name]: params[name] for name in _FILES if name in params}
        options |= {name: str((root / file).resolve()) for name, file in files.items()}
    url = ("rediss" if tls else "redis") + ("+cluster://" if cluster else "://")
    url += f"{quote(params['username'], safe='')}@" if params.get("username") else ""
    url += ",".join(hosts if cluster else hosts[:1]) + ("" if cluster else f"/{params.get('db', '0')}")
    left = [*(n for n in params if n not in _KNOWN), *(n for n in ("key_ttl_seconds",) if given.get(n))]
    return RedisUrl(f"{url}?{urlencode(options)}", password_env, left=tuple(left))


def _value(text: str) -> object:
    """As Feast reads it: JSON where it is."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
