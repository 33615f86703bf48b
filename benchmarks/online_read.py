"""Reading features from LMDB and Redis into a float32 matrix, beside the floor: the raw store and frombuffer.

    python benchmarks/online_read.py [--json FILE] [--rounds 300]

Two views: 50 last values of 20,000 users, and 12 windows (count, sum and mean over 1h, 1d, 7d and 30d) of 100,000
users with 5M events. The floor has keys of its own with as many bytes each, the wanted float64 values in front: it gets
all rows of a read, joins them, views them with numpy.frombuffer and puts the values into the same float32 matrix; from
LMDB with `Transaction.get` of each, from Redis with one MGET. It knows no nulls, no time and no windows. The Redis
server is started on a free port. Both are given integer keys, use their own copies of the data, and take turns; values
are compared first.

The store remembers what it read of its present step. A step is committed before each read that counts, so that it has
nothing to remember; "again" are the same reads of a store that nobody writes. It ends with 1 where a target is missed:
500 keys x 50 last values in at most twice the floor's time, and the windows of 500 users in LMDB in at most 1.5 ms.
"""

from __future__ import annotations

import argparse
import functools
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import lmdb
import numpy as np
import polars as pl
import redis
from record import judge, machine, save
from servers import redis_server

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.base import Aggregation
from bedplate.aggregations.ordered import Last
from bedplate.features.entity import Entity
from bedplate.features.matrix import Matrix
from bedplate.features.view import CompiledView, FeatureView
from bedplate.online.base import Changes, OnlineStore, open_store
from bedplate.online.fetch import OnlineReader
from bedplate.online.lmdb import LmdbStore
from bedplate.online.load import bulk_load
from bedplate.sources.base import Source
from bedplate.testing.online_store import grouped
from bedplate.types import DAY, HOUR, SECOND, to_micros

KEYS, WINDOW_KEYS, READ, FEATURES = 20_000, 100_000, 500, 50
SIZES = (1, 100, READ)
NOW = to_micros("2026-01-01")
TARGET, WINDOWS_MS = 2.0, 1.5

FloorOf: TypeAlias = Callable[[list[bytes], int], Any]
"""Makes a floor of rows and how many values each has."""


def last_view() -> tuple[CompiledView, pl.DataFrame]:
    """50 `Last` features of one event a key."""
    draw = np.random.default_rng(1)
    columns = {f"c{i}": draw.random(KEYS) for i in range(FEATURES)}
    frame = pl.DataFrame({"user": np.arange(KEYS), "time": NOW - draw.integers(HOUR, 30 * DAY, KEYS), **columns})
    features: dict[str, Aggregation] = {f"c{i}": Last(f"c{i}") for i in range(FEATURES)}
    return view_of(frame, features), frame


def window_view() -> tuple[CompiledView, pl.DataFrame]:
    """12 aggregates: count, sum and mean over 1h, 1d, 7d and 30d of 50 events a key in 30 days."""
    draw = np.random.default_rng(2)
    count = WINDOW_KEYS * 50
    times = NOW - (draw.random(count) ** 2 * 30 * DAY).astype(np.int64) - SECOND
    frame = pl.DataFrame({"user": draw.integers(0, WINDOW_KEYS, count), "time": times, "price": draw.random(count)})
    windows = ["1h", "1d", "7d", "30d"]
    features: dict[str, Aggregation] = {
        "n": Count(windows=windows),
        "sum": Sum("price", windows=windows),
        "mean": Mean("price", windows=windows),
    }
    return view_of(frame, features), frame


def view_of(frame: pl.DataFrame, features: dict[str, Aggregation]) -> CompiledView:
    """The compiled view of a user's features."""
    return FeatureView("v", Entity("user", key="user"), Source("events", frame, time="time"), features).compile()


