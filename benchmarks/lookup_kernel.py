"""Bedplate's lookups beside plain Numba kernels of the same work, written for exactly this table and nothing else.

    python benchmarks/lookup_kernel.py [--events N] [--labels N] [--users N] [--json FILE]

Two shapes: the last values of two columns, and count, sum and mean over four windows. A kernel finds a label's key,
then its rows by binary search, on two threads, from arrays in memory that are sorted by key and time with running
totals. It is measured on labels as they come and, better for large tables, on labels that it orders by key first, which
is part of its time. Bedplate reads its index from its files. Results are compared value by value.

Three shapes whose values are found by a walk over a window's rows, from a table of a tenth of the events and a
hundredth of the users, for a fifth of the labels: the 3 most frequent of 1,000 items in 14 days with their counts, the
number of different ones, and the last 5 different ones. A kernel counts in an array with a place for each item.

Last, the windows from an index of five segments, each with a fifth of the days, beside those from one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numba
import numpy as np
import polars as pl
from offline_windows import WINDOWS, generate
from record import judge, machine, save

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.counts import TopK
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.ordered import Last, LastN
from bedplate.aggregations.window import Window
from bedplate.batch import Ragged
from bedplate.features.entity import Entity
from bedplate.features.view import FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.sources.base import Source

REPEATS = 7
PARTS = 16
"""Parts of the labels that one thread after the other takes."""
ITEMS, TOP, LAST = 1000, 3, 5
SEGMENTS = 5


@numba.njit(cache=True, inline="always")
def position(times, start, stop, time):
    """The first of a key's rows that is not before a time."""
    while start < stop:
        middle = (start + stop) >> 1
        if times[middle] < time:
            start = middle + 1
        else:
            stop = middle
    return start


@numba.njit(cache=True, parallel=True)
def last_values(offsets, times, values, asked, at, order, out, present):
    for i in numba.prange(len(order)):
        row, code = order[i], asked[i]
        if code < 0:
            continue
        stop = position(times, offsets[code], offsets[code + 1], at[i])
        if stop > offsets[code]:
            present[row] = True
            for c in range(values.shape[1]):
                out[c, row] = values[stop - 1, c]


@numba.njit(cache=True, parallel=True)
def window_totals(offsets, times, sums, lengths, hops, asked, at, order, counts, totals, means):
    for i in numba.prange(len(order)):
        row, code = order[i], asked[i]
        if code < 0:
            continue
        first, end = offsets[code], offsets[code + 1]
        stop = position(times, first, end, at[i])
        for w in range(len(lengths)):
            tail = at[i] - lengths[w]
            start = position(times, first, stop, tail - tail % hops[w])
            # Running totals have one more place than rows, each key's own beginning at 0.
            counts[w, row] = stop - start
            totals[w, row] = sums[stop + code] - sums[start + code]
            if stop > start:
                means[w, row] = totals[w, row] / (stop - start)


@numba.njit(cache=True)
def by_key(codes, offsets, users, times):
    """Codes, times and places of the labels, ordered by key: a counting sort."""
    places = np.zeros(len(offsets) + 1, np.int64)
    for user in users:
        places[codes[user] + 2] += 1
    for k in range(1, len(places)):
        places[k] += places[k - 1]
    asked, at, order = np.empty(len(users), np.int64), np.empty(len(users), np.int64), np.empty(len(users), np.int64)
    for row in range(len(users)):
        code = codes[users[row]]
        place = places[code + 1]
        asked[place], at[place], order[place] = code, times[row], row
        places[code + 1] += 1
    return asked, at, order


@numba.njit(cache=True, inline="always")
def is_before(counts, lasts, times, one, other):
    """Whether an item is more frequent than another, or as frequent and seen later, or has the smaller number."""
    if counts[one] != counts[other]:
        return counts[one] > counts[other]
    if times[lasts[one]] != times[lasts[other]]:
        return times[lasts[one]] > times[lasts[other]]
    return one < other


