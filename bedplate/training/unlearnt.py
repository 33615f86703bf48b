"""Inputs of which nothing can be learnt: null, or one and the same value, in all training rows, and not in later ones.

What a model does with such values is chance, since the weights that they meet are as they were drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import msgspec
import numpy as np

from bedplate.batch import Batch
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.split import SPLITS
from bedplate.features.encoding import CANDIDATE, Encoding
from bedplate.training.inputs import DataSummary, InputSummary
from bedplate.training.sameness import Same, column_of

NOTICED = 0.01
"""From which share of the rows of a split it is said that they hold something else."""

_REQUESTS = 2000
"""At most so many requests of a split are looked at, evenly over its time."""


@final
class Unlearnt(msgspec.Struct, frozen=True):
    """An input that is the same in all training rows, and not in those of a later split.

    Attributes:
        name: of the input.
        same: what it is in all training rows: null, an empty list, or a value.
        rows: how many training rows were looked at.
        shares: the share of the rows of validation and test that are so too.
    """

    name: str
    same: str
    rows: int
    shares: dict[str, float]

    @property
    def differs(self) -> float:
        """The largest share of the rows of a split that are something else."""
        return 1.0 - min(self.shares.values())

    def __str__(self) -> str:
        """What it is where.

        >>> print(Unlearnt("users.n_7d", "null", 1000, {"test": 0.2}))  # doctest: +NORMALIZE_WHITESPACE
        the input 'users.n_7d' is null in all 1,000 training rows looked at, in 20% of the test rows:
        nothing can be learnt of it
        """
        later = " and ".join(f"in {round(100 * share, 1):g}% of the {name} rows" for name, share in self.shares.items())
        return (
            f"the input '{self.name}' is {self.same} in all {self.rows:,} training rows looked at, {later}: nothing "
            "can be learnt of it"
        )


def samples(dataset: LoadedDataset) -> dict[str, Batch]:
    """Some requests of each split that has any, evenly over its time.

    Args:
        dataset: with all of its splits.
    """
    found: dict[str, Batch] = {}
    for split in SPLITS:
        first, last = dataset.positions(split)
        if first < last:
            chosen = np.unique(np.linspace(first, last - 1, min(_REQUESTS, last - first)).astype(np.int64))
            found[split] = dataset.sample(chosen, 0, 0)
    return found


def unlearnt(batches: Mapping[str, Batch], inputs: Mapping[str, Encoding]) -> list[Unlearnt]:
    """The inputs that are the same in all training rows, and something else in rows of validation or test.

    Args:
        batches: of each split, see `samples`.
        inputs: what a job's model reads.
    """
    found: list[Unlearnt] = []
    for name in inputs:
        if name == CANDIDATE or "train" not in batches:
            continue
        before = column_of(batches["train"], name)
        if (same := Same.of(before)) is None:
            continue
        later = {split: column_of(batch, name) for split, batch in batches.items() if split != "train"}
        shares = {split: same.share(column) for split, column in later.items() if len(column)}
        one = Unlearnt(name, same.text(before), len(before), shares)
        if shares and one.differs >= NOTICED:
            found.append(one)
    return found


def suspects(summary: DataSummary | None, inputs: Mapping[str, Encoding]) -> dict[str, Encoding]:
    """The inputs that may be the same in all training rows, by what a run has noted of them; all where it has not.

    Args:
        summary: of the run's training data.
        inputs: what the job's model reads.
    """
    if summary is None:
        return dict(inputs)
    known = summary.inputs
    return {name: encoding for name, encoding in inputs.items() if name not in known or _may_be_same(known[name])}


def _may_be_same(summary: InputSummary) -> bool:
    if not summary.rows or summary.absent == 1.0:
        return True
    one = summary.distinct <= 1 if summary.kind == "category" else summary.points[0] == summary.points[-1]
    return one and not summary.absent
