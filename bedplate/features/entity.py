"""Entities: what features describe, and the 64-bit form of their keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
import polars as pl

from bedplate.arguments import checks_arguments
from bedplate.canonical import string_ids
from bedplate.errors import DataError, DefinitionError
from bedplate.types import Array, Int64s, Type, type_of

KeysLike: TypeAlias = "Sequence[int] | Sequence[str] | Array | pl.Series"
"""Keys as a person gives them: integers or strings."""

_FEW = 1_000
"""Strings up to which a query takes longer than a loop."""


@checks_arguments
@final
@dataclass(frozen=True, slots=True)
class Entity:
    """Something that features describe: a user, an item, a query.

    Attributes:
        name: unique in the project.
        key: the column that holds its key in every source that mentions it; integers or strings.

    >>> Entity("customer", key="customer_id")
    Entity(name='customer', key='customer_id')
    """

    name: str
    key: str

    def __post_init__(self) -> None:
        """Checks that both are texts.

        Raises:
            DefinitionError: the name or the key is not a text, or empty.
        """
        for part, value in (("name", self.name), ("key", self.key)):
            if not isinstance(value, str) or not value:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise DefinitionError(f"got the {part} {value!r}, expected a text", where=f"entity '{self.name}'")

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {"name": self.name, "key": self.key}


def entities_of(entities: Entity | Sequence[Entity], place: str) -> tuple[Entity, ...]:
    """The entities of a definition as a tuple.

    Raises:
        DefinitionError: none, one twice, or something else than entities.
    """
    result = (entities,) if isinstance(entities, Entity) else entities
    # Whoever writes definitions may run no type checker.
    if not isinstance(result, list | tuple):
        raise DefinitionError(f"got {entities!r}, expected an Entity or a list of them", where=place)
    for entity in result:
        if not isinstance(entity, Entity):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"got {entity!r}, expected an Entity", where=place)
    if not result or len({e.name for e in result}) != len(result):
        raise DefinitionError("an entity is named twice" if result else "no entity", where=place)
    return tuple(result)


def key_cast(column: str, dtype: pl.DataType) -> str:
    """The expression that makes a column of another type one of keys.

    >>> key_cast("user", pl.UInt64()), key_cast("user", pl.Binary())
    ('pl.col("user").cast(pl.Int64)', 'pl.col("user").cast(pl.String)')
    """
    to = "pl.Int64" if dtype.is_numeric() or dtype == pl.Boolean else "pl.String"
    return f'pl.col("{column}").cast({to})'


def encode(series: pl.Series, texts: dict[int, str] | None = None) -> Int64s:
    """The int64 form of a series without nulls: integers, booleans and times as they are, strings as 64-bit ids.

    Args:
        series: integers, booleans, dates, datetimes or strings.
        texts: where to add the text behind each id of a string.

    Returns:
        [n] int64.

    Raises:
        DataError: two different strings have the same id, or the type has no int64 form.

    >>> encode(pl.Series([3, 5])).tolist()
    [3, 5]
    """
    kind = type_of(series.dtype)
    if kind is Type.STRING:
        return _encode_texts(series.cast(pl.String), texts)
    if kind is Type.TIME:
        return series.dt.epoch("us").to_numpy()
    if kind not in (Type.INT, Type.BOOL):
        raise DataError(f"got {series.dtype}, expected integers or strings", where=f"column '{series.name}'")
    return np.ascontiguousarray(series.cast(pl.Int64).to_numpy())


def _encode_texts(strings: pl.Series, texts: dict[int, str] | None) -> Int64s:
    few: list[str] | None = strings.to_list() if len(strings) <= _FEW else None
    names: list[str] = strings.unique().to_list() if few is None else list(dict.fromkeys(few))
    ids = string_ids(names)
    if len(set(ids)) != len(ids):
        raise DataError(f"two different strings of column '{strings.name}' have the same 64-bit id")
    if texts is not None:
        texts.update(zip(ids, names, strict=True))
    if few is not None:
        known = dict(zip(names, ids, strict=True))
        return np.array([known[name] for name in few], np.int64)
    if len(names) == len(strings):
        return np.array(string_ids(strings.to_list()), np.int64)
    return strings.replace_strict(pl.Series(names), pl.Series(ids, dtype=pl.Int64), return_dtype=pl.Int64).to_numpy()


def encode_keys(keys: KeysLike, kind: Type, place: str) -> Int64s:
    """The int64 form of keys that a person gave.

    Args:
        keys: n integers or n strings.
        kind: the type of the entity's key.
        place: what a message says the keys are for.

    Raises:
        DataError: a key is null or not of the entity's type.

    >>> encode_keys([7, 9], Type.INT, "customer").tolist()
    [7, 9]
    """
    if isinstance(keys, str | bytes | int | float | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DataError(f"got {keys!r}, expected a list of keys", where=place, hint=f"for example [{keys!r}]")
    try:
        series = keys if isinstance(keys, pl.Series) else pl.Series(place, keys, strict=True)
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(f"got keys of mixed types: {error}", where=place, hint=f"the key is {kind}") from error
    if len(series) == 0:
        return np.zeros(0, np.int64)
    if series.null_count():
        raise DataError(
            f"got {series.null_count():,} null keys, the first at position {series.is_null().arg_max():,}", where=place
        )
    got = type_of(series.dtype)
    if got is not kind or kind not in (Type.INT, Type.STRING):
        hint = "cast them to int64" if kind is Type.INT and series.dtype.is_integer() else None
        raise DataError(f"got keys of type {series.dtype}, expected {kind}", where=place, hint=hint)
    return encode(series)
