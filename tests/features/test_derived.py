"""Derived features: every kind of value, nulls, the memo of strings, and several at once."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.batch import Column, Dense, Embedding, Ids, ManyTexts, Ragged, column_to_series
from bedplate.canonical import string_ids
from bedplate.errors import DefinitionError
from bedplate.features import derived as module
from bedplate.features import memo
from bedplate.features.derived import DerivedFeature, evaluate, series_to_column
from bedplate.types import to_micros

BIG = 2**53 + 1
DAY = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
TIMES = np.array([to_micros(DAY)] * 3, np.int64)


def texts(*values: str | None) -> Ids:
    there = np.array([v is not None for v in values])
    ids = [string_ids([v])[0] if v is not None else 0 for v in values]
    return Ids(
        np.array(ids, np.int64),
        None if there.all() else there,
        {i: v for i, v in zip(ids, values, strict=True) if v is not None},
    )


INPUTS: dict[str, Column] = {
    "f": Dense(np.array([1.5, 0.0, 4.0]), np.array([True, False, True])),
    "i": Dense(np.array([BIG, 0, -BIG]), np.array([True, False, True])),
    "b": Dense(np.array([True, False, True])),
    "s": texts("Red Mug", None, "blue"),
    "t": texts("Red Mug", "blue", "Red Mug"),
    "l": Ragged(Dense(np.array([3, 1, 2])), np.array([0, 2, 2, 3])),
}

KINDS = {
    "number": (pl.col("f") * 2, [3.0, None, 8.0]),
    "nan": (pl.col("f") - pl.col("f") + math.nan, [None, None, None]),
    "infinite": (pl.col("b").cast(pl.Float64) / 0.0, [None, None, None]),
    "some infinite": (1 / (pl.col("f") - 1.5), [None, None, 0.4]),
    "null": (pl.when(pl.col("f") > 2).then(pl.col("f")), [None, None, 4.0]),
    "filled": (pl.col("f").fill_null(-1), [1.5, -1.0, 4.0]),
    "whole": (pl.col("i") + 1, [BIG + 1, None, -BIG + 1]),
    "small": (pl.col("b").cast(pl.Int8), [1, 0, 1]),
    "unsigned": (pl.col("s").str.len_chars(), [7, None, 4]),
    "flag": (pl.col("f") > 2, [False, None, True]),
    "opposite": (~pl.col("b"), [False, True, False]),
    "text": (pl.col("s").str.to_lowercase(), ["red mug", None, "blue"]),
    "category": (pl.col("s").cast(pl.Categorical), ["Red Mug", None, "blue"]),
    "words": (pl.col("s").str.split(" "), [["Red", "Mug"], [], ["blue"]]),
    "letters": (pl.col("t").str.extract_all("[a-z]"), [list("edug"), list("blue"), list("edug")]),
    "numbers": (pl.col("l") * 2, [[6, 2], [], [4]]),
    "ratios": (pl.col("l") / 2.0, [[1.5, 0.5], [], [1.0]]),
    "partly": (pl.col("l").list.eval(pl.when(pl.element() > 1).then(pl.element())), [[3, None], [], [2]]),
    "vector": (pl.concat_arr("b", "b").cast(pl.Array(pl.Float32, 2)), [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]),
    "part of a vector": (pl.concat_arr(pl.col("f"), pl.lit(1.0, pl.Float64)), [[1.5, 1.0], None, [4.0, 1.0]]),
    "day": (pl.col("request.time").dt.truncate("1d"), [to_micros("2026-03-01")] * 3),
    "date": (pl.when(pl.col("b")).then(pl.col("request.time").dt.date()), [to_micros("2026-03-01"), None] * 2),
    "millis": (pl.when(pl.col("b")).then(pl.col("request.time").dt.cast_time_unit("ms")), [to_micros(DAY), None] * 2),
    "hour": (pl.col("request.time").dt.hour(), [12, 12, 12]),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_value(name):
    expression, expected = KINDS[name]
    got = evaluate([DerivedFeature(name, expression)], INPUTS, TIMES)[name]
    assert column_to_series(got).to_list() == expected[:3]
    if isinstance(got, Dense | Embedding) and got.present is not None:
        # Arithmetic on what is not present must not warn or spread.
        assert np.isfinite(got.values.astype(np.float64)).all()


def test_several_at_once_are_each_on_its_own():
    features = [DerivedFeature(n, e) for n, (e, _) in KINDS.items()]
    together = evaluate(features, INPUTS, TIMES)
    assert together.keys() == KINDS.keys()
    for feature in features:
        fresh = DerivedFeature(feature.name, feature.expression)
        alone = evaluate([fresh], INPUTS, TIMES)[feature.name]
        assert column_to_series(together[feature.name]).to_list() == column_to_series(alone).to_list(), feature.name


def test_rows_do_not_depend_on_each_other():
    features = [DerivedFeature(n, e) for n, (e, _) in KINDS.items()]
    whole = evaluate(features, INPUTS, TIMES)
    for row in range(3):
        at = np.array([row])
        one = evaluate(features, {n: c.take(at) for n, c in INPUTS.items()}, TIMES[at])
        for name in KINDS:
            assert column_to_series(one[name]).to_list() == column_to_series(whole[name].take(at)).to_list(), name


def test_no_rows():
    none = np.zeros(0, np.int64)
    got = evaluate(
        [DerivedFeature(n, e) for n, (e, _) in KINDS.items()], {n: c.take(none) for n, c in INPUTS.items()}, none
    )
    assert {n: len(c) for n, c in got.items()} == dict.fromkeys(KINDS, 0)


WORDS = pl.col("s").str.to_lowercase().str.extract_all("[a-z]+")


@given(st.lists(st.lists(st.text(alphabet="aB c", max_size=4), max_size=6), max_size=4))
def test_the_memo_changes_nothing(batches):
    remembering = {e: DerivedFeature(e, x) for e, x in (("w", WORDS), ("n", pl.col("s").str.len_chars()))}
    for batch in batches:
        columns: Mapping[str, Column] = {"s": texts(*batch)}
        times = np.zeros(len(batch), np.int64)
        frame = pl.DataFrame({"s": pl.Series(batch, dtype=pl.String)})
        expected = frame.select(f.expression.alias(n) for n, f in remembering.items())
        got = evaluate(list(remembering.values()), columns, times)
        for name in ("w", "n"):
            assert column_to_series(got[name]).to_list() == expected[name].to_list()


def counted(monkeypatch) -> list[int]:
    """How many strings are computed, call by call."""
    sizes: list[int] = []
    real = module.series_to_column

    def counting(series: pl.Series) -> Column:
        sizes.append(len(series))
        return real(series)

    monkeypatch.setattr(module, "series_to_column", counting)
    return sizes


def test_a_string_is_computed_once_until_there_are_too_many(monkeypatch):
    sizes = counted(monkeypatch)
    feature = DerivedFeature("w", pl.col("s").str.len_chars())

    def lengths(*values: str) -> list[int]:
        return column_to_series(
            evaluate([feature], {"s": texts(*values)}, np.zeros(len(values), np.int64))["w"]
        ).to_list()

    assert lengths("a", "bb", "a", "a") == [1, 2, 1, 1]
    assert lengths("bb", "a") == [2, 1]
    assert sizes == [2]
    assert lengths("ccc", "a") == [3, 1]
    assert sizes == [2, 1]
    monkeypatch.setattr(memo, "MOST_REMEMBERED", 2)
    assert lengths("dddd") == [4]
    assert sizes == [2, 1, 1]
    assert lengths("a", "dddd") == [1, 4]
    assert sizes == [2, 1, 1, 1]


@pytest.mark.parametrize("name", ["number", "part", "words", "text", "vector"])
def test_a_memo_of_every_form_grows(name):
    """Strings come one after the other; each keeps the value that it has alone, nulls included."""
    s = pl.col("s")
    forms = {
        "number": s.str.len_chars(),
        "part": pl.when(s.str.len_chars() > 2).then(s.str.len_chars()),
        "words": s.str.extract_all("[a-z]"),
        "text": s.str.to_uppercase(),
        "vector": pl.concat_arr(s.str.len_chars(), s.str.len_chars()).cast(pl.Array(pl.Float32, 2)),
    }
    feature = DerivedFeature(name, forms[name])
    strings = [f"a{'b' * i}" for i in range(9)]
    for i in [*range(9), 0]:
        evaluate([feature], {"s": texts(strings[i])}, np.zeros(1, np.int64))
    got = evaluate([feature], {"s": texts(*reversed(strings))}, np.zeros(9, np.int64))[name]
    frame = pl.DataFrame({"s": list(reversed(strings))})
    assert column_to_series(got).to_list() == frame.select(forms[name].alias(name))[name].to_list()


def test_a_new_string_costs_its_own_work(monkeypatch):
    """However many are known: what is computed and asked of the texts is what is new."""
    asked: list[list[int]] = []

    class Recording(ManyTexts):
        def load(self, ids):
            asked.append(list(ids))

        def __getitem__(self, key):
            return known[key]

        def __iter__(self):
            return iter(known)

        def __len__(self):
            return len(known)

    strings = [str(i) for i in range(2000)]
    known = dict(zip(string_ids(strings), strings, strict=True))
    sizes = counted(monkeypatch)
    feature = DerivedFeature("n", pl.col("s").str.len_chars())
    ids = np.array(list(known), np.int64)
    evaluate([feature], {"s": Ids(ids[:-1], None, Recording())}, np.zeros(1999, np.int64))
    got = evaluate([feature], {"s": Ids(ids[-3:], None, Recording())}, np.zeros(3, np.int64))["n"]
    assert column_to_series(got).to_list() == [4, 4, 4]
    assert sizes == [1999, 1]
    assert [len(a) for a in asked] == [1999, 1]


def test_threads_share_a_memo():
    feature = DerivedFeature("w", pl.col("s").str.len_chars())
    wrong: list[object] = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(40):
            words = ["x" * int(n) for n in random.integers(0, 60, 8)]
            got = evaluate([feature], {"s": texts(*words)}, np.zeros(8, np.int64))["w"]
            if column_to_series(got).to_list() != [len(w) for w in words]:
                wrong.append(words)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2199, 1, 1))
SERIES = st.one_of(
    *(
        st.lists(s | st.none(), max_size=6).map(lambda v, d=d: pl.Series("x", v, dtype=d))
        for s, d in (
            (FLOATS, pl.Float64),
            (st.integers(-(2**63), 2**63 - 1), pl.Int64),
            (st.integers(0, 2**32 - 1), pl.UInt32),
            (st.booleans(), pl.Boolean),
            (st.text(max_size=3), pl.String),
            (st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), max_size=3), pl.List(pl.Int64)),
            (st.lists(FLOATS | st.none(), max_size=3), pl.List(pl.Float64)),
            (st.lists(st.text(max_size=2) | st.none(), max_size=3), pl.List(pl.String)),
            (st.lists(st.booleans() | st.none(), max_size=3), pl.List(pl.Boolean)),
            (st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=2), pl.Array(pl.Float32, 2)),
        )
    )
)


@given(SERIES)
def test_a_series_is_a_column_and_back(series):
    back = column_to_series(series_to_column(series), "x")
    expected = series.to_list()
    if isinstance(series.dtype, pl.List):
        expected = [v or [] for v in expected]
    assert back.to_list() == expected


@given(st.lists(MOMENTS | st.none(), max_size=5), st.sampled_from(["ms", "us", "ns"]))
def test_times_are_microseconds_in_every_unit(moments, unit):
    moments = [m and m.replace(microsecond=m.microsecond // 1000 * 1000) for m in moments]
    expected = [m and to_micros(m) for m in moments]
    series = pl.Series("x", moments, dtype=pl.Datetime("us")).cast(pl.Datetime(unit))
    assert column_to_series(series_to_column(series)).to_list() == expected
    nested = column_to_series(series_to_column(pl.Series("x", [moments], dtype=pl.List(pl.Datetime("us")))))
    assert nested.to_list() == [expected]


def test_dates_with_nulls_are_microseconds():
    dates = [date(2026, 1, 2), None]
    assert column_to_series(series_to_column(pl.Series(dates))).to_list() == [to_micros("2026-01-02"), None]


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_a_vector_with_a_hole_is_not_present(bad):
    column = series_to_column(pl.Series("x", [[1.0, bad], [1.0, 2.0]], dtype=pl.Array(pl.Float64, 2)))
    assert isinstance(column, Embedding)
    assert column.values.tolist() == [[0.0, 0.0], [1.0, 2.0]]
    assert column.present is not None
    assert column.present.tolist() == [False, True]


@pytest.mark.parametrize(
    "series",
    [
        pl.Series("x", [[[1]]]),
        pl.Series("x", [[[1.0, 2.0]]], dtype=pl.List(pl.Array(pl.Float64, 2))),
        pl.Series("x", [[[1.0], [2.0]]], dtype=pl.Array(pl.Float64, (2, 1))),
        pl.Series("x", [["a", "b"]], dtype=pl.Array(pl.String, 2)),
        pl.Series("x", [{"a": 1}]),
        pl.Series("x", [2**63], dtype=pl.UInt64),
        pl.Series("x", [None]),
    ],
    ids=lambda s: str(s.dtype),
)
def test_values_of_no_kind_are_refused(series):
    with pytest.raises(DefinitionError, match=r"'x' is .*, expected"):
        series_to_column(series)
