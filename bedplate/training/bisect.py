"""Which of the things that two runs differ in made the metric change: one factor at a time, from both ends.

Each factor is swapped alone, from A and into B: `forward = m(A with f of B) - m(A)` and `backward = m(B) - m(B with f
of A)`. Its effect is the mean of the two, or the one that could be trained (of two factors and the average over both
orders this is the Shapley value; of more it takes the first and the last place of a factor in all orders). What the sum
of the effects leaves of the whole change is the remainder: interactions, and what could not be swapped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, final

import msgspec
import numpy as np

from bedplate.errors import BedplateError, DataError
from bedplate.metrics.intervals import Estimate, two_apart
from bedplate.models.prediction import Prediction
from bedplate.training.comparison import combine
from bedplate.training.factors import FACTORS, Factor, Side
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.resampling import Metrics


@final
@dataclass(frozen=True, slots=True)
class Experiment:
    """A run to be made or found again.

    Attributes:
        swapped: the factors that are taken from B; all others are from A.
        shift: is added to the seeds.
    """

    swapped: frozenset[str]
    shift: int = 0

    def sides(self) -> dict[str, Side]:
        """From which run each factor is taken."""
        return {name: "b" if name in self.swapped else "a" for name in FACTORS}

    def text(self, factors: Sequence[Factor]) -> str:
        """What it is, for a person.

        >>> Experiment(frozenset({"model"})).text([Factor("model", ()), Factor("trainer", ()), Factor("seed", ())])
        'A with model of B'
        """
        names = {factor.name for factor in factors}
        seeds = f", seeds + {self.shift}" if self.shift else ""
        if len(self.swapped) * 2 <= len(names):
            return f"A with {' and '.join(sorted(self.swapped))} of B{seeds}" if self.swapped else f"A{seeds}"
        rest = names - self.swapped
        return f"B with {' and '.join(sorted(rest))} of A{seeds}" if rest else f"B{seeds}"


@final
class Made(msgspec.Struct, frozen=True):
    """A run that an experiment is: its id and what it predicted."""

    run: str
    prediction: Prediction


Make: TypeAlias = Callable[[Experiment], Made]
"""Finds the run of an experiment or trains it; raises a `BedplateError` where it can't be made."""

_Measured: TypeAlias = Callable[[Sequence[tuple[float, Prediction]]], dict[str, Estimate]]
"""Gives the sum of `weight * metric` over predictions, by metric."""


@final
class Effect(msgspec.Struct, frozen=True):
    """What a factor did to each metric.

    Attributes:
        factor: what was swapped.
        forward: from A, by metric; empty: it could not be made.
        backward: into B, by metric.
        effect: the mean of those that could be made.
        runs: the runs that were made for it.
        reasons: why a swap could not be made.
    """

    factor: Factor
    forward: dict[str, Estimate]
    backward: dict[str, Estimate]
    effect: dict[str, Estimate]
    runs: tuple[str, ...]
    reasons: tuple[str, ...]


@final
class Bisection(msgspec.Struct, frozen=True):
    """How the change of each metric is made up.

    Attributes:
        a: the run A.
        b: the run B.
        total: B minus A, by metric.
        effects: of each factor.
        remainder: what the effects leave of the total; an interval where all is of known runs.
        noise: by metric, how far two trainings that differ in nothing but seeds lie apart, at most, 95 times of 100.
        noise_runs: the runs that the noise is known from.
        noise_reason: why it is not known.
    """

    a: str
    b: str
    total: dict[str, Estimate]
    effects: list[Effect]
    remainder: dict[str, Estimate]
    noise: dict[str, float]
    noise_runs: tuple[str, ...]
    noise_reason: str = ""


def experiments(factors: Sequence[Factor], seeds: int) -> list[Experiment]:
    """The runs that a bisection needs beside A and B, each once.

    >>> factors = [Factor("model", ()), Factor("seed", ())]
    >>> [e.text(factors) for e in experiments(factors, 1)]
    ['A with model of B', 'A with seed of B', 'A, seeds + 1']
    """
    every = frozenset(factor.name for factor in factors)
    swaps = [Experiment(frozenset({f.name})) for f in factors] + [Experiment(every - {f.name}) for f in factors]
    known = {Experiment(frozenset()), Experiment(every)}
    wanted = [e for e in dict.fromkeys(swaps) if e not in known]
    return [*wanted, *(Experiment(frozenset(), shift) for shift in range(1, seeds + 1))]


