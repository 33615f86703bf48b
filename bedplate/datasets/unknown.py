"""Events of a label whose value is null or NaN: what happened is not known, and no history can tell it from nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import polars as pl

from bedplate.aggregations.arithmetic import Count
from bedplate.datasets.labels import MASKED, CompiledLabel
from bedplate.errors import DataError, reason
from bedplate.sources.base import TIME, UNREADABLE


@final
@dataclass(frozen=True, slots=True)
class UnknownValues:
    """The events of a label in the time of the requests, and how many of them say nothing.

    Attributes:
        label: its name.
        source: the name of its source.
        events: those that its condition lets through.
        null: those of which an input is null, and none NaN.
        nan: those of which an input is NaN.
    """

    label: str
    source: str
    events: int
    null: int
    nan: int

    def __str__(self) -> str:
        """A line for a person to read.

        >>> print(UnknownValues("liked", "plays", 5000, 714, 0))
          values of 'liked': 714 of 5,000 events have none (714 null, 0 NaN), in source 'plays'
        """
        return (
            f"  values of '{self.label}': {self.null + self.nan:,} of {self.events:,} events have none "
            f"({self.null:,} null, {self.nan:,} NaN), in source '{self.source}'"
        )


def read_unknown(compiled: CompiledLabel, root: Path | None, first: int, last: int) -> UnknownValues | None:
    """Counts the events whose value is not known; None where no value is read, or by definition only what is not null.

    Args:
        compiled: the label.
        root: the project's folder, where relative paths start.
        first: the time of the first request, microseconds.
        last: that of the last one.

    Raises:
        DataError: rows that can't be read.
    """
    label, where = compiled.label, compiled.view.view.where
    selections = [s for s in label.aggregation.selections if s.inputs]
    if isinstance(label.aggregation, Count) or not selections:
        return None
    rows = label.source.scan(root).filter(pl.col(TIME).is_between(first, last + label.horizon, closed="left"))
    rows = rows if where is None else rows.filter(where)
    inputs = {f"{i} {j}": e for i, s in enumerate(selections) for j, e in enumerate(s.inputs)}
    counts = [pl.lit(True) if s.where is None else s.where.fill_null(False) for s in selections]
    try:
        read = rows.select(**inputs, **{f"counts {i}": one for i, one in enumerate(counts)}, row=pl.int_range(pl.len()))
        schema = read.collect_schema()
        nan = [
            pl.col(f"counts {name.partition(' ')[0]}") & pl.col(name).is_nan().fill_null(False)
            for name in inputs
            if schema[name].is_float()
        ]
        null = [pl.col(f"counts {name.partition(' ')[0]}") & pl.col(name).is_null() for name in inputs]
        is_nan = pl.any_horizontal(pl.lit(False), *nan)
        counted = read.select(
            events=_count(pl.any_horizontal(*(pl.col(f"counts {i}") for i in range(len(counts))))),
            nan=_count(is_nan),
            null=_count(pl.any_horizontal(*null) & ~is_nan),
        )
        found = counted.collect().row(0, named=True)
    except UNREADABLE as error:
        raise DataError(
            f"can't read the rows: {reason(error)}", where=f"{label.place}, source '{label.source.name}'"
        ) from error
    return UnknownValues(label.name, label.source.name, found["events"], found["null"], found["nan"])


def _count(condition: pl.Expr) -> pl.Expr:
    # Of no rows, and of a condition that is the same for all, a sum is of one row.
    return (condition & (pl.col("row") >= 0)).sum()


def unsaid(compiled: CompiledLabel, found: UnknownValues) -> Iterator[str]:
    """What is wrong with events that say nothing where the label does not say what is made of them."""
    empty = compiled.label.empty
    if found.nan and empty != MASKED:
        yield (
            f"{found.nan:,} of {found.events:,} events of source '{found.source}' have NaN, which is no value; mend "
            'them in the prepare step, or leave their candidates out of the label: empty="masked"'
        )
    if found.null and empty is None:
        yield (
            f"{found.null:,} of {found.events:,} events of source '{found.source}' have null, and the label does not "
            'say what a candidate is then: empty="masked" leaves it out, empty=0 says that nothing happened'
        )
