"""Filling an online store with the last values of many keys: Bedplate beside the raw store and Feast, LMDB and Redis.

    python benchmarks/materialize.py [--keys N] [--times 3] [--feast-keys N] [--feast-python FILE] [--json FILE]

Each key has one event of 10 float values. Bedplate loads them from its as-of index, which is built first, for the keys
and for three times as many; the limit is the raw store, which is given the very rows that Bedplate wrote, ready in
memory: by LMDB's `putmulti` in transactions of as many, by Redis in pipelines of `MSET`. Feast materializes the first
keys from a Parquet file that holds no others, into SQLite and into Redis, and its online values are compared with
Bedplate's. Each contestant is a process of its own; the Redis server is a new one on a free port. Memory is what a
process has of its own beside mapped files (RssAnon), read every few milliseconds while it loads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import polars as pl
import redis
from record import judge, machine, save
from servers import redis_server

from bedplate.aggregations.ordered import Last
from bedplate.features.entity import Entity
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.online import keys as store_keys
from bedplate.online.base import open_store
from bedplate.online.fetch import OnlineReader
from bedplate.online.load import BATCH, bulk_load
from bedplate.sources.base import Source

HERE = Path(__file__).parent
START, DAY = 1_700_006_400_000_000, 86_400_000_000
UNTIL = START + 60 * DAY
VALUES = tuple(f"f{i}" for i in range(10))
BLOCK, COMPARED = 200_000, 1_000
TARGETS = {"embedded": 50.0, "redis": 15.0}
"""By the kind of store how many times Feast's rows a second."""


def generate(path: Path, count: int) -> None:
    """One event a key; the first keys are the same whatever the count."""
    draw = np.random.default_rng(1)
    users = np.arange(count)
    frame = pl.DataFrame({"user": users, "event_timestamp": START + draw.integers(0, 59 * DAY, count)})
    values = {v: np.sin(users * (i + 1.0)) for i, v in enumerate(VALUES)}
    moment = pl.col("event_timestamp").cast(pl.Datetime("us", "UTC"))
    frame.with_columns(moment, **{v: pl.Series(x) for v, x in values.items()}).write_parquet(path)


def view_of(path: Path) -> CompiledView:
    """The last value of each column."""
    source = Source("rows", str(path), time="event_timestamp")
    return FeatureView("v", Entity("user", key="user"), source, {v: Last(v) for v in VALUES}).compile()


class Peak:
    """The most memory that this process has of its own while the context lasts, and before it."""

    def __enter__(self) -> Peak:
        self.before = self.most = self._now()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.005):
            self.most = max(self.most, self._now())

    def _now(self) -> int:
        return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024


def ours(folder: str, rows: str, url: str) -> None:
    """Loads the keys of a file into a store, from the index."""
    path = Path(folder) / rows
    view, history = view_of(path), IndexedHistory(Path(folder) / "index")
    began = time.perf_counter()
    history.build(view).run()
    built = time.perf_counter() - began
    with open_store("memory:") as store:
        bulk_load(store, view, [next(history.grouped(view, 1000))], UNTIL)
    with open_store(url) as store, Peak() as peak:
        began = time.perf_counter()
        state = bulk_load(store, view, history.grouped(view, BLOCK), UNTIL)
        seconds = time.perf_counter() - began
    facts = {"index_s": built, "seconds": seconds, "peak_bytes": peak.most, "bytes_before": peak.before}
    print(json.dumps({**facts, "rows": state.events, "rows_per_second": state.events / seconds}))


def limit(folder: str, url: str, port: str) -> None:
    """Puts the rows of Bedplate's store into another LMDB, or into another database of the Redis server."""
    with open_store(url) as store:
        pages = list(store.pages(store_keys.ROWS, BATCH if url.startswith("lmdb") else 1000))
    if url.startswith("lmdb"):
        environment: Any = lmdb.open(str(Path(folder) / "raw"), map_size=4 << 30)
        began = time.perf_counter()
        for page in pages:
            with environment.begin(write=True) as transaction:
                transaction.cursor().putmulti(page)
        seconds = time.perf_counter() - began
        environment.close()
    else:
        client = redis.Redis(port=int(port), db=8)
        began = time.perf_counter()
        for first in range(0, len(pages), 50):
            pipeline = client.pipeline(transaction=False)
            for page in pages[first : first + 50]:
                pipeline.mset(dict(page))
            pipeline.execute()
        seconds = time.perf_counter() - began
        client.flushdb()
    rows = sum(map(len, pages))
    width = sum(len(row) for _, row in pages[0]) / len(pages[0])
    print(json.dumps({"seconds": seconds, "rows": rows, "rows_per_second": rows / seconds, "row_bytes": width}))


