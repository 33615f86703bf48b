"""Top values, histograms, sketches and distinct last events, from a project's files to a model's inputs and a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bedplate import Bag, Category, Number, Project, Sequence
from bedplate.cli.main import run
from bedplate.datasets.loader import Loader
from bedplate.features.fitting import fit
from bedplate.health.parity import ParityReport
from bedplate.offline.reference import Reference
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.memory import MemoryStore
from bedplate.testing.columns import mismatches
from bedplate.testing.simulator import START, simulate
from bedplate.types import DAY, HOUR, Int64s

DEFINITIONS = """\
from bedplate import Count, Dataset, Entity, FeatureView, Label, LastN, Source, Spine, TimeSplit
from bedplate.aggregations.counts import Histogram, TopK
from bedplate.aggregations.sketches import ApproxCountDistinct, Quantile

events = Source("events", "events.parquet", time="time")
user, item = Entity("user", key="user"), Entity("item", key="item")

tastes = FeatureView(
    "tastes",
    user,
    events,
    {
        "top": TopK("item", 3, counts=True, windows="1d"),
        "by": Histogram("kind", ["buy", "click"], share=True),
        "price": Quantile("price", [0.5, 0.9], windows=["1h", "1d"]),
        "items": ApproxCountDistinct("item", error=0.5, windows="1d"),
        "recent": LastN(["item", "price"], 4, distinct="item"),
    },
)
people = FeatureView(
    "people", item, events, {"users": ApproxCountDistinct("user", windows="1d"), "fans": TopK("user", 2)}
)

again = Label("again", [user, item], events, ApproxCountDistinct("kind"), within="6h", at_least=1)
middle = Label("middle", item, events, Quantile("price", 0.5), within="6h", empty=0.0)
shop = Dataset(
    "shop",
    spine=Spine(events, request="request", entities=user, item=item),
    labels=[again, middle],
    features=["tastes.*", "people.*"],
    allow={"outcome column 'tastes.by'": "the kind of an event is known when it happens"},
    split=TimeSplit(validation=%d, test=%d, gap="6h"),
    batch_items=50,
)
"""

LOADED = START + 2 * DAY
"""Before this time events are in the table, from then on in the stream."""

ENCODINGS = {
    "tastes.top_1d": Sequence(Category("item"), group="top"),
    "tastes.top_1d_counts": Sequence(Number(log=True), group="top"),
    "tastes.by_buy": Number(),
    "tastes.by_other": Number(),
    "tastes.price_1d_p50": Number(),
    "tastes.items_1d": Number(log=True),
    "tastes.recent_item": Sequence(Category("item")),
    "tastes.recent_price": Sequence(Number()),
    "people.users_1d": Number(),
    "people.fans": Bag(),
    "candidate": Category("item"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, and in `stream` a file of what comes after its table."""
    root = tmp_path_factory.mktemp("shop")
    events = simulate(11, events=400, users=4, items=8).events
    events = events.with_columns(pl.format("{} {}", "user", pl.col("time") // HOUR).alias("request")).sort("time")
    (root / "bedplate.toml").write_text("")
    (root / "features.py").write_text(DEFINITIONS % (START + 30 * HOUR, START + 40 * HOUR))
    (root / "stream").mkdir()
    events.filter(pl.col("time") < LOADED).write_parquet(root / "events.parquet")
    events.filter(pl.col("time") >= LOADED).write_parquet(root / "stream" / "0.parquet")
    return root


@pytest.fixture(scope="module")
def project(folder: Path) -> Project:
    loaded = Project(folder)
    loaded.apply()
    return loaded


def known_keys(project: Project, view: str) -> Int64s:
    """[k, 1]: the keys in a view's index."""
    return project.history.reader(project.view(view)).all_keys()


def test_the_plan_says_what_is_built(folder: Path, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--features", "--project", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "nothing to build" in shown
    for text in (
        'TopK(col("item"); k=3, counts=True) over 1d (hop 1h)',
        'Quantile(buckets of col("price"); error=0.01) over 1h (hop 5m)',
        'ApproxCountDistinct(col("user"); error=0.02) over 1d (hop 1h)',
    ):
        assert text in shown


def test_a_batch_becomes_a_models_inputs(project: Project) -> None:
    dataset = project.load("shop")
    batches = list(Loader(dataset, "train").epoch(seed=0, epoch=0))
    inputs = fit(ENCODINGS, batches).encode(batches[0])
    requests, items = len(batches[0].times), len(batches[0].candidates)
    assert inputs["sequence_ids.top"].shape[0] == inputs["sequence_numbers.top"].shape[0] == requests
    assert inputs["bag_ids.people.fans"].shape[0] == items
    assert inputs["request_dense"].shape[0] == requests
    assert np.isfinite(inputs["request_dense"]).all()
    for batch in batches:
        assert set(batch.labels["again"].tolist()) <= {0.0, 1.0}


def test_history_is_what_the_oracle_says(project: Project) -> None:
    for view in project.views.values():
        reference, known = Reference(view), known_keys(project, view.name)
        keys, times = np.repeat(known, 5, axis=0), np.tile(START + np.arange(5) * 12 * HOUR, len(known))
        got = project.history.read(view, list(view.features), keys, times)
        assert mismatches(got, reference.read(view, list(view.features), keys, times)) == []


def test_the_store_answers_like_history_and_goes_on_with_the_stream(folder: Path, project: Project) -> None:
    store = MemoryStore()
    project.materialize(store, until=LOADED)
    names = list(project.graph.features)
    selected = project.graph.select(names)
    keys = {v.view.entities[0].name: np.resize(known_keys(project, v.name), 6) for v in project.views.values()}
    report = ParityReport()
    report.compare_features(selected, keys, np.full(6, LOADED), OnlineReader(store), project.history)
    report.require()
    assert report.values == 6 * len(names)

    ingest = Ingest(store, list(project.views.values()), folder / "stream", clock=lambda: START + 30 * DAY)
    done = ingest.run()
    every = pl.concat([pl.read_parquet(folder / "events.parquet"), pl.read_parquet(folder / "stream" / "0.parquet")])
    for view in project.views.values():
        asked = keys[view.view.entities[0].name].reshape(-1, 1)
        times = np.full(6, max(done.watermark, START + 4 * DAY))
        got = OnlineReader(store).read(view, list(view.features), asked, times)
        expected = Reference(view, every.lazy()).read(view, list(view.features), asked, times)
        assert mismatches(got, expected) == []
