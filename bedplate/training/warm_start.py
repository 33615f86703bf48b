"""The weights that a model goes on with, taken over from another one by what they stand for.

An embedding keeps its row by the id that it is of, a column of a first layer by the feature that it reads, whatever
their places are. What reads a new feature begins at 0, and the vector of a new id as that of the ids out of vocabulary,
which it was to the parent: so that at its first step the model scores as the parent does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from bedplate.errors import DefinitionError
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import OF_ITEM
from bedplate.features.vocabulary import FIRST_KNOWN_ROW, UNKNOWN_ROW
from bedplate.layers.axes import Axis, IdRows, InputColumn, WeightAxes
from bedplate.layers.embedding import table_names
from bedplate.models.base import Model
from bedplate.training.calling import axes_of
from bedplate.training.carried_encoder import shared_vocabularies
from bedplate.training.moved_rows import looked_up, require_told, said_of
from bedplate.types import Int64s

_OF_FEATURE = re.compile(r"(.*?)(\?|\[\d+\])?")
"""A dense column: a feature, whether it is there, or an element of it."""


@final
@dataclass(frozen=True)
class Side:
    """A model with its encoder.

    Attributes:
        model: the model.
        encoder: made its layout.
    """

    model: Model
    encoder: Encoder

    def meanings(self, axis: Axis, kept: Collection[str]) -> list[Hashable]:
        """What each position of an axis stands for; None: a feature that is not kept."""
        return [self._meaning(label, kept) if isinstance(label, InputColumn) else label for label in axis]

    def _meaning(self, label: InputColumn, kept: Collection[str]) -> Hashable:
        if label.tensor.startswith("bag_ids."):
            column = label.tensor.removeprefix("bag_ids.")
        else:
            column = self.encoder.columns_of(label.tensor)[label.column]
        match = _OF_FEATURE.fullmatch(column)
        feature = column if match is None else match[1]
        return (label.tensor, column, label.part) if feature in kept else None

    def columns(self) -> list[tuple[str, ...]]:
        """The columns of every tensor, in order."""
        tensors = [t.name for t in self.encoder.layout.tensors() if t.name != OF_ITEM]
        return [(name, *(() if name.startswith("bag_ids.") else self.encoder.columns_of(name))) for name in tensors]


@final
@dataclass(frozen=True)
class _Taken:
    """Which positions of an axis are taken over: `source[i]` of the parent's goes to `target[i]`.

    Attributes:
        source: [n] positions of the parent's axis.
        target: [n] positions of the own axis.
        new: positions of the own axis that stand for something new.
    """

    source: Int64s
    target: Int64s
    new: Int64s

    def moves(self, before: int, after: int) -> bool:
        """Whether an axis of so many positions, and then of so many others, is not taken over as it is."""
        return before != after or len(self.target) != after or not np.array_equal(self.source, self.target)


_Axes: TypeAlias = "Sequence[_Taken | None]"
"""For each axis of a weight what is taken over; None: every position, in its place."""


@final
@dataclass(frozen=True)
class _Plan:
    """Where a weight comes from: the parent's weight of this name, and what of its axes."""

    source: str
    axes: _Axes


