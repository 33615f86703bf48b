"""The definition of a service: pure data in the project's `service.py`, checked when it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, final

import polars as pl

from bedplate.arguments import checks_arguments
from bedplate.canonical import expression_form
from bedplate.errors import DefinitionError, suggest
from bedplate.serving.steps import (
    MOST,
    CandidateSource,
    Diversity,
    Epsilon,
    Exploration,
    Given,
    Popular,
    Quota,
    Recent,
    Retrieval,
    Softmax,
    Thompson,
    check_model,
    check_names,
    check_size,
    check_text,
)
from bedplate.types import SECOND, parse_duration

STEPS = ("candidates", "hydrate", "filter", "score", "select")
"""The steps of a pipeline, in their order."""


@checks_arguments
@final
@dataclass(frozen=True, slots=True)
class Service:
    """What `bedplate serve` serves: candidates -> hydrate -> filter -> score -> select.

    Attributes:
        name: unique in the project.
        ranking: the registered model that scores the candidates: `name`, `name:3` or `name@champion`.
        item: the entity of the candidates.
        retrieval: where candidates come from, where that is one Retrieval; None: see `candidates`.
        filters: boolean row expressions over features by their full names, of the candidate or of the request, and
            `request.time`. A candidate goes on where all are true; null is not true. `rank` doesn't filter.
        exclude: features of the request (a key or a list of keys) whose items are not recommended, such as those
            bought last.
        top: how many items `recommend` gives unless the request says `count`.
        most_candidates: how many candidates a `rank` request may bring.
        deadline: how long a read of the online store may take, such as "20ms"; then the answer is made of the values
            that were read last, or without values, and says so. By default `online.deadline` of `bedplate.toml`.
        candidates: where candidates come from: sources, each with its count. An item that several bring counts for the
            first of them. Without any and without `retrieval`, the service answers only `rank`.
        diversity: how items that are like those above come later.
        quotas: how many items of a kind an answer may hold.
        exploration: how other items than the best are shown now and then, with the probability in the answer.
        fallback: a feature of the item, a number, by which the candidates are ranked where the model gives no scores in
            time, the largest first; None: the order of the sources.
        budgets: how long a step may take, by its name, such as {"candidates": "5ms", "score": "10ms"}; that of
            "hydrate" is `deadline` by another name.

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
    deadline: str | None = None
    candidates: Sequence[CandidateSource] = ()
    diversity: Diversity | None = None
    quotas: Sequence[Quota] = ()
    exploration: Exploration | None = None
    fallback: str | None = None
    budgets: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        """Checks what can be checked without the project's features; `checks.check_service` checks the rest.

        Raises:
            DefinitionError: an argument of another type, a reference that can't be one, a size out of range, a filter
                that is not an expression, or filters without candidates.
        """
        place = self.place
        check_text(self.name, "name", "service")
        check_text(self.item, "item", "service")
        check_model(self.ranking, f"{place}: ranking")
        _check_kind(self.retrieval, "retrieval", (Retrieval,), 'Retrieval("towers@champion")', place)
        check_size(self.top, "top", place)
        check_size(self.most_candidates, "most_candidates", place)
        if self.deadline is not None:
            parse_duration(self.deadline, where=f"{place}: deadline", error=DefinitionError)
        if not isinstance(self.filters, list | tuple):
            raise DefinitionError("filters is a list", where=place, hint="write filters=[...]")
        check_names(self.exclude, "exclude", place)
        for i, expression in enumerate(self.filters):
            if not isinstance(expression, pl.Expr):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise DefinitionError(
                    f"filter {i} is a {type(expression).__name__}, expected a Polars expression",
                    where=place,
                    hint='for example pl.col("products.price").is_not_null()',
                )
        self._check_sources()
        self._check_selection()
        self._check_budgets()

    def _check_sources(self) -> None:
        place = self.place
        _check_list(self.candidates, "candidates", (Retrieval, Popular, Recent, Given), 'Popular("items.sold")', place)
        if self.candidates and self.retrieval is not None:
            raise DefinitionError("got a retrieval and candidates", where=place, hint="put it into candidates")
        names = [source.name for source in self.sources]
        taken = {"ranking", *(name for i, name in enumerate(names) if name in names[:i])}
        for name in names:
            if name in taken:
                raise DefinitionError(
                    f"two parts are called '{name}'", where=place, hint="give a source another name=..."
                )
        if sum(isinstance(source, Given) for source in self.sources) > 1:
            raise DefinitionError("candidates has two Given, expected one", where=place)
        if not self.sources and (self.filters or self.exclude):
            raise DefinitionError("filters and exclude need a retrieval, rank doesn't use them", where=place)
        if self.sources and self.top > self.most:
            raise DefinitionError(f"top is {self.top}, expected at most the {self.most} candidates", where=place)
        if self.most > MOST:
            raise DefinitionError(f"the sources bring {self.most} candidates, expected at most {MOST}", where=place)

    def _check_selection(self) -> None:
        place = self.place
        _check_kind(self.diversity, "diversity", (Diversity,), "Diversity(0.3)", place)
        _check_list(self.quotas, "quotas", (Quota,), 'Quota("items.brand", 3)', place)
        _check_kind(self.exploration, "exploration", (Epsilon, Softmax, Thompson), "Epsilon(0.05)", place)
        if self.fallback is not None:
            check_text(self.fallback, "fallback", place)
        if not self.sources and (self.diversity or self.quotas or self.exploration or self.fallback):
            raise DefinitionError(
                "diversity, quotas, exploration and fallback need candidates, rank doesn't use them", where=place
            )
        if self.diversity is not None and self.diversity.by is None and self.index is None:
            raise DefinitionError(
                "diversity needs the vectors of a Retrieval", where=place, hint="or a feature: Diversity(by=...)"
            )

    def _check_budgets(self) -> None:
        place = self.place
        if not isinstance(self.budgets, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(
                f"budgets is {self.budgets!r}, expected a dictionary", where=place, hint='{"score": "10ms"}'
            )
        for step, text in self.budgets.items():
            if step not in STEPS:
                raise DefinitionError(f"no step '{step}'", where=f"{place}: budgets", hint=suggest(step, STEPS))
            parse_duration(text, where=f"{place}: budgets['{step}']", error=DefinitionError)
        if self.deadline is not None and "hydrate" in self.budgets:
            raise DefinitionError("got a deadline and a budget of 'hydrate', which are the same", where=place)

    @property
    def place(self) -> str:
        """What a message calls the service."""
        return f"service '{self.name}'"

    @property
    def sources(self) -> tuple[CandidateSource, ...]:
        """Where candidates come from, in order."""
        return tuple(self.candidates) if self.retrieval is None else (self.retrieval,)

    @property
    def index(self) -> Retrieval | None:
        """The first Retrieval: its index has the vectors of the items."""
        return next((source for source in self.sources if isinstance(source, Retrieval)), None)

    @property
    def most(self) -> int:
        """How many candidates the sources bring at most."""
        return sum(source.count for source in self.sources)

    @property
    def read_deadline(self) -> str | None:
        """How long a read of the online store may take, where the service says it."""
        return self.deadline or self.budgets.get("hydrate")

    def budget(self, step: str) -> float | None:
        """The seconds that a step may take; None: no limit."""
        text = self.budgets.get(step)
        return None if text is None else parse_duration(text) / SECOND

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        found: dict[str, Any] = {
            "name": self.name,
            "ranking": self.ranking,
            "item": self.item,
            "retrieval": self.retrieval and self.retrieval.form(),
            "filters": [expression_form(f, self.place) for f in self.filters],
            "exclude": list(self.exclude),
            "top": self.top,
            "most_candidates": self.most_candidates,
            "deadline": self.deadline,
        }
        steps: dict[str, Any] = {
            "candidates": [{"source": source.name} | source.form() for source in self.candidates],
            "diversity": self.diversity and self.diversity.form(),
            "quotas": [quota.form() for quota in self.quotas],
            "exploration": self.exploration and self.exploration.form(),
            "fallback": self.fallback,
            "budgets": dict(sorted(self.budgets.items())),
        }
        return found | {name: step for name, step in steps.items() if step}


def _check_kind(value: object, part: str, kinds: tuple[type, ...], example: str, place: str) -> None:
    if value is not None and not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise DefinitionError(
            f"got the {part} {value!r}, expected a {expected}", where=place, hint=f"for example {example}"
        )


def _check_list(values: object, part: str, kinds: tuple[type, ...], example: str, place: str) -> None:
    if not isinstance(values, list | tuple):
        raise DefinitionError(f"{part} is a list", where=place, hint=f"write {part}=[{example}]")
    for value in cast("Sequence[object]", values):
        _check_kind(value, part, kinds, example, place)
        if value is None:
            raise DefinitionError(f"{part} holds None", where=place, hint=f"for example {example}")
