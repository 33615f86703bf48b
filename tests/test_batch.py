"""Batches: what they refuse, rows taken from every kind of column, and requests expanded to candidates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.batch import Batch, Column, Columns, Dense, Embedding, Ids, Ragged, Stack, column_to_series
from bedplate.canonical import string_ids
from bedplate.errors import DataError

FLOATS = st.floats(-1e6, 1e6, width=32)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
WORDS = st.text(max_size=3)


def scalars(values: list, texts: bool = False) -> Dense | Ids:
    there = np.array([v is not None for v in values], np.bool_)
    present = None if there.all() else there
    if texts:
        known = {string_ids([v])[0]: v for v in values if v is not None}
        return Ids(np.array([string_ids([v])[0] if v is not None else 0 for v in values], np.int64), present, known)
    kind = next((type(v) for v in values if v is not None), float)
    dtype = {float: np.float64, int: np.int64, bool: np.bool_}[kind]
    return Dense(np.array([v if v is not None else 0 for v in values], dtype), present)


def ragged(lists: list[list], texts: bool = False) -> Ragged:
    flat = [v for values in lists for v in values]
    return Ragged(scalars(flat, texts), np.cumsum([0, *map(len, lists)], dtype=np.int64))


def embedding(vectors: list) -> Embedding:
    there = np.array([v is not None for v in vectors], np.bool_)
    values = np.array([v if v is not None else [0.0, 0.0] for v in vectors], np.float32).reshape(-1, 2)
    return Embedding(values, None if there.all() else there)


def of(strategy, *, min_size: int = 0):
    return st.lists(strategy, min_size=min_size, max_size=8)


COLUMNS = st.one_of(
    of(FLOATS | st.none()).map(lambda v: (v, scalars(v))),
    of(INTEGERS | st.none()).map(lambda v: (v, scalars(v))),
    of(st.booleans() | st.none()).map(lambda v: (v, scalars(v))),
    of(WORDS | st.none()).map(lambda v: (v, scalars(v, texts=True))),
    of(of(INTEGERS | st.none())).map(lambda v: (v, ragged(v))),
    of(of(WORDS | st.none())).map(lambda v: (v, ragged(v, texts=True))),
    of(st.lists(FLOATS, min_size=2, max_size=2) | st.none()).map(lambda v: (v, embedding(v))),
)


@given(COLUMNS)
def test_a_column_is_a_series(drawn):
    values, column = drawn
    series = column_to_series(column, "name")
    assert series.name == "name"
    assert series.to_list() == values
    assert len(column) == len(values)


@pytest.mark.parametrize("missing", [False, True])
def test_many_texts_are_looked_up_once_each(missing):
    asked: list[int] = []

    class Texts(dict[int, str]):
        def __getitem__(self, key: int) -> str:
            asked.append(key)
            return super().__getitem__(key)

    ids = np.arange(3_000) % 7 - 3
    present = ids != 2 if missing else None
    series = column_to_series(Ids(ids, present, Texts({i: f"t{i}" for i in range(-3, 4)})), "name")
    assert series.to_list() == [None if missing and i == 2 else f"t{i}" for i in ids.tolist()]
    assert sorted(asked) == [i for i in range(-3, 4) if not missing or i != 2]


@given(COLUMNS, st.data())
def test_rows_are_taken(drawn, data):
    values, column = drawn
    rows = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=12)) if values else []
    taken = column.take(np.array(rows, np.int64))
    assert type(taken) is type(column)
    assert column_to_series(taken).to_list() == [values[r] for r in rows]
    assert column_to_series(column).to_list() == values


def test_the_type_of_a_series_does_not_depend_on_its_rows():
    assert column_to_series(Embedding(np.zeros((0, 3), np.float32))).dtype == pl.Array(pl.Float32, 3)
    assert column_to_series(ragged([[]], texts=True)).dtype == pl.List(pl.String)
    assert column_to_series(Dense(np.array([1.5], np.float32), np.array([False]))).dtype == pl.Float32
    assert column_to_series(Dense(np.array([7]), np.array([False]))).dtype == pl.Int64


def batch(**changes) -> Batch:
    parts = {
        "request": {"u": Dense(np.array([1.0, 2.0]))},
        "item": {"i": Dense(np.array([1.0, 2.0, 3.0]))},
        "offsets": np.array([0, 1, 3]),
        "times": np.zeros(2, np.int64),
        "request_ids": np.arange(2),
        "candidates": np.arange(3),
    }
    return Batch(**(parts | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times": np.zeros(3, np.int64)}, "times has 3 rows, expected 2"),
        ({"request_ids": np.zeros(1, np.int64)}, "request_ids has 1 rows, expected 2"),
        ({"candidates": np.zeros(2, np.int64)}, "candidates has 2 rows, expected 3"),
        ({"request": {"u": Dense(np.zeros(3))}}, "request column 'u' has 3 rows, expected 2"),
        ({"request": {"u": Ragged(Dense(np.zeros(2)), np.array([0, 2]))}}, "request column 'u' has 1 rows, expected 2"),
        ({"item": {"i": Embedding(np.zeros((2, 3), np.float32))}}, "item column 'i' has 2 rows, expected 3"),
        ({"labels": {"y": np.zeros(2, np.float32)}}, "label 'y' has 2 rows, expected 3"),
        ({"weights": np.zeros(2, np.float32)}, "weights has 2 rows, expected 3"),
        ({"offsets": np.array([1, 1, 3])}, "got offsets [1 1 3], expected them to begin at 0 and to ascend"),
        ({"offsets": np.array([0, 4, 3])}, "got offsets [0 4 3], expected them to begin at 0 and to ascend"),
        ({"offsets": np.array([], np.int64)}, "got offsets [], expected them to begin at 0 and to ascend"),
    ],
)
def test_a_batch_whose_parts_do_not_fit_is_refused(changes, message):
    with pytest.raises(DataError) as caught:
        batch(**changes)
    assert (caught.value.message, caught.value.where) == (message, "batch")


def test_a_batch_that_fits():
    made = batch(labels={"y": np.zeros(3, np.float32)}, weights=np.ones(3, np.float32))
    assert (made.requests, made.items) == (2, 3)
    empty = batch(
        request={},
        item={},
        offsets=np.array([0]),
        times=np.zeros(0, np.int64),
        request_ids=np.zeros(0, np.int64),
        candidates=np.zeros(0, np.int64),
    )
    assert (empty.requests, empty.items, empty.request_of_item().tolist()) == (0, 0, [])


@given(st.lists(st.integers(0, 4), max_size=8))
def test_requests_are_expanded_to_candidates(sizes):
    count, total = len(sizes), sum(sizes)
    column: Column = Dense(np.arange(count) * 10)
    made = Batch(
        {"u": column},
        {},
        np.cumsum([0, *sizes], dtype=np.int64),
        np.zeros(count, np.int64),
        np.arange(count),
        np.arange(total),
    )
    expected = [request for request, size in enumerate(sizes) for _ in range(size)]
    assert made.request_of_item().tolist() == expected
    assert column_to_series(column.take(made.request_of_item())).to_list() == [10 * r for r in expected]


def test_the_memory_of_a_batch_is_that_of_all_its_arrays():
    there, lists = np.array([True, False]), Ragged(Dense(np.zeros(5), np.ones(5, np.bool_)), np.array([0, 2, 5]))
    stacked = Columns([Stack(np.zeros((3, 2)), np.ones((3, 2), np.bool_))], {"a": (0, 0), "b": (0, 1), "c": (0, 2)})
    plain = Batch({}, {}, np.array([0, 1, 2]), np.zeros(2, np.int64), np.arange(2), np.arange(2))
    assert plain.nbytes == 8 * (3 + 2 + 2 + 2)
    for change, more in (
        ({"request": {"user.spend": Dense(np.zeros(2), there)}}, 16 + 2),
        ({"request": stacked}, 3 * (16 + 2)),
        ({"item": {"item.words": lists}}, 5 * (8 + 1) + 3 * 8),
        ({"item": {"item.vector": Embedding(np.zeros((2, 4), np.float32))}}, 2 * 4 * 4),
        ({"labels": {"clicked": np.zeros(2, np.float32)}}, 8),
        ({"weights": np.ones(2, np.float32)}, 8),
        ({"keys": {"user": np.arange(2)}}, 16),
    ):
        assert replace(plain, **change).nbytes == plain.nbytes + more, change
