"""The last weeks as a stream: files that appear one after the other, and proof that the store keeps up with history."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from bedplate.health.parity import ParityReport
from bedplate.online.base import OnlineStore
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.load import bulk_load
from bedplate.project import Project
from bedplate.types import format_time

CUTS = 100
"""How many files the stream is cut into, at random times."""
PAIRS = 24
"""How many (customer, product) pairs are compared after each file."""


def cut_times(start: int, end: int, seed: int) -> np.ndarray:
    """The times at which files end, ascending; the last is just after the last event."""
    inner = np.random.default_rng(seed).integers(start + 1, end, CUTS - 1)
    return np.append(np.unique(inner), end + 1)


def append_file(raw: pl.LazyFrame, folder: Path, start: int, end: int) -> None:
    """Writes the raw rows with start <= time < end as the next file of the stream: aside, then renamed."""
    time = pl.col("InvoiceDate").dt.epoch("us")
    name = format_time(start).replace(":", "")
    aside = folder / f".{name}.tmp"
    raw.filter(time >= start, time < end).collect().write_parquet(aside)
    aside.rename(folder / f"{name}.parquet")


def replay(
    project: Project, store: OnlineStore, start: int, end: int, show: Callable[[str], None]
) -> tuple[ParityReport, int, int]:
    """Loads the store as of `start`, streams the rest through it, and compares it with history after every file.

    Returns:
        the comparison, how many rows of (customer, product, time) it has, and how many events were streamed.
    """
    for view in project.views.values():
        bulk_load(store, view, project.history.grouped(view), start)
    show(f"bulk-loaded {len(project.views)} views as of {format_time(start)}")
    folder = project.root / ".bedplate" / "stream"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    raw = project.views["customer_lines"].view.source.table(project.root).scan().collect().lazy()
    by_source: dict[str, list] = {}
    for view in project.views.values():
        by_source.setdefault(view.view.source.name, []).append(view)
    reader, report, rows, events = OnlineReader(store), ParityReport(), 0, 0
    draw = np.random.default_rng(7)
    timeline = project.history.reader(project.views["customer_product"]).timeline
    known = np.array(timeline.keys)
    cuts = cut_times(start, end, seed=1)
    for number, cut in enumerate(cuts):
        append_file(raw, folder, start if number == 0 else int(cuts[number - 1]), int(cut))
        taken = [Ingest(store, views, folder).run() for views in by_source.values()]
        events += max(t.events for t in taken)
        pairs = sample_pairs(known, draw)
        times = np.full(len(pairs), cut, np.int64)
        for view in project.views.values():
            names = [e.name for e in view.view.entities]
            columns = [pairs[:, 0] if n == "customer" else pairs[:, 1] for n in names]
            report.compare(view, np.stack(columns, axis=1), times, reader, project.history)
        rows += len(pairs)
        if (number + 1) % 20 == 0:
            show(f"streamed {number + 1} of {len(cuts)} files to {format_time(int(cut))}, {rows:,} rows compared")
    return report, rows, events


def sample_pairs(known: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Pairs that have a history, pairs of known customers and products that do not, and unknown ones."""
    real = known[draw.integers(0, len(known), PAIRS - 6)]
    mixed = np.stack([known[draw.integers(0, len(known), 4), 0], known[draw.integers(0, len(known), 4), 1]], axis=1)
    unknown = np.array([[1, 1], [known[draw.integers(0, len(known)), 0], 1]])
    return np.concatenate([real, mixed, unknown])
