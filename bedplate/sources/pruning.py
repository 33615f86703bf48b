"""What a query asks of rows, as simple terms with which a table leaves out files that can hold none of them.

Polars hands the condition of a query to the table that is scanned. Of a conjunction, the parts that compare a column
with a value are taken out as terms; every other part is left to Polars, which applies the whole condition to the rows
that were read. Terms only ever leave out what the condition leaves out too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeAlias, final

import polars as pl

Operator: TypeAlias = Literal["==", "<", "<=", ">", ">="]
Value: TypeAlias = int | float | bool | str | date | datetime | Decimal

_OPERATORS: Mapping[Operator, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_MIRRORED: Mapping[Operator, Operator] = {"==": "==", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_CLOSED: Sequence[Literal["both", "left", "right", "none"]] = ("both", "left", "right", "none")
_CUT = timedelta(microseconds=999)
_NARROW = frozenset({pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32})


@final
@dataclass(frozen=True, slots=True)
class Term:
    """A condition that every row that is wanted meets: `column operator value`.

    Attributes:
        column: a column of the table.
        operator: how the column's value compares with `value`.
        value: of the column's type; never null, never NaN.
        or_null: whether a null meets the condition too; else it meets none.
    """

    column: str
    operator: Operator
    value: Value
    or_null: bool = False

    def expression(self, dtype: pl.DataType) -> pl.Expr | None:
        """The condition for Polars, on a column of a type; None: the value has no exact form in it."""
        column, value = pl.col(self.column), pl.lit(self.value)
        if isinstance(dtype, pl.Datetime):
            if dtype.time_unit == "ms":
                return None
            value = value if dtype.time_zone is None else value.dt.convert_time_zone(dtype.time_zone)
            value = value.cast(dtype)
        met: pl.Expr = _OPERATORS[self.operator](column, value)
        return met | column.is_null() if self.or_null else met


@final
@dataclass(frozen=True, slots=True)
class Bounds:
    """What is known of a column's values in one file.

    Attributes:
        low: no value is less; None: not known.
        high: no value is greater; None: not known.
        is_null: whether every value is null.
        has_null: whether a value may be null.
    """

    low: Any = None
    high: Any = None
    is_null: bool = False
    has_null: bool = True

    def may_meet(self, term: Term) -> bool:
        """Whether a value within the bounds may meet a term.

        >>> term = Term("n", "<", 3, or_null=True)
        >>> Bounds(5, 7).may_meet(term), Bounds(5, 7, has_null=False).may_meet(term)
        (True, False)
        """
        return (term.or_null and (self.is_null or self.has_null)) or self.may_hold(term.operator, term.value)

    def may_hold(self, operator: Operator, value: Value) -> bool:
        """Whether a value within the bounds may meet a condition.

        >>> Bounds(3, 7).may_hold(">", 7), Bounds(3, 7).may_hold(">=", 7), Bounds(3).may_hold("<", 3)
        (False, True, False)
        """
        if self.is_null:
            return False
        # Writers cut bounds of times to milliseconds: the greatest value may lie up to this much above.
        high = self.high + _CUT if isinstance(self.high, datetime) else self.high
        try:
            if self.low is not None and operator in ("==", "<", "<="):
                compare = _OPERATORS["<" if operator == "<" else "<="]
                if not compare(self.low, value):
                    return False
            if high is not None and operator in ("==", ">", ">="):
                return bool(_OPERATORS[">" if operator == ">" else ">="](high, value))
        except TypeError:  # a bound of another type, such as the text of a decimal, says nothing
            return True
        return True


def may_match(terms: Sequence[Term], bounds: Mapping[str, Bounds]) -> bool:
    """Whether a file whose columns have these bounds may hold a row that meets all terms.

    >>> may_match([Term("day", "==", 3)], {"day": Bounds(1, 2)}), may_match([Term("day", "==", 3)], {})
    (False, True)
    """
    return all(bounds[t.column].may_meet(t) for t in terms if t.column in bounds)


def terms_of(predicate: pl.Expr | None, schema: Mapping[str, pl.DataType]) -> list[Term]:
    """The terms that a condition implies.

    Args:
        predicate: a boolean expression; None: no condition.
        schema: the columns of the rows.

    >>> found = terms_of((pl.col("a") > 3) & pl.col("b").is_in(["x", "z"]), {"a": pl.Int64(), "b": pl.String()})
    >>> [(t.column, t.operator, t.value) for t in found]
    [('a', '>', 3), ('b', '>=', 'x'), ('b', '<=', 'z')]
    """
    if predicate is None:
        return []
    parts = predicate.meta.pop()[::-1]  # the last operand comes first
    if len(parts) == 2 and (parts[0] & parts[1]).meta.eq(predicate):
        return [*terms_of(parts[0], schema), *terms_of(parts[1], schema)]
    found: list[tuple[pl.Expr, Operator, Any]] = []
    if len(parts) == 3:
        found = _between(predicate, *parts)
    elif len(parts) == 2:
        if (parts[0] | parts[1]).meta.eq(predicate):
            return _or_null(parts[0], parts[1], schema)
        found = _comparison(predicate, *parts)
    return [t for column, operator, value in found if (t := _term(column, operator, value, schema)) is not None]


def _or_null(left: pl.Expr, right: pl.Expr, schema: Mapping[str, pl.DataType]) -> list[Term]:
    """The terms of a condition that a null meets too: one of its two parts asks for a null."""
    for null, other in ((right, left), (left, right)):
        column = null.meta.root_names()
        if len(column) == 1 and any(f.is_null().meta.eq(null) for f in _forms(column[0], schema)):
            return [replace(t, or_null=True) for t in terms_of(other, schema) if t.column == column[0]]
    return []


def _comparison(predicate: pl.Expr, left: pl.Expr, right: pl.Expr) -> list[tuple[pl.Expr, Operator, Any]]:
    for operator, compare in _OPERATORS.items():
        if compare(left, right).meta.eq(predicate):
            value = _constant(right)
            if value is not None:
                return [(left, operator, value)]
            value = _constant(left)
            return [] if value is None else [(right, _MIRRORED[operator], value)]
    if left.is_in(right).meta.eq(predicate):
        value = _constant(right)
        values = value.drop_nulls() if isinstance(value, pl.Series) else None
        if values is not None and len(values):
            return [(left, ">=", values.min()), (left, "<=", values.max())]
    return []


def _between(predicate: pl.Expr, column: pl.Expr, low: pl.Expr, high: pl.Expr) -> list[tuple[pl.Expr, Operator, Any]]:
    if any(column.is_between(low, high, closed).meta.eq(predicate) for closed in _CLOSED):
        return [(column, ">=", _constant(low)), (column, "<=", _constant(high))]
    return []


def _constant(expression: pl.Expr) -> Any:
    """The value of an expression that reads no column, or None."""
    if expression.meta.root_names() or expression.meta.has_multiple_outputs():
        return None
    try:
        values = pl.select(expression).to_series()
    except pl.exceptions.PolarsError:
        return None
    if len(values) != 1:
        return None
    dtype = values.dtype
    if isinstance(dtype, pl.Datetime):
        # Python's datetimes know microseconds only, and two of one night may have the same clock time.
        whole = values.cast(pl.Datetime("us", dtype.time_zone))
        if not whole.cast(dtype).equals(values):
            return None
        values = whole if dtype.time_zone is None else whole.dt.convert_time_zone("UTC")
    return values[0]


def is_narrow(dtype: pl.DataType | None) -> bool:
    """Whether values are integers of up to 32 bits: as int64 they are the same, and compare alike."""
    return dtype is not None and dtype.base_type() in _NARROW


def _forms(name: str, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """A column, and if it holds narrow integers the same widened: Polars drops the check of a cast that can't fail."""
    column = pl.col(name)
    casts = [column.cast(pl.Int64, strict=strict) for strict in (True, False)]
    return [column, *casts] if is_narrow(schema.get(name)) else [column]


