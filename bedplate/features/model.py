"""Features made by a registered model: its output for the features that it reads, in training and in serving alike.

The model is one of the registry, named with a version, or with an alias that becomes a version when a model that reads
the feature is trained. That version is then part of the trained model: its signature names it, serving loads it and no
other, and the lineage shows it.

A model knows what happened until its training ended. Its output for a row of an earlier time has seen that row's
future. A dataset with such rows is refused, unless the feature says `sees_future`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, final

from bedplate.arguments import checks_arguments
from bedplate.batch import Column
from bedplate.errors import DataError, DefinitionError
from bedplate.features.artifact import SCORE
from bedplate.features.derived import REQUEST_TIME, DerivedFeature, evaluate
from bedplate.types import Int64s, format_time


@checks_arguments
@final
class ModelFeature:
    """A feature that a model computes from other features of the same row, one number.

    Args:
        name: unique in the project; a feature of a model under this name.
        model: `name:3`, or `name@champion` for the version that has the alias when a model that reads it is trained.
        inputs: the full names of the features that the model reads, all of them and no others.
        output: which of the model's outputs.
        sees_future: whether rows of times before the end of the model's training data are accepted. Their values know
            what happened after them, which serving never does.

    Raises:
        DefinitionError: an argument does not fit.

    >>> ModelFeature("quality", model="quality:3", inputs=["products.price", "products.sold_7d"]).form()
    {'model': 'quality:3', 'output': 'score', 'inputs': ['products.price', 'products.sold_7d']}
    """

    __slots__ = ("inputs", "model", "name", "output", "sees_future")

    def __init__(
        self,
        name: str,
        *,
        model: str,
        inputs: Sequence[str],
        output: str = SCORE,
        sees_future: bool = False,
    ) -> None:
        place = f"model feature '{name}'"
        # Whoever writes definitions may run no type checker.
        for part, value in (("name", name), ("model", model), ("output", output)):
            if not isinstance(value, str) or not value or name == REQUEST_TIME:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise DefinitionError(f"got the {part} {value!r}, expected a text", where=place)
        reference, _, version = model.replace("@", ":").partition(":")
        if not reference or not version:
            raise DefinitionError(
                f"got the model '{model}', expected one with a version or an alias",
                where=place,
                hint=f'for example "{reference or "quality"}:1" or "{reference or "quality"}@champion"',
            )
        given: list[object] = list(inputs) if isinstance(inputs, list | tuple) else []
        if not given or not all(isinstance(i, str) and i for i in given) or len(set(given)) != len(given):
            raise DefinitionError(
                f"got the inputs {inputs!r}, expected a list of names of features, each once",
                where=place,
                hint='for example ["products.price", "products.sold_7d"]; those that the model reads',
            )
        self.name, self.model, self.output, self.sees_future = name, model, output, sees_future
        self.inputs: tuple[str, ...] = tuple(inputs)

    @property
    def place(self) -> str:
        """What a message calls the feature."""
        return f"model feature '{self.name}'"

    @property
    def text(self) -> str:
        """The definition for a person to read."""
        said = f"{self.output} of {self.model} for {', '.join(self.inputs)}"
        return f"{said}, may know the future (not time-true)" if self.sees_future else said

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {"model": self.model, "output": self.output, "inputs": list(self.inputs)}


Computed: TypeAlias = DerivedFeature | ModelFeature
"""A feature that is computed from other features of the same row."""


class Scorer(Protocol):
    """A version of a model that computes a feature; loaded by whoever reads features."""

    @property
    def version(self) -> str:
        """`name:version`."""
        ...

    @property
    def trained_until(self) -> int | None:
        """The time up to which the model knows what happened, microseconds; None: that is not known."""
        ...

    def score(self, columns: Mapping[str, Column], times: Int64s) -> Column:
        """The values of n rows.

        Args:
            columns: the feature's inputs by name, each of length n.
            times: [n] int64 microseconds, the times asked for.
        """
        ...


Scorers: TypeAlias = Mapping[str, Scorer]
"""The model that computes each model feature, by the feature's name."""


def compute(
    computed: Sequence[Computed], columns: Mapping[str, Column], times: Int64s, scorers: Scorers
) -> dict[str, Column]:
    """The values of n rows of several computed features, none of which is an input of another.

    Args:
        computed: the features.
        columns: their inputs by name, each of length n.
        times: [n] int64 microseconds, the times asked for.
        scorers: the models behind them.

    Raises:
        DefinitionError: the model of a feature is not among them.
    """
    models = [f for f in computed if isinstance(f, ModelFeature)]
    found = evaluate([f for f in computed if isinstance(f, DerivedFeature)], columns, times)
    for feature in models:
        if feature.name not in scorers:
            raise DefinitionError(
                f"the model '{feature.model}' is not loaded here",
                where=feature.place,
                hint="bedplate.inference.scorer.load_scorers(selected, graph, registry) gives what to pass",
            )
        found[feature.name] = scorers[feature.name].score(columns, times)
    return found


def check_time_true(features: Sequence[ModelFeature], scorers: Scorers, first: int, place: str) -> None:
    """Checks that no model behind a feature knows what happened after the rows that it is asked for.

    Args:
        features: the features.
        scorers: the models behind them.
        first: the time of the first row, microseconds.
        place: what a message calls the rows.

    Raises:
        DataError: a model's training data end after the first row, or nothing says where; and the feature does not say
            that it sees the future.
    """
    for feature in features:
        scorer = scorers.get(feature.name)
        if scorer is None or feature.sees_future:
            continue
        until = scorer.trained_until
        if until is None or until > first:
            never = "does not say until when it knows what happened"
            knows = never if until is None else f"knows what happened until {format_time(until)}"
            raise DataError(
                f"model '{scorer.version}', which makes '{feature.name}', {knows}; the first row is of "
                f"{format_time(first)}: its value would know what came after it",
                where=place,
                hint="let the rows begin later (Spine(where=...)), train the other model on data that end before, or "
                "say sees_future=True to accept it",
            )
