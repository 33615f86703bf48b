"""Reading events of a source: collected and checked, with errors that name the row where the table holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import polars as pl

from bedplate.errors import BedplateError, DataError, reason
from bedplate.sources.base import AVAILABLE, SEQUENCE, TIME, UNREADABLE, Source
from bedplate.types import EARLIEST_TIME, LATEST_TIME, format_time, likely_unit, unit_hint

RowName: TypeAlias = Callable[[int], str]
"""What a message calls a row of the table by its position, such as "row 4 of 2026-01.parquet"."""

_POSITION = "__position__"


def read_events(
    source: Source,
    raw: pl.LazyFrame,
    columns: Sequence[pl.Expr],
    *,
    keys: Mapping[str, str],
    place: str,
    name: RowName,
    where: pl.Expr | None = None,
) -> pl.DataFrame:
    """The rows of a part of a source's table (all of it, or a micro-batch) after cleaning step and condition.

    Args:
        source: the source.
        raw: rows as the table holds them, before the source's cleaning step.
        columns: what to read beside the event times; each has a name of its own.
        keys: which of these must not be null, with the names that the source gives them.
        place: what the rows are for, for messages.
        name: what a message calls a row of `raw`.
        where: a boolean row expression; other rows are left out.

    Returns:
        the columns, and event times in the column `TIME`; where the source declares them, also the columns `AVAILABLE`
        and `SEQUENCE`.

    Raises:
        DataError: rows that can't be read, a null time or one outside 1970 to 2200, a column of integer times (of
            events, or of when rows could be known) that can't be microseconds, a null key, a row that does not say when
            it could be known or its place among rows of equal time.
    """
    try:
        frame = event_query(source, raw, columns, where).collect()
    except UNREADABLE as error:
        raise DataError(
            f"can't read the rows: {reason(error)}",
            where=f"{place}, source '{source.name}'",
            hint="every file of the table must be whole and have the same columns, and every value fit the expressions",
        ) from error

    def row(position: int) -> str:
        return row_text(source, raw, frame[TIME], position, name=name, where=where)

    check_events(frame, source, raw, keys=keys, place=place, row=row)
    return frame


def event_query(
    source: Source, raw: pl.LazyFrame, columns: Sequence[pl.Expr], where: pl.Expr | None = None
) -> pl.LazyFrame:
    """What `read_events` reads, of the rows after cleaning step and condition; not collected."""
    events = source.events(raw) if where is None else source.events(raw).filter(where)
    return events.select(*map(pl.col, source.order_columns()), *columns)


def check_events(
    frame: pl.DataFrame, source: Source, raw: pl.LazyFrame, *, keys: Mapping[str, str], place: str, row: RowName
) -> None:
    """Checks the times and keys of rows that were read; see `read_events`.

    Args:
        frame: rows with their event times in the column `TIME`.
        source: the source.
        raw: rows as the table holds them.
        keys: the columns that must not be null, with the names that the source gives them.
        place: what the rows are for, for messages.
        row: what a message calls a row of `frame`.

    Raises:
        DataError: as `read_events`.
    """
    _check_times(frame[TIME], source, raw, row)
    _check_order(frame, source, raw, row)
    for column, shown in keys.items():
        nulls = frame[column].null_count()
        if nulls:
            raise DataError(
                f"{nulls:,} of {len(frame):,} rows have no key, the first is {row(_first(frame[column].is_null()))}",
                where=f"{place}, source '{source.name}', column '{shown}'",
                hint="drop them in the source's prepare step",
            )


def row_text(
    source: Source,
    raw: pl.LazyFrame,
    times: pl.Series,
    position: int,
    *,
    name: RowName,
    where: pl.Expr | None = None,
) -> str:
    """What a message calls a row that was read: the row of the table, or where that can't be found the one read.

    Reads the rows once more, with their positions beside them. A cleaning step that drops or groups columns loses the
    positions.

    Args:
        source: the source.
        raw: rows as the table holds them.
        times: the event times that were read from them.
        position: of the row among those that were read.
        name: what a message calls a row of `raw`.
        where: the condition with which they were read.
    """
    try:
        events = source.events(raw.with_row_index(_POSITION))
        events = events if where is None else events.filter(where)
        found = events.select(pl.col(_POSITION), pl.col(TIME)).collect()
    except (BedplateError, *UNREADABLE):
        found = None
    # A step may also give other rows when there is one more column, such as one that drops duplicates.
    if found is None or not found[TIME].equals(times):
        return f"row {position:,} after the prepare step"
    return name(int(found[_POSITION][position]))


def _check_times(times: pl.Series, source: Source, raw: pl.LazyFrame, row: RowName) -> None:
    place = f"source '{source.name}', column '{source.time}'"
    nulls = times.null_count()
    if nulls:
        raise DataError(
            f"{nulls:,} of {len(times):,} rows have no time, the first is {row(_first(times.is_null()))}",
            where=place,
            hint="drop them in the source's prepare step",
        )
    low, high = times.min(), times.max()
    if not isinstance(low, int) or not isinstance(high, int):
        return
    if not (low >= EARLIEST_TIME and high < LATEST_TIME):
        at = _first((times < EARLIEST_TIME) | (times >= LATEST_TIME))
        raise DataError(
            f"{row(at)} has time {times[at]}, expected microseconds between "
            f"{format_time(EARLIEST_TIME)} and {format_time(LATEST_TIME)}",
            where=place,
            hint="an integer time column holds microseconds since the epoch; convert others in the prepare step",
        )
    check_unit(high, source, raw, source.time)


def check_unit(greatest: int, source: Source, raw: pl.LazyFrame, column: str) -> None:
    """Checks that times can be microseconds, where their column holds integers.

    Args:
        greatest: the greatest of the times.
        source: the source.
        raw: rows as the table holds them.
        column: of the times, after the cleaning step.

    Raises:
        DataError: they must be seconds or milliseconds: the greatest is within a year of 1970.
    """
    unit = likely_unit(greatest)
    if unit is not None and source.has_integers(raw, column):
        raise DataError(
            f"the greatest time is {greatest}, as microseconds {format_time(greatest)}; expected one after 1970",
            where=f"source '{source.name}', column '{column}'",
            hint=unit_hint(unit, column),
        )


def _check_order(frame: pl.DataFrame, source: Source, raw: pl.LazyFrame, row: RowName) -> None:
    """Checks when rows could be known, and the sequence of rows of equal time."""
    for name, column in source.order_columns().items():
        place = f"source '{source.name}', column '{column}'"
        lacks = {AVAILABLE: "do not say when they could be known", SEQUENCE: "have no place in the sequence"}
        nulls = frame[name].null_count()
        if nulls:
            raise DataError(
                f"{nulls:,} of {len(frame):,} rows {lacks[name]}, the first is {row(_first(frame[name].is_null()))}",
                where=place,
                hint="fill the column in the source's prepare step: the row's own time says that it could be known at "
                "once"
                if name == AVAILABLE
                else "fill the column in the source's prepare step",
            )
        wrong = (frame[name] < EARLIEST_TIME) | (frame[name] >= LATEST_TIME)
        if name == AVAILABLE and wrong.any():
            at = _first(wrong)
            raise DataError(
                f"{row(at)} could be known at {frame[name][at]}, expected microseconds between "
                f"{format_time(EARLIEST_TIME)} and {format_time(LATEST_TIME)}",
                where=place,
                hint="leave out rows that never become known in the source's prepare step",
            )
        greatest = frame[name].max()
        if name == AVAILABLE and isinstance(greatest, int):
            check_unit(greatest, source, raw, column)


def _first(marked: pl.Series) -> int:
    return int(marked.arg_max() or 0)