@numba.njit(cache=True, parallel=True)
def top_items(offsets, times, items, window, kinds, k, asked, at, order, out, found, sizes):
    for part in numba.prange(PARTS):
        counts, lasts, seen = np.zeros(kinds, np.int64), np.zeros(kinds, np.int64), np.zeros(kinds, np.int64)
        for i in range(part * len(order) // PARTS, (part + 1) * len(order) // PARTS):
            row, code = order[i], asked[i]
            stop = position(times, offsets[code], offsets[code + 1], at[i])
            tail = at[i] - window[0]
            start = position(times, offsets[code], stop, tail - tail % window[1])
            n = 0
            for j in range(start, stop):
                item = items[j]
                if counts[item] == 0:
                    seen[n] = item
                    n += 1
                counts[item] += 1
                lasts[item] = j
            size = 0
            for s in range(n):
                if size == k and not is_before(counts, lasts, times, seen[s], out[row, k - 1]):
                    continue
                place = min(size, k - 1)
                while place > 0 and is_before(counts, lasts, times, seen[s], out[row, place - 1]):
                    out[row, place] = out[row, place - 1]
                    place -= 1
                out[row, place] = seen[s]
                size = min(size + 1, k)
            sizes[row] = size
            for place in range(size):
                found[row, place] = counts[out[row, place]]
            for s in range(n):
                counts[seen[s]] = 0


@numba.njit(cache=True, parallel=True)
def different_items(offsets, times, items, window, kinds, asked, at, order, out):
    for part in numba.prange(PARTS):
        stamps = np.full(kinds, -1, np.int64)
        for i in range(part * len(order) // PARTS, (part + 1) * len(order) // PARTS):
            code = asked[i]
            stop = position(times, offsets[code], offsets[code + 1], at[i])
            tail = at[i] - window[0]
            n = 0
            for j in range(position(times, offsets[code], stop, tail - tail % window[1]), stop):
                n += stamps[items[j]] != i
                stamps[items[j]] = i
            out[order[i]] = n


@numba.njit(cache=True, parallel=True)
def last_items(offsets, times, items, kinds, k, asked, at, order, out, sizes):
    for part in numba.prange(PARTS):
        stamps, kept = np.full(kinds, -1, np.int64), np.zeros(k, np.int64)
        for i in range(part * len(order) // PARTS, (part + 1) * len(order) // PARTS):
            row, code = order[i], asked[i]
            j, n = position(times, offsets[code], offsets[code + 1], at[i]) - 1, 0
            while j >= offsets[code] and n < k:
                if stamps[items[j]] != i:
                    stamps[items[j]] = i
                    kept[n] = items[j]
                    n += 1
                j -= 1
            sizes[row] = n
            for place in range(n):
                out[row, place] = kept[n - 1 - place]


class Kernels:
    """The table in memory, as a kernel wants it."""

    def __init__(self, folder: Path) -> None:
        events = pl.read_parquet(folder / "events.parquet").sort("user", "time", maintain_order=True)
        users = events["user"].to_numpy()
        keys, counts = np.unique(users, return_counts=True)
        self.codes = np.full(keys[-1] + 1, -1)
        self.codes[keys] = np.arange(len(keys))
        self.offsets = np.concatenate([[0], np.cumsum(counts)])
        self.times = events["time"].to_numpy()
        self.values = np.stack([events["value"].to_numpy(), events["other"].to_numpy()], axis=1)
        self.sums = np.zeros(len(users) + len(keys))
        for k, (start, stop) in enumerate(zip(self.offsets[:-1], self.offsets[1:], strict=True)):
            self.sums[start + k + 1 : stop + k + 1] = np.cumsum(self.values[start:stop, 0])
        self.items = events["item"].to_numpy()
        labels = pl.read_parquet(folder / "labels.parquet")
        self.users, self.at = labels["user"].to_numpy(), labels["time"].to_numpy()

    def asked(self, ordered: bool) -> tuple[np.ndarray, ...]:
        """Codes, times and places of the labels."""
        if ordered:
            return by_key(self.codes, self.offsets, self.users, self.at)
        return self.codes[self.users], self.at, np.arange(len(self.users))

    def last(self, ordered: bool) -> dict[str, np.ndarray]:
        out, present = np.zeros((2, len(self.at))), np.zeros(len(self.at), np.bool_)
        last_values(self.offsets, self.times, self.values, *self.asked(ordered), out, present)
        return {"value": out[0], "other": out[1], "present": present}

    def windows(self, ordered: bool) -> dict[str, np.ndarray]:
        counts = np.zeros((len(WINDOWS), len(self.at)), np.int64)
        totals, means = np.zeros(counts.shape), np.zeros(counts.shape)
        windows = [Window.of(w) for w in WINDOWS]
        lengths, hops = np.array([w.length for w in windows]), np.array([w.hop for w in windows])
        asked = self.asked(ordered)
        window_totals(self.offsets, self.times, self.sums, lengths, hops, *asked, counts, totals, means)
        parts = {"n": counts, "total": totals, "mean": means}
        return {f"{name}_{w}": part[i] for name, part in parts.items() for i, w in enumerate(WINDOWS)}

    def top(self, ordered: bool) -> dict[str, np.ndarray]:
        out, counts = np.zeros((len(self.at), TOP), np.int64), np.zeros((len(self.at), TOP), np.int64)
        sizes, window = np.zeros(len(self.at), np.int64), Window.of("14d")
        lengths = np.array([window.length, window.hop])
        asked = self.asked(ordered)
        top_items(self.offsets, self.times, self.items, lengths, ITEMS, TOP, *asked, out, counts, sizes)
        return {"sizes": sizes, "top_14d": out, "top_14d_counts": counts}

    def distinct(self, ordered: bool) -> dict[str, np.ndarray]:
        out, window = np.zeros(len(self.at), np.int64), Window.of("14d")
        lengths = np.array([window.length, window.hop])
        different_items(self.offsets, self.times, self.items, lengths, ITEMS, *self.asked(ordered), out)
        return {"different_14d": out}

    def latest(self, ordered: bool) -> dict[str, np.ndarray]:
        out, sizes = np.zeros((len(self.at), LAST), np.int64), np.zeros(len(self.at), np.int64)
        last_items(self.offsets, self.times, self.items, ITEMS, LAST, *self.asked(ordered), out, sizes)
        return {"sizes": sizes, "recent": out}


def view(folder: Path, shape: str) -> Any:
    source = Source("events", str(folder / "events.parquet"), time="time")
    features = {
        "top": {"top": TopK("item", TOP, counts=True, windows="14d")},
        "distinct": {"different": CountDistinct("item", windows="14d")},
        "latest": {"recent": LastN("item", LAST, distinct="item")},
        "last": {"value": Last("value"), "other": Last("other")},
        "windows": {
            "n": Count(windows=WINDOWS),
            "total": Sum("value", windows=WINDOWS),
            "mean": Mean("value", windows=WINDOWS),
        },
    }[shape]
    return FeatureView("events", Entity("user", key="user"), source, features).compile()


def timed(work: Callable[[], dict[str, np.ndarray]]) -> tuple[float, dict[str, np.ndarray]]:
    """The median of a few runs, after one that compiles and warms up."""
    work()
    seconds: list[float] = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), found


def squared(found: dict[str, Any]) -> dict[str, np.ndarray]:
    """Lists as rows of a matrix, 0 where they have ended, and their lengths."""
    lists = {name: column for name, column in found.items() if isinstance(column, Ragged)}
    for name, column in lists.items():
        sizes = np.diff(column.offsets)
        matrix = np.zeros((len(sizes), TOP if name.startswith("top") else LAST), np.int64)
        matrix[np.arange(matrix.shape[1]) < sizes[:, None]] = column.values.values
        found |= {name: matrix, "sizes": sizes}
    return found


def measure(folder: Path, shape: str, kernels: Kernels) -> dict[str, float]:
    compiled = view(folder, shape)
    history = IndexedHistory(folder / "index")
    history.build(compiled).run()
    keys = kernels.users.reshape(-1, 1)

    def read() -> dict[str, Any]:
        columns = history.read(compiled, list(compiled.features), keys, kernels.at)
        found = {compiled.short(n): c if isinstance(c, Ragged) else c.values for n, c in columns.items()}
        if shape == "last":
            mask = columns["events.value"].present
            found["present"] = np.ones(len(keys), np.bool_) if mask is None else mask
        return found

    ours, found = timed(read)
    run = getattr(kernels, shape)
    plain, expected = timed(lambda: run(False))
    ordered, again = timed(lambda: run(True))
    if shape == "last":
        found |= {name: np.where(found["present"], found[name], 0.0) for name in ("value", "other")}
    found = squared(found)
    for name, values in expected.items():
        if not np.array_equal(values, again[name]) or not np.allclose(found[name], values, rtol=1e-6, atol=1e-6):
            raise SystemExit(f"{shape}: results differ in {name}")
    best = min(plain, ordered)
    times = {"bedplate_s": ours, "kernel_as_they_come_s": plain, "kernel_ordered_s": ordered}
    return {k: round(v, 4) for k, v in times.items()} | {"ratio_to_the_better_kernel": round(ours / best, 2)}


def measure_segments(folder: Path, kernels: Kernels) -> dict[str, float]:
    """The windows from an index that a build after every fifth of the days has made, beside one of a single build."""
    events = pl.read_parquet(folder / "events.parquet").sort("time")
    keys = kernels.users.reshape(-1, 1)
    seconds: dict[int, float] = {}
    values: list[dict[str, np.ndarray]] = []
    for segments in (1, SEGMENTS):
        part = folder / f"in-{segments}"
        (part / "events.parquet").mkdir(parents=True)
        for i in range(segments):
            events[i * len(events) // segments : (i + 1) * len(events) // segments].write_parquet(
                part / "events.parquet" / f"{i}.parquet"
            )
            compiled, history = view(part, "windows"), IndexedHistory(part / "index")
            history.build(compiled).run()
        assert len(history.reader(compiled).segments) == segments

        def read(history: IndexedHistory = history, compiled: Any = compiled) -> dict[str, np.ndarray]:
            return {n: c.values for n, c in history.read(compiled, list(compiled.features), keys, kernels.at).items()}

        seconds[segments], found = timed(read)
        values.append(found)
    for name, found in values[0].items():
        if not np.allclose(found, values[1][name], rtol=1e-6, atol=1e-6):
            raise SystemExit(f"segments: results differ in {name}")
    times = {"one_s": round(seconds[1], 4), "several_s": round(seconds[SEGMENTS], 4)}
    return times | {"ratio": round(seconds[SEGMENTS] / seconds[1], 2)}


def generate_items(folder: Path, events: int, labels: int, users: int) -> None:
    """Events of users who are alike, each with one of `ITEMS` items, few of which are most of them."""
    generate(folder, events, labels, users)
    draw = np.random.default_rng(2)
    items = np.minimum(draw.pareto(1.0, events) * 5, ITEMS - 1).astype(np.int64)
    table = pl.read_parquet(folder / "events.parquet")
    users_of = pl.Series("user", draw.integers(0, users, events))
    table.with_columns(users_of, other=0.0, item=pl.Series(draw.permutation(ITEMS)[items])).write_parquet(
        folder / "events.parquet"
    )
    asked = pl.Series("user", draw.integers(0, users, labels))
    pl.read_parquet(folder / "labels.parquet").with_columns(asked).write_parquet(folder / "labels.parquet")


def child(shape: str, folder: Path) -> dict[str, float]:
    """One shape in a process of its own: the threads that a kernel has started stay, and would slow what comes next."""
    command = [sys.executable, __file__, "--child", shape, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shape}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def run(shape: str, folder: Path) -> None:
    numba.set_num_threads(min(2, os.cpu_count() or 1))
    kernels = Kernels(folder)
    found = measure_segments(folder, kernels) if shape == "segments" else measure(folder, shape, kernels)
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run(options.child[0], Path(options.child[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "items").mkdir()
        generate_items(folder / "items", options.events // 10, options.labels // 5, max(1, options.users // 100))
        shapes = {shape: child(shape, folder / "items") for shape in ("top", "distinct", "latest")}
        generate(folder, options.events, options.labels, options.users)
        events = pl.read_parquet(folder / "events.parquet")
        events.with_columns(other=pl.col("value") * 2 + 1, item=0).write_parquet(folder / "events.parquet")
        shapes |= {shape: child(shape, folder) for shape in ("last", "windows")}
        segments = child("segments", folder)
    result = {
        "machine": machine(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "events": options.events,
        "labels": options.labels,
        "users": options.users,
        **shapes,
        "segments": segments,
    }
    print(json.dumps(result, indent=2))
    times = {f"times the kernel's seconds, {s}": (r["ratio_to_the_better_kernel"], "<=", 2) for s, r in shapes.items()}
    times["times the seconds of one segment, five segments"] = segments["ratio"], "<=", 2
    missed = judge(result, times)
    save("lookup_kernel", result, options.json)
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
