"""Columns that stand in the names of folders: `day=2026-01-01/country=nl/part-0.parquet`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote

import polars as pl

Value: TypeAlias = "int | date | str | None"

_NULL = "__HIVE_DEFAULT_PARTITION__"
_WILD = re.compile(r"[*?\[]")
_INTEGER = re.compile(r"^-?[0-9]{1,18}$")
_DAY = re.compile(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")


def folder_of(pattern: Path) -> Path:
    """The folder below which folders may name columns: what comes before the first wildcard of a path.

    >>> folder_of(Path("orders/day=*/*.parquet")).as_posix(), folder_of(Path("orders")).as_posix()
    ('orders', 'orders')
    """
    parts = pattern.parts
    wild = next((i for i, part in enumerate(parts) if _WILD.search(part)), len(parts))
    return Path(*parts[:wild])


def partitions(
    folder: Path, files: Sequence[Path]
) -> tuple[Mapping[str, pl.DataType], Mapping[Path, Mapping[str, Value]]]:
    """The columns in the names of the folders between a folder and its files, and each file's values of them.

    Names and values are read as URLs escape them; `__HIVE_DEFAULT_PARTITION__` is null. A column whose values all are
    integers of at most 18 digits is one of integers (`month=01` is 1), one whose values all are dates such as
    2026-01-31 is one of dates; every other holds texts.
    """
    texts = {file: _texts(folder, file) for file in files}
    columns: dict[str, list[str]] = {}
    for found in texts.values():
        for column, text in found.items():
            columns.setdefault(column, []).append(text)
    types = {column: _type(t for t in found if t != _NULL) for column, found in columns.items()}
    values = {file: {c: _value(text, types[c]) for c, text in found.items()} for file, found in texts.items()}
    return types, values


def _texts(folder: Path, file: Path) -> dict[str, str]:
    if not file.is_relative_to(folder):
        return {}
    pairs = [part.partition("=") for part in file.relative_to(folder).parts[:-1]]
    return {unquote(column): unquote(text) for column, mark, text in pairs if mark and column}


def _type(texts: Iterable[str]) -> pl.DataType:
    found = set(texts)
    if found and all(_INTEGER.match(t) for t in found):
        return pl.Int64()
    return pl.Date() if found and all(_is_day(t) for t in found) else pl.String()


def _is_day(text: str) -> bool:
    try:
        return bool(_DAY.match(text) and date.fromisoformat(text))
    except ValueError:
        return False


def _value(text: str, dtype: pl.DataType) -> Value:
    if text == _NULL:
        return None
    return int(text) if dtype == pl.Int64 else date.fromisoformat(text) if dtype == pl.Date else text
