"""Reading 50 features of 1, 100 and 500 keys: Bedplate on LMDB and Redis beside Feast's SDK on SQLite and Redis.

    python benchmarks/online_feast.py [--feast-python .venv-feast/bin/python] [--reads 40] [--json FILE]

All hold the same values of 5,000 users, read the same random ones and take turns, ten reads each; Redis is one new
server on a free port. Feast's time is that of `get_online_features(...).to_dict()` in a process of its own, without
what it takes to send the values here; Bedplate's that of the read and of one float32 matrix with its presence mask.
Values must be equal. A step is committed before each of Bedplate's reads, so that it has nothing to remember.

The target is that 500 keys take Feast 100 times as long, from LMDB beside SQLite and from Redis beside Redis.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import polars as pl
from record import judge, machine, save
from servers import redis_server

from bedplate.aggregations.ordered import Last
from bedplate.features.entity import Entity
from bedplate.features.matrix import Matrix
from bedplate.features.view import FeatureView
from bedplate.online.base import Changes, OnlineStore, open_store
from bedplate.online.fetch import OnlineReader
from bedplate.online.load import bulk_load
from bedplate.sources.base import Source
from bedplate.testing.online_store import grouped
from bedplate.types import DAY, HOUR

USERS, FEATURES, SIZES, BLOCK = 5_000, 50, (1, 100, 500), 10
TARGET = 100.0
HERE = Path(__file__).parent
PAIRS = {"lmdb": "feast_sqlite", "redis": "feast_redis"}
NOW = int(time.time()) * 1_000_000

Ask: TypeAlias = Callable[[np.ndarray[Any, Any]], tuple[float, np.ndarray[Any, Any]]]
"""The milliseconds of a read of users, and their values [users, features] float32."""


def rows() -> pl.DataFrame:
    """A row a user."""
    draw = np.random.default_rng(0)
    columns: dict[str, Any] = {"user": np.arange(USERS)}
    columns |= {f"f{i}": draw.random(USERS) for i in range(FEATURES)}
    return pl.DataFrame(columns | {"event_timestamp": NOW - draw.integers(HOUR, 30 * DAY, USERS)})


def bedplate(store: OnlineStore, frame: pl.DataFrame) -> Ask:
    """Reads of a store that is filled first."""
    source = Source("rows", frame, time="event_timestamp")
    view = FeatureView("rows", Entity("user", key="user"), source, {f"f{i}": Last(f"f{i}") for i in range(FEATURES)})
    compiled = view.compile()
    bulk_load(store, compiled, [grouped(compiled, frame)], NOW)
    reader, names = OnlineReader(store), list(compiled.features)
    matrix = Matrix(names)

    def ask(users: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        store.commit(Changes([(b"step", b"1")]))
        begin = time.perf_counter()
        columns = reader.read(compiled, names, users.reshape(-1, 1), np.full(len(users), NOW))
        values, present = matrix.of(columns)
        milliseconds = (time.perf_counter() - begin) * 1e3
        assert present.all()
        return milliseconds, values

    return ask


def feast(process: subprocess.Popen[str], store: str, to_dict: list[float]) -> Ask:
    """Reads of Feast's process; the milliseconds of `to_dict` alone go into a list."""
    asked, answers = process.stdin, process.stdout

    def ask(users: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        assert asked is not None
        print(json.dumps({"store": store, "users": users.tolist()}), file=asked, flush=True)
        found = json.loads(line_of(answers))
        to_dict.append(found["to_dict_ms"])
        return found["read_ms"] + found["to_dict_ms"], np.array(found["values"], np.float64).T.astype(np.float32)

    return ask


def line_of(answers: IO[str] | None) -> str:
    assert answers is not None
    while line := answers.readline():
        if line.startswith(("{", "ready")):
            return line
    sys.exit("Feast's process has ended")


def measure(ways: dict[str, Ask], expected: np.ndarray[Any, Any], reads: int) -> dict[str, dict[str, dict[str, float]]]:
    """The quantiles of the milliseconds by way and number of keys."""
    draw = np.random.default_rng(1)
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in ways}
    for size in SIZES:
        times: dict[str, list[float]] = {name: [] for name in ways}
        for block in range(0, reads + BLOCK, BLOCK):  # the first block warms up
            asked = [draw.choice(USERS, size, replace=False) for _ in range(BLOCK)]
            for name, ask in ways.items():
                for users in asked:
                    milliseconds, values = ask(users)
                    if (values != expected[users]).any():
                        raise SystemExit(f"{name}: values differ")
                    if block:
                        times[name].append(milliseconds)
        for name, of_size in times.items():
            found[name][str(size)] = {f"p{q}": float(np.quantile(of_size, q / 100)) for q in (10, 50, 99)}
    return found


def main() -> int:
    """Measures all; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    feast_python = os.environ.get("FEAST_PYTHON", HERE.parent / ".venv-feast" / "bin" / "python")
    parser.add_argument("--feast-python", type=Path, default=feast_python)
    parser.add_argument("--reads", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    frame = rows()
    expected = frame.select(f"f{i}" for i in range(FEATURES)).to_numpy().astype(np.float32)
    to_dict: list[float] = []
    with tempfile.TemporaryDirectory() as name, redis_server(Path(name)) as port:
        folder = Path(name)
        frame.with_columns(pl.col("event_timestamp").cast(pl.Datetime("us", "UTC"))).write_parquet(
            folder / "rows.parquet"
        )
        command = [str(options.feast_python), str(HERE / "feast_online.py"), name, str(FEATURES), str(port)]
        pipe = subprocess.PIPE
        with (
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process,
            open_store(f"lmdb:{folder / 'lmdb'}") as embedded,
            open_store(f"redis://127.0.0.1:{port}/1") as shared,
        ):
            line_of(process.stdout)
            ways = {"lmdb": bedplate(embedded, frame), "redis": bedplate(shared, frame)}
            ways |= {way: feast(process, way.removeprefix("feast_"), to_dict) for way in PAIRS.values()}
            gc.freeze()
            found = measure(ways, expected, options.reads)
            assert process.stdin is not None
            process.stdin.close()
    for way, by_size in found.items():
        print(f"{way:12} " + "   ".join(f"{size} keys {ms['p50']:.3f} ms" for size, ms in by_size.items()))
    ratios = {
        way: {size: found[theirs][size]["p50"] / found[way][size]["p50"] for size in found[way]}
        for way, theirs in PAIRS.items()
    }
    print(
        "times as fast as Feast: " + json.dumps({w: {s: round(r, 1) for s, r in x.items()} for w, x in ratios.items()})
    )
    most = str(SIZES[-1])
    targets = {
        f"{theirs} / {way}, {most} keys": (round(ratios[way][most], 1), ">=", TARGET) for way, theirs in PAIRS.items()
    }
    result: dict[str, Any] = {"machine": machine(), "features": FEATURES, "milliseconds": found, "ratios": ratios}
    result["to_dict_milliseconds_of_500_keys"] = statistics.median(to_dict[-options.reads :])
    code = judge(result, targets)
    save("online_feast", result, options.json)
    return code


if __name__ == "__main__":
    sys.exit(main())
