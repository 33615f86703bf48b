"""Boosted trees as arrays, whichever library grew them, and their graph in ONNX.

A library compares a float32 value with a threshold of float64 (LightGBM) or float32 (XGBoost). The graph compares in
float64, in which both are exact: no row takes another branch than in the library, however near to a threshold it is. It
sums the leaves in float64, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from bedplate.features.artifact import MATRIX, SCORE
from bedplate.models.nodes import Part, constant, float32_of, float64_of, node
from bedplate.types import Array, Bools, Float64s, Int64s

_AT_MOST, _LESS, _MEMBER = 0, 1, 6  # the operator's numbers of comparisons


@final
@dataclass(frozen=True, slots=True)
class Forest:
    """Trees, whose values are summed. M nodes and L leaves of all trees.

    A child is a node, or `~leaf` where it is below 0. A row goes left where its value is at most the threshold (below
    it: `strict`), or where it is one of the node's categories.

    Attributes:
        roots: [trees] the first child of each.
        columns: [M] of the matrix.
        thresholds: [M].
        left: [M] children.
        right: [M] children.
        missing_left: [M] where a NaN goes.
        categories: those that go left, by node.
        gains: [M] what each split gained, in the library's measure.
        values: [L].
        strict: whether a value that is equal to the threshold goes right.
    """

    roots: Int64s
    columns: Int64s
    thresholds: Float64s
    left: Int64s
    right: Int64s
    missing_left: Bools
    categories: dict[int, Int64s]
    gains: Float64s
    values: Float64s
    strict: bool

    def importance(self, columns: int) -> tuple[Float64s, Int64s]:
        """The gain of all splits by each column, and how many there are: [columns] each."""
        gains = np.bincount(self.columns, self.gains, columns).astype(np.float64)
        return gains, np.bincount(self.columns, minlength=columns).astype(np.int64)


def no_trees() -> Forest:
    """A forest of none."""
    ints, floats = np.zeros(0, np.int64), np.zeros(0)
    return Forest(ints, ints, floats, ints, ints, np.zeros(0, np.bool_), {}, floats, floats, strict=False)


def concatenated(forests: Sequence[Forest]) -> Forest:
    """All trees of some forests; `strict` is that of the first."""
    if not forests:
        return no_trees()
    nodes = np.cumsum([0, *(len(f.columns) for f in forests)])
    leaves = np.cumsum([0, *(len(f.values) for f in forests)])

    def children(name: str) -> Int64s:
        parts: list[Array] = []
        for i, forest in enumerate(forests):
            own: Int64s = getattr(forest, name)
            moved: Int64s = np.where(own >= 0, own + int(nodes[i]), own - int(leaves[i]))
            parts.append(moved)
        return np.concatenate(parts)

    def joined(name: str) -> Array:
        return np.concatenate([getattr(forest, name) for forest in forests])

    return Forest(
        children("roots"),
        joined("columns"),
        joined("thresholds"),
        children("left"),
        children("right"),
        joined("missing_left"),
        {n + int(nodes[i]): sets for i, forest in enumerate(forests) for n, sets in forest.categories.items()},
        joined("gains"),
        joined("values"),
        forests[0].strict,
    )


def forest_part(forest: Forest, bias: float, *, probability: bool) -> Part:
    """From the matrix to the score: bias and trees summed, as a probability by the logistic function where wanted.

    Args:
        forest: the trees.
        bias: what every row begins with.
        probability: whether the sum is the log of the odds.
    """
    nodes = [
        float64_of(MATRIX, "matrix.exact"),
        _ensemble(forest),
        node("Reshape", ["trees", "rows"], "trees.flat"),
        node("Add", ["trees.flat", "bias"], "margin.exact"),
        float32_of("margin.exact", "margin" if probability else SCORE),
    ]
    if probability:
        nodes.append(node("Sigmoid", ["margin"], SCORE))
    return Part(nodes, [constant("rows", np.array([-1], np.int64)), constant("bias", np.array([bias], np.float64))])


def _ensemble(forest: Forest) -> Any:
    """The trees; one that is a single leaf gets a node with that leaf on both sides, and so does a forest of none."""
    count = len(forest.columns)
    lone = forest.roots[forest.roots < 0] if len(forest.roots) else np.array([~len(forest.values)])
    values = forest.values if len(forest.roots) else np.append(forest.values, 0.0)
    roots = forest.roots.copy() if len(forest.roots) else lone.copy()
    roots[roots < 0] = np.arange(count, count + len(lone))
    left, right = np.concatenate((forest.left, lone)), np.concatenate((forest.right, lone))
    modes = np.full(count + len(lone), _LESS if forest.strict else _AT_MOST, np.uint8)
    members = sorted(forest.categories)
    modes[members] = _MEMBER
    extra: dict[str, Any] = {}
    if members:
        sets = [np.append(forest.categories[n].astype(np.float64), np.nan) for n in members]
        extra["membership_values"] = constant("sets", np.concatenate(sets))
    zeros = np.zeros(len(lone), np.int64)
    return node(
        "TreeEnsemble",
        ["matrix.exact"],
        "trees",
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function=1,
        post_transform=0,
        tree_roots=roots.tolist(),
        nodes_featureids=np.concatenate((forest.columns, zeros)).tolist(),
        nodes_modes=constant("modes", modes),
        nodes_splits=constant("thresholds", np.concatenate((forest.thresholds, zeros)).astype(np.float64)),
        nodes_truenodeids=np.where(left >= 0, left, ~left).tolist(),
        nodes_trueleafs=(left < 0).astype(np.int64).tolist(),
        nodes_falsenodeids=np.where(right >= 0, right, ~right).tolist(),
        nodes_falseleafs=(right < 0).astype(np.int64).tolist(),
        nodes_missing_value_tracks_true=np.concatenate((forest.missing_left, zeros)).astype(np.int64).tolist(),
        leaf_targetids=[0] * len(values),
        leaf_weights=constant("values", values.astype(np.float64)),
        **extra,
    )
