"""Derived features by functions: values and nulls, the law of rows, identity; and the functions that come with it."""

from __future__ import annotations

import importlib
import linecache
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import numpy as np
import polars as pl
import pytest
import row_functions as rows

from bedplate.aggregations.ordered import Last, LastN
from bedplate.batch import Dense, Embedding, Ids, column_to_series
from bedplate.canonical import string_ids
from bedplate.errors import DataError, DefinitionError
from bedplate.features import functions as ready
from bedplate.features.context import Context
from bedplate.features.derived import DerivedFeature, evaluate
from bedplate.features.entity import Entity
from bedplate.features.graph import FeatureGraph
from bedplate.features.view import FeatureView
from bedplate.sources.base import Source
from bedplate.types import Type, to_micros

FRAME = pl.DataFrame(
    {"user": [1], "time": [to_micros("2026-01-01")], "x": [1.5], "n": [3], "name": ["red mug"], "tags": ["a"]}
).with_columns(image=pl.Series([[1.0, 2.0, 3.0]], dtype=pl.Array(pl.Float32, 3)))
SOURCE = Source("events", FRAME, time="time")
VIEW = FeatureView(
    "v",
    Entity("user", key="user"),
    SOURCE,
    {**{c: Last(c) for c in ("x", "n", "name", "image")}, "tags": LastN("tags", 3)},
)
QUERY = Context("query", str)
TIMES = np.array([to_micros("2026-03-29T00:59:00Z"), to_micros("2026-03-29T01:01:00Z"), 0], np.int64)


def texts(*values: str | None) -> Ids:
    there = np.array([v is not None for v in values])
    ids = string_ids([v or "" for v in values])
    return Ids(np.array(ids, np.int64), there, dict(zip(ids, [v or "" for v in values], strict=True)))


COLUMNS = {
    "v.x": Dense(np.array([1.0, 2.0, 0.0]), np.array([True, False, True])),
    "v.n": Dense(np.array([1, 0, -3])),
    "v.name": texts("Red Mug", None, ""),
    "v.image": Embedding(np.arange(9, dtype=np.float32).reshape(3, 3), np.array([True, True, False])),
    "request.query": texts("mug", "cup", None),
}


def feature(function, inputs, kind, name="f"):
    return DerivedFeature(name, function=function, inputs=inputs, type=kind)


def graph(*derived: DerivedFeature) -> FeatureGraph:
    return FeatureGraph([VIEW], derived, contexts=[QUERY])