def _named(column: pl.Expr, schema: Mapping[str, pl.DataType]) -> str | None:
    """The name of a column that is bare or widened; None: it is another expression."""
    names = column.meta.root_names()
    return names[0] if len(names) == 1 and any(f.meta.eq(column) for f in _forms(names[0], schema)) else None


def _term(column: pl.Expr, operator: Operator, value: Any, schema: Mapping[str, pl.DataType]) -> Term | None:
    name = _named(column, schema)
    if name is None:
        return None
    dtype = schema.get(name)
    # To Polars NaN is greater than every number; the bounds that writers keep leave it out.
    is_bounded = operator in ("==", "<", "<=") or dtype != pl.Float64
    if dtype is None or not is_bounded or not _is_comparable(value, dtype):
        return None
    return Term(name, operator, value)


def _is_comparable(value: Any, dtype: pl.DataType) -> bool:
    """Whether a value is of the kind that a column's bounds are."""
    if isinstance(value, bool) or dtype == pl.Boolean:
        return isinstance(value, bool) and dtype == pl.Boolean
    if isinstance(value, int):
        return dtype.is_integer() or dtype == pl.Float64
    if isinstance(value, float):
        return dtype == pl.Float64 and value == value  # noqa: PLR0124  (NaN)
    if isinstance(value, datetime):
        # Both are aware, or both are naive.
        return isinstance(dtype, pl.Datetime) and (dtype.time_zone is None) == (value.tzinfo is None)
    if isinstance(value, date):
        return dtype == pl.Date
    return isinstance(value, str) and dtype == pl.String
