"""Vectors: lengths and holes by row, history and online alike, expressions, encodings, the signature."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.extremes import Max
from bedplate.aggregations.ordered import Last, LastN
from bedplate.batch import Batch, Dense, Embedding, column_to_series
from bedplate.errors import DataError, DefinitionError
from bedplate.features.derived import DerivedFeature, evaluate
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import Category, Number, Sequence, Vector
from bedplate.features.entity import Entity
from bedplate.features.fitting import fit
from bedplate.features.graph import FeatureGraph
from bedplate.features.rows import prepare_rows
from bedplate.features.signature import Signature
from bedplate.features.vectors import vector
from bedplate.features.view import FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.online.fetch import OnlineReader
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.sources.base import Source
from bedplate.types import Type, to_micros

START = to_micros("2026-01-01")
ITEM = Entity("item", key="item")


def view(images, dtype, expression=None, **features):
    count = len(images)
    frame = pl.DataFrame({"item": list(range(count)), "time": [START + i for i in range(count)]}).with_columns(
        image=pl.Series(images, dtype=dtype)
    )
    chosen = "image" if expression is None else expression
    source = Source("items", frame, time="time")
    return FeatureView("items", ITEM, source, features or {"image": Last(chosen)})


LISTS = pl.List(pl.Float64)
ARRAYS = pl.Array(pl.Float64, 2)
GOOD = [[1.0, 2.0], None, [3.0, None], [math.nan, 1.0], [-0.5, 1e-3]]
SEEN = [[1.0, 2.0], None, None, None, [-0.5, float(np.float32(1e-3))]]


@pytest.mark.parametrize(
    ("dtype", "expression"),
    [(LISTS, vector("image", 2)), (ARRAYS, None), (pl.Array(pl.Float32, 2), None), (ARRAYS, vector("image", 2))],
)
def test_a_vector_is_there_or_not_in_history_and_online(tmp_path, dtype, expression):
    compiled = view(GOOD, dtype, expression).compile()
    assert compiled.features["items.image"].type is Type.vector(2)
    history = IndexedHistory(tmp_path)
    history.build(compiled).run()
    store = MemoryStore()
    bulk_load(store, compiled, history.grouped(compiled), START + 100)
    keys, times = np.arange(6)[:, None], np.full(6, START + 100)
    for reader in (history, OnlineReader(store)):
        column = reader.read(compiled, ["items.image"], keys, times)["items.image"]
        assert isinstance(column, Embedding)
        assert column_to_series(column).to_list() == [*SEEN, None]


def test_wide_and_odd_vectors_come_back_as_they_were(tmp_path: Path):
    rng = np.random.default_rng(0)
    for width in (1, 7, 64):
        values = rng.normal(size=(50, width)).astype(np.float32)
        compiled = view(values.tolist(), pl.Array(pl.Float32, width)).compile()
        history = IndexedHistory(tmp_path / str(width))
        history.build(compiled).run()
        store = MemoryStore()
        bulk_load(store, compiled, history.grouped(compiled), START + 100)
        keys, times = rng.permutation(50)[:, None], np.full(50, START + 100)
        for reader in (history, OnlineReader(store)):
            got = reader.read(compiled, ["items.image"], keys, times)["items.image"]
            np.testing.assert_array_equal(got.values, values[keys[:, 0]])


@pytest.mark.parametrize("bad", [[1.0], [1.0, 2.0, 3.0], [], [1.0, math.inf], [1e300, 0.0]])
def test_a_wrong_vector_is_an_error_that_names_the_row(bad):
    compiled = view([[1.0, 2.0], None, bad, bad], LISTS, vector("image", 2)).compile()
    raw = compiled.view.source.table().scan()
    what = "a vector with an infinite number" if len(bad) == 2 else "a list of another length than 2"
    with pytest.raises(DataError, match=f"2 rows hold no vector of 2 numbers: {what} is in row 2"):
        prepare_rows(compiled, raw)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image": Last("image")}, r"List\(Float64\), expected a number.*\n.*vector\(\"image\", LENGTH\)"),
        (
            {"image": LastN({"x": vector("image", 2)}, 3)},
            "LastN takes numbers",
        ),
        ({"image": CountDistinct(vector("image", 2))}, r"CountDistinct takes .* got vector\[2\]"),
        ({"image": Max(vector("image", 2))}, r"Max takes .* got vector\[2\]"),
    ],
)
def test_what_takes_no_vectors_says_so(features, message):
    with pytest.raises(DefinitionError, match=message):
        view(GOOD, LISTS, **features).compile()
    with pytest.raises(DefinitionError, match="got the width"):
        vector("image", 0)


def test_expressions_over_vectors():
    first = DerivedFeature("first", pl.col("items.image").arr.first())
    twice = DerivedFeature("twice", pl.concat_arr("first", pl.col("items.image").arr.get(1).cast(pl.Float64)))
    graph = FeatureGraph([view(GOOD, ARRAYS)], [first, twice])
    assert (graph.features["first"].type, graph.features["twice"].type) == (Type.FLOAT, Type.vector(2))
    column = Embedding(np.array([[1, 2], [0, 0]], np.float32), np.array([True, False]))
    got = evaluate([first], {"items.image": column}, np.zeros(2, np.int64))
    assert column_to_series(got["first"]).to_list() == [1.0, None]


VALUES = np.array([[3, 4], [0, 0], [6, 8]], np.float32)
PRESENT = np.array([True, True, False])


def batch(vectors: Embedding, **more) -> Batch:
    zeros = np.zeros(3, np.int64)
    return Batch({"u.image": vectors, **more}, {}, np.zeros(4, np.int64), zeros, np.arange(3), zeros[:0])


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("present", [None, PRESENT])
def test_a_vector_is_columns_after_the_numbers(tmp_path, unit, present):
    x = Dense(np.array([1.0, 0.0, 3.0]), np.array([True, False, True]))
    given = batch(Embedding(VALUES, present), **{"u.x": x, "u.y": Dense(np.array([1.0, 3.0, 5.0]))})
    encoder = fit({"u.image": Vector(unit=unit), "u.x": Number(), "u.y": Number()}, [given])
    hole = ("u.image?",) if present is not None else ()
    names = ("u.x", "u.y", "u.image[0]", "u.image[1]", "u.x?", *hole)
    assert encoder.columns_of("request_dense") == names
    assert encoder.layout.request_dense == len(names)
    out = encoder.encode(given)["request_dense"]
    expected = np.array([[0.6, 0.8], [0, 0], [0.6, 0.8]] if unit else VALUES.tolist(), np.float32)
    if present is not None:
        expected[2] = 0
        assert out[:, -1].tolist() == [1, 1, 0]
    np.testing.assert_allclose(out[:, 2:4], expected, rtol=1e-6)
    np.testing.assert_allclose(out[:, :2], [[-1, -np.sqrt(1.5)], [0, 0], [1, np.sqrt(1.5)]], rtol=1e-6)
    assert out[:, 4].tolist() == [1, 0, 1]
    alone = fit({"u.image": Vector(unit=unit)}, [given])
    np.testing.assert_array_equal(alone.encode(given)["request_dense"][:, :2], out[:, 2:4])
    alone.save(tmp_path / "encoder")
    again = Encoder.load(tmp_path / "encoder")
    np.testing.assert_array_equal(again.encode(given)["request_dense"], alone.encode(given)["request_dense"])


def test_encodings_and_vectors_that_do_not_fit():
    given = batch(Embedding(VALUES))
    for wrong in (Number(), Category(), Sequence(Category())):
        with pytest.raises(DefinitionError, match=r"Vector vectors"):
            fit({"u.image": wrong}, [given])
    with pytest.raises(DefinitionError, match=r"'u\.y' holds numbers, expected vectors"):
        fit({"u.y": Vector()}, [batch(Embedding(VALUES), **{"u.y": Dense(VALUES[:, 0])})])
    encoder = fit({"u.image": Vector()}, [given])
    with pytest.raises(DataError, match="holds vectors of 3 numbers, expected 2"):
        encoder.encode(batch(Embedding(np.zeros((3, 3), np.float32))))


def test_the_signature_holds_the_width():
    graph = FeatureGraph([view(GOOD, ARRAYS)])
    zeros = np.zeros(3, np.int64)
    given = Batch({}, {"items.image": Embedding(VALUES)}, np.array([0, 3]), zeros[:1], zeros[:1], np.arange(3))
    encoder = fit({"items.image": Vector()}, [given])
    signature = Signature.of(encoder, graph.features, encoder.layout.tensors(), ())
    assert Signature.from_json(signature.to_json()) == signature
    signature.check_features(graph.features)
    other = FeatureGraph([view([[1.0] * 3] * 2, pl.Array(pl.Float64, 3))])
    with pytest.raises(DefinitionError, match=r"is vector\[3\] with id .* expected vector\[2\]"):
        signature.check_features(other.features)
