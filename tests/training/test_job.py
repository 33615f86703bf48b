"""A job end to end on a part of the example's data: trained, registered, resumed, judged over the whole catalogue."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from small_retail import EXAMPLE, make_project

from bedplate import (
    Category,
    Count,
    Dataset,
    DCNConfig,
    DerivedFeature,
    Entity,
    FeatureView,
    Job,
    Label,
    LogisticConfig,
    Mean,
    Number,
    Project,
    Registry,
    Source,
    Spine,
    Sum,
    TimeSplit,
    TrainerConfig,
)
from bedplate.batch import Dense
from bedplate.cli.main import run as command
from bedplate.datasets.loaded import LoadedDataset, select_requests
from bedplate.datasets.negatives import LOG_Q
from bedplate.errors import ConfigError, DataError, DefinitionError
from bedplate.features.artifact import read_golden
from bedplate.features.graph import FeatureGraph
from bedplate.features.signature import Signature
from bedplate.models.batch import TensorBatch
from bedplate.models.binary import sampled_logit
from bedplate.models.config import ModelConfig
from bedplate.models.estimators import LightGBMConfig, SklearnConfig
from bedplate.offline.history import IndexedHistory
from bedplate.registry.environment import read_environment
from bedplate.testing.simulator import START
from bedplate.training.champion import score_test
from bedplate.training.comparison import measure, rows_differ
from bedplate.training.inputs import SplitRows, read_summary
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.predictions import PREDICTIONS, read_predictions
from bedplate.training.report import Status
from bedplate.training.run import catalogue_candidates, train
from bedplate.training.whole_catalogue import CatalogueEvaluation, model_score
from bedplate.types import DAY


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = make_project(tmp_path_factory.mktemp("job") / "small")
    shutil.copy(EXAMPLE / "train.py", folder)
    project = Project(folder)
    project.apply()
    return project


def small(job: Job, **trainer: object) -> Job:
    config = TrainerConfig(epochs=1, metric=job.trainer.metric, **trainer)
    return Job(job.name, dataset=job.dataset, model=job.model, inputs=job.inputs, trainer=config, golden=2)


def test_a_job_becomes_a_version_with_its_evidence(project: Project, tmp_path: Path) -> None:
    job, registry = small(project.find(Job, "retail_ranker")), Registry(tmp_path / "registry")
    steps: list[str] = []
    dataset = project.load(job.dataset)
    trained = train(job, dataset, project.graph.features, registry, project.root, progress=steps.append)
    version = registry.get("retail_ranker:1")
    version.verify()
    manifest = version.manifest
    assert str(version) == str(trained.version)
    assert {f"view {v}" for v in project.views} <= set(manifest.definitions)
    assert set(manifest.sources) == {"lines", "returns"}
    assert manifest.seeds == {"trainer": 0, "model": 0}
    assert manifest.config["model"]["class"] == "DCNConfig"
    assert {"log_loss", "test_auc", "test_calibration"} <= set(manifest.metrics)
    assert set(Signature.load(version.path).features()) <= set(project.graph.features)
    assert len(read_golden(version.path)) == 2
    # Scored from its artifact, as a later model is compared with it, it gives what its run kept.
    kept, scored = read_predictions(registry.run(trained.run_id).folder), score_test(version, dataset)
    assert rows_differ(kept, scored, "bought") is None
    np.testing.assert_allclose(scored.scores, kept.scores, rtol=1e-4, atol=1e-6)
    run = registry.run(trained.run_id)
    assert run.status == "finished"
    measured = measure(read_predictions(run.folder), "bought")
    assert {f"test_{name}": one.mean for name, one in measured.items()} == pytest.approx(
        {
            name: value
            for name, value in trained.metrics.items()
            if name.removeprefix("test_") in measured and name.startswith("test_")
        }
    )
    rows, (first, last) = dataset.spine.rows, dataset.positions("test")
    kept = pl.read_parquet(run.folder / PREDICTIONS).group_by("request", maintain_order=True).first()
    assert kept["request_id"].to_list() == rows.request_ids[first:last].tolist()
    assert kept["time"].cast(pl.Int64).to_list() == rows.times[first:last].tolist()
    data = read_summary(run.folder)
    assert data is not None
    first, last = dataset.positions("train")
    assert data.splits["train"] == SplitRows(
        last - first, int(dataset.sizes()[first:last].sum()), int(rows.times[first]), int(rows.times[last - 1])
    )
    assert set(data.inputs) == set(job.inputs)
    assert 0 < (data.labels["bought"] or 0) < 1
    assert read_environment(run.folder) == manifest.environment
    assert {"loss.svg", "calibration.svg"} <= {path.name for path in (run.folder / "plots").iterdir()}
    assert trained.catalogue is None
    assert any("fit encodings" in s for s in steps)


@pytest.mark.parametrize(
    "model",
    [
        LogisticConfig("bought"),
        LightGBMConfig("bought", rounds=12, learning_rate=1.0, evaluate_every=3, early_stopping=9),
    ],
)
def test_the_history_of_a_run_has_each_validation_once_at_its_own_step(
    model: ModelConfig, project: Project, tmp_path: Path
) -> None:
    """Too high a learning rate, so that the best validation is not the last."""
    network = {} if isinstance(model, LightGBMConfig) else {"epochs": 3, "learning_rate": 1.0}
    inputs = {"customer_lines.spend_28d": Number(), "product_lines.price": Number()}
    job = Job("steps", dataset="baskets", model=model, inputs=inputs, trainer=TrainerConfig(metric="loss", **network))
    registry = Registry(tmp_path / "registry")
    trained = train(job, project.load("baskets"), project.graph.features, registry, project.root)
    result, run = trained.result, registry.run(trained.run_id)
    assert result.best_at < len(result.history) - 1
    points = run.metrics()
    for name in result.history[0]:
        assert [point.value for point in points[name]] == [metrics[name] for metrics in result.history]
        assert len({point.step for point in points[name]}) == len(result.history)
        assert run.record.metrics[name] == trained.metrics[name] == result.history[result.best_at][name]
    assert {name for name in points if name.startswith("test_")} == {
        n for n in trained.metrics if n.startswith("test_")
    }
    assert [point.value for point in points["test_auc"]] == [trained.metrics["test_auc"]]


def test_an_interrupted_job_is_resumed_to_the_same_model(project: Project, tmp_path: Path) -> None:
    job, registry = small(project.find(Job, "retail_logistic"), checkpoint_every=1), Registry(tmp_path / "registry")
    dataset = project.load(job.dataset)
    whole = train(job, dataset, project.graph.features, registry, project.root)

    def stop(status: Status) -> None:
        if status.batch == 2:
            raise KeyboardInterrupt

    with pytest.raises(TrainingInterruptedError):
        train(job, dataset, project.graph.features, registry, project.root, show=stop)
    (broken,) = (r for r in registry.runs() if r.id != whole.run_id)
    assert broken.status == "interrupted"
    resumed = train(job, dataset, project.graph.features, registry, project.root, resume=broken.id)
    assert resumed.run_id == broken.id
    for name, weights in whole.result.model.state_dict().items():
        assert torch.equal(weights, resumed.result.model.state_dict()[name]), name
    # The same files, definitions, data, config and seeds: the version that is there already.
    assert str(resumed.version) == str(whole.version)


def test_the_whole_catalogue_is_ranked_as_by_hand(project: Project, tmp_path: Path) -> None:
    job, registry = small(project.find(Job, "retail_retrieval")), Registry(tmp_path / "registry")
    dataset = project.load(job.dataset)
    trained = train(job, dataset, project.graph.features, registry, project.root)
    vectors = trained.catalogue
    assert vectors is not None
    items = catalogue_candidates(dataset)
    np.testing.assert_array_equal(vectors.keys, items)
    kept, scored = read_predictions(registry.run(trained.run_id).folder), score_test(trained.version, dataset)
    known = (kept.requests == 0) & np.isin(kept.candidates, items)
    np.testing.assert_allclose(scored.scores[known], kept.scores[known] * job.model.temperature, rtol=1e-4, atol=1e-6)
    first, _ = dataset.positions("test")
    requests = select_requests(dataset.spine.rows, np.arange(first, first + 5))
    catalogue = CatalogueEvaluation(dataset, requests, items)
    found = catalogue.retrieve(trained.result.model, trained.encoder, vectors, 100)
    score = model_score(dataset, trained.result.model, trained.encoder)
    everything = catalogue.best_of_all(score, 100)
    assert found.shape == everything.shape == (5, 100)
    # Vectors of the catalogue are as of the first test request, which therefore sees the same scores either way.
    assert len(np.intersect1d(found[0], everything[0])) >= 95
    again = catalogue.rank(everything, score)
    np.testing.assert_array_equal(np.sort(again, axis=1), np.sort(everything, axis=1))
    judged = catalogue.judge(everything)
    assert 0 <= judged["recall@100"].mean <= 1
    listed = catalogue.retrieve(trained.result.model, trained.encoder, vectors, 100, always=["customer_lines.bought"])
    bought = project.lookup("customer_lines.bought", requests.request_keys["customer"].tolist(), requests.times)[
        "customer_lines.bought"
    ].to_list()
    texts = dataset.item_texts or {}
    for row, before in enumerate(bought):
        names = {texts[int(k)] for k in listed[row]}
        known = {texts[int(k)] for k in items}
        assert set(before or []) & known <= names or len(set(before or []) & known) > 100


def test_mistakes_of_a_job_are_named(project: Project, tmp_path: Path) -> None:
    job = project.find(Job, "retail_ranker")
    with pytest.raises(DefinitionError, match="got a TrainerConfig, expected ModelConfig"):
        Job("j", dataset="baskets", model=TrainerConfig(), inputs=job.inputs)
    with pytest.raises(DefinitionError, match="expected at least 1"):
        Job("j", dataset="baskets", model=job.model, inputs={})
    wrong = Job("j", dataset="baskets", model=job.model, inputs={"customer_lines.spent_7d": Number()})
    with pytest.raises(DefinitionError, match=r"did you mean 'customer_lines\.spend_7d'"):
        train(wrong, project.load("baskets"), project.graph.features, Registry(tmp_path / "r"), project.root)
    assert Registry(tmp_path / "r").runs() == []


def test_a_leak_is_refused_before_anything_is_trained(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data end in the future of a clock that goes by the first day."""
    monkeypatch.setattr("bedplate.datasets.audit.audit.__kwdefaults__", {"sample": 20, "clock": lambda: 0})
    with pytest.raises(DataError, match=r"leaks? into the training rows:\n  future events"):
        train(
            project.find(Job, "retail_ranker"),
            project.load("baskets"),
            project.graph.features,
            Registry(tmp_path / "r"),
            project.root,
        )
    assert Registry(tmp_path / "r").runs() == []


