"""XGBoost's boosted trees."""

from __future__ import annotations

import importlib
import json
import re
import warnings
from typing import Any, ClassVar, final

import numpy as np

from bedplate.errors import ConfigError, suggest
from bedplate.models.boosting import BLOCK_ROWS, Boosted, Segment, check_threads, group_sizes
from bedplate.models.estimator import Rows
from bedplate.models.estimators import BoostedConfig, EstimatorConfig, XGBoostConfig
from bedplate.models.forest import Forest, concatenated
from bedplate.models.matrix import MatrixColumn
from bedplate.types import Array, Float32s, Float64s, Int64s

# The library has no complete types.
_xgboost: Any = importlib.import_module("xgboost")

_DATA_PARAMS = ("max_bin", "nthread")
"""Parameters that the matrix of the library takes, too."""

_THREADS = ("nthread", "n_jobs")
"""The names of how many threads there are."""


@final
class XGBoost(Boosted):
    """Trees that are grown level by level (Chen and Guestrin 2016, "XGBoost")."""

    Config: ClassVar[type[EstimatorConfig]] = XGBoostConfig
    library: ClassVar[str] = "xgboost"

    def __init__(self, config: BoostedConfig, columns: tuple[MatrixColumn, ...]) -> None:
        super().__init__(config, columns)
        is_set = config.categories == "categorical"
        self._types = ["c" if column.categories and is_set else "float" for column in columns]
        check_threads(config.params, _THREADS, config.title())
        self._check_params()

    def _check_params(self) -> None:
        """Makes a booster of the parameters on two rows: the library says which it does not use."""
        c = self.config
        with warnings.catch_warnings(record=True) as said, _xgboost.config_context(verbosity=1):
            warnings.simplefilter("always")
            matrix = self._matrix(np.zeros((2, len(self.columns)), np.float32), label=[0, 1])
            try:
                booster = _xgboost.Booster(self._params(0) | {"verbosity": 1}, [matrix])
                booster.update(matrix, 0)
                known = sorted(_keys(json.loads(booster.save_config())))
            except (TypeError, ValueError, _xgboost.core.XGBoostError) as error:
                raise ConfigError(
                    f"the library refuses the parameters: {str(error).strip().splitlines()[0]}",
                    where=f"{c.title()}: params",
                ) from error
        unused = re.findall(r'"(\w+)"', " ".join(str(w.message) for w in said if "not used" in str(w.message)))
        if unused:
            raise ConfigError(
                f"the library has no parameter '{unused[0]}'",
                where=f"{c.title()}: params",
                hint=suggest(unused[0], known, "parameters"),
            )

    def open(self, train: Rows) -> Any:
        """The rows in the library's bins, a byte or two a value."""
        c = self.config
        chosen = {name: c.params[name] for name in _DATA_PARAMS if name in c.params}
        is_rank = c.objective == "lambdarank"
        sizes = group_sizes(train) if is_rank else None
        weights = train.weights if sizes is None else _of_groups(train.weights, sizes)
        return _xgboost.QuantileDMatrix(
            train.matrix,
            label=train.labels,
            weight=weights,
            group=sizes,
            feature_types=self._types,
            enable_categorical=True,
            **chosen,
        )

    def segment(self, data: Any, scores: Float64s, seed: int) -> Segment:
        """A booster that starts from these scores."""
        data.set_base_margin(scores.astype(np.float32))
        booster = _xgboost.Booster(self._params(seed), [data])
        return _Grown(booster, data, self._types, self.config.objective == "binary")

    def read(self, content: bytes) -> Segment:
        """A booster of a model's JSON."""
        booster = _xgboost.Booster()
        booster.load_model(bytearray(content))
        return _Grown(booster, None, self._types, False)

    def _matrix(self, matrix: Float32s, **facts: Any) -> Any:
        return _xgboost.DMatrix(matrix, feature_types=self._types, enable_categorical=True, **facts)

    def _params(self, seed: int) -> dict[str, Any]:
        c = self.config
        is_rank = c.objective == "lambdarank"
        return {
            "verbosity": 0,
            **c.params,
            "objective": "rank:ndcg" if is_rank else "binary:logistic",
            "eval_metric": "ndcg" if is_rank else "logloss",
            "base_score": 0.0 if is_rank else 0.5,  # no margin of its own
            "tree_method": "hist",
            "learning_rate": c.learning_rate,
            "grow_policy": "lossguide" if c.leaves else "depthwise",
            "max_leaves": c.leaves or 0,
            "max_depth": c.depth or 0,
            "subsample": c.subsample,
            "colsample_bytree": c.colsample,
            "seed": seed,
        }


