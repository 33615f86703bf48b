"""Canonical forms: equal where definitions are equal, in every process, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.canonical import digest, expression_form, string_ids, to_json
from bedplate.errors import DefinitionError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_keys_is_no_difference(value, random):
    keys = list(value)
    random.shuffle(keys)
    assert to_json({k: value[k] for k in keys}) == to_json(value)
    assert digest({k: value[k] for k in keys}) == digest(value)


@given(VALUES, VALUES)
def test_ids_are_equal_where_values_are(a, b):
    assert (digest(a) == digest(b)) == (repr_of(a) == repr_of(b))


def repr_of(value) -> str:
    """A text that tells True from 1 and ignores the order of keys."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{k!r}:{repr_of(value[k])}" for k in sorted(value)) + "}"
    return "[" + ",".join(map(repr_of, value)) + "]" if isinstance(value, list) else repr(value)


X, S = pl.col("x"), pl.col("s")
EXPRESSIONS = [
    X + 1,
    X + 2,
    X - 1,
    X * 1.0,
    S == "a",
    S == "b",
    S.str.to_lowercase(),
    X.replace({1: 2}),
    X.is_in([1, 2]),
]


def test_a_column_is_its_name():
    assert expression_form(pl.col("x"), "") == "x"


def test_different_expressions_have_different_forms():
    forms = [to_json(expression_form(e, "")) for e in EXPRESSIONS]
    assert len(set(forms)) == len(forms)
    again = [X + 1, X + 2, X - 1]
    assert [to_json(expression_form(e, "")) for e in again] == forms[:3]


@pytest.mark.parametrize(
    "make",
    [
        lambda: X.map_elements(lambda v: hash(str(v)), return_dtype=pl.Int64),
        lambda: X.map_batches(lambda v: v, return_dtype=pl.Int64),
        lambda: pl.fold(pl.lit(0), lambda a, b: a + b, [X]),
        lambda: pl.col("tags").list.eval(pl.element().map_elements(hash, return_dtype=pl.Int64)),
        lambda: X.rolling_map(lambda v: 1, 2),
    ],
)
def test_a_python_function_has_no_form(make):
    with pytest.raises(DefinitionError, match="calls a Python function") as caught:
        expression_form(make(), "view 'v'")
    assert caught.value.where == "view 'v'"
    assert "Polars expressions" in (caught.value.hint or "")


def test_words_that_only_sound_like_functions_have_one():
    for expression in (S == "map_elements", S == "python_udf", pl.col("python") + 1, S.str.contains("rolling_map")):
        assert expression_form(expression, "")


PROGRAM = """
import polars as pl
from bedplate import DerivedFeature, Entity, FeatureView, LastN, Source, Sum
from bedplate.features.graph import FeatureGraph

def clean(rows):
    return rows.filter(pl.col("price") > 0).unique(maintain_order=True)

frame = pl.DataFrame(schema={"user": pl.Int64, "time": pl.Int64, "price": pl.Float64, "name": pl.String})
source = Source("e", frame, time="time", prepare=clean, delay="5m")
view = FeatureView("v", Entity("user", key="user"), source, {
    "spend": Sum(pl.col("price") * 2, windows=["1d", "7d"], where=pl.col("name").is_in(["a", "b"])),
    "recent": LastN({"n": pl.col("name").str.to_lowercase(), "price": "price"}, 5, age="age"),
}, where=pl.col("price").is_finite(), ttl="30d")
derived = DerivedFeature("half", pl.when(pl.col("v.spend_1d") > 0).then(pl.col("v.spend_7d")).otherwise(None))
graph = FeatureGraph([view], [derived])
print([f.id for f in graph.features.values()], graph.views["v"].id)
"""


def test_ids_are_the_same_in_every_process():
    def ids(seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": seed}
        return subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    first = ids("1")
    assert len(first) > 200
    assert ids("2") == first


def test_string_ids_never_change():
    # From RFC 7693 by hashlib, written down: every index and store on disk holds such ids.
    assert string_ids(["", "85123A"]) == [-5426141060434712860, 3141760557156334012]


@given(st.lists(st.text(), unique=True, max_size=20))
def test_different_strings_have_different_ids(texts):
    ids = string_ids(texts)
    assert len(set(ids)) == len(texts)
    assert all(-(2**63) <= i < 2**63 for i in ids)