@final
class WarmStart:
    """Takes a parent's weights over.

    Args:
        parent: the model that is gone on from, with its encoder.
        own: the model that goes on, with its encoder.
        kept: the features that mean the same to both (`carried_encoder.kept_features`).

    Raises:
        DefinitionError: the two models are of different classes, or built with different choices; they have other
            features and the model does not say what reads them (`Model.axes`); or ids have other rows, and it does not
            say whether they are looked up in an embedding of its own.

    Attributes:
        moves: whether ids have other rows than in the parent, and nothing else has changed.
    """

    def __init__(self, parent: Side, own: Side, kept: Collection[str]) -> None:
        self.parent, self.own, self.kept = parent, own, kept
        self.rows = table_rows(parent.encoder, own.encoder, shared_vocabularies(parent.encoder, own.encoder, kept))
        self._moved = self.rows.moves(parent.encoder.layout.rows, own.encoder.layout.rows)
        self.moves = self._check_class() and self._moved
        self._plans = dict(self._planned())

    def _check_class(self) -> bool:
        """Whether both models have the same features."""
        was, now = type(self.parent.model), type(self.own.model)
        if was.__qualname__ != now.__qualname__:
            raise _other(f"the parent is a {was.__qualname__}, the job's model a {now.__qualname__}")
        same = self.parent.columns() == self.own.columns() and all(
            f.feature in self.kept for f in self.own.encoder.fields
        )
        says = any(isinstance(axis, tuple) for axes in axes_of(self.own.model).values() for axis in axes)
        tables = table_names(self.own.model)
        others = {name for name in self.own.model.state_dict() if name not in tables} - {
            name for name, axes in axes_of(self.own.model).items() if _by_id(axes)
        }
        if not same and others and not says:
            raise DefinitionError(
                "its features differ from those of the parent, and the model does not say what reads them",
                where=f"model '{now.__qualname__}'",
                hint="write its method axes() (see docs/retraining.md), or train from the beginning",
            )
        return same

    def _planned(self) -> Iterator[tuple[str, _Plan]]:
        was, now = self.parent.model, self.own.model
        parent_axes, own_axes = axes_of(was), axes_of(now)
        tables = table_names(now)
        if self._moved:
            require_told(now, own_axes, tables, self.parent.encoder, self.own.encoder)
        found, given = was.state_dict(), {k: n for n, axes in parent_axes.items() if (k := _given(axes)) is not None}
        for name, tensor in now.state_dict().items():
            after = own_axes.get(name, ())
            if name in tables or _by_id(after):
                yield name, self._looked_up(name, parent_axes.get(name, ()), after, found.get(name), tensor)
                continue
            key = _given(after)
            source = name if key is None else given.get(key)
            if source is None:
                continue  # of a group of sequences that the parent does not have
            before = parent_axes.get(source, ())
            axes = [self._taken(_at(before, i), _at(after, i)) for i in range(tensor.ndim)]
            self._check_rows(name, found.get(source), tensor, axes)
            _check_shape(name, found.get(source), tensor, axes)
            yield name, _Plan(source, axes)

    def _looked_up(self, name: str, before: WeightAxes, after: WeightAxes, was: Tensor | None, own: Tensor) -> _Plan:
        """The plan of a weight with a row for each id."""
        axes = [self.rows, *(self._taken(_at(before, i), _at(after, i)) for i in range(1, own.ndim))]
        _check_shape(name, was, own, axes)
        return _Plan(name, axes)

    def _check_rows(self, name: str, was: Tensor | None, own: Tensor, axes: _Axes) -> None:
        """Raises `DefinitionError` where a weight has as many rows as there are ids, which are others now."""
        rows = [self.parent.encoder.layout.rows, self.own.encoder.layout.rows]
        if was is None or rows[0] == rows[1] or not own.ndim or axes[0] is not None:
            return
        if [was.shape[0], own.shape[0]] == rows:
            moved = said_of(self.parent.encoder, self.own.encoder)
            raise looked_up(f"the weights '{name}' have a row for each id, {rows[1]:,}, and {moved}", [name])

    def _taken(self, before: Axis | IdRows | None, after: Axis | IdRows | None) -> _Taken | None:
        if before is None or after is None or isinstance(before, IdRows) or isinstance(after, IdRows):
            return None
        known = {m: i for i, m in enumerate(self.parent.meanings(before, self.kept)) if m is not None}
        found = [-1 if m is None else known.get(m, -1) for m in self.own.meanings(after, self.kept)]
        places = np.array(found, np.int64)
        return _Taken(places[places >= 0], np.flatnonzero(places >= 0), np.flatnonzero(places < 0))

    @torch.no_grad()
    def weights(self) -> dict[str, Tensor]:
        """The state of the model to begin with."""
        was = self.parent.model.state_dict()
        state = {name: tensor.clone() for name, tensor in self.own.model.state_dict().items()}
        unknown = new_ids(self.parent.encoder, self.own.encoder, self.rows)
        for name, plan in self._plans.items():
            axes = plan.axes
            if len(axes) == 2 and axes[1] is not None:
                state[name][_cells(_targets(axes[0], len(state[name])), axes[1].new)] = 0.0
            _copy(was[plan.source], state[name], axes)
            if axes and axes[0] is self.rows:
                _copy(was[plan.source], state[name], [unknown, *axes[1:]])
        return state

    def source(self, name: str) -> str | None:
        """The parent's weight that an own one is taken over from; None: it begins as it is drawn."""
        plan = self._plans.get(name)
        return None if plan is None else plan.source

    def moments(self, name: str, was: Tensor, own: Tensor) -> Tensor:
        """An optimiser's value for each number of a weight (or for each row of a table); 0 for what is new.

        Args:
            name: of the own weight.
            was: the parent's values.
            own: values of the own shape, which are overwritten.
        """
        own.zero_()
        _copy(was, own, self._plans[name].axes[: own.ndim])
        return own


