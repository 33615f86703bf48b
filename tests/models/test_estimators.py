"""Estimators on one matrix: their graphs give what the libraries give, at thresholds, for nulls and categories too."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import onnxruntime
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier

from bedplate import process
from bedplate.errors import ConfigError, DataError
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import Category, Field, Number
from bedplate.features.vocabulary import Vocabulary
from bedplate.models.boosting import Boosted, bias_of, logistic
from bedplate.models.config import implementation
from bedplate.models.estimator import Estimator, Rows
from bedplate.models.estimators import BoostedConfig, EstimatorConfig, LightGBMConfig, SklearnConfig, XGBoostConfig
from bedplate.models.matrix import MatrixLayout
from bedplate.models.nodes import to_file
from bedplate.models.sklearn import SklearnEstimator

RAW = Number(presence=False, nan=True)
ENCODER = Encoder(
    [
        Field("user.age", "request", RAW),
        Field("user.country", "request", Category("country")),
        Field("item.price", "item", RAW),
        Field("candidate", "item", Category("item")),
    ],
    {"country": Vocabulary(np.arange(5)), "item": Vocabulary(np.arange(70))},
)
LAYOUT = MatrixLayout(ENCODER)
CONFIGS: dict[str, EstimatorConfig] = {
    "lightgbm": LightGBMConfig("label", leaves=9, subsample=0.8),
    "lightgbm, ordered categories": LightGBMConfig("label", leaves=None, depth=3, categories="ordinal"),
    "lightgbm, no missing": LightGBMConfig("label", leaves=9, params={"use_missing": False}),
    "lightgbm, ranking": LightGBMConfig("label", objective="lambdarank", leaves=5),
    "xgboost": XGBoostConfig("label", depth=4, subsample=0.8),
    "xgboost, leaves": XGBoostConfig("label", leaves=9, depth=None, params={"max_cat_to_onehot": 64}),
    "xgboost, ranking": XGBoostConfig("label", objective="lambdarank", depth=3, categories="ordinal"),
    "histogram": SklearnConfig("label", estimator="sklearn.ensemble:HistGradientBoostingClassifier"),
    "forest": SklearnConfig(
        "label", estimator="sklearn.ensemble:RandomForestClassifier", params={"n_estimators": 9, "min_samples_leaf": 9}
    ),
    "tree": SklearnConfig("label", estimator="sklearn.tree:DecisionTreeClassifier", params={"max_depth": 5}),
}
NO_NULLS: dict[str, EstimatorConfig] = {
    "gradient": SklearnConfig(
        "label", estimator="sklearn.ensemble:GradientBoostingClassifier", params={"n_estimators": 9}
    ),
    "logistic": SklearnConfig("label", params={"max_iter": 1000}),
    "bayes": SklearnConfig("label", estimator="sklearn.naive_bayes:GaussianNB"),
}


def tensors(requests: int, seed: int, nulls: bool = True) -> dict[str, Any]:
    """Tensors of the encoder; numbers have few different values, so that many are equal to a threshold."""
    rng, items = np.random.default_rng(seed), requests * 6
    numbers = {
        "request_dense": rng.integers(-20, 20, (requests, 1)).astype(np.float32) / np.float32(10),
        "item_dense": rng.integers(-20, 20, (items, 1)).astype(np.float32) / np.float32(7),
    }
    if nulls:
        for values in numbers.values():
            values[rng.random(len(values)) < 0.15] = np.nan
    return {
        **numbers,
        "request_ids": rng.integers(1, 8, (requests, 1)),
        "item_ids": rng.integers(8, 80, (items, 1)),
        "request_of_item": np.repeat(np.arange(requests), 6),
    }


def rows(seed: int = 0, nulls: bool = True) -> Rows:
    made = tensors(400, seed, nulls)
    matrix = LAYOUT.matrix(made)
    age, _, price, item = np.nan_to_num(matrix).T
    logit = age + 2 * price + 2 * np.isin(item, [3, 7, 9, 40, 66]) + np.isnan(matrix[:, 2]) - 1
    label = np.random.default_rng(seed + 1).random(len(matrix)) < logistic(logit)
    return Rows(matrix, label.astype(np.float32), np.ones(len(matrix), np.float32), made["request_of_item"])


def learnt(config: EstimatorConfig, train: Rows, rounds: int = 12) -> Estimator:
    model: Any = implementation(config)(config, LAYOUT.columns)
    if not isinstance(model, Boosted):
        model.fit(train, train)
        return model
    data = model.open(train)
    model.bias = bias_of(train, np.zeros(len(train))) if config.reported() != ("auc", "request_auc", "ndcg") else 0.0
    segment = model.segment(data, model.first_scores(train), 3)
    for _ in range(rounds):
        segment.grow()
    model.kept.append((model.read(segment.content()), rounds - 2))
    return model


def graph_scores(model: Estimator, made: dict[str, Any]) -> np.ndarray:
    content = to_file(LAYOUT, model.part())
    assert content is not None
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(["score"], {i.name: made[i.name] for i in session.get_inputs()})
    return found


@pytest.mark.parametrize("name", [*CONFIGS, *NO_NULLS])
def test_the_graph_gives_the_librarys_scores(name: str) -> None:
    nulls = name in CONFIGS
    model = learnt((CONFIGS | NO_NULLS)[name], rows(nulls=nulls))
    made = tensors(300, seed=9, nulls=nulls)
    expected, found = model.score(LAYOUT.matrix(made)), graph_scores(model, made)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=3e-7)
    assert len(np.unique(found)) > 20


@pytest.mark.parametrize("name", ["lightgbm", "xgboost", "histogram", "forest"])
def test_no_row_goes_another_way_for_a_rounded_threshold(name: str) -> None:
    """Of values at a threshold and the nearest float32 on both sides of it; a leaf is a whole number, so is a score."""
    rng = np.random.default_rng(4)
    matrix = np.zeros((3000, 4), np.float32)
    matrix[:, 2] = rng.normal(size=3000) * 1e-3 + 1e3  # float32 has few values between
    label = (np.floor(matrix[:, 2].astype(np.float64) * 4e3) % 2).astype(np.float32)
    train = Rows(matrix, label, np.ones(3000, np.float32), np.arange(3000))
    model = learnt(CONFIGS[name], train)
    values = np.unique(matrix[:, 2])
    values = np.unique(
        np.concatenate((values, np.nextafter(values, np.float32(0)), np.nextafter(values, np.float32(9e9))))
    )
    probe = np.zeros((len(values), 4), np.float32)
    probe[:, 2] = values
    made = {
        "request_dense": np.zeros((1, 1), np.float32),
        "request_ids": np.ones((1, 1), np.int64),
        "item_dense": values[:, None],
        "item_ids": np.full((len(values), 1), 8),
        "request_of_item": np.zeros(len(values), np.int64),
    }
    expected = model.score(probe)
    assert len(np.unique(expected)) > 4
    np.testing.assert_allclose(graph_scores(model, made), expected, rtol=1e-6, atol=3e-7)


def test_the_importance_is_by_column_and_largest_first() -> None:
    for name in ("lightgbm", "xgboost"):
        gain = learnt(CONFIGS[name], rows()).importance()["gain"]
        assert next(iter(gain)) == "item.price"
        assert list(gain.values()) == sorted(gain.values(), reverse=True)
        assert gain.keys() == set(LAYOUT.names)
    assert learnt(NO_NULLS["logistic"], rows(nulls=False)).importance()["coefficient"]["item.price"] > 1


@pytest.mark.parametrize("kind", [LightGBMConfig, XGBoostConfig])
def test_a_segment_starts_from_the_scores_before_it(kind: type[BoostedConfig]) -> None:
    """Trees on top of a model that knows the answer have nothing to add."""
    train = rows()
    model: Any = implementation(kind("label"))(kind("label"), LAYOUT.columns)
    data = model.open(train)
    knows = np.where(train.labels > 0, 9.0, -9.0)
    segment = model.segment(data, knows, 0)
    segment.grow()
    assert segment.train_loss() < 0.001
    assert np.abs(segment.margins(train.matrix, 0, 1)).max() < 1.0


@pytest.mark.parametrize("kind", [LightGBMConfig, XGBoostConfig])
def test_an_unknown_parameter_is_refused(kind: type[BoostedConfig]) -> None:
    config = kind("label", params={"max_bins_": 63})
    with pytest.raises(ConfigError, match=r"no parameter 'max_bins_'\n  did you mean 'max_bins?'"):
        implementation(config)(config, LAYOUT.columns)
    fine = kind("label", params={"max_bin": 63})
    implementation(fine)(fine, LAYOUT.columns)
    with pytest.raises(ConfigError, match=r"params has 'learning_rate'\n  it is the field learning_rate"):
        kind("label", params={"learning_rate": 1})


def test_another_name_of_a_field_is_refused() -> None:
    config = LightGBMConfig("label", params={"n_estimators": 9})
    with pytest.raises(ConfigError, match=r"params has 'n_estimators'\n  it is the field rounds"):
        implementation(config)(config, LAYOUT.columns)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (LightGBMConfig, "num_threads"),
        (LightGBMConfig, "nthread"),
        (XGBoostConfig, "nthread"),
        (XGBoostConfig, "n_jobs"),
        (SklearnConfig, "n_jobs"),
    ],
)
def test_far_more_threads_than_cores_are_refused(
    kind: type[EstimatorConfig], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "cores", lambda: 2)

    def made(count: Any) -> Estimator:
        forest = {"estimator": "sklearn.ensemble:RandomForestClassifier"} if kind is SklearnConfig else {}
        config = kind("label", **forest, params={name: count})
        return implementation(config)(config, LAYOUT.columns)

    with pytest.raises(
        ConfigError, match=f"params: '{name}' is 17, expected at most 16: 8 for each of this machine's 2"
    ):
        made(17)
    made(16)
    made(1)
    if kind is not SklearnConfig:
        with pytest.raises(ConfigError, match=f"'{name}' is 100,000, expected at most 16"):
            made("100000")
        with pytest.raises(ConfigError, match=f"'{name}' is 100,000, expected at most 16"):
            made(1e5)


class Bagged(SklearnEstimator):
    """A project's own estimator, which says itself how many threads it has."""

    class Config(EstimatorConfig, frozen=True):
        """Nothing of its own."""

    def make(self) -> Any:
        return CalibratedClassifierCV(RandomForestClassifier(n_jobs=100_000))


