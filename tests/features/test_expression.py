"""Row expressions: a value a row, from that row alone."""

from __future__ import annotations

import polars as pl
import pytest

from bedplate.errors import DefinitionError
from bedplate.features.expression import check_condition, expression_type

SCHEMA = {
    "x": pl.Int64(),
    "y": pl.Float64(),
    "s": pl.String(),
    "t": pl.Datetime("us"),
    "l": pl.List(pl.Int64()),
    "b": pl.Boolean(),
    "c": pl.Categorical(),
}
X, Y, S, T, L, B, C = (pl.col(c) for c in "xystlbc")

BY_ROW = {
    "arithmetic": X * 2 + Y // 3 - X**2 % 5,
    "comparison": (X > 1) & ~B | (Y <= X) ^ B,
    "literal": pl.lit(3) + X,
    "constant": pl.lit(1),
    "null": X.fill_null(0) + X.is_null(),
    "nan": Y.fill_nan(None).is_finite(),
    "coalesce": pl.coalesce(X, Y, 0),
    "clip": Y.clip(0, 5).log1p().round(2),
    "cast": X.cast(pl.String).cast(pl.Categorical),
    "strict": S.cast(pl.Int64),
    "when": pl.when(X > 1).then(Y).when(B).then(1).otherwise(None),
    "is_in": X.is_in([1, 2]) | S.is_in(["a"]) | X.is_in(L),
    "between": X.is_between(1, 3),
    "replace": X.replace({1: 2}) + X.replace_strict({1: 2}, default=0),
    "hash": X.hash() % 7,
    "lower": S.str.to_lowercase().str.strip_chars().str.len_chars(),
    "words": S.str.extract_all("[a-z]{2,}").list.len(),
    "split": S.str.split(" ").list.get(0, null_on_oob=True),
    "contains": S.str.contains("a") | S.str.contains_any(["b"]),
    "date": S.str.to_date("%Y-%m-%d", strict=False),
    "datetime": S.str.to_datetime("%Y-%m-%d %H:%M"),
    "integer": S.str.to_integer(strict=False),
    "category": C.cast(pl.String) == "a",
    "hour": T.dt.hour() + T.dt.weekday(),
    "truncate": T.dt.truncate("1d").dt.offset_by("2h"),
    "zone": T.dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin").dt.hour(),
    "duration": (T - pl.datetime(2020, 1, 1)).dt.total_seconds(),
    "list sum": L.list.sum() + L.list.max() + L.list.first(),
    "list order": L.list.sort().list.head(3).list.unique().list.len(),
    "list neighbours": L.list.diff().list.sum() + L.list.shift(1).list.last(),
    "list eval": L.list.eval(pl.element() * 2).list.sum() + L.list.eval(pl.element().sum()).list.first(),
    "list contains": L.list.contains(X),
    "horizontal": pl.max_horizontal("x", "y") + pl.sum_horizontal("x", "y"),
    "any": pl.any_horizontal(B, X > 1),
    "concat": pl.concat_list("x", "x").list.max(),
    "struct": pl.struct("x", "y").struct.field("x"),
    "format": pl.concat_str(S, X, separator="-"),
}

OF_OTHER_ROWS = {
    "sum": X.sum(),
    "centred": Y - Y.mean(),
    "standardised": (Y - Y.mean()) / Y.std(),
    "condition": pl.when(X.max() > 1).then(X).otherwise(0),
    "any": B.any(),
    "first": X.first(),
    "length": pl.len() + X,
    "cumulative": X.cum_sum(),
    "numbered": X.cum_count(),
    "shift": X.shift(1),
    "difference": X.diff(),
    "change": Y.pct_change(),
    "over": X.sum().over("s"),
    "rank": X.rank(),
    "forward": X.fill_null(strategy="forward"),
    "fill mean": X.fill_null(strategy="mean"),
    "backward": X.backward_fill(),
    "interpolate": Y.interpolate(),
    "rolling": X.rolling_mean(2),
    "rolling by": X.rolling_sum_by("t", "1h"),
    "smoothed": Y.ewm_mean(alpha=0.5),
    "reverse": X.reverse(),
    "sort": X.sort(),
    "sort by": X.sort_by("y"),
    "duplicated": X.is_duplicated() | X.is_first_distinct(),
    "unique": X.unique(),
    "filter": X.filter(X > 1),
    "drop": X.drop_nulls(),
    "explode": L.explode(),
    "head": X.head(1),
    "gather": X.gather_every(2),
    "shuffle": X.shuffle(1),
    "row number": pl.int_range(pl.len()),
    "runs": X.rle_id(),
    "quantile": Y.quantile(0.5) < Y,
    "is_in": X.is_in(X.implode()),
    "series": X + pl.Series([1]),
    "inferred date": S.str.to_date(),
    "inferred datetime": S.str.to_datetime(),
}


@pytest.mark.parametrize("name", BY_ROW)
def test_what_looks_at_its_own_row_passes(name):
    assert isinstance(expression_type(BY_ROW[name], SCHEMA, "where", "view 'v'"), pl.DataType)


@pytest.mark.parametrize("name", OF_OTHER_ROWS)
def test_what_looks_at_other_rows_is_refused(name):
    with pytest.raises(DefinitionError) as caught:
        expression_type(OF_OTHER_ROWS[name], SCHEMA, "where", "view 'v'")
    assert "in where depends on other rows than its own" in caught.value.message
    assert caught.value.where == "view 'v'"
    assert "need a format" in (caught.value.hint or "")


def test_the_type_is_that_of_the_values():
    assert expression_type(X / 2, SCHEMA, "where", "v") == pl.Float64
    assert expression_type(S.str.split(" "), SCHEMA, "where", "v") == pl.List(pl.String)


def test_a_condition_is_a_boolean():
    check_condition(None, {}, "v")
    check_condition(B & (X > 1), SCHEMA, "v")
    with pytest.raises(DefinitionError, match=r"filter .* is Int64, expected a boolean"):
        check_condition(X, SCHEMA, "v", "filter")


FAILING = [
    (pl.col("x").str.to_lowercase(), "expected `String`, got `i64`", "x is Int64"),
    (pl.col("s") + pl.col("l"), "str != list[i64]", "s is String, l is List(Int64)"),
    (pl.col("x").list.len(), "expected List data type", "x is Int64"),
    (pl.col("x").cast(pl.Date) > "y", "cannot compare", "x is Int64"),
]


@pytest.mark.parametrize(("expression", "message", "hint"), FAILING)
def test_an_operation_that_fails_says_why_without_a_plan(expression, message, hint):
    schema = {"x": pl.Int64(), "s": pl.String(), "l": pl.List(pl.Int64())}
    with pytest.raises(DefinitionError) as caught:
        expression_type(expression, schema, "the feature", "derived feature 'd'")
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint == hint
