"""Types that a definition declares: of what a request brings, and of what a function gives."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias, get_args, get_origin

import numpy as np

from bedplate.batch import Column, Dense, Embedding, Ids, Ragged
from bedplate.errors import DefinitionError
from bedplate.types import Type

TypeLike: TypeAlias = "type[Any] | Type | str"
"""`str`, `int`, `float`, `bool`, `datetime`, a `Type`, or its text, such as `"vector[64]"`."""

_PYTHON: dict[Any, Type] = {
    str: Type.STRING,
    int: Type.INT,
    float: Type.FLOAT,
    bool: Type.BOOL,
    datetime: Type.TIME,
}


def declared_type(given: Any, place: str) -> Type:
    """The type that a person declares.

    >>> declared_type(float, "context 'latitude'"), declared_type("vector[64]", "context 'taste'")
    (<Type.FLOAT: 'float64'>, <Type.vector[64]: 'vector[64]'>)

    Raises:
        DefinitionError: it is none.
    """
    try:
        return _PYTHON[given] if isinstance(given, type) else Type(given)
    except (KeyError, TypeError, ValueError):
        raise DefinitionError(
            f"got the type {getattr(given, '__name__', given)!r}, expected str, int, float, bool or datetime",
            where=place,
            hint='a vector of 64 numbers is "vector[64]"',
        ) from None


def declared_output(given: Any, place: str) -> tuple[Type, bool]:
    """The type of a value or of a list's elements, and whether it is a list.

    >>> declared_output(list[str], "derived feature 'words'")
    (<Type.STRING: 'string'>, True)

    Raises:
        DefinitionError: it is none, or a list of vectors.
    """
    if given is None:
        raise DefinitionError(
            "got no type, expected that of what the function gives",
            where=place,
            hint='type=float, int, bool, str, datetime, list[str] or "vector[64]"',
        )
    if get_origin(given) is not list:
        return declared_type(given, place), False
    kind = declared_type(get_args(given)[0], place)
    if kind.width:
        raise DefinitionError(f"got a list of {kind}, expected a list of numbers, strings or times", where=place)
    return kind, True


def null_column(kind: Type, rows: int, *, is_list: bool = False) -> Column:
    """A column of so many nulls (of lists: empty ones).

    >>> null_column(Type.INT, 2).present.tolist()
    [False, False]
    """
    count = 0 if is_list else rows
    values, present = np.zeros((count, *kind.shape), kind.dtype), np.zeros(count, np.bool_)
    if kind.width:
        return Embedding(values, present)
    column = Ids(values, present, {}) if kind is Type.STRING else Dense(values, present)
    return Ragged(column, np.zeros(rows + 1, np.int64)) if is_list else column
