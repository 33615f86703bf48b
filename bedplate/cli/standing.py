"""What `bedplate ingest` shows of its workers: a line while they are at work, and a table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, final

from bedplate.cli.progress import ProgressLine
from bedplate.cli.tables import counted, elapsed, table
from bedplate.clock import Clock, system_clock
from bedplate.types import SECOND, format_time

if TYPE_CHECKING:
    from bedplate.online.measures import Measures

_HEADINGS = ["source", "views", "files", "rows", "passed over", "rows/s", "left", "fresh", "errors", "exact from"]

_SHOWN = 5  # names


@final
@dataclass(frozen=True, slots=True)
class Progressed:
    """What was taken in for one source.

    Attributes:
        source: its name.
        views: the views that it keeps current.
        files: how many files were taken in to their end.
        rows: how many rows were taken in.
        passed_over: how many rows were not taken in, as the loads of all views had those of their time.
        watermark: reads from this time on are exact; microseconds.
        lag: rows of the stream that are left, as far as that is known; None: it is not.
        rows_per_second: of the whole run.
        freshness: how old the newest event of the last micro-batch is, seconds; None: no view took one in.
        conflicts: steps that were made anew, as another worker was first.
        letters: events that went to dead letters.
        store_errors: how often the store could not be reached or did not say what became of a step.
        stream_errors: errors of the stream that passed.
        stuck: why partitions can't go on, by their names.
        strangers: what is in the directory and no file of a stream, by its name.
    """

    source: str
    views: list[str]
    files: int
    rows: int
    passed_over: int
    watermark: int
    lag: int | None
    rows_per_second: float
    freshness: float | None
    conflicts: int
    letters: int
    store_errors: int
    stream_errors: int
    stuck: dict[str, str]
    strangers: list[str]

    @classmethod
    def of(cls, measures: Measures, views: Sequence[str], seconds: float) -> Self:
        """What a worker took in for some views in so many seconds."""
        return cls(
            source=measures.source,
            views=list(views),
            files=measures.files,
            rows=measures.events,
            passed_over=measures.passed_over,
            watermark=min(measures.watermarks.values(), default=0),
            lag=measures.lag,
            rows_per_second=measures.events / seconds,
            freshness=measures.freshness(system_clock()),
            conflicts=measures.conflicts,
            letters=measures.letters,
            store_errors=measures.store_errors,
            stream_errors=measures.stream_errors,
            stuck=measures.stuck,
            strangers=list(measures.strangers),
        )


@final
class Standing:
    """Shows how workers stand.

    On a terminal always, where a line is written over. Else when something was taken in, and when the store is away or
    there again, a partition can't go on or does again, or something is in the directory that is no file of a stream.
    """

    __slots__ = ("_away", "_line", "_seen", "_strangers", "_stuck")

    def __init__(self, line: ProgressLine) -> None:
        self._line = line
        self._seen: dict[str, int] = {}
        self._away: set[str] = set()
        self._stuck: dict[str, dict[str, str]] = {}
        self._strangers: set[str] = set()

    def __call__(self, measures: Measures) -> None:
        """Shows how a worker stands."""
        self._show_new(measures)
        source, is_away = measures.source, bool(measures.trouble or measures.stream_trouble)
        turned = is_away != (source in self._away)
        is_new = turned or (not is_away and self._seen.get(source) != measures.events + measures.passed_over)
        if (is_new or self._line.is_terminal) and self._line.show(standing_text(measures), at_once=turned):
            self._seen[source] = measures.events + measures.passed_over
            (self._away.add if is_away else self._away.discard)(source)

    def _show_new(self, measures: Measures) -> None:
        """Shows what came to be in the way, once."""
        source, before = measures.source, self._stuck.get(measures.source, {})
        for partition, why in measures.stuck.items():
            if before.get(partition) != why:
                self._line.show(f"{source}: partition '{partition}' can't go on, trying again: {why}", at_once=True)
        for partition in before.keys() - measures.stuck.keys():
            self._line.show(f"{source}: partition '{partition}' goes on", at_once=True)
        self._stuck[source] = dict(measures.stuck)
        if new := [name for name in measures.strangers if name not in self._strangers]:
            self._strangers.update(new)
            self._line.show(f"{source}: {strangers_text(new)}", at_once=True)


def strangers_text(names: Sequence[str]) -> str:
    """What is said of things in a stream's directory that are no files of it.

    >>> strangers_text(["a.csv"])
    'not taken in, as they are no files with a name of a stream: a.csv'
    """
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"not taken in, as they are no files with a name of a stream: {', '.join(names[:_SHOWN])}{more}"


def standing_text(measures: Measures, clock: Clock = system_clock) -> str:
    """How a worker stands, in a line.

    Args:
        measures: of the worker.
        clock: what freshness is measured by.
    """
    errors = counted(
        [
            (measures.conflicts, "conflict"),
            (measures.letters, "dead letter"),
            (measures.store_errors, "store error"),
            (measures.stream_errors, "stream error"),
            (len(measures.stuck), "stuck partition"),
        ]
    )
    if trouble := measures.trouble or measures.stream_trouble:
        return f"{measures.source}: {', '.join(filter(None, (errors, 'trying again')))}: {trouble}"
    old = measures.freshness(clock())
    parts = [
        f"{measures.rate:,.0f} events/s",
        f"{measures.passed_over:,} passed over" if measures.passed_over else "",
        "" if measures.lag is None else f"{measures.lag:,} left",
        "" if old is None else f"newest {elapsed(max(0, round(old * SECOND)))} old",
        errors,
    ]
    return f"{measures.source}: {measures.place or 'nothing yet'}; {', '.join(filter(None, parts))}"


def progress_table(progressed: Sequence[Progressed]) -> str:
    """A table of what was taken in; its errors are all that was tried again or went aside."""
    rows = [
        [
            p.source,
            ", ".join(p.views),
            f"{p.files:,}",
            f"{p.rows:,}",
            f"{p.passed_over:,}",
            f"{p.rows_per_second:,.0f}",
            "-" if p.lag is None else f"{p.lag:,}",
            "-" if p.freshness is None else elapsed(max(0, round(p.freshness * SECOND))),
            f"{p.conflicts + p.letters + p.store_errors + p.stream_errors + len(p.stuck):,}",
            format_time(p.watermark) if p.watermark else "-",
        ]
        for p in progressed
    ]
    return table(_HEADINGS, rows, [2, 3, 4, 5, 6, 8])
