"""LightGBM's boosted trees."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any, ClassVar, final

import numpy as np

from bedplate.errors import ConfigError
from bedplate.models.boosting import Boosted, Segment, check_threads, group_sizes, require_known
from bedplate.models.estimator import Rows
from bedplate.models.estimators import BoostedConfig, EstimatorConfig, LightGBMConfig
from bedplate.models.forest import Forest, concatenated, no_trees
from bedplate.models.matrix import MatrixColumn
from bedplate.types import Array, Float32s, Float64s, Int64s

# The library has no complete types.
_lightgbm: Any = importlib.import_module("lightgbm")
_ALIASES: Any = importlib.import_module("lightgbm.basic")._ConfigAliases

_CATEGORICAL, _DEFAULT_LEFT, _NAN_IS_MISSING = 1, 2, 2  # bits of a node's `decision_type`; the last two are its kind


@final
class LightGBM(Boosted):
    """Trees that are grown leaf by leaf (Ke et al. 2017, "LightGBM")."""

    Config: ClassVar[type[EstimatorConfig]] = LightGBMConfig
    library: ClassVar[str] = "lightgbm"

    def __init__(self, config: BoostedConfig, columns: tuple[MatrixColumn, ...]) -> None:
        super().__init__(config, columns)
        names = {alias: main for main, others in _ALIASES._get_all_param_aliases().items() for alias in (*others, main)}
        require_known(config.params, frozenset(names), config.title())
        for name in config.params:
            config.check_own(names[name], name)
        check_threads(config.params, [name for name in config.params if names[name] == "num_threads"], config.title())
        self._check_values()

    def _check_values(self) -> None:
        """Makes a booster of the parameters on two rows: the library says which values it does not take."""
        params, rank = self._params(0), self.config.objective == "lambdarank"
        try:
            rows = np.zeros((2, max(len(self.columns), 1)), np.float32)
            data: Any = _lightgbm.Dataset(rows, label=[0, 1], group=[2] if rank else None, params=params)
            _lightgbm.Booster(params, data.construct())
        except (TypeError, ValueError, _lightgbm.basic.LightGBMError) as error:
            raise ConfigError(
                f"the library refuses the parameters: {str(error).strip().splitlines()[0]}",
                where=f"{self.config.title()}: params",
                hint=", ".join(f"{name} is {value!r}" for name, value in self.config.params.items()) or None,
            ) from error

    def open(self, train: Rows) -> Any:
        """The rows in the library's bins, a byte or two a value."""
        c = self.config
        is_set = c.categories == "categorical"
        data: Any = _lightgbm.Dataset(
            train.matrix,
            label=train.labels,
            weight=train.weights,
            group=group_sizes(train) if c.objective == "lambdarank" else None,
            categorical_feature=[i for i, column in enumerate(self.columns) if column.categories and is_set],
            feature_name=[
                f"c{i}" for i in range(len(self.columns))
            ],  # names of features have characters that it refuses
            params=self._params(0),
            free_raw_data=True,
        )
        return data.construct()

    def segment(self, data: Any, scores: Float64s, seed: int) -> Segment:
        """A booster that starts from these scores."""
        data.set_init_score(scores)
        return _Grown(_lightgbm.Booster(self._params(seed), data), self.config.objective == "binary")

    def read(self, content: bytes) -> Segment:
        """A booster of a model's text."""
        return _Grown(_lightgbm.Booster(model_str=content.decode()), False)

    def _params(self, seed: int) -> dict[str, Any]:
        c = self.config
        return {
            "verbosity": -1,
            "force_col_wise": True,
            **c.params,
            "objective": c.objective,
            "metric": "binary_logloss" if c.objective == "binary" else "none",
            "learning_rate": c.learning_rate,
            # Without a limit a tree still has fewer leaves than this.
            "num_leaves": c.leaves or min(131_072, 2 ** (c.depth or 17)),
            "max_depth": c.depth or -1,
            "bagging_fraction": c.subsample,
            "bagging_freq": 1 if c.subsample < 1 else 0,
            "feature_fraction": c.colsample,
            "boost_from_average": False,
            "deterministic": True,
            "seed": seed,
        }


@final
class _Grown:
    """A booster of LightGBM. Satisfies `boosting.Segment`."""

    def __init__(self, booster: Any, has_loss: bool) -> None:
        self._booster, self._has_loss = booster, has_loss

    @property
    def rounds(self) -> int:
        return self._booster.current_iteration()

    def grow(self) -> bool:
        return not self._booster.update()

    def margins(self, matrix: Float32s, first: int, last: int) -> Float64s:
        if last <= first:
            return np.zeros(len(matrix))
        return self._booster.predict(matrix, raw_score=True, start_iteration=first, num_iteration=last - first)

    def train_loss(self) -> float | None:
        return float(self._booster.eval_train()[0][2]) if self._has_loss else None

    def content(self) -> bytes:
        return self._booster.model_to_string(num_iteration=-1).encode()

    def forest(self, last: int) -> Forest:
        text: str = self._booster.model_to_string(num_iteration=last) if last else ""
        trees = text.partition("\nend of trees")[0].split("\nTree=")[1:]
        return concatenated([_tree(t) for t in trees])


def _tree(text: str) -> Forest:
    """One tree of a model's text: a line `name=values` for each of its arrays."""
    lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def integers(name: str) -> Int64s:
        return np.array(lines[name].split(), np.int64)

    values = np.array(lines["leaf_value"].split(), np.float64)
    if int(lines["num_leaves"]) == 1:
        return replace(no_trees(), roots=np.array([~0]), values=values)
    kinds, thresholds = integers("decision_type"), np.array(lines["threshold"].split(), np.float64)
    is_set = (kinds & _CATEGORICAL) > 0
    categories: dict[int, Int64s] = {}
    if is_set.any():
        bounds, words = integers("cat_boundaries"), integers("cat_threshold")
        for node in np.flatnonzero(is_set).tolist():
            at = int(thresholds[node])
            categories[node] = _members(words[bounds[at] : bounds[at + 1]])
    # What is not known to be missing in training is read as 0.
    to_left = np.where((kinds >> 2 & 3) == _NAN_IS_MISSING, (kinds & _DEFAULT_LEFT) > 0, thresholds >= 0.0)
    return Forest(
        roots=np.zeros(1, np.int64),
        columns=integers("split_feature"),
        thresholds=thresholds,
        left=integers("left_child"),
        right=integers("right_child"),
        missing_left=to_left & ~is_set,
        categories=categories,
        gains=np.array(lines["split_gain"].split(), np.float64),
        values=values,
        strict=False,
    )


def _members(words: Int64s) -> Int64s:
    """The numbers of the bits that are set in words of 32 bits."""
    bits: Array = (words[:, None] >> np.arange(32)) & 1
    return np.flatnonzero(bits.ravel())
