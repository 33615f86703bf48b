"""A project's configuration: `bedplate.toml`, which says where things are."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from bedplate.errors import ConfigError, suggest

CONFIG_FILE = "bedplate.toml"
ONLINE_SCHEMES = ("lmdb", "memory", "redis", "rediss", "redis+cluster", "rediss+cluster")
ONLINE_URLS = "lmdb:PATH, redis://HOST:PORT/DB or memory:"
ENGINES = ("local",)

_KEYS = {
    "project": {"name": str, "definitions": list},
    "offline": {"path": str, "memory": str},
    "online": {
        "url": str,
        "deadline": str,
        "cache": str,
        "ahead": str,
        "resident": list,
        "resident_path": str,
        "resident_age": str,
    },
    "registry": {"path": str, "mirror": str},
    "engine": {"url": str},
}
_DEFINITIONS = ("features.py", "datasets.py", "service.py", "train.py")
_TYPE_NAMES = {"str": "a string", "list": "a list", "dict": "a table", "bool": "a boolean", "int": "an integer"}
_SIZE = re.compile(r"^([0-9]+(?:\.[0-9]+)?) ?([MG])B$", re.IGNORECASE)
LEAST_MEMORY = 500_000_000
"""The smallest budget of memory that can be set; bytes."""
URL_OPTIONS = ("ca", "cert", "key", "namespace", "password_env")
"""The options that the URL of an online store may have; none of them holds a password."""
_USER = re.compile(r"[A-Za-z0-9_.-]*")
_LINE = re.compile(r"at line (\d+)")


@final
@dataclass(frozen=True, slots=True)
class Config:
    """Where the parts of a project are; every path is absolute.

    Attributes:
        root: the project's folder.
        name: the project's name; by default the folder's.
        definitions: the Python files that hold the definitions, in the order they are loaded.
        offline_path: the folder of as-of indexes.
        memory: how much memory the building and reading of indexes may use; bytes.
        online_url: the online store: `lmdb:PATH` (the path absolute), `redis://...`, which may hold a password, or
            `memory:`.
        online_deadline: how long a read of the online store may take while features are served; microseconds.
        online_cache: how much memory the rows read last may take, which are used when it can't be read; bytes.
        online_ahead: how far ahead of the clock an event of a stream may be; microseconds.
        resident: names of the views that are read from mapped files while features are served.
        resident_path: the folder of these files.
        resident_age: how long ago the online store may have held what they hold; then it is read; microseconds.
        registry_path: the folder of runs and model versions.
        registry_mirror: the MLflow store that a run is copied to when it has ended, a URI or a folder; empty: none.
        engine_url: where work runs: `local`.
    """

    root: Path
    name: str
    definitions: tuple[Path, ...]
    offline_path: Path
    memory: int
    online_url: str
    online_deadline: int
    online_cache: int
    online_ahead: int
    resident: tuple[str, ...]
    resident_path: Path
    resident_age: int
    registry_path: Path
    registry_mirror: str
    engine_url: str


def without_password(url: str) -> str:
    """A URL as it may be shown: all that may be a password is hidden, wherever it stands and whatever is in it.

    >>> without_password("redis://app:secret@cache:6379/0"), without_password("lmdb:store")
    ('redis://app:***@cache:6379/0', 'lmdb:store')
    >>> without_password("redis://:sec/ret@cache/0?namespace=a&password=secret")
    'redis://:***@cache/0?namespace=a&password=***'
    """
    begin = re.match("[^:/@?#]*:?/*", url)
    scheme = begin[0] if begin else ""
    login, at, rest = url[len(scheme) :].rpartition("@")
    if "?" in login:  # either the password has one in it, or an option's value an @
        return f"{scheme}***"
    user, colon, _ = login.partition(":")
    known = user if scheme.endswith("://") and colon and _USER.fullmatch(user) else ""
    place, question, options = rest.partition("?")
    place, mark, _ = place.partition("#")
    shown = "&".join(map(_shown_option, options.split("&"))) if question else ""
    return f"{scheme}{known}{colon}{'***@' if at else ''}{place}{'#***' if mark else ''}{question}{shown}"


def _shown_option(text: str) -> str:
    name, equals, value = text.partition("=")
    if name in URL_OPTIONS:
        return text if "#" not in value else f"{name}=***"
    return f"{name}=***" if equals and _USER.fullmatch(name) else "***"


def load_config(directory: Path) -> Config:
    r"""Reads and checks the `bedplate.toml` of a project's folder. Every key may be left out.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "bedplate.toml").write_text('[project]\nname = "shop"')
    >>> config = load_config(folder)
    >>> config.name, config.offline_path.relative_to(config.root).as_posix(), config.engine_url
    ('shop', '.bedplate/offline', 'local')

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown or of a wrong type, a file of definitions is
            missing, or a URL names an unknown scheme.
    """
    from bedplate.types import parse_duration

    root = directory.expanduser().absolute()
    file = root / CONFIG_FILE
    tables = _read(file)
    _check_keys(tables, file)
    project, online = tables.get("project", {}), tables.get("online", {})
    name = project.get("name", root.resolve().name)
    if not name.strip():
        raise ConfigError("got an empty name", where=f"{file}: project.name")
    return Config(
        root=root,
        name=name,
        definitions=_definitions(project.get("definitions"), root, file),
        offline_path=_path(tables, "offline", ".bedplate/offline", root, file),
        memory=_memory(tables.get("offline", {}).get("memory", "2GB"), file),
        online_url=_online_url(online.get("url", "lmdb:.bedplate/online"), root, file),
        online_deadline=parse_duration(online.get("deadline", "50ms"), where=f"{file}: online.deadline"),
        online_cache=parse_size(online.get("cache", "64MB"), f"{file}: online.cache"),
        online_ahead=parse_duration(online.get("ahead", "10m"), where=f"{file}: online.ahead"),
        resident=_texts(online.get("resident", []), f"{file}: online.resident"),
        resident_path=_resolve(
            online.get("resident_path", ".bedplate/resident"), root, f"{file}: online.resident_path"
        ),
        resident_age=parse_duration(online.get("resident_age", "5m"), where=f"{file}: online.resident_age"),
        registry_path=_path(tables, "registry", ".bedplate/registry", root, file),
        registry_mirror=tables.get("registry", {}).get("mirror", ""),
        engine_url=_engine_url(tables.get("engine", {}).get("url", "local"), file),
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_bytes().decode())
    except FileNotFoundError:
        raise ConfigError(
            f"no {CONFIG_FILE} in this folder",
            where=str(file.parent),
            hint="go to a project's folder; 'bedplate init DIR' makes a new one",
        ) from None
    except OSError as error:
        raise ConfigError(f"can't read the file: {error.strerror or error}", where=str(file)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"byte {error.start} is not UTF-8", where=str(file), hint="save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        line = _LINE.search(str(error))
        where = f"{file}:{line[1]}" if line else str(file)
        raise ConfigError(f"not valid TOML: {error}", where=where) from error


def _check_keys(tables: Mapping[str, Any], file: Path) -> None:
    for table, content in tables.items():
        if table not in _KEYS:
            kind = "table" if isinstance(content, dict) else "key"
            hint = "it belongs into [offline]" if table == "memory" else suggest(table, _KEYS, "tables")
            raise ConfigError(f"unknown {kind} '{table}'", where=str(file), hint=hint)
        _check_type(content, dict, f"{file}: {table}")
        known: Mapping[str, type] = _KEYS[table]
        for key, value in content.items():
            where = f"{file}: {table}.{key}"
            if key not in known:
                raise ConfigError("unknown key", where=where, hint=suggest(key, known, f"keys of [{table}]"))
            _check_type(value, known[key], where)


def _check_type(value: Any, expected: type, where: str) -> None:
    if not isinstance(value, expected):
        got = _TYPE_NAMES.get(type(value).__name__, f"a {type(value).__name__}")
        raise ConfigError(f"got {got}, expected {_TYPE_NAMES[expected.__name__]}", where=where)


def _definitions(names: list[Any] | None, root: Path, file: Path) -> tuple[Path, ...]:
    if names is None:
        return tuple(root / name for name in _DEFINITIONS if (root / name).is_file())
    where = f"{file}: project.definitions"
    for name in names:
        _check_type(name, str, f"{where}: an entry")
        if not (root / name).is_file():
            present = [p.name for p in root.glob("*.py")]
            raise ConfigError(
                f"there is no file '{name}'", where=where, hint=suggest(name, present, "Python files here")
            )
        if names.count(name) > 1:
            raise ConfigError(f"'{name}' is listed twice", where=where)
    return tuple(root / name for name in names)


def _texts(values: list[Any], where: str) -> tuple[str, ...]:
    for value in values:
        _check_type(value, str, f"{where}: an entry")
    return tuple(dict.fromkeys(values))


def _path(tables: Mapping[str, Any], table: str, default: str, root: Path, file: Path) -> Path:
    text: str = tables.get(table, {}).get("path", default)
    return _resolve(text, root, f"{file}: {table}.path")


def _resolve(text: str, root: Path, where: str) -> Path:
    if not text.strip() or "\0" in text:
        raise ConfigError(f"got {text!r}, expected a path", where=where)
    return root / Path(text).expanduser()


def parse_size(text: str, where: str) -> int:
    """Bytes of a size such as "2GB"; a thousand of each unit are one of the next.

    Raises:
        ConfigError: it is no number with MB or GB.

    >>> parse_size("1.5GB", "here")
    1500000000
    """
    match = _SIZE.match(text.strip())
    if match is None:
        raise ConfigError(f"got '{text}', expected a number and MB or GB", where=where, hint='for example "2GB"')
    return int(float(match[1]) * (10**6 if match[2].upper() == "M" else 10**9))


def _memory(text: str, file: Path) -> int:
    """Bytes of the budget of memory."""
    size = parse_size(text, f"{file}: offline.memory")
    if size < LEAST_MEMORY:
        raise ConfigError(
            f"got '{text}', expected at least {LEAST_MEMORY // 10**6}MB",
            where=f"{file}: offline.memory",
            hint="the libraries themselves take a good part of that",
        )
    return size


def _online_url(url: str, root: Path, file: Path) -> str:
    where = f"{file}: online.url"
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in ONLINE_SCHEMES:
        raise ConfigError(
            f"got '{without_password(url)}', expected {ONLINE_URLS}",
            where=where,
            hint=suggest(scheme, ONLINE_SCHEMES, "schemes"),
        )
    if scheme == "memory":
        if rest:
            raise ConfigError(f"got '{without_password(url)}', expected nothing after 'memory:'", where=where)
        return url
    if scheme == "lmdb":
        return f"lmdb:{_resolve(rest, root, where)}"
    if not rest.startswith("//"):
        raise ConfigError(f"got '{without_password(url)}', expected {scheme}://HOST:PORT/DB", where=where)
    return url


def _engine_url(url: str, file: Path) -> str:
    if url not in ENGINES:
        raise ConfigError(
            f"got '{without_password(url)}', expected local",
            where=f"{file}: engine.url",
            hint=suggest(url, ENGINES, "engines"),
        )
    return url
