"""Which rows of a micro-batch can't be taken in, and why: those that `prepare_rows` refuses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from bedplate.errors import DataError, reason
from bedplate.features.rows import prepare_rows
from bedplate.features.view import CompiledView
from bedplate.sources.base import TIME, UNREADABLE
from bedplate.types import EARLIEST_TIME, LATEST_TIME


def refused_rows(views: Sequence[CompiledView], rows: pl.DataFrame) -> dict[int, str]:
    """The numbers of the rows that one of the views can't take in, with the reason.

    What is plainly wrong, a key or a time that is null or impossible, is found at once; the others by halving.

    Args:
        views: compiled views of one source.
        rows: rows as the source's table holds them.
    """
    wrong = _plainly_wrong(views, rows)
    left = np.flatnonzero([number not in wrong for number in range(len(rows))]).tolist()
    parts = [left]
    while parts:
        part = parts.pop()
        try:
            for view in views:
                prepare_rows(view, rows[part].lazy(), name=lambda _: "the event")
        except (DataError, *UNREADABLE) as error:
            if len(part) == 1:
                wrong[part[0]] = f"{error.where}: {error.message}" if isinstance(error, DataError) else reason(error)
            else:
                parts += [part[: len(part) // 2], part[len(part) // 2 :]]
    return wrong


def _plainly_wrong(views: Sequence[CompiledView], rows: pl.DataFrame) -> dict[int, str]:
    source = views[0].view.source
    if source.prepare is not None:  # it may give other rows than it gets
        return {}
    events = source.events(rows.lazy()).collect()
    columns = dict.fromkeys(e.key for v in views if v.view.where is None for e in v.view.entities)
    checks = {f"the key '{c}' is null": events[c].is_null() for c in columns}
    time = events[TIME]
    checks[f"the time '{source.time}' is null"] = time.is_null()
    outside = ((time < EARLIEST_TIME) | (time >= LATEST_TIME)).fill_null(value=False)
    checks[f"the time '{source.time}' is not between 1970 and 2200"] = outside
    return {number: text for text, marked in checks.items() for number in marked.arg_true().to_list()}
