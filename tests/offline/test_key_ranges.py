"""The order by key that is prepared while rows are read is the order that sorting all of them at the end gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Mean, Sum
from bedplate.aggregations.counts import TopK
from bedplate.aggregations.ordered import Last
from bedplate.features import rows as feature_rows
from bedplate.features.entity import Entity
from bedplate.features.rows import Rows
from bedplate.features.view import FeatureView
from bedplate.offline import key_ranges
from bedplate.offline.history import IndexedHistory
from bedplate.offline.key_ranges import KeyRanges
from bedplate.offline.pieces import TableRows
from bedplate.offline.segment import Read, Span
from bedplate.sources.base import Source

KEYS = st.one_of(
    st.integers(-3, 9),
    st.integers(0, 10_000),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([-(2**63), -(2**63) + 1, -1, 0, 2**53, 2**53 + 1, 2**63 - 1]),
)


@st.composite
def batches(draw):
    """Batches of a table, in each its keys [n, c] and times."""
    entities, ascending = draw(st.integers(1, 2)), draw(st.booleans())
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=5))
    row = st.tuples(st.tuples(*[KEYS] * entities), st.integers(0, 30))
    rows = draw(st.lists(row, min_size=sum(sizes), max_size=sum(sizes)))
    if ascending:
        rows = [(k, t) for (k, _), t in zip(rows, sorted(t for _, t in rows), strict=True)]
    keys = np.array([k for k, _ in rows], np.int64).reshape(-1, entities)
    times = np.array([t for _, t in rows], np.int64)
    return [Rows(times[e - n : e], keys[e - n : e], ()) for n, e in zip(sizes, np.cumsum(sizes), strict=True)]


@settings(max_examples=100)
@given(batches(), st.integers(1, 40), st.integers(1, 2), st.booleans())
def test_rows_are_in_order_of_key_time_and_arrival(found, ranges, threads, guessed):
    """Ties, late rows, composite keys, keys at the ends of int64, empty batches, more rows than were expected."""
    keys, times = np.concatenate([b.keys for b in found]), np.concatenate([b.times for b in found])
    arranger = KeyRanges(ranges * key_ranges._ROWS)
    if guessed:
        arranger._arrival = feature_rows.RowsColumn((1,), np.uint32)
    arranged = [np.empty_like(array) for array in (keys, times)]
    start = 0
    for batch in found:
        put = arranger.arrange(batch)
        for array, into in zip((batch.keys, batch.times), arranged, strict=True):
            put(array, into[start : start + len(batch)])
        start += len(batch)
    ranged = arranger.rows(Rows(arranged[1], arranged[0], ()))
    order = ranged.order(threads)
    expected = np.lexsort((times, *keys.T[::-1]))
    assert ranged.arrival[order.order].tolist() == expected.tolist()
    different, counts = np.unique(keys, axis=0, return_counts=True)
    assert order.keys.tolist() == different.tolist()
    assert np.diff(order.offsets).tolist() == counts.tolist()
    assert order.offsets[0] == 0


def test_a_batch_that_is_earlier_than_the_one_before_is_put_in_order_of_time():
    """Each batch is in order of time, and the whole is not."""
    arranger = KeyRanges(key_ranges._ROWS)
    keys, times = np.array([[5], [5], [5], [5]]), np.array([20, 30, 10, 25])
    for begin in (0, 2):
        arranger.arrange(Rows(times[begin : begin + 2], keys[begin : begin + 2], ()))
    ranged = arranger.rows(Rows(times, keys, ()))
    assert not ranged.ascending
    assert times[ranged.order(1).order].tolist() == [10, 20, 25, 30]


def files(folder: Path) -> dict[str, bytes]:
    """What an index holds, but for how long it took."""
    found = {p: p.read_bytes() for p in sorted(folder.rglob("*.npy"))}
    return {str(p.relative_to(folder)): content for p, content in found.items()}


@pytest.mark.parametrize("kind", ["integers", "strings", "pairs", "by key", "late"])
def test_an_index_is_the_same_either_way(kind, tmp_path, monkeypatch):
    rows, draw = 200_000, np.random.default_rng(7)
    times = 10**15 + np.sort(draw.integers(0, 10**10, rows))
    user, x = draw.zipf(1.3, rows) % 5000, draw.normal(size=rows)
    if kind == "by key":
        user = np.sort(user)
    if kind in ("by key", "late"):
        draw.shuffle(times)
    frame = pl.DataFrame({"user": user, "shop": user % 7, "time": times, "x": x, "item": draw.integers(0, 99, rows)})
    frame = frame.with_columns(x=pl.when(pl.col("item") == 3).then(None).otherwise("x"), word=pl.format("{}", "user"))
    frame.write_parquet(tmp_path / "events.parquet")
    key = "word" if kind == "strings" else "user"
    entities = [Entity("user", key=key), Entity("shop", key="shop")] if kind == "pairs" else Entity("user", key=key)
    features = {
        "sum": Sum("x", windows="1h"),
        "mean": Mean("item", windows="1h"),
        "last": Last("word"),
        "top": TopK("item", 3, windows="1h"),
    }
    source = Source("events", str(tmp_path / "events.parquet"), time="time")
    view = FeatureView("v", entities, source, features).compile()
    monkeypatch.setattr(key_ranges, "_ROWS", 20_000)
    monkeypatch.setattr(key_ranges, "LEAST", rows)
    much = 10**12  # however much this process holds by now, both builds have room for one bucket
    IndexedHistory(tmp_path / "one", memory=much).build(view).run()
    monkeypatch.setattr(TableRows, "ranged", lambda *_: None)
    IndexedHistory(tmp_path / "other", memory=much).build(view).run()
    one, other = files(tmp_path / "one"), files(tmp_path / "other")
    assert list(one) == list(other)
    assert [name for name in one if one[name] != other[name]] == []


def test_rows_that_something_else_orders_are_not_put_in_order_while_they_are_read(monkeypatch):
    monkeypatch.setattr(key_ranges, "LEAST", 200_000)
    frame = pl.DataFrame({"user": np.arange(200_000) % 9, "time": 10**15 + np.arange(200_000)})
    frame = frame.with_columns(number=pl.col("time") % 5)
    for sequence, is_ranged in ((None, True), ("number", False)):
        source = Source("events", frame, time="time", sequence=sequence)
        view = FeatureView("v", Entity("user", key="user"), source, {"last": Last("number")}).compile()
        rows = TableRows(view)
        found = rows.ranged(_whole(rows))
        assert (found is not None) == is_ranged


def _whole(rows: TableRows) -> Read:
    return Read([p.id for p in rows.pieces], Span())


def arranged(keys: np.ndarray, ranges: int, batch: int) -> np.ndarray:
    """The bounds of the ranges of keys [n] that come in batches."""
    arranger = KeyRanges(ranges * key_ranges._ROWS)
    for start in range(0, len(keys), batch):
        part = keys[start : start + batch].reshape(-1, 1)
        arranger.arrange(Rows(np.arange(start, start + len(part)), part, ()))
    return arranger.rows(Rows(np.arange(len(keys)), keys.reshape(-1, 1), ())).bounds


@pytest.mark.parametrize("spread", [1, 10**12])
def test_ranges_have_about_as_many_rows_each(spread):
    draw = np.random.default_rng(1)
    for keys in (draw.integers(0, 10**5, 40_000), (draw.random(40_000) ** 3 * 10**5).astype(np.int64)):
        sizes = np.diff(arranged(keys * spread, 8, 10_000), axis=1).sum(axis=0)
        assert sizes.sum() == len(keys)
        assert sizes.max() <= 1.5 * len(keys) / 8


def test_keys_that_the_first_batch_does_not_show_are_in_the_ranges_at_the_ends():
    keys = np.concatenate([np.arange(1000, 2000), np.arange(1000), np.arange(2000, 5000), [-(2**63), 2**63 - 1]])
    bounds = arranged(keys, 4, 1000)
    assert np.diff(bounds, axis=1)[0].max() <= 300
    assert np.diff(bounds, axis=1)[1].tolist() == [1000, 0, 0, 0]
    assert np.diff(bounds, axis=1)[2:].sum(axis=0).tolist() == [1, 0, 0, 3001]


def test_a_hot_key_has_a_range_of_its_own_and_the_others_are_cut():
    draw = np.random.default_rng(2)
    keys = np.where(draw.random(40_000) < 0.9, 70_000, draw.integers(0, 10**5, 40_000))
    sizes = np.diff(arranged(keys, 16, 10_000), axis=1).sum(axis=0)
    assert sizes.max() >= 36_000
    assert np.count_nonzero(sizes) >= 2
    assert sizes.sum() == len(keys)


def test_pairs_whose_first_key_is_always_the_same_are_in_one_range():
    draw = np.random.default_rng(3)
    keys = np.stack([np.full(500, 7), draw.integers(0, 50, 500)], axis=1)
    times = np.arange(500)
    arranger = KeyRanges(5 * key_ranges._ROWS)
    put = arranger.arrange(Rows(times, keys, ()))
    own = np.empty_like(keys)
    put(keys, own)
    ranged = arranger.rows(Rows(times, own, ()))
    assert np.count_nonzero(np.diff(ranged.bounds)) == 1
    order = ranged.order(2)
    assert ranged.arrival[order.order].tolist() == np.lexsort((times, keys[:, 1])).tolist()
    assert order.keys.tolist() == [[7, k] for k in np.unique(keys[:, 1]).tolist()]


def test_a_table_without_a_row_that_counts_has_no_keys():
    arranger = KeyRanges(key_ranges._ROWS)
    empty = Rows(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), ())
    arranger.arrange(empty)
    for ranged in (arranger.rows(empty), KeyRanges(0).rows(empty)):
        order = ranged.order(2)
        assert order.keys.shape == (0, 2)
        assert order.offsets.tolist() == [0]
        assert len(order.order) == 0
