"""What a condition implies of columns, and which files can hold no row that meets it."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.sources.base import Source
from bedplate.sources.pruning import Bounds, Term, may_match, terms_of
from bedplate.sources.scan import terms_asked
from bedplate.testing.tables import TYPES

SCHEMA = {
    "n": pl.Int64(),
    "x": pl.Float64(),
    "y": pl.Float32(),
    "s": pl.String(),
    "b": pl.Boolean(),
    "d": pl.Date(),
    "t": pl.Datetime("us", "UTC"),
    "naive": pl.Datetime("us"),
    "c": pl.Decimal(10, 2),
}
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (pl.col("n") == 3, "n == 3"),
        (pl.lit(3) < pl.col("n"), "n > 3"),
        ((pl.col("n") > 1) & (pl.col("s") <= "z"), "n > 1, s <= z"),
        ((pl.col("n") > 1) & (pl.col("n") * 2 > 5) & (pl.col("d") < date(2026, 1, 2)), "n > 1, d < 2026-01-02"),
        (pl.col("n").is_in([5, 2, 9, None]), "n >= 2, n <= 9"),
        (pl.col("n").is_between(2, 4, closed="none"), "n >= 2, n <= 4"),
        (pl.col("t") >= NOON, "t >= 2026-01-01 12:00:00+00:00"),
        (pl.col("naive") >= NOON.replace(tzinfo=None), "naive >= 2026-01-01 12:00:00"),
        (pl.col("b") == pl.lit(value=True), "b == True"),
        (pl.col("x") < 2.5, "x < 2.5"),
        (pl.col("n") > pl.lit(2) + 3, "n > 5"),
        ((pl.col("n") > 1) | pl.col("n").is_null(), "n > 1 or null"),
        (pl.col("n").is_null() | pl.col("n").is_between(2, 4), "n >= 2 or null, n <= 4 or null"),
    ],
)
def test_terms_are_found(condition, expected):
    shown = [f"{t.column} {t.operator} {t.value}{' or null' * t.or_null}" for t in terms_of(condition, SCHEMA)]
    assert ", ".join(shown) == expected


@pytest.mark.parametrize(
    "condition",
    [
        pl.col("n") != 3,
        (pl.col("n") > 1) | (pl.col("s") == "a"),
        (pl.col("n") > 1) | pl.col("s").is_null(),
        (pl.col("n") > 1) | pl.col("n").is_not_null(),
        ~(pl.col("n") > 1),
        pl.col("n") > pl.col("x"),
        pl.col("n").is_null(),
        pl.col("n") + 1 > 2,
        pl.col("n") == pl.lit(None),
        pl.col("n").is_in([None], nulls_equal=True),
        pl.col("n").is_in([1, None], nulls_equal=True),
        pl.col("x") > 2.5,
        pl.col("x") == pl.lit(float("nan")),
        pl.col("y") < 1.1,
        pl.col("c") < 5,
        pl.col("unknown") == 3,
        pl.col("n").eq_missing(3),
        pl.col("t").cast(pl.Date) > date(2026, 1, 1),
        pl.col("t") < pl.lit(NOON).cast(pl.Datetime("ns", "UTC")).dt.offset_by("1ns"),
    ],
    ids=str,
)
def test_what_is_not_sure_is_no_term(condition):
    assert terms_of(condition, SCHEMA) == []


@pytest.mark.parametrize("dtype", [pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32])
def test_a_column_of_few_bits_asks_for_no_more_than_one_of_64(dtype):
    """A source gives it as int64, which the table sees in the condition."""
    source = Source("events", pl.DataFrame(schema={"time": pl.Int64, "n": dtype, "m": dtype}), time="time")
    schema = source.table().schema()
    for condition, expected in (
        (pl.col("n") == 3, "n == 3"),
        ((pl.col("n") > 1) & pl.col("m").is_between(2, 4), "m <= 4, m >= 2, n > 1"),
        ((pl.col("n") > 300) | pl.col("n").is_null(), "n > 300 or null"),
        (pl.col("n").is_in([5, 2]), "n <= 5, n >= 2"),
        (pl.col("n") + pl.col("m") > 1, ""),
    ):
        found = terms_asked(schema, lambda rows, c=condition: source.events(rows).filter(c))
        assert (
            ", ".join(sorted(f"{t.column} {t.operator} {t.value}{' or null' * t.or_null}" for t in found)) == expected
        )


def test_what_cuts_values_off_is_no_term():
    schema = {"u": pl.UInt64(), "n": pl.Int32()}
    for column in (pl.col("u").cast(pl.Int64), pl.col("n").cast(pl.Int8), pl.col("n").cast(pl.Boolean)):
        assert terms_of(column == 1, schema) == []


def test_no_condition_has_no_terms():
    assert terms_of(None, SCHEMA) == []


numbers = st.integers(-4, 4)
values = st.lists(st.none() | numbers, min_size=1, max_size=5)


@st.composite
def conditions(draw: st.DrawFn) -> pl.Expr:
    """Comparisons of a column with numbers, in conjunctions and disjunctions."""
    column, value = pl.col(draw(st.sampled_from(["a", "b"]))), draw(numbers)
    kind = draw(st.integers(0, 9))
    if kind == 9:
        return (column < value) | column.is_null()
    if kind == 7:
        return draw(conditions()) & draw(conditions())
    if kind == 8:
        return draw(conditions()) | draw(conditions())
    forms = [column == value, column < value, column <= value, column > value, value >= column]
    return [*forms, column.is_in([value, draw(numbers)]), column.is_between(value, draw(numbers))][kind]


@given(a=values, b=values, condition=conditions())
def test_a_file_is_left_out_only_without_a_row(a, b, condition):
    count = min(len(a), len(b))
    rows = pl.DataFrame({"a": a[:count], "b": b[:count]}, schema={"a": pl.Int64, "b": pl.Int64})
    nulls = {c: rows[c].null_count() for c in rows.columns}
    bounds = {c: Bounds(rows[c].min(), rows[c].max(), n == count, n > 0) for c, n in nulls.items()}
    terms = terms_of(condition, dict(rows.schema))
    if not may_match(terms, bounds):
        assert rows.filter(condition).is_empty()
    kept = rows.lazy()
    for term in terms:
        kept = kept.filter(expression(term, pl.Int64()))
    assert kept.filter(condition).collect().equals(rows.filter(condition))


def expression(term: Term, dtype: pl.DataType) -> pl.Expr:
    found = term.expression(dtype)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (pl.Datetime("us", "UTC"), [False, True, True]),
        (pl.Datetime("us", "Europe/Berlin"), [False, True, True]),
        (pl.Datetime("ns", "America/New_York"), [False, True, True]),
        (pl.Datetime("ms", "UTC"), None),
    ],
)
def test_a_term_is_a_condition_on_times_of_any_zone_where_it_is_exact(dtype, expected):
    times = pl.Series("t", [NOON.replace(hour=11), NOON, NOON.replace(hour=13)]).cast(dtype)
    found = Term("t", ">=", NOON).expression(dtype)
    assert (None if found is None else pl.select(t=times).select(found)["t"].to_list()) == expected


def test_a_file_with_a_null_is_read_where_a_null_is_asked_for():
    terms = terms_of((pl.col("n") > 5) | pl.col("n").is_null(), SCHEMA)
    assert may_match(terms, {"n": Bounds(0, 5)})
    assert may_match(terms, {"n": Bounds(is_null=True, has_null=True)})
    assert not may_match(terms, {"n": Bounds(0, 5, has_null=False)})


def test_bounds_leave_files_out():
    terms = terms_of((pl.col("d") == date(2026, 1, 2)) & (pl.col("n") > 5), SCHEMA)
    assert may_match(terms, {})
    assert may_match(terms, {"d": Bounds(date(2026, 1, 1), date(2026, 1, 3)), "n": Bounds(0, 6)})
    assert not may_match(terms, {"d": Bounds(date(2026, 1, 3), date(2026, 1, 4))})
    assert not may_match(terms, {"n": Bounds(0, 5)})
    assert not may_match(terms, {"d": Bounds(is_null=True)})


def test_a_greatest_time_may_have_been_cut_to_milliseconds():
    terms = terms_of(pl.col("t") > NOON.replace(microsecond=100), SCHEMA)
    assert may_match(terms, {"t": Bounds(NOON, NOON)})
    assert not may_match(terms, {"t": Bounds(NOON, NOON.replace(hour=11))})


def test_bounds_of_another_type_leave_nothing_out():
    assert may_match(terms_of(pl.col("n") > 5, SCHEMA), {"n": Bounds("1", "2")})


def test_the_types_of_the_contract_are_of_every_kind():
    assert len({series.dtype for series in TYPES.values()}) == len(TYPES)