def table_rows(parent: Encoder, encoder: Encoder, shared: Collection[str]) -> _Taken:
    """The rows of the embedding table that are taken over: the padding, and of shared vocabularies all ids of both."""
    source, target = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)]
    for name in shared:
        was, now = parent.vocabularies[name].keys, encoder.vocabularies[name].keys
        first, own = parent.vocabularies.first_rows[name], encoder.vocabularies.first_rows[name]
        _, a, b = np.intersect1d(was, now, assume_unique=True, return_indices=True)
        reserved = np.arange(FIRST_KNOWN_ROW)
        source += [first + reserved, first + FIRST_KNOWN_ROW + a]
        target += [own + reserved, own + FIRST_KNOWN_ROW + b]
    taken = np.concatenate(target)
    new = np.setdiff1d(np.arange(encoder.layout.rows), taken, assume_unique=True)
    return _Taken(np.concatenate(source), taken, new)


def new_ids(parent: Encoder, encoder: Encoder, rows: _Taken) -> _Taken:
    """The rows of new ids of shared vocabularies, and the parent's row of their ids out of vocabulary."""
    source, target = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    taken = np.zeros(encoder.layout.rows, np.bool_)
    taken[rows.target] = True
    for name, vocabulary in encoder.vocabularies.items():
        own = encoder.vocabularies.first_rows[name]
        if not taken[own]:
            continue  # a new vocabulary
        fresh = own + np.flatnonzero(~taken[own : own + len(vocabulary)])
        source.append(np.full(len(fresh), parent.vocabularies.first_rows[name] + UNKNOWN_ROW))
        target.append(fresh)
    return _Taken(np.concatenate(source), np.concatenate(target), np.zeros(0, np.int64))


def _by_id(axes: WeightAxes) -> bool:
    return bool(axes) and isinstance(axes[0], IdRows)


def _given(axes: WeightAxes) -> Hashable:
    """What a weight gives, if that is a layer's own: it has the same labels whatever the layer's place is."""
    out = axes[0] if axes else None
    if not out or isinstance(out, IdRows) or any(isinstance(label, InputColumn) for label in out):
        return None
    return len(axes), out


def _at(axes: WeightAxes, i: int) -> Axis | IdRows | None:
    return axes[i] if i < len(axes) else None


def _cells(rows: Int64s, columns: Int64s) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows)[:, None], torch.from_numpy(columns)[None]  # pyright: ignore[reportUnknownMemberType]


def _targets(taken: _Taken | None, length: int) -> Int64s:
    return np.arange(length) if taken is None else taken.target


def _copy(was: Tensor, own: Tensor, plan: _Axes) -> None:
    if all(taken is None for taken in plan):
        own.copy_(was)
        return
    if len(plan) == 1 or all(taken is None for taken in plan[1:]):
        first = plan[0]
        assert first is not None
        own[first.target] = was[first.source]
        return
    rows, columns = plan
    sources = [np.arange(was.shape[i]) if t is None else t.source for i, t in enumerate((rows, columns))]
    own[_cells(_targets(rows, own.shape[0]), _targets(columns, own.shape[1]))] = was[_cells(*sources)]


def _check_shape(name: str, was: Tensor | None, own: Tensor, plan: _Axes) -> None:
    if was is None:
        raise _other(f"the parent has no weights '{name}'")
    free = [i for i, taken in enumerate(plan) if taken is None]
    if was.ndim != own.ndim or any(was.shape[i] != own.shape[i] for i in free):
        raise _other(f"the weights '{name}' are {list(own.shape)}, those of the parent {list(was.shape)}")


def _other(what: str) -> DefinitionError:
    return DefinitionError(
        what,
        where="the model to continue from",
        hint="a model goes on with the class and the layers of its parent; give the job the parent's choices, or train "
        "from the beginning (without --continue)",
    )
