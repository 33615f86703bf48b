"""The definition of a service: pure data in the project's `service.py`, checked when it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import polars as pl

from bedplate.canonical import expression_form
from bedplate.errors import DefinitionError

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
        """Checks the count, and that `always` is a list.

        Raises:
            DefinitionError: the count is out of range, or `always` is one text.
        """
        place = f"retrieval '{self.model}'"
        _check_size(self.count, "count", place)
        if isinstance(self.always, str):
            raise DefinitionError("always is a list", where=place, hint=f"write always=['{self.always}']")


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
        """Checks what can be checked without the project's features.

        Raises:
            DefinitionError: a size is out of range, or a filter is not an expression.
        """
        place = self.place
        if not self.name:
            raise DefinitionError("got an empty name", where="service")
        _check_size(self.top, "top", place)
        _check_size(self.most_candidates, "most_candidates", place)
        if isinstance(self.filters, pl.Expr) or isinstance(self.exclude, str):
            raise DefinitionError("filters and exclude are lists", where=place, hint="write filters=[...]")
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
    if not 1 <= size <= MOST:
        raise DefinitionError(f"{name} is {size}, expected 1 to {MOST}", where=place)
