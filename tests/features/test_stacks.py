"""Columns side by side in stacks are encoded as the same columns one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.batch import Batch, Columns, Dense, Ids, Stack
from bedplate.errors import DataError
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import CANDIDATE, Category, Number
from bedplate.features.fitting import fit


def plain(rng: np.random.Generator, n: int) -> dict[str, Dense | Ids]:
    """Numbers of three types, whole numbers and ids as categories, with and without nulls."""

    def present() -> np.ndarray | None:
        return None if rng.random() < 0.5 else rng.random(n) < 0.7

    columns: dict[str, Dense | Ids] = {}
    for i in range(3):
        columns[f"float{i}"] = Dense(rng.normal(scale=10.0**i, size=n), present())
        columns[f"count{i}"] = Dense(rng.integers(0, 50, n), present())
        columns[f"whole{i}"] = Dense(rng.integers(-3, 3, n), present())
        columns[f"id{i}"] = Ids(rng.integers(0, 20, n), present())
    columns["flag"] = Dense(rng.random(n) < 0.5, present())
    return columns


def stacked(columns: dict[str, Dense | Ids], rng: np.random.Generator) -> Columns:
    """The same columns in any order; those of one form in stacks, some of them left alone."""
    names = list(rng.permutation(list(columns)))
    forms: dict[tuple[bool, str], list[str]] = {}
    alone = [n for n in names if rng.random() < 0.3]
    for name in names:
        if name not in alone:
            forms.setdefault((isinstance(columns[name], Ids), columns[name].values.dtype.str), []).append(name)
    parts: list[Stack | Dense | Ids] = [columns[n] for n in alone]
    places = {n: (i, -1) for i, n in enumerate(alone)}
    for (is_ids, _), members in forms.items():
        places |= {n: (len(parts), i) for i, n in enumerate(members)}
        values = np.stack([columns[n].values for n in members])
        every = np.ones(values.shape[1], np.bool_)
        there = [columns[n].present for n in members]
        present = np.stack([every if p is None else p for p in there]) if any(p is not None for p in there) else None
        parts.append(Stack(values, present, is_ids))
    return Columns(parts, places)


def encoder_for(columns: dict[str, Dense | Ids], rng: np.random.Generator) -> Encoder:
    encodings = {
        n: Category(rng.choice(["", "shared"])) if n[:2] in ("id", "wh") else Number(log=bool(rng.random() < 0.5))
        for n in rng.permutation([n for n in columns if n != "flag"])
    }
    return fit({**encodings, CANDIDATE: Category("shared"), "flag": Category()}, [batch(columns)])


def batch(columns) -> Batch:
    n = len(columns["flag"])
    one = np.array([10**15])
    return Batch({}, columns, np.array([0, n]), one, one, np.arange(n) % 25)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_stacks_are_encoded_as_columns_are(seed, n):
    rng = np.random.default_rng(seed)
    columns = plain(rng, n)
    encoder = encoder_for(columns, rng)
    expected = encoder.encode(batch(columns))
    first, second = stacked(columns, rng), stacked(columns, rng)
    for every in (first, first, second, columns, first):  # an encoder remembers places, and must see when they change
        found = encoder.encode(batch(every))
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            np.testing.assert_array_equal(found[name], tensor, strict=True)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_a_column_of_a_stack_is_the_column(seed, n):
    rng = np.random.default_rng(seed)
    columns = plain(rng, n)
    every = stacked(columns, rng)
    assert set(every) == set(columns)
    assert len(every) == len(columns)
    assert "no" not in every
    for name, column in columns.items():
        assert type(every[name]) is type(column)
        np.testing.assert_array_equal(every[name].values, column.values, strict=True)
        present = every[name].present
        there = np.ones(n, np.bool_)
        np.testing.assert_array_equal(
            there if present is None else present, there if column.present is None else column.present
        )


@pytest.mark.parametrize(
    ("stack", "encoding", "message"),
    [
        (Stack(np.zeros((1, 2), np.int64), None, True), Number(), "feature 'x' holds ids, expected numbers"),
        (Stack(np.zeros((1, 2))), Category(), "feature 'x' holds numbers, expected ids or whole numbers"),
    ],
)
def test_a_stack_of_another_form_is_refused(stack, encoding, message):
    fine = Dense(np.array([1.0, 2.0])) if isinstance(encoding, Number) else Ids(np.array([1, 2]))
    flag = Dense(np.zeros(2, np.bool_))
    encoder = fit({"x": encoding}, [batch({"x": fine, "flag": flag})])
    with pytest.raises(DataError, match=message):
        encoder.encode(batch(Columns([stack, flag], {"x": (0, 0), "flag": (1, -1)})))


def test_a_batch_checks_the_length_of_stacks():
    with pytest.raises(DataError, match="item column 'x' has 3 rows, expected 2"):
        batch(Columns([Stack(np.zeros((1, 3))), Dense(np.zeros(2))], {"x": (0, 0), "flag": (1, -1)}))
