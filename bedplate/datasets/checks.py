"""Checks that the definitions of a dataset share: every mistake becomes a `DefinitionError` that names its place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime
from types import UnionType
from typing import Any, cast, get_args

import polars as pl

from bedplate.errors import ConfigError, DefinitionError, suggest
from bedplate.features.entity import key_cast
from bedplate.sources.base import ALWAYS, Source
from bedplate.types import Type, parse_duration, parse_moment, type_of


def check_kind(value: object, expected: type[Any] | UnionType, place: str, hint: str | None = None) -> None:
    """Raises `DefinitionError` unless the value is of the class or of one of several.

    >>> check_kind(3, int, "dataset 'd'")
    """
    if not isinstance(value, expected):
        classes: tuple[type[Any], ...] = get_args(expected) or (cast("type[Any]", expected),)
        wanted = " or ".join(c.__name__ for c in classes)
        raise DefinitionError(f"got a {type(value).__name__}, expected {wanted}", where=place, hint=hint)


def check_events(source: object, place: str) -> None:
    """Raises `DefinitionError` unless the value is a source of events, which have a time."""
    check_kind(source, Source, place)
    if isinstance(source, Source) and source.time == ALWAYS:
        raise DefinitionError(
            f"the rows of source '{source.name}' have no time (time=ALWAYS), expected events",
            where=place,
            hint="name the column that says when each event happened",
        )


def check_name(name: object, kind: str) -> None:
    """Raises `DefinitionError` unless the name is a text that is not empty."""
    if not isinstance(name, str) or not name:
        raise DefinitionError(f"got the name {name!r}, expected a text", where=kind)


def check_number(value: object, place: str, *, whole: bool = False) -> None:
    """Raises `DefinitionError` unless the value is a number that is finite, or a whole one.

    >>> check_number(2.5, "label 'l': at_least")
    """
    accepted = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, accepted) or not math.isfinite(value):
        raise DefinitionError(f"got {value!r}, expected a {'whole ' if whole else ''}number", where=place)


def check_list(values: object, place: str, hint: str) -> None:
    """Raises `DefinitionError` unless the value is a list or a tuple."""
    if not isinstance(values, list | tuple):
        raise DefinitionError(f"got {values!r}, expected a list", where=place, hint=hint)


def duration_of(text: str, place: str) -> int:
    """Microseconds of a duration in a definition.

    Raises:
        DefinitionError: not a duration above zero.

    >>> duration_of("7d", "label 'bought': within")
    604800000000
    """
    try:
        return parse_duration(text, where=place)
    except ConfigError as error:
        raise DefinitionError(error.message, where=place, hint=error.hint) from None


def time_of(value: datetime | date | str | int, place: str) -> int:
    """Microseconds of a time in a definition.

    Raises:
        DefinitionError: not an ISO 8601 date or time, not between 1970 and 2200, or an integer in seconds or
            milliseconds.
    """
    try:
        return parse_moment(value, place)
    except ConfigError as error:
        raise DefinitionError(error.message, where=place, hint=error.hint) from None


def id_type(column: str, schema: Mapping[str, pl.DataType], source: Source, place: str) -> Type:
    """The type of a column of ids.

    Raises:
        DefinitionError: the column is not there, or holds neither integers nor strings.
    """
    if column not in schema:
        raise DefinitionError(
            f"unknown column '{column}' in source '{source.name}'", where=place, hint=suggest(column, schema, "columns")
        )
    kind = type_of(schema[column])
    if kind is not Type.INT and kind is not Type.STRING:
        raise DefinitionError(
            f"the column '{column}' of source '{source.name}' is {schema[column]}, expected integers or strings",
            where=place,
            hint=f"cast it in the source's prepare step: {key_cast(column, schema[column])}",
        )
    return kind
