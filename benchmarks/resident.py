"""Reading features of 500 hot keys: resident views beside raw mapped columns, the embedded store and a dict of rows.

    python benchmarks/resident.py [--json FILE] [--rounds 300] [--keys 200000]

The floor is written by hand: a float32 file a feature, mapped, the keys sorted and searched, a take from each column
into the same float32 matrix. It knows no nulls, no time and no windows, and its keys are a plain sorted array. "By row"
keeps one file with a row a key instead. The dict has a float32 row behind each key. All read the same random keys, in
turns; values are compared first. Of windows the floor's values are those of one moment, ours move on with the time.
"Moved on" are reads after a window's edge has passed, before the next refresh. At the end another process refreshes
the first view without a pause while it is read, and versions are switched. It ends with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from online_read import FEATURES, NOW, READ, matrix, medians, view_of
from record import judge, machine, save

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.base import Aggregation
from bedplate.aggregations.ordered import Last
from bedplate.features.view import CompiledView
from bedplate.online import keys as store_keys
from bedplate.online.base import Changes
from bedplate.online.fetch import OnlineReader
from bedplate.online.lmdb import LmdbStore
from bedplate.online.load import bulk_load
from bedplate.online.refresh import refresh
from bedplate.online.resident import ResidentReader, ResidentViews
from bedplate.testing.online_store import grouped
from bedplate.types import DAY, HOUR, SECOND

TARGET = 2.0

Matrix = np.ndarray[Any, Any]


def last_view(keys: int) -> tuple[CompiledView, pl.DataFrame]:
    """50 `Last` features of one event a key."""
    draw = np.random.default_rng(1)
    columns = {f"c{i}": draw.random(keys) for i in range(FEATURES)}
    frame = pl.DataFrame({"user": np.arange(keys) * 7, "time": NOW - draw.integers(HOUR, 30 * DAY, keys), **columns})
    features: dict[str, Aggregation] = {f"c{i}": Last(f"c{i}") for i in range(FEATURES)}
    return view_of(frame, features), frame


def window_view(keys: int) -> tuple[CompiledView, pl.DataFrame]:
    """50 windows: counts, sums and means over 1h to 30d of 20 events a key in 30 days."""
    draw = np.random.default_rng(2)
    count = keys * 20
    times = NOW - (draw.random(count) ** 2 * 30 * DAY).astype(np.int64) - SECOND
    frame = pl.DataFrame({"user": draw.integers(0, keys, count) * 7, "time": times, "price": draw.random(count)})
    windows = ["1h", "2h", "6h", "12h", "1d", "2d", "3d", "4d", "5d", "7d", "10d", "14d", "21d", "28d", "30d"]
    features: dict[str, Aggregation] = {
        "n": Count(windows=windows),
        "sum": Sum("price", windows=windows),
        "mean": Mean("price", windows=windows),
        "all_n": Count(),
        "all_sum": Sum("price"),
        "all_mean": Mean("price"),
        "last": Last("price"),
        "last_in": Last("price", windows="1d"),
    }
    return view_of(frame, features), frame


class MappedColumns:
    """The floor: a file a feature."""

    def __init__(self, folder: Path, keys: Matrix, values: Matrix) -> None:
        order = np.argsort(keys)
        np.save(folder / "keys.npy", keys[order])
        self.keys = np.load(folder / "keys.npy", mmap_mode="r")
        self.columns: list[Matrix] = []
        for i, column in enumerate(values.T.astype(np.float32)):
            np.save(folder / f"{i}.npy", column[order])
            self.columns.append(np.asarray(np.load(folder / f"{i}.npy", mmap_mode="r")))

    def matrix(self, wanted: Matrix) -> Matrix:
        """[n, features] float32."""
        rows = np.searchsorted(self.keys, wanted)
        out = np.empty((len(self.columns), len(wanted)), np.float32)
        for column, target in zip(self.columns, out, strict=True):
            np.take(column, rows, out=target, mode="clip")
        return np.ascontiguousarray(out.T)


class MappedRows:
    """One file with a row a key."""

    def __init__(self, folder: Path, keys: Matrix, values: Matrix) -> None:
        order = np.argsort(keys)
        np.save(folder / "sorted.npy", keys[order])
        np.save(folder / "rows.npy", values.astype(np.float32)[order])
        self.keys = np.load(folder / "sorted.npy", mmap_mode="r")
        self.rows = np.asarray(np.load(folder / "rows.npy", mmap_mode="r"))

    def matrix(self, wanted: Matrix) -> Matrix:
        """[n, features] float32."""
        return self.rows[np.searchsorted(self.keys, wanted)]


class DictOfRows:
    """A row in memory behind each key."""

    def __init__(self, keys: Matrix, values: Matrix) -> None:
        self.rows = dict(zip(keys.tolist(), values.astype(np.float32), strict=True))

    def matrix(self, wanted: Matrix) -> Matrix:
        """[n, features] float32."""
        return np.stack([self.rows[key] for key in wanted.tolist()])


def stacked(reader: ResidentReader, view: CompiledView, users: Matrix, now: int) -> Matrix:
    """[n, features] float32, null as 0, of whole stacks: as a batch is made."""
    names = list(view.features)
    columns = reader.read(view, names, users.reshape(-1, 1), np.full(len(users), now))
    out = np.empty((len(users), len(names)), np.float32)
    at = 0
    for part in columns.parts:
        values: Any = part.values
        wide = values if values.ndim > 1 else values.reshape(1, -1)
        out[:, at : at + len(wide)] = wide.T
        if part.present is not None:
            out[:, at : at + len(wide)] *= part.present.reshape(wide.shape).T
        at += len(wide)
    return out


def in_stacks(reader: ResidentReader, view: CompiledView) -> list[int]:
    """Where `stacked` puts each feature."""
    columns = reader.read(view, list(view.features), np.zeros((1, 1), np.int64), np.array([NOW]))
    begins = np.cumsum([0, *(part.values.shape[0] if part.values.ndim > 1 else 1 for part in columns.parts)])  # type: ignore[union-attr]
    return [int(begins[at]) + max(position, 0) for at, position in columns.places.values()]


def measure(name: str, view: CompiledView, frame: pl.DataFrame, folder: Path, rounds: int) -> dict[str, Any]:
    """One case: loads, refreshes, compares, measures."""
    store = LmdbStore(folder / "store")
    bulk_load(store, view, [grouped(view, frame)], NOW)
    begin = time.perf_counter()
    made = refresh(store, view, folder / "resident", clock=lambda: NOW)
    seconds = time.perf_counter() - begin
    views = ResidentViews(folder / "resident", [view], clock=lambda: NOW)
    reader, stored = ResidentReader(store, views), OnlineReader(store)
    keys = np.unique(frame["user"].to_numpy())
    everything = stored.read(view, list(view.features), keys.reshape(-1, 1), np.full(len(keys), NOW))
    values = np.zeros((len(keys), len(everything)))
    for i, column in enumerate(everything.values()):
        values[:, i] = column.values if column.present is None else column.values * column.present  # type: ignore[union-attr]
    floors = {
        "columns": MappedColumns(folder, keys, values).matrix,
        "rows": MappedRows(folder, keys, values).matrix,
        "dict": DictOfRows(keys, values).matrix,
    }
    draw = np.random.default_rng(3)
    users = [draw.choice(keys, READ, replace=False) for _ in range(rounds)]
    order = in_stacks(reader, view)
    for i in range(3):
        ours = stacked(reader, view, users[i], NOW)[:, order]
        if any((ours != floor(users[i])).any() for floor in floors.values()):
            raise SystemExit(f"{name}: values differ from the floors'")
    gc.freeze()
    edge = NOW + DAY  # windows have moved on since the refresh: they are finalised of packed rows
    calls: dict[str, Callable[[int], object]] = {
        "resident": lambda i: stacked(reader, view, users[i], NOW),
        # Other keys than the first reads, which leave what they read in the processor's cache.
        "resident_by_name": lambda i: matrix(reader, view, users[i - 1]),
        "resident_moved_on": lambda i: stacked(reader, view, users[i - 2], edge),
        "lmdb": lambda i: matrix(stored, view, users[i]),
        **{f"raw_{which}": (lambda i, f=floor: f(users[i])) for which, floor in floors.items()},
    }
    found = dict(zip(calls, medians(list(calls.values()), rounds, lambda: None), strict=True))
    print(f"{name}, {len(view.features)} features x {READ} of {len(keys):,} keys, milliseconds:")
    print("  " + ", ".join(f"{which} {ms:.3f}" for which, ms in found.items()))
    print(f"  refresh of {made.rows:,} rows, {made.bytes / 1e6:.0f} MB: {seconds:.1f} s")
    store.close()
    busy = dict[str, float]()
    if name == "last":
        busy = while_refreshed(folder, view, len(keys), lambda r, i: stacked(r, view, users[i], NOW), rounds)
    facts = {"features": len(view.features), "refresh_seconds": seconds, "bytes": made.bytes}
    return {**facts, "milliseconds": found, "while_refreshed": busy}


def refresh_for_ever(folder: Path, keys: int) -> None:
    """Steps without events, and after each a refresh, which copies all."""
    view, _ = last_view(keys)
    with LmdbStore(folder / "store") as store:
        while True:
            state = store.read_many([store_keys.state_of(view)]).data
            store.commit(Changes([(store_keys.state_of(view), state + b" ")]))
            refresh(store, view, folder / "resident", clock=lambda: NOW)


def while_refreshed(
    folder: Path, view: CompiledView, keys: int, read: Callable[[ResidentReader, int], object], rounds: int
) -> dict[str, float]:
    """Reads, quiet and while another process refreshes: the median and the 99th percentile, milliseconds."""
    views = ResidentViews(folder / "resident", [view], clock=lambda: NOW)
    with LmdbStore(folder / "store") as store:
        reader, found = ResidentReader(store, views), dict[str, float]()
        views.watch(0.1)
        process = multiprocessing.get_context("spawn").Process(
            target=refresh_for_ever, args=(folder, keys), daemon=True
        )
        for what in ("quiet", "busy"):
            if what == "busy":
                process.start()
                before = (folder / "resident" / view.id / "current.json").read_bytes()
                while (folder / "resident" / view.id / "current.json").read_bytes() == before:
                    time.sleep(0.01)
            took = list[float]()
            for i in range(10 * rounds):
                begin = time.perf_counter()
                read(reader, i % rounds)
                took.append((time.perf_counter() - begin) * 1e3)
                time.sleep(0.001)
            found |= {f"{what}_p50": statistics.median(took), f"{what}_p99": statistics.quantiles(took, n=100)[98]}
        process.kill()
        process.join()
        views.close()
    print("  " + ", ".join(f"{what} {ms:.3f}" for what, ms in found.items()))
    return found


def main() -> int:
    """Measures both views; the first has the target, the second shows windows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="reads of each")
    parser.add_argument("--keys", type=int, default=200_000, help="how many keys there are")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    result: dict[str, Any] = {"keys": options.keys, "read": READ}
    ratios: dict[str, tuple[float, str, float]] = {}
    for name, made in (("last", last_view), ("windows", window_view)):
        with tempfile.TemporaryDirectory() as folder:
            found = result[name] = measure(name, *made(options.keys), Path(folder), options.rounds)
        times = found["milliseconds"]
        found["ratio"] = times["resident"] / times["raw_columns"]
        found["ratio_rows"] = times["resident"] / times["raw_rows"]
        ratios[f"{name}: times raw mapped columns"] = (round(found["ratio"], 2), "<=", TARGET)
        print(f"  {found['ratio']:.2f}x raw columns, {found['ratio_rows']:.2f}x raw rows")
    code = judge(result, ratios)
    if options.json:
        save("resident", result | {"machine": machine()}, options.json)
    return code


if __name__ == "__main__":
    sys.exit(main())
