"""The trees of scikit-learn as arrays: exact in float64, where skl2onnx has float32 thresholds, or fails."""

from __future__ import annotations

from typing import Any

import numpy as np

from bedplate.models.forest import Forest, concatenated, forest_part
from bedplate.models.nodes import Part
from bedplate.types import Float64s, Int64s

_FORESTS = ("DecisionTreeClassifier", "ExtraTreeClassifier", "ExtraTreesClassifier", "RandomForestClassifier")
_HISTOGRAM = "HistGradientBoostingClassifier"


def tree_part(estimator: Any) -> Part | None:
    """The graph of a fitted estimator that is made of trees; None for another.

    Args:
        estimator: of two classes.
    """
    kind: Any = type(estimator)
    if not kind.__module__.startswith("sklearn."):
        return None
    if kind.__name__ in _FORESTS:
        trees = [t.tree_ for t in getattr(estimator, "estimators_", [estimator])]
        return forest_part(concatenated([_shares(t, len(trees)) for t in trees]), 0.0, probability=False)
    if kind.__name__ == _HISTOGRAM and not estimator.is_categorical_:
        trees = [_histogram(predictor.nodes) for (predictor,) in estimator._predictors]
        return forest_part(concatenated(trees), float(np.ravel(estimator._baseline_prediction)[0]), probability=True)
    return None


def _shares(tree: Any, count: int) -> Forest:
    """A tree whose leaves are the share of positives, one of `count` whose mean is the probability."""
    values: Float64s = tree.value[:, 0, :]
    shares = values[:, 1] / values.sum(axis=1) / count
    missing = np.asarray(tree.missing_go_to_left, np.bool_)
    return _forest(tree.children_left, tree.children_right, tree.feature, tree.threshold, missing, shares)


def _histogram(nodes: Any) -> Forest:
    """A tree of `HistGradientBoostingClassifier`; a leaf is the node 0 of nothing."""
    left, right = (np.where(nodes["is_leaf"], -1, nodes[side].astype(np.int64)) for side in ("left", "right"))
    missing = nodes["missing_go_to_left"].astype(np.bool_)
    return _forest(left, right, nodes["feature_idx"], nodes["num_threshold"], missing, nodes["value"])


def _forest(left: Any, right: Any, columns: Any, thresholds: Any, missing_left: Any, values: Any) -> Forest:
    """A tree of arrays in which nodes and leaves are numbered together; a leaf has no left child."""
    is_leaf = np.asarray(left) < 0
    child: Int64s = np.where(is_leaf, ~(np.cumsum(is_leaf) - 1), np.cumsum(~is_leaf) - 1)
    inner = np.flatnonzero(~is_leaf)
    return Forest(
        roots=child[:1],
        columns=np.asarray(columns, np.int64)[inner],
        thresholds=np.asarray(thresholds, np.float64)[inner],
        left=child[np.asarray(left)[inner]],
        right=child[np.asarray(right)[inner]],
        missing_left=np.asarray(missing_left)[inner],
        categories={},
        gains=np.zeros(len(inner)),
        values=np.asarray(values, np.float64)[is_leaf],
        strict=False,
    )
