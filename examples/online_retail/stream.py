"""The last weeks as a stream: files that appear one after the other, and proof that the store keeps up with history."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from bedplate.canonical import string_ids
from bedplate.features.view import CompiledView
from bedplate.health.parity import ParityReport
from bedplate.online.base import OnlineStore
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.load import bulk_load
from bedplate.online.state import REWIND, read_state
from bedplate.project import Project
from bedplate.sources.base import TIME, Source
from bedplate.types import Int64s, format_time

CUTS = 100
"""How many files the stream is cut into, at random times."""
PAIRS = 18
"""How many (customer, product, time) rows are compared after each file, beside those of its last order lines."""
NEWEST = 9
"""How many of a file's last order lines are among the rows that are compared."""


def cut_times(start: int, end: int, seed: int) -> np.ndarray:
    """The times at which files end, ascending; the last is just after the last event."""
    inner = np.random.default_rng(seed).integers(start + 1, end, CUTS - 1)
    return np.append(np.unique(inner), end + 1)


def append_file(raw: pl.LazyFrame, folder: Path, start: int, end: int) -> pl.DataFrame:
    """Writes the raw rows with start <= time < end as the next file of the stream: aside, then renamed; the rows."""
    time = pl.col("InvoiceDate").dt.epoch("us")
    name = format_time(start).replace(":", "")
    aside = folder / f".{name}.tmp"
    rows = raw.filter(time >= start, time < end).collect()
    rows.write_parquet(aside)
    aside.rename(folder / f"{name}.parquet")
    return rows


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
    lines = project.views["customer_lines"].view.source
    raw = lines.table(project.root).scan().collect().lazy()
    by_source: dict[str, list[CompiledView]] = {}
    for view in project.views.values():
        by_source.setdefault(view.view.source.name, []).append(view)
    every = project.graph.select(list(project.graph.features))
    reader, report, rows, events = OnlineReader(store), ParityReport(), 0, 0
    draw = np.random.default_rng(7)
    known = project.history.reader(project.views["customer_product"]).all_keys()
    cuts = cut_times(start, end, seed=1)
    for number, cut in enumerate(cuts):
        file = append_file(raw, folder, start if number == 0 else int(cuts[number - 1]), int(cut))
        taken = [Ingest(store, views, folder).run() for views in by_source.values()]
        events += max(t.events for t in taken)
        pairs = np.concatenate([newest_pairs(lines, file), sample_pairs(known, draw)])
        watermark = max(read_state(store, view).watermark for view in project.views.values())
        times = sample_times(watermark, int(cut), len(pairs), draw)
        keys = {"customer": pairs[:, 0].copy(), "product": pairs[:, 1].copy()}
        report.compare_features(every, keys, times, reader, project.history)
        rows += len(pairs)
        if (number + 1) % 20 == 0:
            show(f"streamed {number + 1} of {len(cuts)} files to {format_time(int(cut))}, {rows:,} rows compared")
    return report, rows, events


def sample_times(watermark: int, end: int, count: int, draw: np.random.Generator) -> Int64s:
    """[count] times to ask for after a file: its end, times inside it and times in the minute before its last event.

    Of the minute before, the store must leave out what it has taken in already.
    """
    before = draw.integers(watermark - REWIND, watermark, count, endpoint=True)
    after = draw.integers(watermark, max(end, watermark), count, endpoint=True)
    kind = np.arange(count) % 3
    return np.where(kind == 0, end, np.where(kind == 1, before, after))


def newest_pairs(lines: Source, file: pl.DataFrame) -> Int64s:
    """[at most NEWEST, 2] customer and product of a file's last order lines."""
    rows = lines.events(file.lazy()).sort(TIME).tail(NEWEST).collect()
    products = string_ids(rows["product_id"].to_list())
    return np.array([rows["customer_id"].to_list(), products], np.int64).T.reshape(-1, 2)


def sample_pairs(known: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Pairs that have a history, pairs of known customers and products that do not, and unknown ones."""
    real = known[draw.integers(0, len(known), PAIRS - 6)]
    mixed = np.stack([known[draw.integers(0, len(known), 4), 0], known[draw.integers(0, len(known), 4), 1]], axis=1)
    unknown = np.array([[1, 1], [known[draw.integers(0, len(known)), 0], 1]])
    return np.concatenate([real, mixed, unknown])
