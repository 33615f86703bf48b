"""A search for better choices of a job: pure data in `train.py`, read without Optuna or torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, final

import msgspec

from bedplate.arguments import checks_arguments
from bedplate.datasets.checks import check_kind, check_number
from bedplate.errors import DefinitionError
from bedplate.models.estimators import BoostedConfig, EstimatorConfig
from bedplate.registry.version import NAME_PATTERN
from bedplate.training.job import Job


class Uniform(msgspec.Struct, frozen=True, tag="uniform", tag_field="kind", forbid_unknown_fields=True):
    """A number from `low` to `high`, any as likely as another."""

    low: float
    high: float


class Log(msgspec.Struct, frozen=True, tag="log", tag_field="kind", forbid_unknown_fields=True):
    """A number above 0 from `low` to `high`, its logarithm uniform: for learning rates."""

    low: float
    high: float


class Int(msgspec.Struct, frozen=True, tag="int", tag_field="kind", forbid_unknown_fields=True):
    """A whole number from `low` to `high`, both included; with `log` its logarithm uniform."""

    low: int
    high: int
    log: bool = False


class Choice(msgspec.Struct, frozen=True, tag="choice", tag_field="kind", forbid_unknown_fields=True):
    """One of several values, such as `Choice(((64,), (64, 32)))` for layers."""

    values: tuple[Any, ...]


Range: TypeAlias = Uniform | Log | Int | Choice
Pruner: TypeAlias = Literal["median", "halving", "none"]


@checks_arguments
@final
class Search:
    """What `bedplate search` tries.

    Args:
        name: of the search, and of its folder in the registry.
        job: whose choices are searched, or its name.
        space: the range of each choice by its path, such as `{"trainer.learning_rate": Log(1e-4, 1e-2)}`.
        metric: of validation that is made better; None: the trainer's.
        trials: how many.
        pruner: what ends a trial early: after a validation worse than the median of the others there ("median"), or
            than most of those that got as far (successive halving: "halving"), or nothing.
        seed: of what is tried.

    Raises:
        DefinitionError: an argument of another type, a range with nothing in it, or a path that is of no choice.
    """

    __slots__ = ("job", "metric", "name", "pruner", "seed", "space", "trials")

    def __init__(
        self,
        name: str,
        *,
        job: str | Job,
        space: Mapping[str, Range],
        metric: str | None = None,
        trials: int = 20,
        pruner: Pruner = "median",
        seed: int = 0,
    ) -> None:
        self.name = name
        if not isinstance(name, str) or NAME_PATTERN.fullmatch(name) is None:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(
                f"got the name {name!r}, expected letters, digits, '_', '-' and '.', a letter or digit first",
                where="search",
            )
        check_kind(job, str | Job, f"{self.place}: job")
        check_kind(space, Mapping, f"{self.place}: space", hint="for example {'model.rank': Int(4, 64)}")
        self.job = job if isinstance(job, str) else job.name
        self.space, self.metric, self.trials, self.pruner, self.seed = dict(space), metric, trials, pruner, seed
        check_number(trials, f"{self.place}: trials", whole=True)
        check_number(seed, f"{self.place}: seed", whole=True)
        if trials < 1 or not self.space:
            raise DefinitionError(
                f"got {trials} trials of {len(self.space)} choices, expected at least 1 each", where=self.place
            )
        if pruner not in ("median", "halving", "none"):
            raise DefinitionError(
                f"got the pruner {pruner!r}", where=self.place, hint="one of 'median', 'halving' and 'none'"
            )
        for path, values in self.space.items():
            self._check_range(path, values)

    def _check_range(self, path: str, values: Range) -> None:
        place = f"{self.place}: '{path}'"
        check_kind(values, Uniform | Log | Int | Choice, place, hint="for example Log(1e-4, 1e-2)")
        if path.partition(".")[0] not in ("model", "trainer"):
            raise DefinitionError("expected model.NAME or trainer.NAME", where=place)
        if isinstance(values, Choice):
            if len(values.values) < 2:
                raise DefinitionError(f"got {len(values.values)} values, expected at least 2", where=place)
            return
        least = 0 if isinstance(values, Log) or (isinstance(values, Int) and values.log) else None
        if not values.low < values.high or (least is not None and not values.low > least):
            above = "" if least is None else ", low above 0"
            raise DefinitionError(f"got {values.low} to {values.high}, expected low below high{above}", where=place)

    @property
    def place(self) -> str:
        """What a message calls the search."""
        return f"search '{self.name}'"

    def form(self) -> dict[str, Any]:
        """What decides what is tried, as plain values; how many trials there are does not."""
        space = {path: msgspec.to_builtins(values) for path, values in self.space.items()}
        return {"space": space, "metric": self.metric, "pruner": self.pruner, "seed": self.seed}


def usual_search(job: Job, trials: int = 20) -> Search:
    """A search over the choices that matter for most models of a kind.

    Of networks the learning rates and the decay of the weights, and dropout where they have it; of boosted trees the
    learning rate, the size of a tree and the shares of rows and columns that each sees.

    Raises:
        DefinitionError: the job's model is another estimator, of which nobody knows what to try.
    """
    return Search(job.name, job=job, space=_usual_space(job), trials=trials)


def _usual_space(job: Job) -> dict[str, Range]:
    if isinstance(job.model, BoostedConfig):
        return _of_trees(job.model)
    if isinstance(job.model, EstimatorConfig):
        raise DefinitionError(
            f"there is no usual search of a {job.model.title()}",
            where=job.place,
            hint="define a Search of it, for example with space={'model.params.C': Log(0.01, 100)}",
        )
    t = job.trainer
    space: dict[str, Range] = {
        "trainer.learning_rate": Log(t.learning_rate / 10, t.learning_rate * 10),
        "trainer.embedding_learning_rate": Log(t.embedding_learning_rate / 10, t.embedding_learning_rate * 10),
        "trainer.weight_decay": Log(1e-7, 1e-2),
    }
    if hasattr(job.model, "dropout"):
        space["model.dropout"] = Uniform(0.0, 0.5)
    return space


def _of_trees(config: BoostedConfig) -> dict[str, Range]:
    rate = config.learning_rate
    size: dict[str, Range] = (
        {"model.leaves": Int(max(2, config.leaves // 4), config.leaves * 4, log=True)}
        if config.leaves is not None
        else {"model.depth": Int(3, max(10, config.depth or 0))}
    )
    shares = Uniform(0.5, 1.0)
    return {
        "model.learning_rate": Log(rate / 10, min(rate * 10, 1.0)),
        **size,
        "model.subsample": shares,
        "model.colsample": shares,
    }
