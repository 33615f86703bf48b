"""Estimators of three libraries and one of the project's own: one registry, one service, the same features."""

from __future__ import annotations

import json
from typing import Any

import clips
import numpy as np
import pytest

from bedplate import Category, Job, Number, Project, Registry, Service, TrainerConfig
from bedplate.errors import DefinitionError
from bedplate.features.assemble import Candidates, Join
from bedplate.features.encoding import Bag, Encoding
from bedplate.features.signature import Signature
from bedplate.inference.artifact import load_artifact
from bedplate.models.estimators import EstimatorConfig, LightGBMConfig, SklearnConfig, XGBoostConfig
from bedplate.models.matrix import MatrixLayout
from bedplate.models.sklearn import SklearnEstimator
from bedplate.online.fetch import OnlineReader
from bedplate.online.memory import MemoryStore
from bedplate.serving.load import load_pipeline
from bedplate.training.checks import check_job
from bedplate.training.predictions import read_predictions
from bedplate.training.run import Trained, train
from bedplate.types import DAY

END = clips.START + clips.DAYS * DAY
INPUTS: dict[str, Encoding] = {
    "candidate": Category(),
    "played.n_7d": Number(),
    "videos.length": Number(log=True),
    "video_creator.creators.followers_28d": Number(),
    "user_country.countries.price": Number(),
}


class Scaled(SklearnEstimator):
    class Config(EstimatorConfig, frozen=True):
        strength: float = 1.0

    def make(self) -> Any:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), LogisticRegression(C=self.config.strength, max_iter=1000))


MODELS: dict[str, EstimatorConfig] = {
    "lightgbm": LightGBMConfig("liked", rounds=20, leaves=7, params={"min_data_in_leaf": 5}),
    "xgboost": XGBoostConfig("liked", rounds=20, depth=3),
    "order": LightGBMConfig("liked", objective="lambdarank", rounds=20, leaves=7, params={"min_data_in_leaf": 5}),
    "sklearn": SklearnConfig(
        "liked", estimator="sklearn.ensemble:RandomForestClassifier", params={"n_estimators": 9, "min_samples_leaf": 5}
    ),
    "scaled": Scaled.Config("liked", strength=0.5),
}


def job(name: str, **options: Any) -> Job:
    usual = {"dataset": "early", "model": MODELS[name], "inputs": INPUTS, "trainer": TrainerConfig(metric="auc")}
    return Job(f"clip-{name}", **{**usual, **options})


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(tmp_path_factory.mktemp("estimators") / "registry")


@pytest.fixture(scope="module")
def trained(project: Project, own: Registry) -> dict[str, Trained]:
    dataset = project.load("early")
    return {n: train(job(n), dataset, project.graph.features, own, project.root) for n in MODELS}


@pytest.fixture(scope="module")
def store(project: Project) -> MemoryStore:
    store = MemoryStore()
    project.materialize(store, until=END)
    return store


@pytest.mark.parametrize("name", MODELS)
def test_what_is_served_is_what_the_library_gives_for_history(
    name: str, project: Project, own: Registry, store: MemoryStore, trained: dict[str, Trained]
) -> None:
    own.promote(f"clip-{name}", 1)
    service = Service(f"clips-{name}", ranking=f"clip-{name}@champion", item="video")
    pipeline = load_pipeline(service, project.graph, OnlineReader(store), own, clock=lambda: END)
    names = [f"v{i}" for i in range(clips.VIDEOS + 2)]  # some that nobody has seen
    asked = pipeline.wire.rank(json.dumps({"user": 3, "candidates": names}).encode())
    answer = pipeline.rank(asked)

    encoder, model = trained[name].encoder, trained[name].result.model
    offsets, when = np.array([0, len(names)]), np.array([END])
    rows = Candidates(asked.keys, "video", asked.item_keys, offsets, when, np.zeros(1, np.int64))
    features = [n for n in INPUTS if n != "candidate"]
    batch = Join(project.graph.select(features), "video").batch(project.history, rows)
    expected = model.score(MatrixLayout(encoder).matrix(encoder.encode(batch)))
    assert answer.scores == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-7)
    assert len(set(answer.scores)) > 5


@pytest.mark.parametrize("name", MODELS)
def test_a_version_has_its_evidence_and_no_pickle(name: str, own: Registry, trained: dict[str, Trained]) -> None:
    version = own.get(f"clip-{name}:1")
    load_artifact(version)
    assert {p.suffix for p in version.path.rglob("*") if p.is_file()} == {".blake2b", ".json", ".npy", ".npz", ".onnx"}
    manifest = version.manifest
    assert manifest.config["model"]["class"] == MODELS[name].title()
    assert (manifest.metrics["test_auc"] > 0.6) is (name != "scaled")  # what is liked is not linear in the inputs
    assert set(Signature.load(version.path).features()) == set(INPUTS) - {"candidate"}
    assert ("model Scaled" in manifest.definitions) is (name == "scaled")
    run = own.run(trained[name].run_id)
    kept = read_predictions(run.folder)
    test = trained[name].result.model.metrics(kept)
    assert test["auc"] == pytest.approx(manifest.metrics["test_auc"])
    assert run.record.metrics["auc"] == manifest.metrics["auc"]


def test_the_order_of_a_request_is_learnt(trained: dict[str, Trained]) -> None:
    metrics = trained["order"].metrics
    assert metrics.keys() >= {"ndcg", "test_ndcg", "request_auc"}
    assert "log_loss" not in metrics
    assert metrics["test_request_auc"] > 0.6
    assert trained["order"].warnings == []


def test_a_list_is_refused_when_the_definitions_are_checked(project: Project) -> None:
    late = project.dataset("late")
    inputs: dict[str, Encoding] = {"video_creator.fans.ways": Bag()}
    with pytest.raises(DefinitionError, match=r"'video_creator\.fans\.ways' is a list, and LightGBMConfig reads one"):
        check_job(job("lightgbm", inputs=inputs), {"early": _with(late, project)})


def _with(late: Any, project: Project) -> Any:
    from bedplate.datasets.dataset import Dataset

    old = late.dataset
    return Dataset(
        "early",
        spine=old.spine,
        labels=old.labels,
        features=["video_creator.fans.ways"],
        split=old.split,
        batch_items=9,
    ).compile(project.graph, project.root)