@final
class _Grown:
    """A booster of XGBoost. Satisfies `boosting.Segment`."""

    def __init__(self, booster: Any, data: Any, types: list[str], has_loss: bool) -> None:
        self._booster, self._data, self._types, self._has_loss = booster, data, types, has_loss
        self._parsed: tuple[int, list[dict[str, Any]]] = (0, [])

    @property
    def rounds(self) -> int:
        return self._booster.num_boosted_rounds()

    def grow(self) -> bool:
        self._booster.update(self._data, self.rounds)
        return True

    def margins(self, matrix: Float32s, first: int, last: int) -> Float64s:
        """The leaves that the library finds, summed in float64 here: it would sum in float32."""
        out = np.zeros(len(matrix))
        values = _leaf_values(self._trees()[first:last])
        for start in range(0, len(matrix), BLOCK_ROWS) if values else ():
            block = slice(start, start + BLOCK_ROWS)
            data = _xgboost.DMatrix(matrix[block], feature_types=self._types, enable_categorical=True)
            found = self._booster.predict(data, pred_leaf=True, iteration_range=(first, last), strict_shape=True)
            leaves: Array = found.reshape(len(out[block]), -1).astype(np.int64)
            for i, own in enumerate(values):
                out[block] += own[leaves[:, i]]
        return out

    def train_loss(self) -> float | None:
        if not self._has_loss:
            return None
        return float(self._booster.eval(self._data).rpartition(":")[2])

    def content(self) -> bytes:
        return bytes(self._booster.save_raw("json"))

    def forest(self, last: int) -> Forest:
        return concatenated([_tree(tree) for tree in self._trees()[:last]])

    def _trees(self) -> list[dict[str, Any]]:
        if self._parsed[0] != self.rounds:
            self._parsed = self.rounds, json.loads(self.content())["learner"]["gradient_booster"]["model"]["trees"]
        return self._parsed[1]


def _keys(document: dict[str, Any]) -> set[str]:
    """The names of all values of a nested document."""
    found: set[str] = set()
    for name, value in document.items():
        found |= _keys(value) if isinstance(value, dict) else {name}  # pyright: ignore[reportUnknownArgumentType]
    return found


def _of_groups(weights: Float32s, sizes: Array) -> Float32s:
    """The mean weight of each group: this objective weighs requests, not rows."""
    return (np.add.reduceat(weights, np.cumsum(sizes) - sizes) / sizes).astype(np.float32)


def _leaf_values(trees: list[dict[str, Any]]) -> list[Float64s]:
    """The value of each leaf of each tree, at its node's place; the document writes float32 as text."""
    return [np.array(tree["split_conditions"], np.float32).astype(np.float64) for tree in trees]


def _tree(tree: dict[str, Any]) -> Forest:
    """One tree of a model's document, in which nodes and leaves are numbered together."""
    left, right = (np.array(tree[f"{side}_children"], np.int64) for side in ("left", "right"))
    is_leaf = left < 0
    (values,) = _leaf_values([tree])
    child = np.where(is_leaf, ~(np.cumsum(is_leaf) - 1), np.cumsum(~is_leaf) - 1)
    inner = np.flatnonzero(~is_leaf)
    is_set = np.array(tree["split_type"], np.int64)[inner] == 1
    lefts, rights = child[left[inner]], child[right[inner]]
    begins, sizes = tree["categories_segments"], tree["categories_sizes"]
    members: Int64s = np.array(tree["categories"], np.int64)
    return Forest(
        roots=child[:1],
        columns=np.array(tree["split_indices"], np.int64)[inner],
        thresholds=np.where(is_set, 0.0, values[inner]),
        # The categories of a node are those that go right.
        left=np.where(is_set, rights, lefts),
        right=np.where(is_set, lefts, rights),
        missing_left=(np.array(tree["default_left"], np.int64)[inner] > 0) & ~is_set,
        categories={
            int(child[node]): np.sort(members[begin : begin + size])
            for node, begin, size in zip(tree["categories_nodes"], begins, sizes, strict=True)
        },
        gains=np.array(tree["loss_changes"], np.float64)[inner],
        values=values[is_leaf],
        strict=True,
    )