def differing(folder: Path, rows: str, url: str) -> int:
    """How many of Feast's online values are not Bedplate's."""
    expected = pl.read_parquet(folder / "feast_values.parquet")
    with open_store(url) as store:
        view = view_of(folder / rows)
        keys = expected["user"].to_numpy().reshape(-1, 1)
        found = OnlineReader(store).read(view, list(view.features), keys, np.full(len(keys), UNTIL))
        got = [np.asarray(found[f"v.{v}"].values) for v in VALUES]  # type: ignore[union-attr]
    return sum(int((g != expected[v].to_numpy()).sum()) for g, v in zip(got, VALUES, strict=True))


def run(name: str, *words: str) -> dict[str, Any]:
    """A contestant in a process of its own."""
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import materialize as m; m.{name}(*sys.argv[1:])"
    return child([sys.executable, "-c", code, *words])


def child(command: list[str]) -> dict[str, Any]:
    """What a process printed last."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:2])} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(folder: Path, kind: str, port: int, options: argparse.Namespace) -> dict[str, Any]:
    """All contestants of one kind of store."""
    store = {"type": "sqlite", "path": str(folder / "online.db")}
    urls = {size: f"lmdb:{folder / size}.online" for size in ("rows", "more")}
    if kind == "redis":
        store = {"type": "redis", "connection_string": f"127.0.0.1:{port},db=7"}
        urls = {size: f"redis://127.0.0.1:{port}?namespace={size}" for size in ("rows", "more")}
    found = {f"bedplate_{size}": run("ours", str(folder), f"{size}.parquet", url) for size, url in urls.items()}
    found["limit"] = run("limit", str(folder), urls["rows"], str(port))
    if Path(options.feast_python).exists():
        command = [str(options.feast_python), str(HERE / "feast_materialize.py"), str(folder), str(COMPARED)]
        feast = child([*command, json.dumps(store)])
        found["feast"] = feast | {"rows_per_second": feast["rows"] / feast["seconds"]}
        wrong = differing(folder, "rows.parquet", urls["rows"])
        if wrong:
            raise SystemExit(f"{kind}: {wrong} of {COMPARED * len(VALUES)} online values differ from Feast's")
    return found


def report(kind: str, found: dict[str, Any], options: argparse.Namespace) -> dict[str, tuple[float, str, float]]:
    """Prints what was found of a kind of store; the targets."""
    mine, more, raw = found["bedplate_rows"], found["bedplate_more"], found["limit"]
    speed, highest = mine["rows_per_second"], raw["rows_per_second"]
    print(f"{kind}: bedplate {speed:,.0f} rows/s, the raw store {highest:,.0f} rows/s: {highest / speed:.2f}x")
    print(f"own memory at most {mine['peak_bytes'] / 1e6:,.0f} MB, {more['peak_bytes'] / 1e6:,.0f} MB for more keys")
    grown = round(more["peak_bytes"] / mine["peak_bytes"], 3)
    targets = {f"{kind}: memory for {options.times}x the keys": (grown, "<=", 1.15)}
    if "feast" in found:
        theirs = found["feast"]["rows_per_second"]
        print(f"{kind}: feast {theirs:,.0f} rows/s")
        targets[f"{kind}: times Feast's rows/s"] = (round(speed / theirs, 1), ">=", TARGETS[kind])
    return targets


def main() -> int:
    """Runs all contestants; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=3, help="how many times as many keys to show the memory of")
    parser.add_argument("--feast-keys", type=int, default=20_000)
    feast_python = os.environ.get("FEAST_PYTHON", HERE.parent / ".venv-feast" / "bin" / "python")
    parser.add_argument("--feast-python", type=Path, default=feast_python)
    parser.add_argument("--store", choices=list(TARGETS), action="append", help="only this kind of store")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "keys": options.keys, "values": len(VALUES)}
    targets: dict[str, tuple[float, str, float]] = {}
    with tempfile.TemporaryDirectory() as name, redis_server(Path(name)) as port:
        folder = Path(name)
        sizes = {"rows": options.keys, "more": options.keys * options.times, "feast": options.feast_keys}
        for size, count in sizes.items():
            generate(folder / f"{size}.parquet", count)
        for kind in options.store or TARGETS:
            result[kind] = compare(folder, kind, port, options)
            targets |= report(kind, result[kind], options)
    code = judge(result, targets)
    save("materialize", result, options.json)
    return code


if __name__ == "__main__":
    sys.exit(main())