def test_threads_of_a_projects_own_estimator_are_bounded_too() -> None:
    with pytest.raises(ConfigError, match="'estimator__n_jobs' is 100,000, expected at most"):
        Bagged(Bagged.Config("label"), LAYOUT.columns)


class Chosen(CalibratedClassifierCV):
    """An estimator around another one, which has random numbers of its own."""

    def __init__(self, estimator: Any = None, method: str = "sigmoid") -> None:
        super().__init__(estimator or RandomForestClassifier(n_estimators=5), method=method)


def test_the_seed_is_that_of_estimators_within_an_estimator_too() -> None:
    config = SklearnConfig("label", seed=7, estimator=f"{__name__}:Chosen", params={"estimator__max_depth": 2})
    made = SklearnEstimator(config, LAYOUT.columns).make().get_params()
    assert (made["estimator__random_state"], made["estimator__max_depth"]) == (7, 2)


@pytest.mark.parametrize("name", sorted(
    name
    for main, others in lightgbm.basic._ConfigAliases._get_all_param_aliases().items()
    for name in {main, *others}
    if "seed" in name or "random" in name
))  # fmt: skip
def test_every_seed_of_lightgbm_is_the_field(name: str) -> None:
    said = "fixed: the same data" if name.startswith("data_") else "the field seed"
    with pytest.raises(ConfigError, match=f"LightGBMConfig: params has '{name}'\n  it is {said}"):
        implementation(LightGBMConfig("label"))(LightGBMConfig("label", params={name: 5}), LAYOUT.columns)


