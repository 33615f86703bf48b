"""Which rows of a micro-batch can't be taken in, and why: those that `prepare_rows` refuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from bedplate.errors import BedplateError, DataError, reason
from bedplate.features.rows import Rows, prepare_rows
from bedplate.features.view import CompiledView
from bedplate.online.payload_values import doubt
from bedplate.sources.base import ALWAYS, AVAILABLE, TIME, UNREADABLE, Source
from bedplate.types import DAY, EARLIEST_TIME, LATEST_TIME, MINUTE, Int64s, format_time

_POSITION = "__position__"


AHEAD = 10 * MINUTE
"""How far ahead of the clock an event may be by default: clocks of producers differ; microseconds."""


def refused_rows(views: Sequence[CompiledView], rows: pl.DataFrame, latest: int = LATEST_TIME) -> dict[int, str]:
    """The numbers of the rows that one of the views can't take in, with the reason.

    What is plainly wrong, a key or a time that is null or impossible, is found at once; the others by halving.

    Args:
        views: compiled views of one source.
        rows: rows as the source's table holds them.
        latest: the last time that is not too far ahead of the clock; microseconds.
    """
    wrong = _plainly_wrong(views, rows, latest)
    left = np.flatnonzero([number not in wrong for number in range(len(rows))]).tolist()
    parts = [left]
    while parts:
        part = parts.pop()
        try:
            for view in views:
                prepare_rows(view, rows[part].lazy(), name=lambda _: "the event")
            check_each_time(views[0].view.source, rows[part], latest)
        except (DataError, *UNREADABLE) as error:
            if len(part) == 1:
                wrong[part[0]] = f"{error.where}: {error.message}" if isinstance(error, DataError) else reason(error)
            else:
                parts += [part[: len(part) // 2], part[len(part) // 2 :]]
    return wrong


def _plainly_wrong(views: Sequence[CompiledView], rows: pl.DataFrame, latest: int) -> dict[int, str]:
    source = views[0].view.source
    if source.prepare is not None:  # it may give other rows than it gets
        return {}
    events = source.events(rows.lazy()).collect()
    checks = dict[str, pl.Series]()
    for name, column in source.order_columns().items():
        what = "time" if name == TIME else "column"
        checks[f"the {what} '{column}' is null"] = events[name].is_null()
        if name in (TIME, AVAILABLE):
            outside = (events[name] < EARLIEST_TIME) | (events[name] >= LATEST_TIME)
            checks[f"the {what} '{column}' is not between 1970 and 2200"] = outside.fill_null(value=False)
    for view in views:
        passed = _passed(view, events)
        checks |= {text: marked & passed for text, marked in _infinite(view, events)}
        for column in {e.key for e in view.view.entities}:
            text, marked = f"the key '{column}' is null", events[column].is_null() & passed
            checks[text] = marked | checks.get(text, marked)
    return doubtful_times(source, rows, latest) | {
        number: text for text, marked in checks.items() for number in marked.arg_true().to_list()
    }


def _infinite(view: CompiledView, events: pl.DataFrame) -> Iterator[tuple[str, pl.Series]]:
    """[n] bool for each input of an aggregation that has infinite numbers: which are."""
    for selection in view.selections:
        given = [] if selection.given is None else [selection.given.cast(pl.Float64)]
        for expression in [*selection.inputs, *given]:
            try:
                values = events.select(pl.col(TIME), expression.alias(_POSITION))[_POSITION]
            except UNREADABLE:  # of another row, or of the infinite one itself: then `given` has it
                continue
            if values.dtype.is_float() and (marked := values.is_infinite().fill_null(value=False)).any():
                yield f"{view.place}, source '{view.view.source.name}', {expression}: the value is infinite", marked


def _passed(view: CompiledView, events: pl.DataFrame) -> pl.Series:
    """[n] bool: which events are of a view; none where its condition can't be asked of all."""
    if view.view.where is None:
        return pl.repeat(value=True, n=len(events), eager=True)
    try:
        return events.select(view.view.where.fill_null(value=False).alias(_POSITION))[_POSITION]
    except UNREADABLE:
        return pl.repeat(value=False, n=len(events), eager=True)


def check_each_time(source: Source, rows: pl.DataFrame, latest: int = LATEST_TIME) -> None:
    """Checks each time of a micro-batch as `check_unit` checks the greatest: events come from many producers.

    Raises:
        DataError: a whole number that is likelier seconds or milliseconds, or a time after `latest`.
    """
    for why in doubtful_times(source, rows, latest).values():
        raise DataError(why, where=f"source '{source.name}'")


def doubtful_times(source: Source, rows: pl.DataFrame, latest: int = LATEST_TIME) -> dict[int, str]:
    """The numbers of the rows of a topic whose times are 0, no microseconds, or after `latest`, with the reason.

    Payloads of many producers have 0 where they lack a time. Where the source has a cleaning step these are numbers of
    rows after it.
    """
    raw, found = rows.lazy(), dict[int, str]()
    columns = {
        name: column
        for name, column in source.order_columns().items()
        if name in (TIME, AVAILABLE) and column != ALWAYS
    }
    events = source.events(raw).select(*columns).collect()
    for name, column in columns.items():
        end = 365 * DAY if source.has_integers(raw, column) else 1
        for number in events[name].is_between(0, end, closed="left").arg_true().to_list():
            found[number] = doubt(events[name][number], column) or f"the time '{column}' is 0"
        for number in ((events[name] > latest) & (events[name] < LATEST_TIME)).arg_true().to_list():
            found[number] = (
                f"the time '{column}' is {format_time(events[name][number])}, and one after {format_time(latest)} is "
                "further ahead of the clock than online.ahead allows: mend it; or replay the letter once its time has "
                "come"
            )
    return found


def rows_of_keys(view: CompiledView, rows: pl.DataFrame, keys: Int64s, since: int) -> list[int]:
    """The numbers of the rows whose events are of some keys.

    Args:
        view: compiled view.
        rows: rows as the source's table holds them, that can be prepared.
        keys: [k, entities] int64.
        since: events that could be known before this time are left out; microseconds.
    """
    wanted: set[tuple[int, ...]] = set(map(tuple, keys.tolist()))
    source, raw = view.view.source, rows.lazy()

    def prepared(part: pl.LazyFrame) -> tuple[Rows, list[int]]:
        found = prepare_rows(view, part, name=lambda _: "the event")
        of_rows: list[tuple[int, ...]] = list(map(tuple, found.keys.tolist()))
        hit = [key in wanted and at >= since for key, at in zip(of_rows, found.visible.tolist(), strict=True)]
        return found, np.flatnonzero(hit).tolist()

    found, hit = prepared(raw)
    try:
        events = source.events(raw.with_row_index(_POSITION))
        events = events if view.view.where is None else events.filter(view.view.where)
        placed = events.select(_POSITION, TIME).collect()
        if np.array_equal(placed[TIME].to_numpy(), found.times):
            return sorted({int(placed[_POSITION][number]) for number in hit})
    except (BedplateError, *UNREADABLE):
        pass
    # The cleaning step loses the positions.
    return [number for number in range(len(rows)) if prepared(rows[number].lazy())[1]] or list(range(len(rows)))
