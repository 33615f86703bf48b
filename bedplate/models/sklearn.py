"""Estimators with the interface of scikit-learn, exported by skl2onnx; none is ever pickled."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from bedplate.errors import ConfigError, DataError, DefinitionError, suggest
from bedplate.features.artifact import MATRIX, SCORE
from bedplate.models.boosting import BLOCK_ROWS, check_threads
from bedplate.models.estimator import Fitted, Rows
from bedplate.models.estimators import EstimatorConfig, SklearnConfig, is_seed
from bedplate.models.forest import forest_part
from bedplate.models.matrix import MatrixColumn, named
from bedplate.models.nodes import OPSET, Part, constant, float32_of, float64_of, node
from bedplate.models.sklearn_trees import trees_of
from bedplate.types import Array, Float32s, Float64s

# Neither library has complete types.
_skl2onnx: Any = importlib.import_module("skl2onnx")
_types: Any = importlib.import_module("skl2onnx.common.data_types")
_EXPORTED: Any = importlib.import_module("skl2onnx._supported_operators").sklearn_operator_name_map
_compose: Any = importlib.import_module("onnx.compose")

_PREFIX = "own."
_OPSET = 3  # of ai.onnx.ml: skl2onnx uses operators that later ones have no more


class SklearnEstimator(Fitted):
    """A classifier of scikit-learn, or a pipeline that ends in one; `make` gives it.

    A project's own has a `Config` that extends `EstimatorConfig`, and its own `make`. It gets the matrix as its `X`
    [N, columns] float32 (`columns` has the names) and 0 or 1 as its `y`.
    """

    Config: ClassVar[type[EstimatorConfig]] = SklearnConfig
    library: ClassVar[str] = "scikit-learn"

    def __init__(self, config: EstimatorConfig, columns: tuple[MatrixColumn, ...]) -> None:
        super().__init__(config, columns)
        self._fitted: Any = self.make()
        self._check()

    def make(self) -> Any:
        """The estimator, not fitted: the class that the config names, with its parameters and its seed.

        Raises:
            ConfigError: there is no such class, or it has no such parameter.
        """
        config = self.config
        if not isinstance(config, SklearnConfig):
            raise DefinitionError(f"{type(self).__name__} has no method 'make'", where=config.title())
        kind = _named(config)
        try:
            made = kind()
            known = made.get_params()
        except (AttributeError, TypeError) as error:
            raise ConfigError(
                f"'{config.estimator}' is no estimator of scikit-learn's interface: {error}", where=config.title()
            ) from error
        for name in config.params:
            if name not in known:
                raise ConfigError(
                    f"{kind.__name__} has no parameter '{name}'",
                    where=f"{config.title()}: params",
                    hint=suggest(name, known, "parameters"),
                )
        made.set_params(**config.params)
        return made.set_params(**{name: config.seed for name in made.get_params() if is_seed(name)})

    def _check(self) -> None:
        params: Mapping[str, Any] = self._fitted.get_params() if hasattr(self._fitted, "get_params") else {}
        if not hasattr(self._fitted, "predict_proba"):
            raise ConfigError(
                f"{type(self._fitted).__name__} has no predict_proba, which gives the probability of the label",
                where=self.config.title(),
                hint="take a classifier, for example sklearn.ensemble:HistGradientBoostingClassifier",
            )
        check_threads(params, [name for name in params if name.split("__")[-1] == "n_jobs"], self.config.title())
        for kind in map(_kind, _steps(self._fitted)):
            if kind.__module__.startswith("sklearn.") and kind not in _EXPORTED:
                raise ConfigError(
                    f"{kind.__name__} can't be exported to ONNX by skl2onnx",
                    where=self.config.title(),
                    hint=suggest(kind.__name__, [k.__name__ for k in _EXPORTED], "those that can"),
                )

    def fit(self, train: Rows, validation: Rows) -> None:
        """Fits it to the training rows, with their weights where they differ."""
        labels = train.labels.astype(np.int64)
        if labels.min() == labels.max():
            raise DataError(
                f"the label is {labels[0]} in all {len(labels):,} training rows, expected both 0 and 1",
                where=self.config.title(),
            )
        weights = {} if (train.weights == train.weights[0]).all() else {"sample_weight": train.weights}
        try:
            self._fitted.fit(train.matrix, labels, **weights)
        except (TypeError, ValueError) as error:
            hint = "its input has NaN where a feature is null: set numbers='standard'" if "NaN" in str(error) else None
            raise ConfigError(
                f"it can't be fitted: {str(error).splitlines()[0]}", where=self._place, hint=hint
            ) from error

    @property
    def _place(self) -> str:
        return f"{self.config.title()}: {type(self._fitted).__name__}"

    def score(self, matrix: Float32s) -> Float64s:
        """[N]: the probability of the label."""
        out = np.empty(len(matrix))
        for start in range(0, len(matrix), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            out[block] = self._fitted.predict_proba(matrix[block])[:, 1]
        return out

    def part(self) -> Part:
        """The estimator's trees, or what skl2onnx exports, in float64 where its operators can."""
        trees = trees_of(self._fitted)
        if trees is not None:
            return forest_part(trees.forest, trees.bias, probability=trees.is_logit)
        errors: list[str] = []
        for kind, cast in ((_types.DoubleTensorType, float64_of), (_types.FloatTensorType, float32_of)):
            try:
                return self._exported(kind, cast)
            except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
                errors.append(str(error).strip().splitlines()[0])
        raise ConfigError(f"skl2onnx can't export it: {errors[-1]}", where=self._place)

    def _exported(self, kind: Any, cast: Any) -> Part:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: Any = _skl2onnx.convert_sklearn(
                self._fitted,
                initial_types=[("X", kind([None, len(self.columns)]))],
                options={"zipmap": False},
                target_opset={"": OPSET, "ai.onnx.ml": _OPSET},
            )
        graph = _compose.add_prefix(model, _PREFIX).graph
        probabilities = graph.output[1].name
        nodes = [
            cast(MATRIX, graph.input[0].name),
            *graph.node,
            node("Gather", [probabilities, "positive"], "probability", axis=1),
            float32_of("probability", SCORE),
        ]
        return Part(nodes, [*graph.initializer, constant("positive", np.array(1, np.int64))], _OPSET)

    def importance(self) -> Mapping[str, Mapping[str, float]]:
        """What the estimator says of its columns: impurities, coefficients or gains; nothing of a pipeline."""
        found: dict[str, Mapping[str, float]] = {}
        trees = trees_of(self._fitted)
        if trees is not None and trees.is_logit:
            found["gain"] = named(trees.forest.importance(len(self.columns))[0], self.columns)
        for measure, attribute in (("impurity", "feature_importances_"), ("coefficient", "coef_")):
            values: Array | None = getattr(self._fitted, attribute, None)
            if values is not None and np.size(values) == len(self.columns):
                found[measure] = named(np.ravel(values), self.columns)
        return found


def _named(config: SklearnConfig) -> Any:
    """The class that a config names.

    Raises:
        ConfigError: there is no such class.
    """
    module, _, name = config.estimator.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"there is no module '{module}'", where=f"{config.title()}: estimator") from error
    if not hasattr(found, name):
        raise ConfigError(
            f"'{module}' has no class '{name}'",
            where=f"{config.title()}: estimator",
            hint=suggest(name, [n for n in dir(found) if n[:1].isupper()], "classes"),
        )
    return getattr(found, name)


def _kind(estimator: object) -> Any:
    return type(estimator)


def _steps(estimator: Any) -> list[Any]:
    """The estimator, or the steps of a pipeline."""
    return [step for _, step in estimator.steps] if hasattr(estimator, "steps") else [estimator]
