"""Parity: what the online store answers is what history says, feature by feature, row by row, derived features too.

Integers, counts, ids, times and lists of them must be equal. Floats are compared at float32 precision: they are equal
when they differ by no more than a millionth of the larger one, or by no more than 1e-9 of the feature's largest value
among the compared rows (sums in another order round differently where amounts cancel out).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import final

import numpy as np

from bedplate.batch import Column, Embedding, Ragged, column_to_series
from bedplate.errors import ProofError
from bedplate.features.graph import Selected
from bedplate.features.lookup import lookup
from bedplate.features.model import Scorers
from bedplate.features.reader import Reader
from bedplate.features.view import CompiledView
from bedplate.types import Array, Bools, Int64s, format_time

RELATIVE = 1e-6
ABSOLUTE = 1e-9


@final
@dataclass(frozen=True, slots=True)
class Mismatch:
    """One row in which a feature differs.

    Attributes:
        feature: its full name.
        keys: the row's key of each entity.
        time: the time asked for, microseconds.
        got: what was to be proven.
        expected: what is true.
    """

    feature: str
    keys: tuple[int, ...]
    time: int
    got: object
    expected: object


@final
@dataclass(slots=True)
class ParityReport:
    """What was compared.

    Attributes:
        rows: rows compared, by feature.
        mismatches: rows that differ, by feature; every compared feature is there.
        examples: the first few mismatches.
        proven: what a message calls the side that is to be proven.
        truth: what it calls the other.
    """

    rows: dict[str, int] = field(default_factory=dict[str, int])
    mismatches: dict[str, int] = field(default_factory=dict[str, int])
    examples: list[Mismatch] = field(default_factory=list[Mismatch])
    proven: str = "online"
    truth: str = "history"

    @property
    def total_mismatches(self) -> int:
        """Mismatches over all features."""
        return sum(self.mismatches.values())

    @property
    def values(self) -> int:
        """Values compared over all features."""
        return sum(self.rows.values())

    def compare(self, view: CompiledView, keys: Int64s, times: Int64s, online: Reader, history: Reader) -> None:
        """Compares every feature of a view, and adds what it finds.

        Args:
            view: the view.
            keys: [n, entities] int64.
            times: [n] int64 microseconds.
            online: what is to be proven.
            history: what is true.
        """
        names = list(view.features)
        got, expected = online.read(view, names, keys, times), history.read(view, names, keys, times)
        self.add(got, expected, keys, times)

    def compare_features(
        self,
        selected: Selected,
        keys: Mapping[str, Int64s],
        times: Int64s,
        online: Reader,
        history: Reader,
        context: Mapping[str, Column] | None = None,
        scorers: Scorers = MappingProxyType({}),
    ) -> None:
        """Compares features of any views and derived features, each side computed from its own values.

        Args:
            selected: the features, for example `project.graph.select(list(project.graph.features))`.
            keys: [n] int64 for each entity, by the entity's name.
            times: [n] int64 microseconds.
            online: what is to be proven.
            history: what is true.
            context: columns of length n of the request's context, by full name; what is not here is null.
            scorers: the models behind the features.
        """
        shown = np.stack([keys[e.name] for e in selected.entities], axis=1) if selected.entities else times[:, None]
        got, expected = (lookup(selected, reader, keys, times, context, scorers) for reader in (online, history))
        self.add(got, expected, shown, times)

    def add(self, got: Mapping[str, Column], expected: Mapping[str, Column], keys: Int64s, times: Int64s) -> None:
        """Compares columns of n rows, and adds what it finds.

        Args:
            got: what is to be proven, by feature.
            expected: what is true; the same features.
            keys: [n, entities] int64, for the message.
            times: [n] int64 microseconds, for the message.

        Raises:
            ProofError: the two have different features, or columns of other lengths than n.
        """
        if got.keys() != expected.keys():
            only = sorted(got.keys() ^ expected.keys())
            raise ProofError(f"only one side has the features {only}", where="parity")
        for name in got:
            lengths = {len(got[name]), len(expected[name]), len(times)}
            if len(lengths) > 1:
                raise ProofError(f"got columns of {sorted(lengths)} rows, expected {len(times)}", where=name)
            wrong = np.flatnonzero(~equal_rows(got[name], expected[name]))
            self.rows[name] = self.rows.get(name, 0) + len(times)
            self.mismatches[name] = self.mismatches.get(name, 0) + len(wrong)
            for row in wrong[: max(0, 10 - len(self.examples))]:
                at = np.array([row])
                self.examples.append(
                    Mismatch(
                        name,
                        tuple(keys[row].tolist()),
                        int(times[row]),
                        column_to_series(got[name].take(at)).to_list()[0],
                        column_to_series(expected[name].take(at)).to_list()[0],
                    )
                )

    def require(self) -> None:
        """Raises `ProofError` if anything differs, naming features, keys and both values."""
        if self.total_mismatches:
            lines = [
                f"{m.feature} of key {m.keys} at {format_time(m.time)}: "
                f"{self.proven} {m.got}, {self.truth} {m.expected}"
                for m in self.examples
            ]
            raise ProofError(
                f"{self.total_mismatches} of {self.values} values differ between {self.proven} and {self.truth}:\n  "
                + "\n  ".join(lines),
                where="parity",
            )


def equal_rows(one: Column, other: Column) -> Bools:
    """[n]: in which rows two columns have the same value.

    >>> from bedplate.batch import Dense
    >>> equal_rows(Dense(np.array([1.0, 2.0])), Dense(np.array([1.0 + 1e-9, 3.0]))).tolist()
    [True, False]
    """
    if isinstance(one, Ragged) and isinstance(other, Ragged):
        same = np.diff(one.offsets) == np.diff(other.offsets)
        kept_one, kept_other = one.take(np.flatnonzero(same)), other.take(np.flatnonzero(same))
        differs = np.concatenate(([0], np.cumsum(~equal_rows(kept_one.values, kept_other.values))))
        same[same] = differs[kept_one.offsets[1:]] == differs[kept_one.offsets[:-1]]
        return same
    if isinstance(one, Ragged) or isinstance(other, Ragged):
        return np.zeros(len(one), np.bool_)
    there, expected = _present(one), _present(other)
    values = _close(one.values, other.values, there & expected)
    if isinstance(one, Embedding):
        values = values.all(axis=1)
    return (there == expected) & (values | ~there)


def _present(column: Column) -> Bools:
    if isinstance(column, Ragged) or column.present is None:
        return np.ones(len(column), np.bool_)
    return column.present


def _close(one: Array, other: Array, compared: Bools) -> Bools:
    if one.dtype.kind != "f" and other.dtype.kind != "f":
        return one == other
    largest = float(np.abs(other[compared]).max()) if compared.any() else 0.0
    return np.isclose(one, other, rtol=RELATIVE, atol=ABSOLUTE * largest, equal_nan=True)
