"""The order of rows and the choice of the most frequent values, beside the plainest code that says the same."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.aggregations.base import Reduce, Reduction, Selection
from bedplate.features.rows import Rows
from bedplate.offline import order, values
from bedplate.offline.index import ColumnFiles
from bedplate.offline.order import extremes, number_keys, order_rows
from bedplate.offline.ragged import build_ragged

NO_ROWS = np.zeros(0, np.int64)
SELECTION = Selection(["item"], None, "the test")


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(-3, 4), st.integers(0, 6), st.integers(0, 2)), max_size=60),
    st.booleans(),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 10**6]),
)
def test_rows_in_order_of_key_time_ties_and_arrival(found, has_sequence, threads, spread):
    table = np.array(found, np.int64).reshape(-1, 3)
    keys, times, sequence = table[:, :1] * spread, table[:, 1].copy(), table[:, 2].copy()
    rows = Rows(times, np.ascontiguousarray(keys), (), sequence=sequence if has_sequence else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "_RUN", 5)
        got = order_rows(rows, threads)
    assert got.order.tolist() == rows.order().tolist()
    different, counts = np.unique(keys, axis=0, return_counts=True)
    assert got.keys.tolist() == different.tolist()
    assert np.diff(got.offsets).tolist() == counts.tolist()


@pytest.mark.parametrize("threads", [1, 4])
def test_extremes_of_times(threads, monkeypatch):
    monkeypatch.setattr(order, "_RUN", 3)
    for rows in (1, 2, 11, 40):
        times = np.random.default_rng(rows).integers(-(10**15), 10**15, rows)
        assert extremes(times, threads) == (times.min(), times.max())


@pytest.mark.parametrize("keys", [[[3], [1], [3]], [[10**15], [-5], [10**15]], [[1, 2], [1, 1], [1, 2]], [[0]]])
def test_keys_are_numbered_in_ascending_order(keys):
    given_keys = np.array(keys, np.int64)
    different, codes = number_keys(given_keys, 2)
    assert different.tolist() == sorted(map(list, {tuple(k) for k in keys}))
    assert different[codes].tolist() == keys


def most_frequent(items: list[int], times: list[int], depth: int) -> list[tuple[int, int]]:
    """The most frequent items and their counts in order of item: of equally frequent ones those seen last."""
    counts, last = Counter(items), dict(zip(items, times, strict=True))
    best = sorted(counts, key=lambda item: (-counts[item], -last[item], item))
    return sorted((item, counts[item]) for item in best[:depth])


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=60),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_the_most_frequent_values(rows, depth, is_ranked, seed):
    """Ties of counts and of times, ranges of any length, of rows that all count or not."""
    draw = np.random.default_rng(seed)
    items = np.array([item for item, _ in rows], np.int64)
    times = np.cumsum([step for _, step in rows])
    # Where not every row counts, the values are those of every other row of the timeline.
    in_timeline = np.arange(len(rows)) * 2 if is_ranked else NO_ROWS
    timeline = np.repeat(times, 2) if is_ranked else times
    files = ColumnFiles(None, None, (items,), (None,))
    reduction = Reduction(Reduce.COUNTS, SELECTION)
    tables = build_ragged(reduction, files, np.array([0, len(items)]))
    a = draw.integers(0, len(items), 20)
    b = np.maximum(a, draw.integers(0, len(items) + 1, 20))
    kinds = np.full(20, tables["kinds"][0])
    offsets, room = np.empty(21, np.int64), 20 * depth
    found, counts, lasts = (np.empty(room, np.int64) for _ in range(3))
    arrays = (tables[name] for name in ("order", "place", "before", "first", "second"))
    values.range_top(items, *arrays, timeline, in_timeline, depth, kinds, a, b, offsets, found, counts, lasts)
    for i in range(20):
        got = slice(offsets[i], offsets[i + 1])
        own, seen = items[a[i] : b[i]].tolist(), times[a[i] : b[i]].tolist()
        assert list(zip(items[found[got]].tolist(), counts[got].tolist(), strict=True)) == most_frequent(
            own, seen, depth
        )
        assert all(items[last] == items[row] for row, last in zip(found[got], lasts[got], strict=True))


@settings(max_examples=80)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(0, 2**32))
def test_all_values_of_a_range_and_how_often_each_is_there(rows, seed):
    draw = np.random.default_rng(seed)
    items = np.array(rows, np.int64)
    files = ColumnFiles(None, None, (items,), (None,))
    tables = build_ragged(Reduction(Reduce.COUNTS, SELECTION), files, np.array([0, len(items)]))
    a = draw.integers(0, len(items), 10)
    b = np.maximum(a, draw.integers(0, len(items) + 1, 10))
    offsets = np.empty(11, np.int64)
    found, counts, lasts = (np.empty(10 * len(items), np.int64) for _ in range(3))
    arrays = (tables[name] for name in ("order", "place", "before", "first", "second"))
    values.range_counts(items, *arrays, a, b, offsets, found, counts, lasts)
    for i in range(10):
        got = slice(offsets[i], offsets[i + 1])
        expected = Counter(items[a[i] : b[i]].tolist())
        assert dict(zip(items[found[got]].tolist(), counts[got].tolist(), strict=True)) == expected
        assert items[found[got]].tolist() == sorted(expected)


@settings(max_examples=80)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 4), st.integers(0, 2**32))
def test_the_last_rows_of_different_values(rows, depth, seed):
    draw = np.random.default_rng(seed)
    items = np.array(rows, np.int64)
    files = ColumnFiles(None, None, (items,), (None,))
    reduction = Reduction(Reduce.LATEST_BY, SELECTION, depth)
    tables = build_ragged(reduction, files, np.array([0, len(items)]))
    a = draw.integers(0, len(items), 10)
    b = np.maximum(a, draw.integers(0, len(items) + 1, 10))
    offsets, found = np.empty(11, np.int64), np.empty(10 * depth, np.int64)
    arrays = (tables[name] for name in ("after", "first", "second"))
    values.range_latest(*arrays, depth, a, b, offsets, found)
    for i in range(10):
        last = {int(items[row]): row for row in range(a[i], b[i])}
        assert found[offsets[i] : offsets[i + 1]].tolist() == sorted(last.values())[-depth:]
