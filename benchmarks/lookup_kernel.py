"""Bedplate's lookups beside plain Numba kernels of the same work, written for exactly this table and nothing else.

    python benchmarks/lookup_kernel.py [--events N] [--labels N] [--users N] [--json FILE]

Two shapes: the last values of two columns, and count, sum and mean over four windows. A kernel finds a label's key,
then its rows by binary search, on two threads, from arrays in memory that are sorted by key and time with running
totals. It is measured on labels as they come and, better for large tables, on labels that it orders by key first, which
is part of its time. Bedplate reads its index from its files. Results are compared value by value.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
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
from bedplate.aggregations.ordered import Last
from bedplate.aggregations.window import Window
from bedplate.features.entity import Entity
from bedplate.features.view import FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.sources.base import Source

REPEATS = 7


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


def view(folder: Path, shape: str) -> Any:
    source = Source("events", str(folder / "events.parquet"), time="time")
    features = {
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


def measure(folder: Path, shape: str, kernels: Kernels) -> dict[str, float]:
    compiled = view(folder, shape)
    history = IndexedHistory(folder / "index")
    history.build(compiled).run()
    keys = kernels.users.reshape(-1, 1)

    def read() -> dict[str, np.ndarray]:
        columns = history.read(compiled, list(compiled.features), keys, kernels.at)
        found = {compiled.short(n): c.values for n, c in columns.items()}
        if shape == "last":
            mask = columns["events.value"].present
            found["present"] = np.ones(len(keys), np.bool_) if mask is None else mask
        return found

    ours, found = timed(read)
    run = kernels.last if shape == "last" else kernels.windows
    plain, expected = timed(lambda: run(False))
    ordered, again = timed(lambda: run(True))
    if shape == "last":
        found |= {name: np.where(found["present"], found[name], 0.0) for name in ("value", "other")}
    for name, values in expected.items():
        if not np.array_equal(values, again[name]) or not np.allclose(found[name], values, rtol=1e-6, atol=1e-6):
            raise SystemExit(f"{shape}: results differ in {name}")
    best = min(plain, ordered)
    times = {"bedplate_s": ours, "kernel_as_they_come_s": plain, "kernel_ordered_s": ordered}
    return {k: round(v, 4) for k, v in times.items()} | {"ratio_to_the_better_kernel": round(ours / best, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    numba.set_num_threads(min(2, os.cpu_count() or 1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder, options.events, options.labels, options.users)
        events = pl.read_parquet(folder / "events.parquet")
        events.with_columns(other=pl.col("value") * 2 + 1).write_parquet(folder / "events.parquet")
        kernels = Kernels(folder)
        shapes = {shape: measure(folder, shape, kernels) for shape in ("last", "windows")}
    result = {
        "machine": machine(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "events": options.events,
        "labels": options.labels,
        "users": options.users,
        **shapes,
    }
    print(json.dumps(result, indent=2))
    times = {f"times the kernel's seconds, {s}": (r["ratio_to_the_better_kernel"], "<=", 2) for s, r in shapes.items()}
    missed = judge(result, times)
    save("lookup_kernel", result, options.json)
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
