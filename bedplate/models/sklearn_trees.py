"""The trees of scikit-learn as arrays: exact in float64, where skl2onnx has float32 thresholds, or fails."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bedplate.models.forest import Forest, concatenated
from bedplate.types import Float64s, Int64s

_FORESTS = ("DecisionTreeClassifier", "ExtraTreeClassifier", "ExtraTreesClassifier", "RandomForestClassifier")
_HISTOGRAM = "HistGradientBoostingClassifier"


class Trees(NamedTuple):
    """Trees, what every row begins with, and whether the sum is the log of the odds."""

    forest: Forest
    bias: float
    is_logit: bool


def trees_of(estimator: Any) -> Trees | None:
    """The trees of a fitted estimator of two classes; None for one that is not made of trees."""
    name: str = type(estimator).__name__
    if not type(estimator).__module__.startswith("sklearn."):
        return None
    if name in _FORESTS:
        trees = [t.tree_ for t in getattr(estimator, "estimators_", [estimator])]
        return Trees(concatenated([_shares(t, len(trees)) for t in trees]), 0.0, is_logit=False)
    if name == _HISTOGRAM and not estimator.is_categorical_:
        trees = [_histogram(predictor.nodes) for (predictor,) in estimator._predictors]
        return Trees(concatenated(trees), float(np.ravel(estimator._baseline_prediction)[0]), is_logit=True)
    return None


def _shares(tree: Any, count: int) -> Forest:
    """A tree whose leaves are the share of positives, one of `count` whose mean is the probability."""
    values: Float64s = tree.value[:, 0, :]
    shares = values[:, 1] / values.sum(axis=1) / count
    missing = np.asarray(tree.missing_go_to_left, np.bool_)
    gains = np.zeros(len(shares))
    return _forest(tree.children_left, tree.children_right, tree.feature, tree.threshold, missing, shares, gains)


def _histogram(nodes: Any) -> Forest:
    """A tree of `HistGradientBoostingClassifier`; a leaf is the node 0 of nothing."""
    left, right = (np.where(nodes["is_leaf"], -1, nodes[side].astype(np.int64)) for side in ("left", "right"))
    missing = nodes["missing_go_to_left"].astype(np.bool_)
    return _forest(left, right, nodes["feature_idx"], nodes["num_threshold"], missing, nodes["value"], nodes["gain"])


def _forest(left: Any, right: Any, columns: Any, thresholds: Any, missing_left: Any, values: Any, gains: Any) -> Forest:
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
        gains=np.asarray(gains, np.float64)[inner],
        values=np.asarray(values, np.float64)[is_leaf],
        strict=False,
    )
