"""The keys and other values of a request, as JSON has them: what would become another value in silence is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import polars as pl

from bedplate.errors import RequestError
from bedplate.malformed import shape_text, shown
from bedplate.serving.answers import Key
from bedplate.types import Array

Keys: TypeAlias = "Sequence[Key] | pl.Series | Array"
"""Keys of items, as callers have them; of an array [n]."""

_BYTES: tuple[type, ...] = (bytes, bytearray, memoryview)
_NO_LISTS: tuple[type, ...] = (set, frozenset, Mapping, *_BYTES)  # of bytes the numbers would be keys
_DECODE = "bytes are no key: decode them, as by .decode() or .astype(str)"
_AS_THEY_ARE = {str, int, bool, type(None)}


def keys_of(keys: Keys, name: str) -> list[Any]:
    """Keys as a list, in their order.

    Args:
        keys: of n items.
        name: of the field.

    Raises:
        RequestError: they are a single key, or have no order, or one is of a type that no key has.

    >>> keys_of(pl.Series(["P01", "P02"]), "candidates")
    ['P01', 'P02']
    >>> keys_of("P01", "candidates")
    Traceback (most recent call last):
    bedplate.errors.RequestError: candidates: got the text 'P01', expected a list of keys
      for example ['P01']
    """
    given: Any = keys
    if isinstance(given, str):
        hint = f"for example [{shown(given)}]"
        raise RequestError(f"got the text {shown(given)}, expected a list of keys", where=name, hint=hint)
    if isinstance(given, pl.Series):
        return plain(given, name)
    shape: Sequence[int] = getattr(given, "shape", (0,))
    if len(shape) != 1:  # the names of a frame's columns are no keys
        raise RequestError(f"got {type(given).__name__} of shape {shape_text(shape)}, expected [n]", where=name)
    if isinstance(given, np.ndarray):
        return plain(given, name)
    if isinstance(given, _NO_LISTS) or not isinstance(given, Iterable):
        raise RequestError(f"got {type(given).__name__}, expected a list of keys", where=name)
    return plain(list(cast("Iterable[Any]", given)), name)


def plain(value: Any, name: str) -> Any:
    """A value as JSON has it; times without a zone are UTC, as in texts.

    Args:
        value: of Python, NumPy or Polars, also within lists and mappings.
        name: of the field.

    Raises:
        RequestError: JSON has nothing for it, or something that a service would take for another value; or it is nested
            too deep.

    >>> plain({"at": np.datetime64("2026-01-16T13:00")}, "request")
    {'at': datetime.datetime(2026, 1, 16, 13, 0)}
    """
    try:
        return _plain(value, name)
    except RecursionError as error:
        raise too_deep(name) from error


def too_deep(name: str) -> RequestError:
    """What is said of values within values without end, or nearly.

    Args:
        name: of the field.
    """
    return RequestError("got values that are nested too deep, expected a few levels", where=name)


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return _plain(_listed(np.asarray(cast("Any", value)), name), name)
    if isinstance(value, pl.Series):
        return _plain(value.to_list(), name)
    if isinstance(value, list | tuple | set | frozenset):
        values = list(cast("Iterable[Any]", value))
        return values if set(map(type, values)) <= _AS_THEY_ARE else [_plain(one, name) for one in values]
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value).items()
        return {_field(key, name): _plain(one, f"{name}.{key}") for key, one in pairs}
    if isinstance(value, float) and not math.isfinite(value):  # null in JSON
        raise RequestError(f"got {value!r}, expected a finite number", where=name)
    if isinstance(value, _BYTES):
        raise RequestError(f"got {shown(value)}, expected a text", where=name, hint=_DECODE)
    return value


def unknown(value: Any) -> Any:
    """What JSON has in place of a value that it has nothing for.

    Raises:
        RequestError: always.
    """
    raise RequestError(
        f"got a value of type {type(value).__name__}, expected what JSON has, or NumPy or Polars", where="client"
    )


def _listed(array: Array, name: str) -> Any:
    kind = array.dtype.kind
    if kind == "m":  # some durations would be bare numbers, which are taken for microseconds of a time
        raise RequestError(f"got {array.dtype}, a duration, expected a time or a number", where=name)
    if kind != "M":
        return (array.astype(np.float64) if kind == "f" else array).tolist()  # wider ones stay what they are
    if np.isnat(array).any():
        raise RequestError("got NaT, expected a time", where=name, hint="a request without a time is as of now")
    return array.astype("datetime64[us]").tolist()  # nanoseconds would be a bare number


def _field(key: Any, name: str) -> str:
    if not isinstance(key, str):
        raise RequestError(f"got a field {shown(key)}, expected a text", where=name)
    return key