@pytest.mark.parametrize(
    ("function", "inputs", "kind", "expected"),
    [
        (rows.double, ["v.x"], float, [2.0, None, 0.0]),
        (rows.double, ["v.n"], "float64", [2.0, 0.0, -6.0]),
        (rows.helped, ["v.n"], int, [4, 1, -8]),
        (rows.lengths, ["v.name"], int, [7, None, 0]),
        (rows.cached_lengths, ["v.name"], int, [7, None, 0]),
        (rows.shouted, ["v.name"], str, ["RED MUG", None, None]),
        (rows.words, ["v.name"], list[str], [["red", "mug"], [], []]),
        (rows.flipped, ["v.image"], "vector[3]", [[2.0, 1.0, 0.0], [5.0, 4.0, 3.0], None]),
        (rows.known, ["v.name"], bool, [False, None, False]),
        (rows.positive, ["v.n"], int, [1, None, None]),
        (rows.moments, ["request.time"], datetime, [int(t) + 86_400_000_000 for t in TIMES]),
        (ready.cosine, ["v.image", "v.image"], float, [1.0, 1.0, None]),
        (ready.token_overlap, [QUERY, "v.name"], float, [1.0, None, None]),
        (ready.local_hour, ["request.time", "v.name"], int, [None, None, None]),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_values_and_nulls(function, inputs, kind, expected):
    made = feature(function, inputs, kind)
    found = graph(made).features["f"]
    got = evaluate([made], COLUMNS, TIMES)["f"]
    shown = column_to_series(got)
    assert shown.to_list() == expected
    assert found.is_list == isinstance(shown.dtype, pl.List)
    for row in range(3):
        at = np.array([row])
        one = evaluate([made], {n: c.take(at) for n, c in COLUMNS.items()}, TIMES[at])["f"]
        assert column_to_series(one).to_list() == expected[row : row + 1]
    none = np.zeros(0, np.int64)
    empty = evaluate([made], {n: c.take(none) for n, c in COLUMNS.items()}, none)["f"]
    assert len(empty) == 0
    assert column_to_series(empty).dtype == shown.dtype


def test_a_function_of_one_text_is_called_once_for_each():
    calls: list[int] = []

    def counting(strings):
        calls.append(len(strings))
        return np.array([len(s) for s in strings])

    made = feature(rows.lengths, ["v.name"], int)
    monkey = counting
    made.function = type(made.function)(monkey, Type.INT, False, "f")
    names = Ids(np.array(string_ids(["a", "bb", "a"]), np.int64), None, dict(zip(string_ids(["a", "bb"]), ["a", "bb"], strict=True)))  # fmt: skip  # noqa: E501
    for _ in range(2):
        assert column_to_series(evaluate([made], {"v.name": names}, TIMES)["f"]).to_list() == [1, 2, 1]
    assert sum(calls) == 2 + 2 + 2  # proven together and alone, then computed: and never again


@pytest.mark.parametrize(
    ("function", "inputs", "kind", "message"),
    [
        (rows.centred, ["v.x"], float, "the value of a row depends on other rows"),
        (rows.ordered, ["v.n"], int, "the value of a row depends on other rows"),
        (rows.shorter, ["v.x"], float, r"gives an array of shape \[6\], expected an array \[7\] of float64"),
        (rows.as_list, ["v.x"], float, "gives a list, expected"),
        (rows.as_text, ["v.x"], float, "gives an array of <U"),
        (rows.double, ["v.x"], int, "gives an array of float64, expected an array .* of int64"),
        (rows.flipped, ["v.image"], "vector[4]", r"shape \[7, 3\], expected an array \[7, 4\] of vector"),
        (rows.lengths, ["v.name"], str, "a int among the strings"),
        (rows.double, ["v.x"], list[float], "gives .* lists|gives a ndarray"),
        (rows.failing, ["v.x"], float, "fails: ValueError: no such zone; its inputs are v.x float64\n  it must take"),
        (rows.double, ["v.tags"], float, "'v.tags' is a list of string, which no function takes"),
        (rows.double, ["v.y"], float, "unknown feature 'v.y'"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_what_is_wrong_is_said_when_it_is_defined(function, inputs, kind, message):
    with pytest.raises(DefinitionError, match=message):
        graph(feature(function, inputs, kind))


@pytest.mark.parametrize(
    ("function", "inputs", "message"),
    [
        (
            ready.cosine,
            ["v.image", "v.name"],
            r"cosine takes a vector, a vector; got v.image vector\[3\], v.name string",
        ),
        (ready.dot, ["v.image", "wide"], r"dot takes vectors of one width; got v.image vector\[3\], wide vector\[4\]"),
        (
            ready.haversine,
            ["v.x", "v.x", "v.name", "v.x"],
            "haversine takes a number, .*; got v.x float64, v.x float64, v.name",
        ),
        (ready.haversine, ["v.x", "v.x"], "haversine takes a number, .*; got v.x float64, v.x float64"),
        (ready.token_overlap, ["v.name", "v.n"], "token_overlap takes a text, a text; got v.name string, v.n int64"),
        (ready.local_hour, ["v.x", "v.name"], "local_hour takes a time, a text; got v.x float64, v.name string"),
        (
            ready.local_weekday,
            ["v.name", "request.time"],
            "local_weekday takes a time, a text; got v.name string, request.time",
        ),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_a_shipped_function_says_which_types_it_takes(function, inputs, message):
    """In the project's words, not in NumPy's."""
    wide = DerivedFeature("wide", function=rows.widened, inputs=["v.image"], type="vector[4]")
    with pytest.raises(DefinitionError, match=message) as caught:
        graph(wide, feature(function, inputs, int if "local" in function.__name__ else float))
    assert "derived feature 'f'" in str(caught.value)


def test_the_law_of_rows_is_checked_on_the_first_real_rows_too():
    made = feature(rows.double, ["v.x"], float)

    def batched(x):  # only wrong on values that no made-up row has
        return x * (len(x) if (x > 1e7).any() else 1)

    made.function = type(made.function)(batched, Type.FLOAT, False, "derived feature 'f'")
    column = Dense(np.array([1e8, 2e8]))
    with pytest.raises(DataError, match=r"derived feature 'f': the value of a row depends .* inputs \(100000000.0\)"):
        evaluate([made], {"v.x": column}, TIMES[:2])


def test_a_function_that_ends_the_program_is_one_that_fails():
    made = feature(rows.double, ["v.x"], float)

    def ending(x):
        raise SystemExit("no such zone")

    made.function = type(made.function)(ending, Type.FLOAT, False, "derived feature 'f'")
    with pytest.raises(DataError, match="derived feature 'f': the function fails: SystemExit: no such zone"):
        evaluate([made], {"v.x": Dense(np.ones(2))}, TIMES[:2])


def test_an_interrupt_that_no_signal_has_caused_is_the_functions_own():
    """Signals interrupt the main thread alone, and no server's."""
    made = feature(rows.double, ["v.x"], float)

    def interrupting(x):
        raise KeyboardInterrupt

    made.function = type(made.function)(interrupting, Type.FLOAT, False, "derived feature 'f'")
    with ThreadPoolExecutor(1) as pool, pytest.raises(DataError, match="the function fails: KeyboardInterrupt"):
        pool.submit(evaluate, [made], {"v.x": Dense(np.ones(2))}, TIMES[:2]).result()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x, "got a lambda"),
        (rows.closure, "made inside another function"),
        (rows.scaled, "got a partial"),
        (np.hypot, "got a ufunc"),
        (rows.looked_up, "'TABLE', which .*looked_up' uses, is a dict, which can change"),
        ("double", "got a str"),
    ],
)
def test_a_function_has_an_identity_that_stays(function, message):
    with pytest.raises(DefinitionError, match=message):
        feature(function, ["v.x"], float)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected an expression or a function="),
        ({"expression": pl.col("v.x"), "function": rows.double}, "one of them"),
        ({"expression": pl.col("v.x"), "type": float}, "inputs and type are for a function"),
        ({"function": rows.double, "inputs": ["v.x"]}, "got no type"),
        ({"function": rows.double, "inputs": ["v.x"], "type": "vector[0]"}, r"got the type 'vector\[0\]'"),
        ({"function": rows.double, "inputs": ["v.x"], "type": dict}, "got the type 'dict'"),
        ({"function": rows.double, "inputs": ["v.x"], "type": list[Type.vector(2)]}, "a list of vector"),
        ({"function": rows.double, "inputs": "v.x", "type": float}, "got the inputs 'v.x', expected a list"),
        ({"function": rows.double, "inputs": [3], "type": float}, "got the input 3"),
        ({"function": rows.double, "inputs": [], "type": float}, "uses no feature"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(DefinitionError, match=message):
        DerivedFeature("f", **arguments)
    with pytest.raises(DefinitionError, match=r"'request\.' is for the request's own inputs"):
        DerivedFeature("request.f", pl.col("v.x"))


SOURCE_TEXT = '''
import numpy as np
import re

FACTOR = 2.0
WORDS = re.compile("a+")

class Unit:
    km = 1.0

def helper(x):
    return x * FACTOR

def function(x, offset=1.0):
    """Says what it does."""
    # says how
    return helper(x) + offset + Unit.km + (0 if WORDS.match("a") else 1)

def unused(x):
    return x
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("Says what it does.", "Says it otherwise.", True),
        ("# says how", "# says it\n    # otherwise", True),
        ("def unused(x):\n    return x", "def unused(x):\n    return -x", True),
        ("import numpy as np", "import numpy", True),
        ("FACTOR = 2.0", "FACTOR = 3.0", False),
        ("return x * FACTOR", "return FACTOR + x", False),
        ("offset=1.0", "offset=2.0", False),
        ('"a+"', '"b+"', False),
        ("km = 1.0", "km = 2.0", False),
        ("+ offset", "- offset", False),
    ],
)
def test_the_id_follows_all_that_the_value_depends_on(tmp_path, monkeypatch, old, new, same):
    monkeypatch.syspath_prepend(tmp_path)

    def made(name: str, text: str) -> object:
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        function = importlib.import_module(name).function
        form = feature(function, ["v.x"], float).form()
        sys.modules.pop(name)
        return form["id"]

    assert old in SOURCE_TEXT
    first = made("definitions_of_functions", SOURCE_TEXT)
    (tmp_path / "definitions_of_functions.py").unlink()
    linecache.clearcache()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    assert (made("definitions_of_functions", SOURCE_TEXT.replace(old, new)) == first) is same


def test_the_graph_knows_what_context_a_feature_needs():
    overlap = feature(ready.token_overlap, [QUERY, "v.name"], float, "overlap")
    half = DerivedFeature("half", pl.col("overlap") / 2)
    features = graph(overlap, half)
    assert features.features["half"].context == (("request.query", Type.STRING),)
    assert features.features["v.x"].context == ()
    assert features.select(["half"]).contexts == (QUERY,)
    assert features.select(["v.x"]).contexts == ()
    other = FeatureGraph([VIEW], [overlap, half], contexts=[Context("query", str, column="text")])
    assert other.features["half"].id == features.features["half"].id
    with pytest.raises(DefinitionError, match=r"unknown feature 'request\.query'"):
        FeatureGraph([VIEW], [overlap])


def test_distances():
    near = ready.haversine(*(np.array([v]) for v in (0.0, 0.0, 0.0, 1.0)))
    assert near[0] == pytest.approx(np.pi * ready.EARTH_RADIUS / 180)
    across = ready.haversine(np.array([10.0, 91.0]), np.array([179.5, 0]), np.array([10.0, 0]), np.array([-179.5, 0]))
    assert across[0] == pytest.approx(109.5, abs=0.1)
    assert np.isnan(across[1])
    poles = ready.haversine(np.array([90.0]), np.array([0.0]), np.array([-90.0]), np.array([55.0]))
    assert poles[0] == pytest.approx(np.pi * ready.EARTH_RADIUS)


def test_likeness_of_vectors():
    a = np.array([[1, 0], [0, 0], [1e30, 1e30]], np.float32)
    b = np.array([[-2, 0], [1, 1], [1e30, 1e30]], np.float32)
    assert ready.dot(a[:1], b[:1]).tolist() == [-2.0]
    assert np.nan_to_num(ready.cosine(a, b), nan=9.0).tolist() == [-1.0, 9.0, pytest.approx(1.0)]


def test_local_time_follows_daylight_saving():
    """In Vienna clocks went from 02:00 to 03:00 on 29 March 2026 at 01:00 UTC."""
    frame = pl.DataFrame({"request.time": TIMES}).cast(pl.Datetime("us", "UTC"))
    assert frame.select(ready.local_time("Europe/Vienna").dt.hour())["request.time"].to_list() == [1, 3, 1]
    zones = np.array(["Europe/Vienna", "America/New_York", "nowhere"], object)
    assert ready.local_hour(TIMES, zones).tolist() == [1, 21, None]
    assert ready.local_weekday(TIMES, zones).tolist() == [7, 6, None]
    with pytest.raises(DefinitionError, match="got 'Vienna', expected the IANA name"):
        ready.local_time("Vienna")
    hour = DerivedFeature("hour", ready.local_time("Europe/Vienna").dt.hour())
    assert graph(hour).features["hour"].type is Type.INT
    assert evaluate([hour], {}, TIMES)["hour"].values.tolist() == [1, 3, 1]


def test_overlap_counts_different_words():
    query = np.array(["Red red mug!", "été ÉTÉ", "", "a_b"], object)
    title = np.array(["a red cup", "L'été", "x", "b"], object)
    assert np.nan_to_num(ready.token_overlap(query, title), nan=-1).tolist() == [0.5, 1.0, -1.0, 0.5]


def test_the_text_names_the_function_and_its_inputs():
    made = feature(ready.cosine, ["v.image", "v.image"], float)
    assert re.fullmatch(r"bedplate\.features\.functions\.cosine\(v\.image, v\.image\): float64", made.text)
