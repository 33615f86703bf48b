"""Comparing columns, as parity and the contract suites do: every kind of difference is seen, and none is made up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.batch import Dense, Embedding, Ids, Ragged
from bedplate.testing.columns import mismatches, plain

TEXTS = {1: "a", 2: "b", 3: ""}
floats = st.floats(-1e6, 1e6, width=32)


def dense(values):
    there = np.array([v is not None for v in values])
    numbers = np.array([0.0 if v is None else v for v in values])
    return Dense(numbers, None if there.all() else there)


def ragged(lists):
    offsets = np.cumsum([0, *map(len, lists)])
    return Ragged(dense([v for one in lists for v in one]), offsets)


@given(values=st.lists(st.none() | floats, max_size=8))
def test_values_are_plain(values):
    assert plain(dense(values)) == values


@given(lists=st.lists(st.lists(floats, max_size=4), max_size=6))
def test_lists_are_plain(lists):
    assert plain(ragged(lists)) == lists


@given(ids=st.lists(st.sampled_from([1, 2, 3]), max_size=6), data=st.data())
def test_texts_are_plain_where_they_are_known(ids, data):
    there = data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    keys = np.array(ids, np.int64)
    assert plain(Ids(keys, None, TEXTS)) == [TEXTS[i] for i in ids]
    assert plain(Ids(keys, np.array(there, bool), TEXTS)) == [
        TEXTS[i] if t else None for i, t in zip(ids, there, strict=True)
    ]
    assert plain(Ids(keys)) == ids
    # What a key that is not there holds means nothing, also where no text is known of it.
    assert plain(Ids(np.array([99]), np.array([False]), TEXTS)) == [None]


@given(values=st.lists(st.none() | floats, min_size=1, max_size=8))
def test_a_column_equals_itself_and_what_rounds_to_it(values):
    column = dense(values)
    assert mismatches({"a": column}, {"a": column}) == []
    near = Dense(np.array(column.values, np.float32).astype(np.float64), column.present)
    assert mismatches({"a": near}, {"a": column}) == []


@given(values=st.lists(st.none() | floats, min_size=1, max_size=8), data=st.data())
def test_every_difference_is_seen_at_its_row(values, data):
    at = data.draw(st.integers(0, len(values) - 1))
    old = values[at]
    new = data.draw(st.sampled_from([None, old + max(1.0, abs(old)) / 100]) if old is not None else st.just(3.0))
    changed = [*values[:at], new, *values[at + 1 :]]
    (line,) = mismatches({"a": dense(changed)}, {"a": dense(values)})
    assert line.startswith(f"a: 1 of {len(values)} rows differ, the first is row {at}: got ")


@pytest.mark.parametrize(
    ("got", "expected", "line"),
    [
        ({}, {"a": dense([1.0])}, "a: missing"),
        ({"a": dense([1.0])}, {"a": dense([1.0, 2.0])}, "a: 1 rows, expected 2"),
        (
            {"a": dense([0.0])},
            {"a": dense([None])},
            "a: 1 of 1 rows differ, the first is row 0: got 0.0, expected None",
        ),
        ({"a": ragged([[1.0], []])}, {"a": ragged([[1.0], [0.0]])}, "the first is row 1: got [], expected [0.0]"),
        ({"a": ragged([[1.0, 2.0]])}, {"a": ragged([[2.0, 1.0]])}, "got [1.0, 2.0], expected [2.0, 1.0]"),
        ({"a": dense([math.nan])}, {"a": dense([1.0])}, "got nan, expected 1.0"),
        ({"a": dense([math.nan])}, {"a": dense([math.nan])}, "got nan, expected nan"),
        ({"a": Ids(np.array([1]), None, TEXTS)}, {"a": Ids(np.array([2]), None, TEXTS)}, "got 'a', expected 'b'"),
        (
            {"a": Ids(np.array([3]), None, TEXTS)},
            {"a": Ids(np.array([3]), np.array([False]), TEXTS)},
            "got '', expected None",
        ),
        ({"a": Dense(np.array([2**53 + 1]))}, {"a": Dense(np.array([2**53]))}, "got 9007199254740993, expected"),
        ({"a": Dense(np.array([True]))}, {"a": Dense(np.array([False]))}, "got True, expected False"),
        ({"a": dense([1.0])}, {"a": Embedding(np.zeros((1, 2), np.float32))}, "got 1.0, expected [0.0, 0.0]"),
        (
            {"a": Embedding(np.zeros((2, 2), np.float32))},
            {"a": Embedding(np.array([[0, 0], [0, 1]], np.float32))},
            "a: 1 of 2 rows differ, the first is row 1: got [0.0, 0.0], expected [0.0, 1.0]",
        ),
    ],
)
def test_what_differs_is_said(got, expected, line):
    (said,) = mismatches(got, expected)
    assert line in said


def test_columns_that_were_not_expected_are_left_alone():
    assert mismatches({"a": dense([1.0]), "more": dense([5.0])}, {"a": dense([1.0])}) == []
