"""The configs of the estimators of other libraries: pure data, so that a project's jobs are read without them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from bedplate.errors import ConfigError
from bedplate.features.checks import check_least
from bedplate.metrics.report import BINARY_METRICS, RANKING_METRICS
from bedplate.models.config import ModelConfig

TRAINER_FIELDS = frozenset({"metric", "seed", "prefetch"})
"""The choices of a `TrainerConfig` that say something about an estimator: all others are of gradients and epochs."""


class EstimatorConfig(ModelConfig, frozen=True, forbid_unknown_fields=True):
    """What the configs of estimators have: models that learn a binary label from one matrix, a row a candidate.

    Of the trainer's choices `metric` and `seed` (of the negatives) apply.

    Attributes:
        numbers: as they are with NaN for null (`"raw"`), or as `Number` says, 0 and a presence column for null
            (`"standard"`).
    """

    needs_binary: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = BINARY_METRICS

    numbers: Literal["raw", "standard"] = "standard"


class SklearnConfig(EstimatorConfig, frozen=True, forbid_unknown_fields=True):
    """Choices of an estimator with the interface of scikit-learn: a classifier with `predict_proba`.

    Categories are numbers in one column each; see `models.matrix`.

    Attributes:
        estimator: the class as "module:Class".
        params: what it is made with, beside each `random_state`, which is the seed; `n_jobs` at most 8 for each core.
    """

    implemented_by: ClassVar[str | type] = "bedplate.models.sklearn:SklearnEstimator"

    estimator: str = "sklearn.linear_model:LogisticRegression"
    params: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        """Checks the types and the form of the name.

        Raises:
            ConfigError: a value is of another type than its field, the name is no "module:Class", the seed is more
                than scikit-learn takes, or `params` has one.
        """
        super().__post_init__()
        if self.seed >= 1 << 32:
            raise ConfigError(f"seed is {self.seed}, expected at most {(1 << 32) - 1}", where=self.title())
        module, colon, name = self.estimator.partition(":")
        if not (module and colon and name):
            raise ConfigError(
                f"estimator is '{self.estimator}', expected \"module:Class\"",
                where=self.title(),
                hint='for example "sklearn.ensemble:HistGradientBoostingClassifier"',
            )
        for name in self.params:
            if is_seed(name):
                raise ConfigError(f"params has '{name}'", where=self.title(), hint="it is the field seed")


def is_seed(name: str) -> bool:
    """Whether a parameter of scikit-learn is the seed, of an estimator or of one within it.

    >>> is_seed("random_state"), is_seed("estimator__random_state"), is_seed("max_depth")
    (True, True, False)
    """
    return name.rpartition("__")[2] == "random_state"


class BoostedConfig(EstimatorConfig, frozen=True, forbid_unknown_fields=True):
    """What the configs of boosted trees have.

    Attributes:
        numbers: as in `EstimatorConfig`; trees know missing values.
        objective: the log loss of the label, or the order of each request's candidates by LambdaRank (Burges 2010,
            "From RankNet to LambdaRank to LambdaMART"); the score then is no probability.
        rounds: at most so many trees.
        learning_rate: what a tree's values are multiplied by.
        leaves: of a tree at most; None for any number.
        depth: of a tree at most; None for any.
        subsample: the share of rows that each tree is grown on.
        colsample: the share of columns that each tree may use.
        early_stopping: ends after so many rounds without a better validation.
        evaluate_every: rounds between two validations.
        checkpoint_every: rounds between two checkpoints, at which random numbers begin anew: it is part of the model.
        categories: split by sets of categories, or by their numbers as if they were ordered.
        correct_sampling: learn the log-odds of the label without the sampling of negatives; see `models.binary`.
        params: other parameters of the library, by its own names; threads at most 8 for each core.
    """

    reserved: ClassVar[dict[str, str]] = {}

    numbers: Literal["raw", "standard"] = "raw"
    objective: Literal["binary", "lambdarank"] = "binary"
    rounds: int = 500
    learning_rate: float = 0.1
    leaves: int | None = 31
    depth: int | None = None
    subsample: float = 1.0
    colsample: float = 1.0
    early_stopping: int = 50
    evaluate_every: int = 10
    checkpoint_every: int = 50
    categories: Literal["categorical", "ordinal"] = "categorical"
    correct_sampling: bool = False
    params: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        """Checks types and ranges.

        Raises:
            ConfigError: a value is of another type than its field or out of its range, choices contradict each other,
                or `params` has what is a field.
        """
        super().__post_init__()
        place = self.title()
        check_least(self, "rounds early_stopping evaluate_every checkpoint_every", 1, place)
        for name, least in (("leaves", 2), ("depth", 1)):
            if getattr(self, name) is not None:
                check_least(self, name, least, place)
        for name in ("learning_rate", "subsample", "colsample"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected more than 0, at most 1", where=place)
        if self.correct_sampling and self.objective == "lambdarank":
            raise ConfigError(
                "correct_sampling is set, and lambdarank learns no log-odds",
                where=place,
                hint="leave it out, or take objective='binary'",
            )
        for name in self.params:
            self.check_own(name, name)

    def check_own(self, name: str, shown: str) -> None:
        """Checks that a parameter of the library is none that is a field, or fixed.

        Args:
            name: of the parameter.
            shown: the name under which it was given, which may be another one for the same.

        Raises:
            ConfigError: it is.
        """
        if name in self.reserved:
            raise ConfigError(f"params has '{shown}'", where=self.title(), hint=f"it is {self.reserved[name]}")

    def reported(self) -> tuple[str, ...]:
        """The names of what a validation reports beside the loss: an order has no probabilities."""
        return RANKING_METRICS if self.objective == "lambdarank" else BINARY_METRICS


_OURS = "fixed: the same data, config and seed give the same model"
_FIELDS = {
    "learning_rate": "the field learning_rate",
    "max_depth": "the field depth",
    "objective": "the field objective",
    "seed": "the field seed",
}


class LightGBMConfig(BoostedConfig, frozen=True, forbid_unknown_fields=True):
    """Choices of LightGBM's boosted trees, which are grown leaf by leaf."""

    implemented_by: ClassVar[str | type] = "bedplate.models.lightgbm:LightGBM"
    reserved: ClassVar[dict[str, str]] = _FIELDS | {
        "num_leaves": "the field leaves",
        "num_iterations": "the field rounds",
        "bagging_fraction": "the field subsample",
        "bagging_freq": "1 where the field subsample is below 1",
        "feature_fraction": "the field colsample",
        "bagging_seed": "the field seed",
        "feature_fraction_seed": "the field seed",
        "objective_seed": "the field seed",
        "extra_seed": "the field seed",
        "drop_seed": "the field seed",
        "data_random_seed": _OURS,
        "early_stopping_round": "the field early_stopping",
        "categorical_feature": "the field categories",
        "boosting": _OURS,
        "boost_from_average": _OURS,
        "deterministic": _OURS,
        "linear_tree": "not supported: leaves are numbers",
        "zero_as_missing": "not supported: null is missing, and 0 is 0",
    }


class XGBoostConfig(BoostedConfig, frozen=True, forbid_unknown_fields=True):
    """Choices of XGBoost's boosted trees, which are grown level by level unless `leaves` are given.

    Attributes:
        leaves: of a tree at most; where it is given, the leaf with the largest gain is split first.
        depth: of a tree at most; None for any.
    """

    implemented_by: ClassVar[str | type] = "bedplate.models.xgboost:XGBoost"
    reserved: ClassVar[dict[str, str]] = _FIELDS | {
        "eta": "the field learning_rate",
        "max_leaves": "the field leaves",
        "colsample_bytree": "the field colsample",
        "subsample": "the field subsample",
        "base_score": _OURS,
        "booster": _OURS,
        "random_state": "the field seed",
        "num_parallel_tree": "not supported: a round is a tree",
        "tree_method": "fixed: hist",
        "grow_policy": "lossguide where the field leaves is given",
    }

    leaves: int | None = None
    depth: int | None = 6
