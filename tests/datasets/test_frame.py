"""Samples of a dataset as tables, and what a dataset counts once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from dataset_world import built, drawing, loaded, shop_dataset, shop_events, shop_graph, shop_source

from bedplate.aggregations.arithmetic import Count
from bedplate.aggregations.ordered import Last, LastN
from bedplate.batch import Dense
from bedplate.datasets import loaded as loaded_module
from bedplate.datasets.dataset import Dataset
from bedplate.datasets.feedback import read_feedback
from bedplate.datasets.labels import Label
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.loader import Loader
from bedplate.datasets.negatives import SAMPLED
from bedplate.datasets.spine import Spine
from bedplate.datasets.split import TimeSplit
from bedplate.errors import ConfigError, DataError, NotFoundError
from bedplate.features.graph import FeatureGraph
from bedplate.features.vectors import vector
from bedplate.features.view import FeatureView
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, START, USER
from bedplate.types import DAY, HOUR

SOURCE = shop_source(7, 300)
FORMS = {"kind": Last("kind"), "style": Last(vector("style", 2)), "recent": LastN("item", 3)}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> LoadedDataset:
    views = [v.view for v in shop_graph(SOURCE).views.values()] + [FeatureView("u2", USER, SOURCE, FORMS)]
    graph = FeatureGraph(views, shop_graph(SOURCE).derived.values())
    dataset = shop_dataset(SOURCE, drawing(SOURCE), features=["user.*", "item.*", "share", "u2.*"])
    compiled = dataset.compile(graph)
    return LoadedDataset(compiled, built(tmp_path_factory.mktemp("frame"), compiled.views))


def test_a_batch_is_a_flat_table(shop: LoadedDataset) -> None:
    batch = next(Loader(shop, "train").epoch(0, 0))
    frame = batch.to_frame()
    labels = [f"label.{name}" for name in batch.labels]
    names = ["request_id", "time", "key.user", "candidate", *labels, *batch.request, *batch.item]
    assert frame.columns == names
    assert labels
    assert frame.height == batch.items
    of_item = batch.request_of_item()
    assert frame["time"].to_physical().to_list() == batch.times[of_item].tolist()
    assert frame["key.user"].to_list() == batch.keys["user"][of_item].tolist()
    log = SOURCE.scan().collect()
    assert set(frame["request_id"]) <= set(log["request"])
    assert set(frame["candidate"].drop_nulls()) <= set(log["item"])
    joined = frame.join(log.select("request", "user").unique(), left_on="request_id", right_on="request")
    assert joined.height == frame.height
    assert joined["user"].equals(joined["key.user"])
    assert frame["u2.style"].dtype == pl.Array(pl.Float32, 2)
    assert frame["u2.recent"].dtype == pl.List(pl.String)
    assert frame["u2.kind"].dtype == pl.String
    assert frame["u2.kind"].count() > 0
    assert frame[SAMPLED].sum() > 0
    # Of one request every row has the same request columns.
    same = frame.group_by("request_id").agg(pl.col(["key.user", "time", "u2.kind", "u2.style"]).n_unique())
    assert same.select(pl.max_horizontal(pl.col(["key.user", "time", "u2.kind", "u2.style"])).max()).item() == 1


def test_weights_and_unknown_labels_are_shown(shop: LoadedDataset) -> None:
    batch = next(Loader(shop, "train").epoch(0, 0))
    nan = np.full(batch.items, np.nan, np.float32)
    weighted = replace(batch, weights=np.arange(batch.items, dtype=np.float32), labels={"y": nan})
    frame = weighted.to_frame()
    assert frame.columns[3:6] == ["candidate", "label.y", "weight"]
    assert frame["label.y"].null_count() == batch.items
    assert frame["weight"].to_list() == list(range(batch.items))
    clash = replace(batch, item={"candidate": Dense(np.zeros(batch.items))})
    with pytest.raises(DataError, match="the feature 'candidate' has the name of another column"):
        clash.to_frame()


def test_a_batch_is_shown_in_few_lines(shop: LoadedDataset) -> None:
    batch = next(Loader(shop, "train").epoch(0, 0))
    lines = repr(batch).splitlines()
    assert lines[0] == f"Batch of {batch.requests} requests with {batch.items} candidates"
    assert lines[1] == "  keys: user"
    assert len(lines) == 5
    many = replace(batch, item={f"f{i}": Dense(np.zeros(batch.items)) for i in range(1000)})
    assert "  item: f0, f1, f2, f3, f4, f5, f6, f7 and 992 more" in repr(many)
    assert len(repr(many)) < 500


def test_a_sample_of_a_split_is_whole_requests_spread_over_it(shop: LoadedDataset) -> None:
    whole = shop.frame("train", rows=10**6)
    assert whole.height == sum(batch.items for batch in Loader(shop, "train").epoch(0, 0))
    assert whole["time"].is_sorted()
    some = shop.frame("train", rows=60)
    assert 30 <= some.height <= 60
    assert some.equals(whole.filter(pl.col("request_id").is_in(some["request_id"].unique())))
    times = whole["time"].unique()
    assert some["time"].min() == times[0]
    assert some["time"].max() == times[-1]
    one = shop.frame("validation", rows=1)
    assert one["request_id"].n_unique() == 1
    assert one.height > 1
    assert not shop.frame("train", 60, seed=1).equals(some)
    with pytest.raises(NotFoundError, match="did you mean 'train'"):
        shop.frame("trian")
    with pytest.raises(ConfigError, match="rows is 0"):
        shop.frame("train", rows=0)


def test_a_split_without_requests_is_a_table_without_rows() -> None:
    split = TimeSplit(START + 300 * DAY, START + 301 * DAY, gap="6h")
    empty = loaded(shop_dataset(SOURCE, features=["user.*"], labels=(), split=split), SOURCE).frame("test")
    assert empty.height == 0
    assert any(name.startswith("user.") for name in empty.columns)


def test_what_is_counted_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("events", shop_events(7, 200), time="time")
    label = Label("again", (), source, Count(), within="1h", request="request")
    graph = shop_graph(source)
    spine = Spine(source, request="request", entities=USER, item=ITEM)
    split = TimeSplit(START + 10 * HOUR, START + 24 * HOUR, gap="6h")
    dataset = Dataset("d", spine=spine, labels=label, features=["hour"], split=split)
    compiled = dataset.compile(graph)
    reads: list[str] = []

    def counted(*arguments: object) -> object:
        reads.append("feedback")
        return read_feedback(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(loaded_module, "read_feedback", counted)
    opened = loaded(dataset, source)
    first = opened.summary()
    assert first.feedback == opened.feedback()
    assert opened.summary() is first
    assert opened.summary(seed=1) is not first
    assert compiled.labels
    assert reads == ["feedback"]


def test_a_summary_has_the_mean_of_each_label_over_the_listed_candidates(shop: LoadedDataset) -> None:
    summary = shop.summary()
    train = summary.splits[0]
    rows = shop.requests("train")
    values = shop.assemble(rows).labels
    assert train.listed == len(rows.candidates) > 0
    assert set(train.labels) == set(values)
    for name, (count, mean) in train.labels.items():
        known = values[name][np.isfinite(values[name])]
        assert count == len(known)
        assert mean == pytest.approx(float(known.mean()), rel=1e-6)
        assert f"mean '{name}'" in str(summary)
        assert f"{mean:.6g}" in str(summary)
    assert "listed" in str(summary)
    assert "positives" not in str(summary)
