"""What the axes of a model's weights stand for, so that another model's weights can be taken over by meaning.

An axis is a tuple with a label for each of its positions; two positions with equal labels stand for the same thing.
A label of the encoder's tensors is an `InputColumn`; a layer has labels of its own, as for a pooled sequence's columns.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

Axis: TypeAlias = tuple[Hashable, ...]
"""The labels of an axis's positions."""


class IdRows(Enum):
    """What stands in place of an axis whose positions are the rows that ids have."""

    ALL = "all"


ID_ROWS: Final = IdRows.ALL
"""A first axis with a position for each row of the encoder's embedding table, as that of `nn.Embedding(layout.rows, 4)`
that is looked up by ids of the encoder's tensors. It may be longer: what comes after is looked up by no id."""

WeightAxes: TypeAlias = "tuple[Axis | IdRows | None, ...]"
"""The axes of a weight. As in `nn.Linear`, the last axis of a matrix is what it reads and the first what it gives; None
is an axis whose positions stand for themselves, such as hidden units."""

Axes: TypeAlias = Mapping[str, WeightAxes]
"""The axes of each weight by its name."""


class InputColumn(NamedTuple):
    """A column of a model's input.

    Attributes:
        tensor: the encoder's tensor.
        column: on its last axis.
        part: of the column's embedding; 0 of a number.
    """

    tensor: str
    column: int
    part: int = 0


NOTHING: Axis = (("nothing",),)
"""The axis of a weight that stands in where there is nothing to read."""


def prefixed(module: str, axes: Axes) -> dict[str, WeightAxes]:
    """The axes of a module's weights, by their names in the model that has it as `module`.

    >>> prefixed("net", {"weight": (None, ("a",))})
    {'net.weight': (None, ('a',))}
    """
    return {f"{module}.{name}": found for name, found in axes.items()}
