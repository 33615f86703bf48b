"""Checks of row expressions: known columns, one value a row from that row alone, and a type, all without any data."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from bedplate.errors import DefinitionError, reason, suggest


def expression_type(
    expression: pl.Expr, schema: Mapping[str, pl.DataType], part: str, place: str, label: str = "columns"
) -> pl.DataType:
    """The type of a row expression over columns of these types.

    Args:
        expression: the row expression.
        schema: the columns that it may use.
        part: what the expression is of the definition, such as "where".
        place: what a message calls the definition.
        label: what a message calls the columns.

    Raises:
        DefinitionError: an unknown column, several values, an operation that does not fit the types, or a value that
            depends on other rows than its own.

    >>> expression_type(pl.col("x") / 2, {"x": pl.Int64()}, "where", "view 'v'")
    Float64
    """
    for column in expression.meta.root_names():
        if column not in schema:
            raise DefinitionError(
                f"unknown column '{column}' in {part}", where=place, hint=suggest(column, schema, label)
            )
    if expression.meta.has_multiple_outputs():
        raise DefinitionError(
            f"the expression {expression} in {part} selects several columns, expected one value",
            where=place,
            hint="name the one column with pl.col",
        )
    if expression.meta.is_column():
        return schema[expression.meta.output_name()]
    frame = pl.LazyFrame(schema=schema)
    try:
        # Run on no rows: the types alone don't find a string function that is called on a number.
        dtype = frame.select(expression.alias("value")).collect().schema["value"]
        by_row = _is_by_row(expression, frame)
    except (pl.exceptions.PolarsError, TypeError) as error:
        types = ", ".join(f"{c} is {schema[c]}" for c in dict.fromkeys(expression.meta.root_names()))
        raise DefinitionError(
            f"the expression {expression} in {part} fails: {reason(error)}", where=place, hint=types or None
        ) from error
    if not by_row:
        raise DefinitionError(
            f"the value of {expression} in {part} depends on other rows than its own",
            where=place,
            hint="sums, orders and neighbours of rows are for aggregations and windows; str.to_date and "
            "str.to_datetime need a format",
        )
    return dtype


def check_condition(
    condition: pl.Expr | None, schema: Mapping[str, pl.DataType], place: str, part: str = "where"
) -> None:
    """Raises `DefinitionError` unless the row expression (None: there is none) is a boolean; see `expression_type`."""
    if condition is None:
        return
    dtype = expression_type(condition, schema, part, place)
    if dtype != pl.Boolean:
        raise DefinitionError(
            f"{part} {condition} is {dtype}, expected a boolean", where=place, hint="compare it with a value"
        )


def _is_by_row(expression: pl.Expr, frame: pl.LazyFrame) -> bool:
    """Whether each row's value comes from that row alone.

    Polars knows it of every expression: only then does its optimizer take a slice of the rows before it computes the
    expression. So ask for the plan of a slice and see whether the slice was left on top.
    """
    plan = frame.with_columns(expression.alias("value")).slice(1, 1).explain()
    return not plan.lstrip().startswith("SLICE")
