"""Request context: what a request brings of itself, beside the keys of its entities, such as a query or a position."""

from __future__ import annotations

from typing import Any, final

from bedplate.arguments import checks_arguments
from bedplate.canonical import digest
from bedplate.errors import DefinitionError
from bedplate.features.declared import TypeLike, declared_type
from bedplate.features.view import Feature
from bedplate.types import Type

PREFIX = "request."
"""What the names of the request's own inputs begin with."""

RESERVED = ("id", "time")
"""Names that context can't have: every request has these."""


@checks_arguments
@final
class Context:
    """A value that each request brings: a feature of the request under the name `request.NAME`.

    In a dataset it is a column of the spine's source, the log of requests; in a request to a service a field of the
    JSON body. A value that is missing is null. Models and filters read it like any feature of the request, and derived
    features compute with it.

    Args:
        name: unique among the project's context; a Python identifier.
        type: `str`, `int`, `float`, `bool`, `datetime`, or `"vector[64]"` for lists of so many numbers.
        column: the column of the spine's source; the name unless given.

    Raises:
        DefinitionError: an argument does not fit.

    >>> Context("query", str).feature.name
    'request.query'
    """

    __slots__ = ("column", "name", "type")

    def __init__(self, name: str, type: TypeLike, *, column: str | None = None) -> None:
        place = f"context '{name}'"
        if not isinstance(name, str) or not name.isidentifier() or name in RESERVED:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(
                f"got the name {name!r}, expected letters, digits and '_', other than {' and '.join(RESERVED)}",
                where=place,
            )
        if column is not None and (not isinstance(column, str) or not column):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"got the column {column!r}, expected a name", where=place)
        self.name, self.column = name, column or name
        self.type: Type = declared_type(type, place)

    @property
    def place(self) -> str:
        """What a message calls it."""
        return f"context '{self.name}'"

    @property
    def feature(self) -> Feature:
        """The feature that it is; where it lies in a log of requests is no part of its id."""
        name = f"{PREFIX}{self.name}"
        return Feature(name, self.type, False, digest(self.form()), "of the request", ((name, self.type),))

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {"context": self.name, "type": self.type.value}
