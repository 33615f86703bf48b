"""Filling an online store with the last values of many keys: Bedplate beside raw LMDB and Feast.

    python benchmarks/materialize.py [--keys N] [--times 4] [--feast-keys N] [--feast-python FILE] [--json FILE]

Each key has one event of 10 float values. Bedplate loads them into LMDB from its as-of index, which is built first, for
the keys and for four times as many; the limit is LMDB's own `putmulti` of the very rows that Bedplate wrote, ready in
memory, in transactions of as many. Feast materializes the first keys into SQLite from a Parquet file that holds no
others, and its online values are compared with Bedplate's. Each contestant is a process of its own. Memory is what a
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
from record import judge, machine, save

from bedplate.aggregations.ordered import Last
from bedplate.features.entity import Entity
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.online import keys as store_keys
from bedplate.online.fetch import OnlineReader
from bedplate.online.lmdb import LmdbStore
from bedplate.online.load import BATCH, bulk_load
from bedplate.sources.base import Source

HERE = Path(__file__).parent
START, DAY = 1_700_006_400_000_000, 86_400_000_000
UNTIL = START + 60 * DAY
VALUES = tuple(f"f{i}" for i in range(10))
BLOCK, COMPARED = 200_000, 1_000


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


def ours(folder: str, rows: str) -> None:
    """Loads the keys of a file into LMDB, from the index."""
    path = Path(folder) / rows
    view, history = view_of(path), IndexedHistory(Path(folder) / "index")
    began = time.perf_counter()
    history.build(view).run()
    built = time.perf_counter() - began
    with LmdbStore(Path(folder) / "warm") as store:
        bulk_load(store, view, [next(history.grouped(view, 1000))], UNTIL)
    with LmdbStore(path.with_suffix(".online")) as store, Peak() as peak:
        began = time.perf_counter()
        state = bulk_load(store, view, history.grouped(view, BLOCK), UNTIL)
        seconds = time.perf_counter() - began
    facts = {"index_s": built, "seconds": seconds, "peak_bytes": peak.most, "bytes_before": peak.before}
    print(json.dumps({**facts, "rows": state.events}))


def limit(folder: str, rows: str) -> None:
    """Puts the rows of Bedplate's store into another LMDB."""
    with LmdbStore((Path(folder) / rows).with_suffix(".online")) as store:
        pages = list(store.pages(store_keys.ROWS, BATCH))
    environment: Any = lmdb.open(str(Path(folder) / "raw"), map_size=4 << 30)
    began = time.perf_counter()
    for page in pages:
        with environment.begin(write=True) as transaction:
            transaction.cursor().putmulti(page)
    seconds = time.perf_counter() - began
    environment.close()
    width = sum(len(row) for _, row in pages[0]) / len(pages[0])
    print(json.dumps({"seconds": seconds, "rows": sum(map(len, pages)), "row_bytes": width}))


def differing(folder: Path, rows: str) -> int:
    """How many of Feast's online values are not Bedplate's."""
    expected = pl.read_parquet(folder / "feast_values.parquet")
    with LmdbStore((folder / rows).with_suffix(".online")) as store:
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


def main() -> int:
    """Runs all contestants; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--times", type=int, default=4, help="how many times as many keys to show the memory of")
    parser.add_argument("--feast-keys", type=int, default=20_000)
    parser.add_argument("--feast-python", type=Path, default=os.environ.get("FEAST_PYTHON"))
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    feast_python = options.feast_python or HERE.parent / ".venv-feast" / "bin" / "python"
    result: dict[str, Any] = {"machine": machine(), "keys": options.keys, "values": len(VALUES)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = {"rows": options.keys, "more": options.keys * options.times, "feast": options.feast_keys}
        for size, count in sizes.items():
            generate(folder / f"{size}.parquet", count)
        for size in ("rows", "more"):
            found = run("ours", name, f"{size}.parquet")
            found["rows_per_second"] = found["rows"] / found["seconds"]
            result[f"bedplate_{size}"] = found
        result["limit"] = run("limit", name, "rows.parquet")
        if Path(feast_python).exists():
            feast = child([str(feast_python), str(HERE / "feast_materialize.py"), name, str(COMPARED)])
            result["feast"] = feast
            wrong = differing(folder, "rows.parquet")
            if wrong:
                raise SystemExit(f"{wrong} of {COMPARED * len(VALUES)} online values differ from Feast's")
    mine, more = result["bedplate_rows"], result["bedplate_more"]
    speed, raw = mine["rows_per_second"], result["limit"]["rows"] / result["limit"]["seconds"]
    print(f"bedplate {speed:,.0f} rows/s, raw putmulti {raw:,.0f} rows/s: {raw / speed:.2f}x")
    print(f"own memory at most {mine['peak_bytes'] / 1e6:,.0f} MB, {more['peak_bytes'] / 1e6:,.0f} MB for more keys")
    targets = {f"memory for {options.times}x the keys": (round(more["peak_bytes"] / mine["peak_bytes"], 3), "<=", 1.15)}
    if "feast" in result:
        theirs = result["feast"]["rows"] / result["feast"]["seconds"]
        print(f"feast {theirs:,.0f} rows/s into SQLite")
        targets["times Feast's rows/s into SQLite"] = (round(speed / theirs, 1), ">=", 50.0)
    code = judge(result, targets)
    save("materialize", result, options.json)
    return code


if __name__ == "__main__":
    sys.exit(main())
