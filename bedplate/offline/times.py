"""The times that the pieces of a table hold: from what the table says of them, or else from a look at them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import cached_property
from typing import final

import polars as pl

from bedplate.features.view import CompiledView
from bedplate.offline.segment import Span
from bedplate.sources.base import TIME, UNREADABLE, Piece, epoch_micros, is_time, unreadable
from bedplate.sources.pruning import Bounds, Term, terms_of
from bedplate.types import to_micros


@final
class PieceTimes:
    """The times of the pieces of a view's table.

    Args:
        view: the compiled view.
    """

    def __init__(self, view: CompiledView) -> None:
        self._view, self._source = view, view.view.source
        self._table = self._source.table(view.root)
        self._known: dict[str, tuple[int, int] | None] = {}

    def may_hold(self, piece: Piece, span: Span) -> bool:
        """Whether a piece may hold a row of the view in a range of times."""
        if any((known := piece.bounds(t.column)) and not known.may_meet(t) for t in self._terms):
            return False
        if span.is_whole or self.column is None:
            return True
        known = piece.bounds(self.column)
        if known is None or known.is_null or known.has_null:
            return True
        low, high = _micros_of(known)
        return low is None or high is None or span.meets(Span(low, high + 1))

    @cached_property
    def _terms(self) -> Sequence[Term]:
        """What the view's condition says of columns of the table."""
        return [] if self._source.prepare else terms_of(self._view.view.where, self._table.schema())

    @cached_property
    def column(self) -> str | None:
        """The column of the table that holds the event times."""
        return self._source.time_column(self._view.root)

    def of(self, piece: Piece) -> tuple[int, int] | None:
        """The smallest and the greatest time of a piece, as the table has them; None: it has none."""
        if piece.id not in self._known:
            known = None if self.column is None else piece.bounds(self.column)
            low, high = (None, None) if known is None else _micros_of(known)
            self._known[piece.id] = self._read_bounds(piece) if low is None or high is None else (low, high)
        return self._known[piece.id]

    def of_rows(self, rows: pl.LazyFrame, time: pl.Expr) -> tuple[int, int] | None:
        """The smallest and the greatest of times of rows, microseconds; None: there is none."""
        try:
            low, high = rows.select(time.min().alias("low"), time.max().alias("high")).collect().row(0)
        except UNREADABLE as error:
            raise unreadable(self._table.name, error) from error
        return None if low is None else (low, high)

    def _read_bounds(self, piece: Piece) -> tuple[int, int] | None:
        """The bounds of a piece of which metadata does not tell them; only the times are read."""
        raw, name = piece.scan(), self._source.time
        dtype = raw.collect_schema().get(name)
        if dtype is not None and (dtype.is_integer() or is_time(dtype)):
            return self.of_rows(raw, epoch_micros(pl.col(name), dtype))
        return self.of_rows(self._source.events(raw), pl.col(TIME))  # the cleaning step makes the column


def _micros_of(bounds: Bounds) -> tuple[int | None, int | None]:
    """The bounds of a column of times in microseconds; None: not known."""
    low, high = bounds.low, bounds.high
    if not isinstance(low, int | date) or not isinstance(high, int | date):
        return None, None
    return to_micros(low), to_micros(high)