def test_a_value_that_the_library_refuses_is_named() -> None:
    config = XGBoostConfig("label", params={"min_child_weight": -1})
    with pytest.raises(ConfigError, match=r"the library refuses the parameters: .*min_child_weight"):
        implementation(config)(config, LAYOUT.columns)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "sklearn.ensemble"}, 'expected "module:Class"'),
        ({"estimator": "sklearn.ensembel:X"}, "no module 'sklearn.ensembel'"),
        ({"estimator": "sklearn.ensemble:RandomForestClasifier"}, "did you mean 'RandomForestClassifier'"),
        ({"estimator": "sklearn.ensemble:RandomForestRegressor"}, "has no predict_proba"),
        ({"estimator": "sklearn.semi_supervised:LabelSpreading"}, "can't be exported to ONNX"),
        ({"estimator": "pathlib:Path"}, "no estimator of scikit-learn's interface"),
        ({"params": {"c": 1}}, "LogisticRegression has no parameter 'c'"),
        ({"params": {"random_state": 5}}, "params has 'random_state'\n  it is the field seed"),
        ({"params": {"base__random_state": 5}}, "params has 'base__random_state'\n  it is the field seed"),
        ({"params": {"steps__base__random_state": 5}}, "params has 'steps__base__random_state'"),
    ],
)
def test_mistakes_of_a_named_estimator_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        learnt(SklearnConfig("label", **options), rows(nulls=False))


def test_an_estimator_that_knows_no_nulls_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="set numbers='standard'"):
        learnt(SklearnConfig("label", numbers="raw"), rows())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"leaves": 1}, "leaves is 1, expected at least 2"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"objective": "rank"}, "objective is 'rank'"),
        ({"objective": "lambdarank", "correct_sampling": True}, "lambdarank learns no log-odds"),
    ],
)
def test_mistakes_of_a_config_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"LightGBMConfig: .*{message}"):
        LightGBMConfig("label", **options)


def test_nothing_to_learn_is_said() -> None:
    same = Rows(np.zeros((4, 4), np.float32), np.ones(4, np.float32), np.ones(4, np.float32), np.arange(4))
    with pytest.raises(DataError, match="the label is 1 in all 4 training rows"):
        learnt(CONFIGS["lightgbm"], same)
    with pytest.raises(DataError, match="none of 4 requests has candidates of both labels"):
        learnt(CONFIGS["xgboost, ranking"], same)
    with pytest.raises(DataError, match="the label is 1 in all 4 training rows"):
        learnt(NO_NULLS["logistic"], same)
