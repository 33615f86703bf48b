"""The context in a request's JSON: a typed field for each, and the columns of one row that they become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, final

import msgspec
import numpy as np

from bedplate.batch import Column, Dense, Embedding, Ids
from bedplate.canonical import string_ids
from bedplate.errors import ConfigError, RequestError
from bedplate.features.context import Context
from bedplate.types import Type, parse_time

LONGEST_TEXT = 8192
"""Characters of a text in a request."""

_TYPES: dict[Type, Any] = {
    Type.INT: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    Type.FLOAT: float,
    Type.BOOL: bool,
    Type.STRING: Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)],
    Type.TIME: int | str,
}


@final
class ContextFields:
    """The fields of a request that are context; each may be left out or null.

    Args:
        contexts: the context that the service's features need.
    """

    __slots__ = ("_contexts",)

    def __init__(self, contexts: Sequence[Context]) -> None:
        self._contexts = [(c, c.feature.name) for c in contexts]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._contexts)

    def fields(self) -> list[tuple[str, Any, Any]]:
        """Name, type and default of each field, for `msgspec.defstruct`."""
        return [(c.name, _field(c.type) | None, None) for c, _ in self._contexts]

    def columns(self, asked: Any) -> Mapping[str, Column]:
        """The columns [1] of what a decoded request brings, by full name; what it doesn't is not here.

        Raises:
            RequestError: a text is no time, or a number is beyond what a vector holds; says which field.
        """
        found: dict[str, Column] = {}
        for context, name in self._contexts:
            value = getattr(asked, context.name)
            if value is not None:
                found[name] = _column(value, context)
        return found


def _field(kind: Type) -> Any:
    if kind.width:
        return Annotated[list[float], msgspec.Meta(min_length=kind.width, max_length=kind.width)]
    return _TYPES[kind]


def _column(value: Any, context: Context) -> Column:
    where = f"$.{context.name}"
    if context.type is Type.STRING:
        [number] = string_ids([value])
        return Ids(np.array([number], np.int64), None, {number: value})
    if context.type is Type.TIME:
        try:
            return Dense(np.array([parse_time(value, where)], np.int64))
        except ConfigError as error:
            raise RequestError(error.message, where=where, hint=error.hint) from error
    with np.errstate(over="ignore"):
        values = np.array([value], context.type.dtype)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise RequestError(f"got a number beyond {values.dtype}", where=where)
    return Embedding(values) if context.type.width else Dense(values)
