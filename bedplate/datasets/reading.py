"""Reading the rows that a dataset is made from, together with the snapshot that they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from bedplate.errors import DataError
from bedplate.sources.base import Source
from bedplate.sources.events import read_events


def read_rows(
    source: Source,
    root: Path | None,
    where: pl.Expr | None,
    keys: Mapping[str, str],
    place: str,
    others: Sequence[pl.Expr] = (),
) -> tuple[pl.DataFrame, str]:
    """Event times and key columns of a source's prepared rows, and the id of the snapshot that was read.

    Args:
        source: the rows.
        root: the project's folder, where relative paths start.
        where: a boolean row expression; other rows are left out.
        keys: the name of each column that is read, which must not be null, and the source's name for it.
        place: what reads them, for the message.
        others: what else to read, each with a name of its own.

    Raises:
        DataError: rows that can't be read, a row without time or key; the table was changed while it was read.
    """
    table = source.table(root)
    before = table.snapshot()
    columns = [*(pl.col(column).alias(name) for name, column in keys.items()), *others]
    frame = read_events(source, table.scan(), columns, keys=keys, place=place, name=table.row_name, where=where)
    after = table.snapshot()
    if after.id != before.id:
        raise DataError(
            f"the table {table.name} was changed while it was read: {before.text}, now {after.text}",
            where=f"{place}, source '{source.name}'",
            hint="run it again when the table is written",
        )
    return frame, before.id
