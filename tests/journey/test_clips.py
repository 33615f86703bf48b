"""Entity tables, links and a feature made by a model, from definitions to answers: one story of one small project."""

from __future__ import annotations

import json

import clips
import numpy as np
import polars as pl
import pytest

from bedplate import Project
from bedplate.batch import column_to_series
from bedplate.canonical import string_ids
from bedplate.cli.main import run
from bedplate.datasets.dataset import Dataset
from bedplate.datasets.loaded import LoadedDataset
from bedplate.errors import DataError
from bedplate.features.assemble import Candidates, Join
from bedplate.features.signature import Signature
from bedplate.health.parity import ParityReport
from bedplate.inference.scorer import load_scorers
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.memory import MemoryStore
from bedplate.serving.load import load_pipeline
from bedplate.serving.service import Service
from bedplate.types import DAY

MIDDLE = clips.START + 60 * DAY
END = clips.START + clips.DAYS * DAY


def cli(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code = run(list(words))
    out, problems = capsys.readouterr()
    assert code == 0, problems
    return out


@pytest.fixture(scope="module")
def store(project: Project, tmp_path_factory: pytest.TempPathFactory) -> MemoryStore:
    """Loaded in the middle, then kept current by the rest of every table, in files whose rows are out of order."""
    store = MemoryStore()
    project.materialize(store, until=MIDDLE)
    for name, frame in clips.tables().items():
        stream = tmp_path_factory.mktemp(name)
        rest = frame.filter(pl.col(clips.time_column(frame)).dt.epoch("us") >= MIDDLE)
        halves = np.array_split(np.random.default_rng(3).permutation(len(rest)), 2)
        for number, rows in enumerate(halves):
            rest[rows].write_parquet(stream / f"{number}.parquet")
        views = [v for v in project.views.values() if v.view.source.name == name]
        Ingest(store, views, stream).run()
    return store


def test_a_plan_shows_what_links_reach(folder, capsys):
    document = json.loads(cli(capsys, "plan", "--json", "--project", str(folder)))
    linked = {f["name"]: f["definition"] for f in document["linked"]}
    assert linked["user_country.countries.price"].endswith("of country = users.country")
    assert {"video_creator.creators.followers_28d", "video_creator.fans.n", "video_creator.fans.ways"} < linked.keys()
    [quality] = [f for f in document["derived"] if f["name"] == "quality"]
    assert quality["definition"].startswith("score of quality@champion for played.n_7d")
    assert "4 linked features" in cli(capsys, "plan", "--project", str(folder))


def test_a_batch_has_what_a_lookup_of_its_rows_gives(project):
    dataset = project.load("late")
    first, _ = dataset.positions("train")
    batch = dataset.sample(np.arange(first, first + 40), 0, 0)
    names = list(dataset.compiled.selected.names)
    of_item, texts = batch.request_of_item(), dataset.item_texts or {}
    keys = {
        "user": dataset.spine.rows.request_keys["user"][first : first + 40][of_item],
        "video": [texts[c] for c in batch.candidates.tolist()],
    }
    found = project.lookup(names, keys, batch.times[of_item])
    for name in names:
        column = batch.item[name] if name in batch.item else batch.request[name].take(of_item)
        assert column_to_series(column).to_list() == found[name].to_list(), name
    assert 0 < found["user_country.countries.price"].null_count() < len(found)
    assert 0 < found["quality"].n_unique() <= len(found)
    assert set(batch.request) == {"user_country.countries.price"}


def test_the_lineage_names_the_model_behind_a_feature(folder, registry, capsys):
    version = registry.get("ranker:1")
    assert version.manifest.parents == ("quality:1",)
    assert version.manifest.definitions["model of quality"] == "quality:1"
    assert Signature.load(version.path).models == {"quality": "quality:1"}
    assert Signature.load(registry.get("quality:1").path).models == {}
    shown = cli(capsys, "models", "show", "ranker", "--project", str(folder))
    assert "model quality:1" in shown
    assert "source videos" in shown
    assert "ranker:1" in cli(capsys, "models", "show", "quality", "--project", str(folder))
    assert json.loads(cli(capsys, "models", "show", "quality", "--json", "--project", str(folder)))["read_by"] == [
        "ranker:1"
    ]


def test_the_store_answers_like_history_for_everything(project, registry, store):
    draw, n = np.random.default_rng(5), 300
    selected = project.graph.select(list(project.graph.features))
    names = [f"v{i}" for i in range(clips.VIDEOS + 1)]
    keys = {
        "user": draw.integers(0, clips.USERS + 1, n),
        "video": np.array(string_ids(names))[draw.integers(0, len(names), n)],
        "creator": draw.integers(0, clips.CREATORS + 1, n),
        "country": np.array(string_ids([*clips.COUNTRIES, "nowhere"]))[draw.integers(0, 4, n)],
    }
    times = END + draw.integers(0, 3 * DAY, n)
    report = ParityReport()
    scorers = load_scorers(selected, project.graph, registry)
    report.compare_features(selected, keys, times, OnlineReader(store), project.history, scorers=scorers)
    report.require()
    assert report.rows.keys() == project.graph.features.keys()


def test_what_is_served_is_what_training_computed(project, registry, store):
    pipeline = load_pipeline(project.find(Service), project.graph, OnlineReader(store), registry, clock=lambda: END)
    asked = pipeline.wire.rank(json.dumps({"user": 3, "candidates": [f"v{i}" for i in range(25)]}).encode())
    answer = pipeline.rank(asked)
    signature, history = pipeline.models["ranking"].signature, project.history
    names = list(signature.features())
    assert pipeline.describe()["made_by"] == {"quality": "quality:1"}
    dataset = project.load("late")
    rows = Candidates(asked.keys, "video", asked.item_keys, np.array([0, 25]), np.array([END]), np.zeros(1, np.int64))
    batch = Join(project.graph.select(names), "video", dataset.scorers).batch(history, rows)
    expected = pipeline.models["ranking"].run(batch, "score")
    assert answer.scores == pytest.approx(expected.tolist(), rel=1e-6)
    assert len(set(answer.scores)) > 5


def test_serving_keeps_the_version_that_a_model_was_trained_with(project, registry, store, folder, capsys):
    at = ["--project", str(folder)]
    cli(capsys, "train", "quality", "trainer.epochs=1", "--promote", *at)
    assert registry.get("quality@champion").version == 2
    pipeline = load_pipeline(project.find(Service), project.graph, OnlineReader(store), registry, clock=lambda: END)
    assert pipeline.describe()["made_by"] == {"quality": "quality:1"}
    scorers = project.scorers(project.graph.select(["quality"]))
    assert scorers["quality"].version == "quality:2"
    told = cli(capsys, "models", "rollback", "quality", *at)
    assert "quality@champion is version 1" in told
    told = cli(capsys, "models", "promote", "quality", "2", *at)
    assert "ranker:1 was trained with version 1 and goes on with it" in told
    assert json.loads(cli(capsys, "models", "promote", "quality", "2", "--json", *at))["kept"] == {"ranker:1": 1}
    registry.promote("quality", 1)  # as the other tests find it


def test_rows_that_the_model_was_trained_on_are_refused(project, registry):
    compiled = project.dataset("late")
    early = project.dataset("early")
    until = registry.get("quality:1").manifest.trained_until
    assert until is not None
    assert clips.START + 30 * DAY < until <= clips.START + 31 * DAY
    scorers = load_scorers(compiled.selected, project.graph, registry)
    LoadedDataset(compiled, project.history, scorers=scorers)
    wrong = Dataset(
        "wrong",
        spine=early.dataset.spine,
        labels=early.dataset.labels,
        features=["quality"],
        split=early.dataset.split,
    ).compile(project.graph, project.root)
    with pytest.raises(
        DataError, match="'quality:1', which makes 'quality', knows what happened until 2026-01-31"
    ) as error:
        LoadedDataset(wrong, project.history, scorers=scorers)
    assert "sees_future=True" in (error.value.hint or "")
