"""Lazy rows of a table that Polars has no reader of its own for: only the columns and files that a query needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import polars as pl
from polars.io.plugins import register_io_source

from bedplate.errors import BedplateError
from bedplate.sources.base import UNREADABLE, unreadable
from bedplate.sources.pruning import Term, terms_of

Read: TypeAlias = Callable[[list[str], Sequence[Term]], Iterator[pl.DataFrame]]
"""Gives the rows of a table in their order, in frames of the columns that are named (at least one).

Rows that do not meet the terms may be left out, and need not be: the whole condition is applied to what comes.
"""


def scan_rows(
    name: str, schema: Mapping[str, pl.DataType], read: Read, errors: Sequence[type[BaseException]] = ()
) -> pl.LazyFrame:
    """A lazy frame over a table.

    Args:
        name: what a message calls the table.
        schema: its columns.
        read: gives rows.
        errors: what `read` may raise beside `UNREADABLE`.

    Returns:
        a frame whose query reads only the columns that it uses. A failure is a `DataError` that names the table.
    """
    expected = (*UNREADABLE, ValueError, *errors)

    def rows(
        columns: list[str] | None, predicate: pl.Expr | None, limit: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        wanted = list(schema) if columns is None else columns
        left = limit
        yield pl.DataFrame(schema={c: schema[c] for c in wanted})
        try:
            for frame in read(wanted or list(schema)[:1], terms_of(predicate, schema)):
                typed = _typed(frame, schema)
                kept = typed if predicate is None else typed.filter(predicate)
                piece = kept if left is None else kept.head(left)
                left = None if left is None else left - piece.height
                if piece.height:
                    yield piece.select(wanted) if wanted else pl.DataFrame(height=piece.height)
                if left == 0:
                    return
        except BedplateError:
            raise
        except expected as error:
            raise unreadable(name, error) from error

    return register_io_source(rows, schema=dict(schema), is_pure=True, explain_name=name)


def _typed(frame: pl.DataFrame, schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    other = [pl.col(c).cast(schema[c]) for c, dtype in frame.schema.items() if dtype != schema[c]]
    return frame.with_columns(other) if other else frame


def terms_asked(schema: Mapping[str, pl.DataType], query: Callable[[pl.LazyFrame], pl.LazyFrame]) -> Sequence[Term]:
    """The terms with which a query asks a table of these columns for rows.

    Returns:
        none where the query reads the table several times, as what it asks for once says little then; or where it
        fails on no rows.
    """
    asked: list[Sequence[Term]] = []

    def rows(columns: list[str] | None, predicate: pl.Expr | None, *_: object) -> Iterator[pl.DataFrame]:
        asked.append(terms_of(predicate, schema))
        yield pl.DataFrame(schema={c: schema[c] for c in schema if columns is None or c in columns})

    try:
        query(register_io_source(rows, schema=dict(schema), is_pure=True)).collect()
    except UNREADABLE:
        return []
    return asked[0] if len(asked) == 1 else []
