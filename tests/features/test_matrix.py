"""Numbers of many features as one matrix: in the order asked for, what is absent 0 and said so."""

from __future__ import annotations

import numpy as np
import pytest

from bedplate.batch import Columns, Dense, Ids, Stack
from bedplate.errors import DataError
from bedplate.features.matrix import Matrix

PARTS = [
    Stack(np.array([[1.0, np.nan], [3.0, 4.0]]), np.array([[True, False], [True, True]])),
    Dense(np.array([5, 6])),
    Stack(np.array([[7, 8]])),
]
PLACES = {"a": (0, 0), "b": (0, 1), "c": (1, -1), "d": (2, 0)}


def test_columns_of_stacks_and_alone_are_put_in_the_order_of_the_names():
    values, present = Matrix(["d", "b", "a", "c"]).of(Columns(PARTS, PLACES))
    assert values.tolist() == [[7.0, 3.0, 1.0, 5.0], [8.0, 4.0, 0.0, 6.0]]
    assert present.tolist() == [[True] * 4, [True, True, False, True]]
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    assert present.flags.c_contiguous


def test_all_are_present_where_no_column_says_which():
    values, present = Matrix(["c", "d"]).of(Columns(PARTS, PLACES))
    assert values.tolist() == [[5.0, 7.0], [6.0, 8.0]]
    assert present.all()


def test_other_places_get_another_plan():
    matrix = Matrix(["a", "c"])
    first, _ = matrix.of(Columns(PARTS, PLACES))
    second, _ = matrix.of(Columns([PARTS[1], PARTS[2]], {"c": (0, -1), "a": (1, 0)}))
    again, _ = matrix.of(Columns(PARTS, PLACES))
    assert second.tolist() == [[7.0, 5.0], [8.0, 6.0]]
    assert first.tolist() == again.tolist() == [[1.0, 5.0], [0.0, 6.0]]


def test_identities_are_no_numbers():
    with pytest.raises(DataError, match="holds ids, expected numbers"):
        Matrix(["x"]).of(Columns.of({"x": Ids(np.array([1]))}))
