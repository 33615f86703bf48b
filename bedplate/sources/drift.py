"""Schema drift: how the columns of a table differ from those that it had, and which of them are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import polars as pl
from polars.io.plugins import register_io_source

from bedplate.sources.base import Source
from bedplate.sources.events import event_query


@final
@dataclass(frozen=True, slots=True)
class ColumnChange:
    """What became of a column.

    Attributes:
        column: its name.
        was: the type that it had; None: it was not there.
        now: the type that it has; None: it is gone.
    """

    column: str
    was: str | None
    now: str | None

    def __str__(self) -> str:
        """In words."""
        if self.was is None:
            return f"column '{self.column}' is new ({self.now})"
        return f"column '{self.column}' was {self.was}, " + ("is gone" if self.now is None else f"is {self.now} now")


def column_changes(was: Mapping[str, str], now: Mapping[str, str]) -> list[ColumnChange]:
    """The columns that differ between two states of a table, by name.

    >>> [str(c) for c in column_changes({"a": "Int64", "b": "Int64"}, {"a": "Float64", "c": "String"})]
    ["column 'a' was Int64, is Float64 now", "column 'b' was Int64, is gone", "column 'c' is new (String)"]
    """
    names = sorted({*was, *now})
    return [ColumnChange(n, was.get(n), now.get(n)) for n in names if was.get(n) != now.get(n)]


def columns_of(source: Source, root: Path | None) -> dict[str, str]:
    """The columns of a source's table, before its cleaning step, with their types as texts.

    Raises:
        DataError: the table is missing or can't be read.
    """
    return {name: str(dtype) for name, dtype in source.table(root).schema().items()}


def used_columns(
    source: Source, root: Path | None, columns: Sequence[pl.Expr], where: pl.Expr | None = None
) -> frozenset[str]:
    """The columns of a source's table that a query needs, through the source's cleaning step.

    Args:
        source: the source.
        root: the project's folder.
        columns: what is read of the cleaned rows beside their times.
        where: a boolean row expression.

    >>> frame = pl.DataFrame({"time": [1], "price": [2], "note": [""]})
    >>> source = Source("s", frame, time="time", prepare=lambda rows: rows.with_columns(double=pl.col("price") * 2))
    >>> sorted(used_columns(source, None, [pl.col("double")]))
    ['price', 'time']
    """
    schema = dict(source.table(root).schema())
    needed: set[str] = set()

    def rows(names: list[str] | None, _: pl.Expr | None, __: int | None, ___: int | None) -> Iterator[pl.DataFrame]:
        wanted = list(schema) if names is None else names
        needed.update(wanted)
        yield pl.DataFrame(schema={n: schema[n] for n in wanted})

    # The query is asked of a table without rows that writes down what is wanted of it.
    event_query(source, register_io_source(rows, schema=schema), columns, where).collect()
    return frozenset(needed)
