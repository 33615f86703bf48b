"""From rows of a table to the values that are aggregated: every type of column, and rows that are refused."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.ordered import First, Last, LastN
from bedplate.aggregations.sketches import Quantile
from bedplate.canonical import string_ids
from bedplate.errors import DataError
from bedplate.features.entity import Entity, encode_keys
from bedplate.features.rows import Rows, prepare_rows, prepare_table
from bedplate.features.view import FeatureView
from bedplate.sources.base import Source
from bedplate.types import EARLIEST_TIME, LATEST_TIME, Type, to_micros

USER = Entity("user", key="user")
DAY = datetime(2026, 3, 29, tzinfo=UTC)
NOON = to_micros("2026-03-29T12:00:00")


def prepared(frame: pl.DataFrame, features=None, entities=USER, where=None, **options) -> Rows:
    if "time" not in frame.columns:
        frame = frame.with_columns(time=NOON + pl.int_range(pl.len()))
    if "user" not in frame.columns:
        frame = frame.with_columns(user=pl.lit(1))
    view = FeatureView(
        "v", entities, Source("e", frame, time="time", **options), features or {"n": Count()}, where=where
    )
    return prepare_rows(view.compile(), frame.lazy())


def values(series: pl.Series) -> list:
    """What is aggregated of a column, None where a row does not count."""
    rows = prepared(pl.DataFrame({"x": series}), {"last": Last("x")})
    selected = rows.selections[0]
    got = selected.inputs[0].tolist()
    texts = selected.texts[0]
    valid = [True] * len(got) if selected.valid is None else selected.valid.tolist()
    return [(texts[v] if texts is not None else v) if ok else None for v, ok in zip(got, valid, strict=True)]


INSTANTS = [datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC), None]
MICROS = [None if i is None else to_micros(i) for i in INSTANTS]


def instants(unit, zone) -> pl.Series:
    return pl.Series(INSTANTS, dtype=pl.Datetime("us", "UTC")).dt.convert_time_zone(zone).cast(pl.Datetime(unit, zone))


COLUMNS = [
    (pl.Series([1, None, -3], dtype=pl.Int8), [1, None, -3]),
    (pl.Series([1, None, 2**32 - 1], dtype=pl.UInt32), [1, None, 2**32 - 1]),
    (pl.Series([2**53 + 1, None, -(2**63)]), [2**53 + 1, None, -(2**63)]),
    (pl.Series([True, None, False]), [True, None, False]),
    (pl.Series([1.5, None, math.nan, -0.0]), [1.5, None, None, 0.0]),
    (pl.Series([0.1, None], dtype=pl.Float32), [float(np.float32(0.1)), None]),
    (pl.Series([Decimal("1.25"), None]), [1.25, None]),
    (pl.Series(["a", None, ""]), ["a", None, ""]),
    (pl.Series(["b", None, "a", "b"], dtype=pl.Categorical), ["b", None, "a", "b"]),
    (pl.Series(["b", None, "a"], dtype=pl.Enum(["a", "b"])), ["b", None, "a"]),
    (pl.Series([date(2026, 1, 2), None, date(1969, 12, 31)]), [to_micros("2026-01-02"), None, -86_400_000_000]),
    *((instants(unit, zone), MICROS) for unit in ("ms", "us", "ns") for zone in ("UTC", "Europe/Berlin")),
    (pl.Series([None, None], dtype=pl.String), [None, None]),
    (pl.Series([], dtype=pl.Categorical), []),
    (pl.Series([], dtype=pl.Float64), []),
]


@pytest.mark.parametrize(
    ("series", "expected"), COLUMNS, ids=lambda v: str(v.dtype) if isinstance(v, pl.Series) else ""
)
def test_every_type_of_column(series, expected):
    assert values(series) == expected


def test_decimals_keep_their_digits_whatever_their_type():
    given = [Decimal(t) for t in ("0.1", "123456.789", "-999999999999999", "0.00000012345678901", "2251799813685248.5")]
    series = pl.Series([*given, None], dtype=pl.Decimal(38, 20))
    assert values(series) == [float(d) for d in given] + [None]
    assert [Decimal(repr(v)) for v in values(series)[:-1]] == given


@pytest.mark.parametrize("lost", ["12345678901234567.89", "-9007199254740993.00"])
def test_a_decimal_that_would_lose_digits_is_refused_with_its_row(lost):
    frame = pl.DataFrame({"x": pl.Series([Decimal("1.5"), None, Decimal(lost)], dtype=pl.Decimal(38, 2))})
    with pytest.raises(DataError, match=f"1 of 3 decimals .* the first, {lost}, in row 2") as caught:
        prepared(frame, {"x": First("x")})
    assert "cast the row expression to pl.Float64" in (caught.value.hint or "")
    cents = prepared(frame, {"x": First((pl.col("x") * 100).cast(pl.Int64))}).selections[0]
    assert cents.inputs[0].tolist() == [150, 0, int(Decimal(lost) * 100)]
    assert len(prepared(frame, {"x": First(pl.col("x").cast(pl.Float64))})) == 3


@pytest.mark.parametrize("wrong", [math.inf, -math.inf])
def test_an_infinite_value_of_a_quantile_is_named(wrong):
    frame = pl.DataFrame({"x": [1.0, None, wrong, 2.0], "ok": [True, True, True, False]})
    with pytest.raises(DataError, match="1 infinite values, the first in row 2") as caught:
        prepared(frame, {"n": Count(), "q": Quantile(pl.col("x") * 2, 0.5, where="ok")}, where=pl.col("ok"))
    assert "view 'v', source 'e', the expression col(\"x\") * 2" in (caught.value.where or "")


def test_integers_beyond_64_bits_are_refused_by_value():
    frame = pl.DataFrame({"x": pl.Series([2**63], dtype=pl.UInt64)})
    with pytest.raises(DataError, match=r"can't read the rows: .*conversion .* failed"):
        prepared(frame, {"s": Sum(pl.col("x").cast(pl.Int64))})


def test_rows_keep_their_order_of_arrival():
    rows = prepared(
        pl.DataFrame({"user": [2, 1, 2], "time": [NOON + 5, NOON + 9, NOON + 5], "x": [1, 2, 3]}), {"s": Sum("x")}
    )
    assert rows.times.tolist() == [NOON + 5, NOON + 9, NOON + 5]
    assert rows.keys.tolist() == [[2], [1], [2]]
    assert rows.selections[0].inputs[0].tolist() == [1, 2, 3]
    assert len(rows) == 3


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical])
def test_string_keys_have_ids_and_texts(dtype):
    frame = pl.DataFrame({"user": pl.Series(["b", "a", "b", ""], dtype=dtype), "item": [1, 2, 3, 4]})
    rows = prepared(frame, entities=[Entity("item", key="item"), USER])
    assert rows.keys.tolist() == [[i + 1, k] for i, k in enumerate(string_ids(["b", "a", "b", ""]))]
    ints, texts = rows.key_texts
    assert ints is None
    assert texts is not None
    assert [texts[k] for k in rows.keys[:, 1].tolist()] == ["b", "a", "b", ""]


def test_a_row_counts_where_the_condition_is_true_and_every_input_is_there():
    frame = pl.DataFrame(
        {"x": [1, None, 3, 4, 5], "y": [1.0, 1.0, math.nan, 1.0, 1.0], "b": [True, True, True, None, False]}
    )
    rows = prepared(frame, {"l": LastN(["x", "y"], 3, where="b"), "n": Count(where="b"), "all": Count()})
    valid = [None if s.valid is None else s.valid.tolist() for s in rows.selections]
    # By the names of the features: all, l, n.
    assert valid == [None, [True, False, False, False, False], [True, True, True, False, False]]


def test_the_condition_of_a_view_leaves_rows_out():
    rows = prepared(pl.DataFrame({"x": [1, 2, None, 4]}), {"s": Sum("x")}, where=pl.col("x") > 1)
    assert rows.selections[0].inputs[0].tolist() == [2, 4]


@pytest.mark.parametrize("where", [None, pl.col("x") > 1])
def test_no_rows(where):
    frame = pl.DataFrame(schema={"user": pl.String, "time": pl.Date, "x": pl.Float64, "s": pl.String})
    rows = prepared(frame, {"l": LastN(["x", "s"], 2), "n": Count()}, where=where)
    assert len(rows) == 0
    assert rows.keys.shape == (0, 1)
    assert [[a.dtype.name for a in s.inputs] for s in rows.selections] == [["float64", "int64"], []]


TOO_LATE = LATEST_TIME
REFUSED = [
    ({"user": [1, None, None, 1]}, {}, "2 of 4 rows have no key, the first is row 1", "column 'user'"),
    ({"user": ["a", "a", None, "b"]}, {}, "1 of 4 rows have no key, the first is row 2", "column 'user'"),
    ({"time": [1, 2, None, 3]}, {}, "1 of 4 rows have no time, the first is row 2", "column 'time'"),
    ({"time": [DAY, DAY, None, None]}, {}, "2 of 4 rows have no time, the first is row 2", "column 'time'"),
    ({"time": [1, -1, 5, 6]}, {}, "row 1 has time -1, expected", "column 'time'"),
    ({"time": [1, 2, 3, TOO_LATE]}, {}, f"row 3 has time {TOO_LATE}, expected", "column 'time'"),
    ({"time": [date(1969, 12, 31), None, None, None]}, {}, "3 of 4 rows have no time, the first is row 1", "'time'"),
    ({"time": [datetime(2300, 1, 1)] * 4}, {}, "row 0 has time", "column 'time'"),
    ({"x": [1.0, math.inf, -math.inf, 2.0]}, {"s": Sum("x")}, "2 infinite values, the first in row 1", 'col("x")'),
    ({"x": ["1", "2", "three", "4"]}, {"s": Sum(pl.col("x").cast(pl.Int64))}, "can't read the rows", "e"),
]


@pytest.mark.parametrize(("columns", "features", "message", "place"), REFUSED)
def test_rows_that_are_refused(columns, features, message, place):
    with pytest.raises(DataError) as caught:
        prepared(pl.DataFrame(columns), features)
    shown = f"{caught.value.where}: {caught.value.message}"
    assert message in shown
    assert "source 'e'" in shown
    assert place in shown
    assert caught.value.hint


def test_the_ends_of_time_are_taken():
    rows = prepared(pl.DataFrame({"time": [EARLIEST_TIME, LATEST_TIME - 1]}))
    assert rows.times.tolist() == [EARLIEST_TIME, LATEST_TIME - 1]


def test_a_micro_batch_is_prepared_as_history_is():
    start = datetime(2026, 1, 1)
    frame = pl.DataFrame(
        {"user": [1, 2, 3, 4], "time": [start + timedelta(days=d) for d in range(4)], "x": [1, -1, 2, 3]}
    )
    source = Source("e", frame, time="time", prepare=lambda rows: rows.filter(pl.col("x") > 0))
    view = FeatureView("v", USER, source, {"s": Sum("x")}).compile()
    whole = prepare_rows(view, frame.lazy())
    parts = [prepare_rows(view, frame[a:b].lazy()) for a, b in ((0, 1), (1, 2), (2, 4))]
    assert np.concatenate([p.times for p in parts]).tolist() == whole.times.tolist()
    assert np.concatenate([p.selections[0].inputs[0] for p in parts]).tolist() == [1, 2, 3]


def test_only_the_selections_asked_for():
    frame = pl.DataFrame({"user": [1], "time": [NOON], "x": [5], "y": [7]})
    view = FeatureView("v", USER, Source("e", frame, time="time"), {"a": Sum("x"), "b": Sum("y")}).compile()
    assert [s.inputs[0].tolist() for s in prepare_rows(view, frame.lazy(), [1]).selections] == [[7]]


@pytest.mark.parametrize(
    ("keys", "kind", "expected"),
    [
        ([7, 9], Type.INT, [7, 9]),
        (np.array([7, 9], np.int32), Type.INT, [7, 9]),
        (pl.Series(["a"], dtype=pl.Categorical), Type.STRING, string_ids(["a"])),
        (np.array(["a", "b"]), Type.STRING, string_ids(["a", "b"])),
        ([], Type.STRING, []),
    ],
)
def test_keys_that_a_person_gives(keys, kind, expected):
    assert encode_keys(keys, kind, "customer").tolist() == expected


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ([1.5], Type.INT),
        ([True], Type.INT),
        (["1"], Type.INT),
        ([1], Type.STRING),
        ([1, "a"], Type.INT),
        ([1, None], Type.INT),
        ([None], Type.STRING),
        ([2**63], Type.INT),
        (np.array([1], np.uint64), Type.INT),
        ([[1]], Type.INT),
    ],
)
def test_keys_of_another_type_are_refused(keys, kind):
    with pytest.raises(DataError, match=r"^customer: got "):
        encode_keys(keys, kind, "customer")


def large_view(frame: pl.DataFrame):
    features = {"last": Last("note"), "sum": Sum("x", where=pl.col("x") > 3), "n": Count()}
    entities = (USER, Entity("shop", key="shop"))
    return FeatureView("v", entities, Source("e", frame, time="time"), features, where=pl.col("x") < 90).compile()


def large_frame(rows: int) -> pl.DataFrame:
    draw = np.random.default_rng(rows)
    return pl.DataFrame(
        {
            "user": draw.integers(0, 99, rows),
            "shop": draw.choice(["north", "south", "é"], rows),
            "time": 10**15 + draw.integers(0, 10**12, rows),
            "x": np.round(draw.random(rows) * 100, 1),
            "note": np.where(np.arange(rows) < rows - 5, "same", "late"),
        }
    )


@pytest.mark.parametrize("told", [200_000, 300_000, 900_000])
def test_a_table_in_pieces_is_the_table_at_once(told):
    frame = large_frame(300_000).with_columns(note=pl.when(pl.col("time") % 7 > 0).then("note"))
    view = large_view(frame)
    one, other = prepare_rows(view, frame.lazy()), prepare_table(view, frame.lazy(), told)
    np.testing.assert_array_equal(one.times, other.times)
    np.testing.assert_array_equal(one.keys, other.keys)
    assert one.key_texts == other.key_texts
    for selected, joined in zip(one.selections, other.selections, strict=True):
        assert selected.texts == joined.texts
        assert (selected.valid is None) == (joined.valid is None)
        valid = slice(None) if selected.valid is None or joined.valid is None else selected.valid
        if joined.valid is not None:
            np.testing.assert_array_equal(selected.valid, joined.valid)
        for values, others in zip(selected.inputs, joined.inputs, strict=True):
            np.testing.assert_array_equal(values[valid], others[valid])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("time", None, "1 of 300,000 rows have no time, the first is row 290,000"),
        ("time", -3, "row 290,000 has time -3"),
        ("user", None, "1 of 300,000 rows have no key, the first is row 290,000"),
        ("x", math.inf, "1 infinite values, the first in row 290,000"),
    ],
)
def test_a_wrong_row_of_a_large_table_is_named_by_its_place_in_the_table(column, value, message):
    frame = large_frame(300_000)
    frame[290_000, column] = value
    view = FeatureView("v", USER, Source("e", frame, time="time"), {"sum": Sum("x")}).compile()
    with pytest.raises(DataError, match=message):
        prepare_table(view, frame.lazy(), 300_000)