def bisect(
    a: Made,
    b: Made,
    factors: Sequence[Factor],
    label: str,
    make: Make,
    *,
    seeds: int = 2,
    metrics: Metrics | None = None,
) -> Bisection:
    """Trains what is missing and says which factor did what.

    Args:
        a: the run A.
        b: the run B.
        factors: what they differ in.
        label: the label that the scores are of.
        make: finds or trains the run of an experiment.
        seeds: how many trainings with other seeds tell the noise.
        metrics: what is attributed, of a label of any kind; None: the metrics of labels that are 0 or 1.

    Raises:
        TrainingInterruptedError: a training was interrupted; the same call goes on from it.
        DataError: fewer than two requests have the label, or it is not one of 0 and 1; before anything is made.
    """
    total = combine([(1.0, b.prediction), (-1.0, a.prediction)], label, metrics=metrics)
    made: dict[Experiment, Made] = {}
    reasons: dict[Experiment, str] = {}
    every = frozenset(factor.name for factor in factors)
    made[Experiment(frozenset())], made[Experiment(every)] = a, b
    for experiment in experiments(factors, seeds):
        try:
            made[experiment] = make(experiment)
        except TrainingInterruptedError:
            raise
        except BedplateError as error:
            reasons[experiment] = f"{experiment.text(factors)}: {error.message}"
    measured = partial(combine, label=label, metrics=metrics)
    effects = [_effect(factor, every, made, reasons, measured) for factor in factors]
    noise, runs, reason = _noise(seeds, made, reasons, measured)
    left = _remainder(effects, a, b, every, made, measured)
    return Bisection(a.run, b.run, total, effects, left, noise, runs, reason)


def _ends(factor: Factor, every: frozenset[str]) -> list[tuple[Experiment, Experiment]]:
    """The pairs of runs that differ in a factor alone: from A, and into B; one pair where it is the only factor."""
    own = frozenset({factor.name})
    pairs = [(Experiment(frozenset()), Experiment(own)), (Experiment(every - own), Experiment(every))]
    return list(dict.fromkeys(pairs))


def _terms(
    factor: Factor, every: frozenset[str], made: Mapping[Experiment, Made]
) -> list[list[tuple[float, Prediction]]]:
    """For each pair that could be made, its difference as weighted predictions."""
    pairs = [pair for pair in _ends(factor, every) if all(e in made for e in pair)]
    return [[(1.0, made[after].prediction), (-1.0, made[before].prediction)] for before, after in pairs]


def _effect(
    factor: Factor,
    every: frozenset[str],
    made: Mapping[Experiment, Made],
    reasons: Mapping[Experiment, str],
    measured: _Measured,
) -> Effect:
    ends = _ends(factor, every)
    found = [
        measured([(1.0, made[after].prediction), (-1.0, made[before].prediction)])
        if before in made and after in made
        else {}
        for before, after in ends
    ]
    terms = _terms(factor, every, made)
    mean = [(weight / len(terms), prediction) for pair in terms for weight, prediction in pair]
    own = [e for pair in ends for e in pair if e.swapped not in (frozenset(), every)]
    return Effect(
        factor,
        forward=found[0],
        backward=found[-1],
        effect=measured(mean) if mean else {},
        runs=tuple(made[e].run for e in own if e in made),
        reasons=tuple(reasons[e] for e in own if e in reasons),
    )


def _remainder(
    effects: Sequence[Effect],
    a: Made,
    b: Made,
    every: frozenset[str],
    made: Mapping[Experiment, Made],
    measured: _Measured,
) -> dict[str, Estimate]:
    """The total less the effects, on the same draws, each run with its weight."""
    weights: dict[int, float] = {id(b.prediction): 1.0, id(a.prediction): -1.0}
    by_id = {id(b.prediction): b.prediction, id(a.prediction): a.prediction}
    for effect in effects:
        terms = _terms(effect.factor, every, made)
        for weight, prediction in (t for pair in terms for t in pair):
            by_id[id(prediction)] = prediction
            weights[id(prediction)] = weights.get(id(prediction), 0.0) - weight / len(terms)
    left = [(weight, by_id[key]) for key, weight in weights.items() if abs(weight) > 1e-12]
    return measured(left) if left else {}


def _noise(
    seeds: int, made: Mapping[Experiment, Made], reasons: Mapping[Experiment, str], measured: _Measured
) -> tuple[dict[str, float], tuple[str, ...], str]:
    shifted = [Experiment(frozenset(), shift) for shift in range(seeds + 1)]
    there = [made[e] for e in shifted if e in made]
    if len(there) < 2:
        failed = [reasons[e] for e in shifted if e in reasons]
        return {}, (), failed[0] if failed else "no training with another seed was asked for"
    try:
        values = [measured([(1.0, one.prediction)]) for one in there]
    except DataError as error:
        return {}, (), error.message
    names = [name for name in values[0] if all(name in one for one in values)]
    return {n: two_apart(np.array([one[n].mean for one in values])) for n in names}, tuple(m.run for m in there[1:]), ""
