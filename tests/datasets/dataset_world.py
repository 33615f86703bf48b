"""A small simulated shop that the tests of datasets share, and history by definition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.ordered import Last, LastN
from bedplate.batch import Batch, Column, Dense, column_to_series
from bedplate.datasets.dataset import Dataset
from bedplate.datasets.labels import Label
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.negatives import Negatives
from bedplate.datasets.spine import Spine
from bedplate.datasets.split import TimeSplit
from bedplate.features.derived import DerivedFeature
from bedplate.features.graph import FeatureGraph
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline.base import History
from bedplate.offline.history import IndexedHistory
from bedplate.offline.reference import Reference
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, START, USER, simulate
from bedplate.types import HOUR, Int64s


class OracleHistory(History):
    """`History` over the oracle."""

    def __init__(self) -> None:
        self._references: dict[str, Reference] = {}

    def reference(self, view: CompiledView) -> Reference:
        if view.id not in self._references:
            self._references[view.id] = Reference(view)
        return self._references[view.id]

    def read(self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s) -> Mapping[str, Column]:
        return self.reference(view).read(view, names, keys, times)

    def ahead(
        self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s, within: int
    ) -> Mapping[str, Column]:
        reference = self.reference(view)
        rows = [reference.ahead(tuple(k), t, within) for k, t in zip(keys.tolist(), times.tolist(), strict=True)]
        columns: dict[str, Column] = {}
        for name in names:
            values = [row[name] for row in rows]
            there = np.array([v is not None for v in values], np.bool_)
            columns[name] = Dense(np.array([0 if v is None else v for v in values], np.float64), there)
        return columns

    def end(self, view: CompiledView) -> int:
        events = view.view.source.scan(view.root)
        counted = events if view.view.where is None else events.filter(view.view.where)
        end = counted.select(pl.col("__time__").max()).collect().item()
        return -1 if end is None else end


def built(folder: Path, views: Sequence[CompiledView]) -> IndexedHistory:
    """The as-of indexes of views."""
    history = IndexedHistory(folder)
    for view in views:
        history.build(view).run()
    return history


def shop_events(seed: int, events: int = 200) -> pl.DataFrame:
    """Simulated events whose requests are a user's events of one hour: several times, and items that come twice."""
    frame = simulate(seed, events=events, users=4, items=8).events
    return frame.with_columns(pl.format("{} {}", "user", pl.col("time") // HOUR).alias("request"))


def shop_source(seed: int, events: int = 200, delay: str | None = None) -> Source:
    return Source("events", shop_events(seed, events), time="time", delay=delay)


SPLIT = TimeSplit(START + 10 * HOUR, START + 24 * HOUR, gap="6h")


def shop_graph(source: Source) -> FeatureGraph:
    views = [
        FeatureView(
            "user", USER, source, {"n": Count(windows=["1h", "1d"]), "kind": Last("kind"), "recent": LastN("item", 3)}
        ),
        FeatureView("item", ITEM, source, {"n": Count(windows="1d"), "price": Mean("price", windows="1d")}),
        FeatureView("pair", (USER, ITEM), source, {"n": Count()}),
    ]
    derived = [
        DerivedFeature("hour", pl.col("request.time").dt.hour()),
        DerivedFeature("share", pl.col("pair.n") / (pl.col("user.n_1d") + 1)),
    ]
    return FeatureGraph(views, derived)


FEATURES = ("user.*", "item.*", "pair.n", "hour", "share")


def shop_labels(source: Source) -> tuple[Label, ...]:
    return (
        Label("again", (USER, ITEM), source, Count(), within="6h", at_least=1),
        Label("quantity", USER, source, Sum("quantity"), within="3h"),
        Label("price", ITEM, source, Mean("price"), within="1h", empty=-1.0),
        Label("paid", ITEM, source, Mean("price"), within="1h", empty="masked"),
    )


def shop_dataset(source: Source, negatives: Negatives | None = None, **options: object) -> Dataset:
    arguments = {"batch_items": 25, "features": FEATURES, "labels": shop_labels(source), "split": SPLIT} | options
    spine = Spine(source, request="request", entities=USER, item=ITEM)
    return Dataset("shop", spine=spine, negatives=negatives, **arguments)


def drawing(source: Source, **options: object) -> Negatives:
    arguments = {"window": "1d", "per_request": 3} | options
    if "per_positive" in options:
        del arguments["per_request"]
    return Negatives(source, ITEM, **arguments)


def loaded(dataset: Dataset, source: Source, history: History | None = None) -> LoadedDataset:
    return LoadedDataset(dataset.compile(shop_graph(source)), history or OracleHistory())


def assert_same_batch(got: Batch, expected: Batch) -> None:
    """Everything in two batches is equal, floats exactly."""
    for name in ("offsets", "times", "request_ids", "candidates"):
        assert getattr(got, name).tolist() == getattr(expected, name).tolist(), name
    for side in ("request", "item"):
        columns, others = getattr(got, side), getattr(expected, side)
        assert list(columns) == list(others), side
        for name in columns:
            assert column_to_series(columns[name]).to_list() == column_to_series(others[name]).to_list(), name
    assert list(got.keys) == list(expected.keys)
    for name, keys in got.keys.items():
        assert keys.tolist() == expected.keys[name].tolist(), name
    assert list(got.labels) == list(expected.labels)
    for name, values in got.labels.items():
        np.testing.assert_array_equal(values, expected.labels[name])
