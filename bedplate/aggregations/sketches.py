"""Sketches: quantiles and a number of different values in little memory, with a stated error.

Both are exact functions of the set of events: the order in which events come, and how they are split into tiles,
segments or files, makes no difference, so that history and online give the very same number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from bedplate.aggregations.base import (
    ExpressionLike,
    Hashes,
    OneInput,
    Output,
    Partial,
    Reduce,
    Reduction,
    Selection,
    to_expression,
)
from bedplate.aggregations.counts import counts
from bedplate.aggregations.window import WindowLike
from bedplate.batch import Column, Dense
from bedplate.errors import DefinitionError
from bedplate.types import Array, Bools, Float64s, Int64s, Type

if TYPE_CHECKING:
    import polars as pl

NEAREST: Final = 1e-12
"""Values that are nearer to 0 than this count as 0 in a `Quantile`."""

_FIRST: Final = 2**32
"""Beyond every bucket's number, so that the signs of value and bucket are the same."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@final
class Quantile(OneInput):
    """Quantiles of a numeric expression, each within `error` of the true one, relative to its size. No event: null.

    The quantile q of n values is the one at position `floor(q (n - 1))` of them in ascending order: q = 0 is the
    smallest, 1 the largest, 0.5 the (lower) median. What is given differs from it by at most `error` times its size
    (DDSketch: Masson, Rim and Lee, PVLDB 12(12), 2019; here no buckets are ever joined, so the bound always holds).
    Values nearer to 0 than 1e-12 count as 0.

    A value's bucket is `sign(x) ceil(log(|x|) / log(g))` with `g = (1 + error) / (1 - error)`; the sketch is how often
    each bucket occurs. State: that of `bedplate.aggregations.counts`, with buckets for values: values over a range of
    six powers of ten share at most 691 buckets at an error of 1 %, 139 at 5 %.

    Args:
        expression: the row expression: numbers, or booleans as 0 and 1; an infinite one is refused when it is read.
        q: one number between 0 and 1, or several: each is then a feature of its own, such as `<name>_p50`.
        error: the relative error, 0.001 to 0.5.
        windows: as for `Aggregation`.
        where: as for `Aggregation`.

    >>> [o.suffix for o in Quantile("price", [0.5, 0.999]).outputs([Type.INT])]
    ['p50', 'p99_9']
    """

    __slots__ = ("error", "q")

    def __init__(
        self,
        expression: ExpressionLike,
        q: float | Sequence[float],
        error: float = 0.01,
        windows: WindowLike | Sequence[WindowLike] | None = None,
        where: ExpressionLike | None = None,
    ) -> None:
        # Whoever writes definitions may run no type checker.
        listed: list[Any] = list(q) if isinstance(q, Sequence) and not isinstance(q, str) else [q]
        if not listed or not all(_is_number(x) and 0 <= x <= 1 for x in listed) or len(set(listed)) < len(listed):
            raise DefinitionError(
                f"got q={q!r}, expected a number between 0 and 1, or several different ones",
                where="Quantile",
                hint='for example Quantile("price", [0.5, 0.9])',
            )
        if not _is_number(error) or not 0.001 <= error <= 0.5:
            raise DefinitionError(f"got error={error!r}, expected a number from 0.001 to 0.5", where="Quantile")
        self.q = q if isinstance(q, int | float) else tuple(q)
        given = to_expression(expression, "Quantile")
        self.error, bucket = error, _bucket(given, error)
        super().__init__(bucket, windows, where)
        self.selection = Selection([bucket], where, "Quantile", text=f"buckets of {given}", given=given)

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """How often each bucket occurs."""
        return (Reduction(Reduce.COUNTS, self.selection),)

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """One float a quantile."""
        if isinstance(self.q, tuple):
            return tuple(Output(f"p{100 * q:.10g}".replace(".", "_"), Type.FLOAT) for q in self.q)
        return (Output("", Type.FLOAT),)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The middle of the bucket in which each quantile is."""
        partial = counts(partials[0])
        if not len(partial.values):
            nothing = np.zeros(len(partial.offsets) - 1, np.bool_)
            return tuple(Dense(np.zeros(len(nothing)), nothing) for _ in self._listed)
        ends = np.cumsum(partial.counts)
        ends_of_keys = np.concatenate(([0], ends))[partial.offsets]
        before, total = ends_of_keys[:-1], np.diff(ends_of_keys)
        there: Bools = total > 0
        columns: list[Column] = []
        for q in self._listed:
            rank = np.floor(q * (total - 1)).astype(np.int64)
            at = np.searchsorted(ends, before + rank, side="right")
            buckets = partial.values[np.where(there, at, 0)]
            columns.append(Dense(np.where(there, self._middle(buckets), 0.0), there))
        return tuple(columns)

    @property
    def _listed(self) -> tuple[float, ...]:
        return self.q if isinstance(self.q, tuple) else (self.q,)

    def _middle(self, buckets: Array) -> Float64s:
        """The value that is no further than the error from any in its bucket, as a share of that."""
        growth = (1 + self.error) / (1 - self.error)
        number = np.abs(buckets) - _FIRST
        with np.errstate(over="ignore"):
            size = np.minimum(np.exp(number * math.log(growth)) * (2 / (growth + 1)), np.finfo(np.float64).max)
        return np.where(buckets == 0, 0.0, np.sign(buckets) * size)

    def options(self) -> Mapping[str, Any]:
        """The quantiles and the error."""
        return {"q": list(self.q) if isinstance(self.q, tuple) else self.q, "error": self.error}


def _bucket(expression: pl.Expr, error: float) -> pl.Expr:
    """The bucket of a value: its number has the sign of the value, and the order of the values."""
    import polars as pl

    # Only numbers and booleans come here: a view looks at the type of what is given first. An infinite one has no
    # bucket; the conversion to an integer fails, and what reads the rows says which.
    given = expression * 1.0
    value = given.cast(pl.Float64).fill_nan(None)
    number = (value.abs().log() / math.log((1 + error) / (1 - error))).ceil() + _FIRST
    bucket = pl.when(value.abs() < NEAREST).then(0.0).otherwise(given.sign().cast(pl.Float64) * number)
    return bucket.cast(pl.Int64)


@final
class ApproxCountDistinct(OneInput):
    """About how many different values there are: exact while there are few, else within a stated standard error.

    With `k = ceil(1 / error^2) + 2` the sketch is the k smallest hashes of the values (see `bedplate/hashing.py`).
    Fewer than k different values are counted exactly. Of more, with `u` the largest of the k as a share of all hashes,
    `(k - 1) / u` is the estimate: without bias, and with a standard error of at most `1 / sqrt(k - 2)`, `error`, of
    the true number (Bar-Yossef et al., RANDOM 2002; Beyer et al., SIGMOD 2007). Two thirds of the estimates are within
    one standard error, 95 % within two. No event: 0.

    State: an exact `CountDistinct` keeps 16 bytes online for each of n different values, this one 16 bytes for about
    `k (1 + ln(n / k))` of them whatever the windows, and fewer than k are exact anyway: it is worth its error for keys
    with far more than k values. In history it takes up to 8 bytes an event for each of the sizes of block (256 events
    and each 4 times the one before) up to k, and only for keys with so many events.

    Args:
        expression: the row expression: integers, strings, booleans or times.
        error: the standard error relative to the true number, 0.01 to 0.5; k is 10002 at 0.01, 2502 at 0.02, 402 at
            0.05.
        windows: as for `Aggregation`.
        where: as for `Aggregation`.

    >>> ApproxCountDistinct("item", error=0.05, windows="30d").k
    402
    """

    __slots__ = ("error", "k")

    def __init__(
        self,
        expression: ExpressionLike,
        error: float = 0.02,
        windows: WindowLike | Sequence[WindowLike] | None = None,
        where: ExpressionLike | None = None,
    ) -> None:
        if not _is_number(error) or not 0.01 <= error <= 0.5:
            raise DefinitionError(
                f"got error={error!r}, expected a number from 0.01 to 0.5",
                where="ApproxCountDistinct",
                hint="CountDistinct has no error",
            )
        super().__init__(expression, windows, where)
        self.error = error
        self.k = math.ceil(round(1 / error**2, 6)) + 2

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """The k smallest hashes."""
        return (Reduction(Reduce.SMALLEST, self.selection, self.k),)

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """One integer."""
        self.require((Type.INT, Type.STRING, Type.BOOL, Type.TIME), types[0])
        return (Output("", Type.INT),)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The number of hashes where there are fewer than k, else the estimate, rounded."""
        partial = partials[0]
        if not isinstance(partial, Hashes):
            raise DefinitionError(f"got a {type(partial).__name__} partial, expected hashes")
        sizes = np.diff(partial.offsets)
        full = sizes >= self.k
        largest = partial.values[partial.offsets[1:][full] - 1]
        share = (largest.astype(np.float64) + 2.0**63 + 1) / 2.0**64
        result = sizes.copy()
        result[full] = np.rint((self.k - 1) / share).astype(np.int64)
        return (Dense(result),)

    def options(self) -> Mapping[str, Any]:
        """The error."""
        return {"error": self.error}
