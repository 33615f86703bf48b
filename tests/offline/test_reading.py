"""Reading an index of several segments and buckets: few rows or many, again and again, from several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest
from split_table import SplitTable

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.ordered import Last, LastN
from bedplate.batch import column_to_series
from bedplate.features.view import FeatureView
from bedplate.offline import memory
from bedplate.offline.history import IndexedHistory
from bedplate.sources.base import Source
from bedplate.testing.simulator import START, USER
from bedplate.types import DAY

ROWS = 3000


@pytest.fixture(params=[1, 4])
def store(request, tmp_path, monkeypatch):
    """A history of three segments, and its view."""
    monkeypatch.setattr(memory.Budget, "buckets", lambda self, view, rows, threads: request.param)
    draw = np.random.default_rng(1)
    frame = pl.DataFrame(
        {
            "user": draw.integers(0, 200, ROWS),
            "time": START + draw.integers(0, 5 * DAY, ROWS),
            "x": draw.integers(-9, 9, ROWS),
            "name": [f"name {n}" for n in draw.integers(0, 500, ROWS)],
        }
    )
    features = {"n": Count(), "s": Sum("x"), "last": Last("name"), "list": LastN("name", 3), "d": CountDistinct("name")}
    for count in (1000, 2000, ROWS):
        source = Source("events", SplitTable(frame[:count], [1000, 2000][: count // 1000 - 1]), time="time")
        view = FeatureView("v", USER, source, features).compile()
        IndexedHistory(tmp_path).build(view).run()
    return tmp_path, view


def shown(columns):
    return {name: column_to_series(column).to_list() for name, column in columns.items()}


def test_few_rows_are_read_as_many_are(store):
    path, view = store
    history, names = IndexedHistory(path), list(view.features)
    draw = np.random.default_rng(2)
    keys, times = draw.integers(-5, 205, (20_000, 1)), START + draw.integers(0, 6 * DAY, 20_000)
    many = shown(history.read(view, names, keys, times))
    for rows in (slice(0, 1), slice(5, 5), slice(100, 400)):
        few = shown(history.read(view, names, keys[rows], times[rows]))
        assert few == {name: values[rows] for name, values in many.items()}
    ahead = shown(history.ahead(view, names, keys[:50], times[:50], 9 * DAY))
    both = [a + b for a, b in zip(ahead["v.n"], many["v.n"][:50], strict=True)]
    every = shown(history.read(view, ["v.n"], keys[:50], np.full(50, START + 9 * DAY)))["v.n"]
    assert both == every


def test_several_threads_read_one_index(store):
    path, view = store
    history, names = IndexedHistory(path), list(view.features)
    keys = np.arange(200).reshape(-1, 1)
    times = np.full(200, START + 4 * DAY)
    expected = shown(IndexedHistory(path).read(view, names, keys, times))
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: shown(history.read(view, names, keys, times)), range(16)):
            assert got == expected


def test_a_budget_that_is_used_up_lets_go_of_pages_and_changes_no_value(store):
    path, view = store
    keys, times = np.arange(200).reshape(-1, 1), np.full(200, START + 4 * DAY)
    tight = IndexedHistory(path, memory=1)
    for _ in range(3):
        assert shown(tight.read(view, ["v.s", "v.last"], keys, times)) == shown(
            IndexedHistory(path).read(view, ["v.s", "v.last"], keys, times)
        )


def test_rows_and_keys_are_counted(store):
    path, view = store
    reader = IndexedHistory(path).reader(view)
    assert reader.rows == ROWS
    assert len(reader.all_keys()) == 200
    assert (np.diff(reader.all_keys()[:, 0]) > 0).all()
    assert reader.keys >= 200