def matrix(reader: OnlineReader, view: CompiledView, users: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[n, features] float32, null as 0."""
    columns = reader.read(view, view.features, users.reshape(-1, 1), np.full(len(users), NOW))
    values, _ = matrix_of(tuple(view.features)).of(columns)
    return values


@functools.cache
def matrix_of(names: tuple[str, ...]) -> Matrix:
    """One plan for all reads of the same features, as a caller keeps it."""
    return Matrix(names)


class LmdbFloor:
    """Raw LMDB."""

    def __init__(self, path: Path, rows: list[bytes], width: int) -> None:
        self.width = width
        self.environment: Any = lmdb.open(str(path), map_size=1 << 32, sync=False)
        with self.environment.begin(write=True) as transaction:
            for user, row in enumerate(rows):
                transaction.put(user.to_bytes(8, "big"), row)

    def matrix(self, users: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """[n, features] float32."""
        with self.environment.begin() as transaction:
            found = [transaction.get(user.to_bytes(8, "big")) for user in users.tolist()]
        words = np.frombuffer(b"".join(found), np.float64).reshape(len(users), -1)
        return words[:, : self.width].astype(np.float32)


class RedisFloor:
    """Raw MGET."""

    def __init__(self, port: int, rows: list[bytes], width: int) -> None:
        self.width, self.row = width, len(rows[0])
        self.client = redis.Redis(port=port, db=9)
        self.client.flushdb()
        self.client.mset({user.to_bytes(8, "big"): row for user, row in enumerate(rows)})

    def matrix(self, users: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """[n, features] float32."""
        found: Any = self.client.mget([user.to_bytes(8, "big") for user in users.tolist()])
        words = np.frombuffer(b"".join(found), np.float64).reshape(len(users), -1)
        return words[:, : self.width].astype(np.float32)


def medians(calls: list[Callable[[int], object]], rounds: int, before: Callable[[], object]) -> list[float]:
    """The median milliseconds of each call, taking turns; `before` each call."""
    times: list[list[float]] = [[] for _ in calls]
    for i in range(rounds):
        for call, of_call in zip(calls, times, strict=True):
            before()
            begin = time.perf_counter()
            call(i)
            of_call.append((time.perf_counter() - begin) * 1e3)
    return [statistics.median(t) for t in times]


def measure(
    name: str, view: CompiledView, frame: pl.DataFrame, store: OnlineStore, floor_of: FloorOf, rounds: int
) -> dict[str, Any]:
    """One case: loads, compares, measures."""
    begin = time.perf_counter()
    bulk_load(store, view, [grouped(view, frame)], NOW)
    loading = time.perf_counter() - begin
    reader, keys = OnlineReader(store), int(frame["user"].max()) + 1  # type: ignore[arg-type]
    everything = reader.read(view, list(view.features), np.arange(keys).reshape(-1, 1), np.full(keys, NOW))
    values = np.stack([np.asarray(everything[n].values, np.float64) for n in view.features], axis=1)  # type: ignore[union-attr]
    lengths = [len(row) for page in store.pages(b"r") for _, row in page]
    longest = max(lengths) if len(set(lengths)) == 1 else int(statistics.mean(lengths)) // 8 * 8
    floor = floor_of([packed.tobytes().ljust(longest, b"\0") for packed in values], len(view.features))
    result: dict[str, Any] = {"features": len(view.features), "row_bytes": longest, "users": keys}
    result["load_events_per_second"] = len(frame) / loading
    draw = np.random.default_rng(3)
    gc.freeze()
    for size in SIZES:
        users = [draw.choice(keys, size, replace=False) for _ in range(rounds)]
        wrong = int((matrix(reader, view, users[0]) != floor.matrix(users[0])).sum())
        if wrong:
            raise SystemExit(f"{name}: {wrong} of {size * len(view.features)} values differ from the floor's")
        calls = [lambda i: matrix(reader, view, users[i]), lambda i: floor.matrix(users[i])]  # noqa: B023
        ours, raw = medians(calls, rounds, lambda: store.commit(Changes([(b"step", b"1")])))
        again, raw_again = medians(calls, rounds, lambda: None)
        what = f"{name:14} {len(view.features):3} features x {size:3} keys of {longest:,} bytes"
        print(
            f"{what}: {ours:.3f} ms, floor {raw:.3f} ms: {ours / raw:.2f}x; again {again / raw_again:.2f}x", flush=True
        )
        figures = {"milliseconds": ours, "floor_milliseconds": raw, "ratio": ours / raw}
        result[str(size)] = figures | {"milliseconds_again": again, "ratio_again": again / raw_again}
    store.close()
    return result


def main() -> int:
    """Measures both views in both stores; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="reads of each")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as port:
        for name, made in (("last", last_view()), ("windows", window_view())):
            path = Path(folder, name)
            embedded, shared = LmdbStore(path / "store"), open_store(f"redis://127.0.0.1:{port}?namespace={name}")
            of_lmdb, of_redis = functools.partial(LmdbFloor, path / "floor"), functools.partial(RedisFloor, port)
            result[name] = measure(name, *made, embedded, of_lmdb, options.rounds)
            result[f"{name}_redis"] = measure(f"{name}, Redis", *made, shared, of_redis, options.rounds)
    most = str(READ)
    targets = {
        f"{READ} keys x {FEATURES} features / raw LMDB": (round(result["last"][most]["ratio"], 3), "<=", TARGET),
        f"{READ} keys x {FEATURES} features / raw Redis": (round(result["last_redis"][most]["ratio"], 3), "<=", TARGET),
        f"ms of 12 windows of {READ} users, LMDB": (
            round(result["windows"][most]["milliseconds"], 3),
            "<=",
            WINDOWS_MS,
        ),
    }
    code = judge(result, targets)
    save("online_read", result | {"machine": machine()}, options.json)
    return code


if __name__ == "__main__":
    sys.exit(main())