def test_settings_replace_a_jobs_own() -> None:
    job = Job("j", dataset="d", model=DCNConfig("bought"), inputs={"candidate": Number()})
    changed = job.with_settings(["model.rank=8", "trainer.epochs=7"])
    assert (changed.model.rank, changed.trainer.epochs) == (8, 7)
    assert (job.model.rank, job.trainer.epochs) == (32, 5)
    for setting in ("rank=8", "modle.rank=8", "model.rnak=8"):
        with pytest.raises(ConfigError):
            job.with_settings([setting])
    with pytest.raises(
        ConfigError, match=r"got 'nope\.x=3', expected model\.NAME=VALUE, trainer\.NAME=VALUE or promotion"
    ):
        job.with_settings(["nope.x=3"])
    with pytest.raises(DefinitionError, match="reports no 'acu'") as caught:
        job.with_settings(["trainer.metric=acu"])
    assert caught.value.where == "job 'j': trainer: metric"


def test_a_setting_that_does_not_fit_the_dataset_is_found_before_anything_is_trained(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(project.registry.runs())
    assert command(["train", "retail_ranker", "model.label=boght", "--project", str(project.root)]) == 2
    assert "job 'retail_ranker': model: dataset 'baskets' has no label 'boght'" in capsys.readouterr().err
    assert len(project.registry.runs()) == before


def test_a_model_that_is_worse_than_the_mean_label_is_told(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate that throws the weights far beyond where they belong."""
    words = ["train", "retail_logistic", "trainer.epochs=1", "trainer.learning_rate=2"]
    assert command([*words, "--json", "--project", str(project.root)]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["warnings"]
    (first, *_) = json.loads(shown.out)["warnings"]
    assert first.startswith("on the validation split it is worse than predicting the mean label (normalised entropy")
    assert command([*words, "--project", str(project.root)]) == 0
    assert f"warning: {first}\n" in capsys.readouterr().err


def test_the_command_trains_and_promotes(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "retail_logistic", "trainer.epochs=1", "--promote", "--json", "--project", str(project.root)]
    assert command(words) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["model"] == "retail_logistic"
    registry = project.registry
    assert registry.get("retail_logistic@champion").version == shown["version"]
    assert shown["new"]
    # Trained on equal data with equal settings it is the same version, and says so.
    assert command([*words[:4], *words[5:]]) == 0
    said = capsys.readouterr().out
    same = (
        f"retail_logistic:{shown['version']} is already there as champion, equal to the last byte: run {shown['run']}"
    )
    assert said.startswith(same)
    assert "registered retail" not in said
    assert command(["train", "retail_logistik", "--project", str(project.root)]) == 4
    assert "retail_logistic" in capsys.readouterr().err


def test_the_correction_takes_the_sampling_out(project: Project) -> None:
    dataset = project.load("baskets")
    first, last = dataset.positions("train")
    batch = dataset.sample(np.arange(first, min(last, first + 20)), 0, 0)
    drawn = batch.item[LOG_Q]
    assert isinstance(drawn, Dense)
    log_q = torch.from_numpy(np.asarray(drawn.values, np.float32).copy())
    outputs = {"logit": torch.zeros(batch.items)}
    ones = torch.ones(batch.items)
    targets = TensorBatch({}, {}, ones, torch.from_numpy(batch.candidates.copy()), log_q)
    assert torch.equal(sampled_logit(outputs, targets, correct_sampling=True), -log_q)
    assert torch.equal(sampled_logit(outputs, targets, correct_sampling=False), outputs["logit"])
    with pytest.raises(DataError, match="correct_sampling"):
        sampled_logit(outputs, TensorBatch({}, {}, ones, targets.candidates), correct_sampling=True)


def test_a_label_that_a_split_does_not_have_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    """A request a day for 20 days, and payments of the first nine: no request of the test split has the slow label."""
    day, user, item = pl.Series(range(20)), Entity("user", key="user"), Entity("item", key="item")
    frame = pl.DataFrame({"request": day, "user": [1] * 20, "item": ["a"] * 20, "time": START + day * DAY})
    paid = Source("paid", frame.head(9), time="time")
    labels = [Label(n, user, paid, Count(), within=f"{n}d", at_least=1) for n in ("1", "2")]
    dear = Mean("request", where=pl.col("request") < 7)
    labels.append(Label("dear", user, paid, dear, within="1d", at_least=1, empty="masked"))
    dataset = Dataset(
        "d",
        spine=Spine(Source("shown", frame, time="time"), request="request", entities=user, item=item),
        labels=labels,
        features=["hour"],
        split=TimeSplit(START + 3 * DAY, START + 7 * DAY, gap="1h"),
    ).compile(FeatureGraph([], [DerivedFeature("hour", pl.col("request.time").dt.hour())]))
    history = IndexedHistory(tmp_path / "history")
    for view in dataset.views:
        history.build(view).run()
    loaded, registry = LoadedDataset(dataset, history), Registry(tmp_path / "r")
    assert [loaded.labelled(label, "test") for label in ("1", "2", "dear")] == [1, 0, 0]
    assert [loaded.labelled("dear", split) for split in ("train", "validation")] == [2, 3]
    for name in ("2", "dear"):
        job = Job("j", dataset="d", model=LogisticConfig(name), inputs={"candidate": Category(), "hour": Number()})
        with pytest.raises(DataError, match=f"label '{name}' is known for none of the 1 requests of the split 'test'"):
            train(job, loaded, {}, registry, tmp_path)
    assert registry.runs() == []


@pytest.mark.parametrize(("split", "days"), [("train", (0, 20)), ("validation", (20, 30)), ("test", (30, 40))])
@pytest.mark.parametrize("liked", [0, 1])
def test_one_class_is_refused_before_anything_is_trained(
    split: str, days: tuple[int, int], liked: int, tmp_path: Path
) -> None:
    first, last = (START + day * DAY for day in days)
    same = pl.when(pl.col("time").is_between(first, last)).then(liked).otherwise(pl.col("liked"))
    rows = {"page": range(400), "user": [i % 7 for i in range(400)], "video": [i % 5 for i in range(400)]}
    times = [START + i * DAY // 10 for i in range(400)]
    shown = Source("shown", pl.DataFrame({**rows, "time": times}), time="time")
    liking = pl.DataFrame({**rows, "time": times, "liked": [i % 3 // 2 for i in range(400)]}).with_columns(liked=same)
    source, user, video = Source("plays", liking, time="time"), Entity("user", key="user"), Entity("video", key="video")
    graph = FeatureGraph([FeatureView("users", user, source, {"n": Count(windows="2d")})])
    label = Label("liked", [user, video], source, Sum("liked"), within="1us", at_least=1)
    compiled = Dataset(
        "d",
        spine=Spine(shown, request="page", entities=user, item=video),
        labels=[label],
        features=[*graph.features],
        split=TimeSplit(START + 20 * DAY, START + 30 * DAY, gap="1h"),
    ).compile(graph)
    history = IndexedHistory(tmp_path / "offline")
    for view in compiled.views:
        history.build(view).run()
    dataset = LoadedDataset(compiled, history)
    registry = Registry(tmp_path / "registry")
    for model in (LogisticConfig("liked"), LightGBMConfig("liked"), SklearnConfig("liked")):
        job = Job("one", dataset="d", model=model, inputs={"users.n_2d": Number()})
        said = rf"label 'liked' is {liked} in all \d\d+ rows of the split '{split}', expected both 0 and 1"
        with pytest.raises(DataError, match=said):
            train(job, dataset, graph.features, registry, tmp_path)
    assert registry.runs() == []
