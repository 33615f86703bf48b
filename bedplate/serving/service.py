"""The definition of a service: pure data in the project's `service.py`, checked when it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, final

import polars as pl

from bedplate.arguments import checks_arguments
from bedplate.canonical import expression_form
from bedplate.errors import ConfigError, DefinitionError
from bedplate.registry.version import parse_reference

MOST = 10_000
"""The largest `count`, `top` and `most_candidates`."""


@final
@dataclass(frozen=True, slots=True)
class Retrieval:
    """Where a service's candidates come from: the nearest items to the request's vector, over the whole catalogue.

    Attributes:
        model: a registered model with a retrieval index: `name`, `name:3` or `name@champion`.
        count: how many candidates are hydrated and scored.
        always: features of the request (a key or a list of keys) whose items are candidates wherever their vectors lie,
            such as those bought before. They come first and count towards `count`.
    """

    model: str
    count: int = 200
    always: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Checks the model's reference, the count, and that `always` is a list of names.

        Raises:
            DefinitionError: the reference can't be one, the count is out of range, or `always` is something else.
        """
        place = f"retrieval '{self.model}'"
        _check_model(self.model, place)
        _check_size(self.count, "count", place)
        _check_names(self.always, "always", place)


@checks_arguments
@final
@dataclass(frozen=True, slots=True)
class Service:
    """What `bedplate serve` serves: candidates -> hydrate -> filter -> score -> select.

    Attributes:
        name: unique in the project.
        ranking: the registered model that scores the candidates: `name`, `name:3` or `name@champion`.
        item: the entity of the candidates.
        retrieval: where candidates come from; None: the service answers only `rank`, whose client brings them.
        filters: boolean row expressions over features by their full names, of the candidate or of the request, and
            `request.time`. A candidate goes on where all are true; null is not true. `rank` doesn't filter.
        exclude: features of the request (a key or a list of keys) whose items are not recommended, such as those
            bought last.
        top: how many items `recommend` gives unless the request says `count`.
        most_candidates: how many candidates a `rank` request may bring.

    >>> Service("shop", ranking="ranker@champion", item="product", retrieval=Retrieval("towers@champion")).top
    20
    """

    name: str
    ranking: str
    item: str
    retrieval: Retrieval | None = None
    filters: Sequence[pl.Expr] = ()
    exclude: Sequence[str] = ()
    top: int = 20
    most_candidates: int = 1000

    def __post_init__(self) -> None:
        """Checks what can be checked without the project's features; `checks.check_service` checks the rest.

        Raises:
            DefinitionError: an argument of another type, a reference that can't be one, a size out of range, a filter
                that is not an expression, or filters without a retrieval.
        """
        place = self.place
        for part, value in (("name", self.name), ("item", self.item)):
            if not isinstance(value, str) or not value:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise DefinitionError(f"got the {part} {value!r}, expected a text", where="service")
        _check_model(self.ranking, f"{place}: ranking")
        if not isinstance(self.retrieval, Retrieval | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(
                f"got the retrieval {self.retrieval!r}, expected a Retrieval",
                where=place,
                hint='for example Retrieval("towers@champion")',
            )
        _check_size(self.top, "top", place)
        _check_size(self.most_candidates, "most_candidates", place)
        if not isinstance(self.filters, list | tuple):
            raise DefinitionError("filters is a list", where=place, hint="write filters=[...]")
        _check_names(self.exclude, "exclude", place)
        for i, expression in enumerate(self.filters):
            if not isinstance(expression, pl.Expr):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise DefinitionError(
                    f"filter {i} is a {type(expression).__name__}, expected a Polars expression",
                    where=place,
                    hint='for example pl.col("products.price").is_not_null()',
                )
        if self.retrieval is None and (self.filters or self.exclude):
            raise DefinitionError("filters and exclude need a retrieval, rank doesn't use them", where=place)
        if self.retrieval is not None and self.top > self.retrieval.count:
            raise DefinitionError(
                f"top is {self.top}, expected at most retrieval's {self.retrieval.count}", where=place
            )

    @property
    def place(self) -> str:
        """What a message calls the service."""
        return f"service '{self.name}'"

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        retrieval = self.retrieval and {
            "model": self.retrieval.model,
            "count": self.retrieval.count,
            "always": list(self.retrieval.always),
        }
        return {
            "name": self.name,
            "ranking": self.ranking,
            "item": self.item,
            "retrieval": retrieval,
            "filters": [expression_form(f, self.place) for f in self.filters],
            "exclude": list(self.exclude),
            "top": self.top,
            "most_candidates": self.most_candidates,
        }


def _check_size(size: int, name: str, place: str) -> None:
    is_whole = isinstance(size, int) and not isinstance(size, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not is_whole or not 1 <= size <= MOST:
        raise DefinitionError(f"{name} is {size!r}, expected 1 to {MOST}", where=place)


def _check_names(names: object, part: str, place: str) -> None:
    if isinstance(names, str):
        raise DefinitionError(f"{part} is a list", where=place, hint=f"write {part}=['{names}']")
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in cast("Sequence[object]", names)):
        raise DefinitionError(f"{part} is {names!r}, expected a list of the names of features", where=place)


def _check_model(reference: str, place: str) -> None:
    if not isinstance(reference, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(f"got {reference!r}, expected the name of a model", where=place)
    try:
        parse_reference(reference)
    except ConfigError as error:
        raise DefinitionError(error.message, where=place, hint=error.hint) from None
