"""Where a table is, and how a definition says it: a path or a URL with options."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, final
from urllib.parse import parse_qsl

from bedplate.canonical import digest
from bedplate.errors import DefinitionError, missing_extra, suggest
from bedplate.extensions import load, names
from bedplate.types import parse_moment

if TYPE_CHECKING:
    from bedplate.sources.base import Table

_MEMBERS = {
    "delta": "bedplate.sources.delta",
    "iceberg": "bedplate.sources.iceberg",
    "lance": "bedplate.sources.lance",
    "postgresql": "bedplate.sources.postgresql",
}
"""The module of each scheme; its `open_table(url, root, place)` opens a URL."""

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):(.*)$", re.DOTALL)
_REMOTE = ("abfs", "abfss", "az", "gcs", "gs", "hdfs", "http", "https", "s3", "s3a", "s3n", "wasbs")
"""Schemes of places where Parquet files may lie, which are no kinds of table."""

_WHOLE = re.compile(r"^[0-9]+$")


@final
@dataclass(frozen=True, slots=True)
class Location:
    """A path or URI as a definition says it.

    Attributes:
        text: the path or URI.
        root: where a relative path starts.
        place: what a message says the table is for, such as "source 'orders'"; empty: nothing.
    """

    text: str
    root: Path = Path()
    place: str = ""

    @property
    def is_remote(self) -> bool:
        """Whether it is a URI, such as `s3://bucket/orders`."""
        return "://" in self.text

    @property
    def full(self) -> str:
        """The URI, or the path from the root of the file system on."""
        return self.text if self.is_remote else str((self.root / self.text).absolute())

    def where(self, scheme: str) -> str:
        """The place of an error."""
        return f"{self.place}: {scheme}:{self.text}" if self.place else f"{scheme}:{self.text}"


def open_table(text: str, root: Path, place: str) -> Table:
    """The table that a text of a definition names: a URL with a scheme, or a path or glob of Parquet files.

    Args:
        text: such as `delta:warehouse/orders?version=12` or `orders/*.parquet`.
        root: where relative paths start.
        place: what a message says the table is for.

    Raises:
        DefinitionError: the scheme or an option is unknown.
        MissingExtraError: the library that reads such tables is not installed.
    """
    from bedplate.sources.parquet import ParquetTable

    match = _SCHEME.match(text)
    if match is None or (root / text).exists():
        return ParquetTable(text, root, place)
    scheme = match[1]
    if scheme in _MEMBERS:
        try:
            opener: Callable[[str, Path, str], Table] = importlib.import_module(_MEMBERS[scheme]).open_table
        except ModuleNotFoundError as error:
            raise missing_extra(error) or error from error
        return opener(text, root, place)
    known = sorted({*_MEMBERS, *names("sources")})
    if scheme not in known and scheme.lower() in _REMOTE:
        raise DefinitionError(
            f"got '{text}': Parquet files in buckets or on servers are not read, only those in a folder",
            where=place,
            hint="tables of Delta, Iceberg and Lance are read there, such as 'delta:s3://bucket/orders'; mount a "
            "bucket of Parquet files or copy them, and give the path",
        )
    if scheme not in known:
        raise DefinitionError(
            f"unknown kind of table '{scheme}'",
            where=place,
            hint=f"{suggest(scheme, known, 'kinds')}; a path of Parquet files has no colon",
        )
    return load("sources", scheme)(text, root, place)


def url_parts(url: str, options: Sequence[str], place: str) -> tuple[str, dict[str, str]]:
    """What stands between the scheme and `?`, and the options behind it.

    >>> url_parts("delta:warehouse/orders?version=12", ["version", "at"], "")
    ('warehouse/orders', {'version': '12'})

    Raises:
        DefinitionError: an option is unknown, is there twice, or has no value; or nothing is named.
    """
    before, _, query = url.partition("?")
    location = before.partition(":")[2]
    pairs = parse_qsl(query, keep_blank_values=True)
    for name, value in pairs:
        if name not in options:
            raise DefinitionError(f"unknown option '{name}'", where=place, hint=suggest(name, options, "options"))
        if not value or [n for n, _ in pairs].count(name) > 1:
            raise DefinitionError(f"the option '{name}' has {'several values' if value else 'no value'}", where=place)
    if not location.strip("/"):
        raise DefinitionError(f"got '{before}', which names no table", where=place)
    return location, dict(pairs)


def whole(options: Mapping[str, str], name: str, place: str) -> int | None:
    """An option that is a whole number, or None where it is not given.

    Raises:
        DefinitionError: it is none.
    """
    text = options.get(name)
    if text is None or _WHOLE.match(text):
        return None if text is None else int(text)
    raise DefinitionError(f"the option '{name}' is '{text}', expected a whole number", where=place)


def moment(at: str | date | datetime | None, others: Mapping[str, Any], place: str) -> int | None:
    """The microseconds of `at`, which asks for the state of a table at a time; None where it is not given.

    Args:
        at: the time.
        others: what else may say which state is meant; at most one of all may be given.
        place: what a message says it is for.

    Raises:
        DefinitionError: two are given.
        ConfigError: `at` is no time.
    """
    given = [name for name, value in {"at": at, **others}.items() if value is not None]
    if len(given) > 1:
        raise DefinitionError(f"got {' and '.join(given)}, expected at most one of them", where=place)
    return None if at is None else parse_moment(at, f"{place}: at" if place else "at")


def chosen(columns: Sequence[str] | None, schema: Mapping[str, Any], where: str) -> list[str]:
    """The columns of a table that a definition names, in the table's order; all without.

    Raises:
        DefinitionError: the table lacks one.
    """
    for column in columns or ():
        if column not in schema:
            raise DefinitionError(
                f"the table has no column '{column}'", where=where, hint=suggest(column, schema, "columns")
            )
    return [c for c in schema if columns is None or c in columns]


def state_id(kind: str, *parts: Any) -> str:
    """The id of a state of a table, other for each kind of table."""
    return digest([kind, *parts])
