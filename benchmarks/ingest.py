"""Taking in a stream: a view of 4 windows x 3 aggregations, beside raw LMDB and Feast, and reads meanwhile.

    python benchmarks/ingest.py [--events N] [--keys N] [--days 30] [--feast-events N] [--feast-python FILE]
        [--json FILE]

The view counts, sums and averages a value by user over 1h, 1d, 7d and 30d. Events come in Parquet files, of keys as
often as each other (even) and of keys that are skewed (Zipf, 1.3), over some days of event time. Bedplate takes them in
with one thread of Polars; events a second are of the wall's clock, and of the processor's time of all of its threads.
What it then answers is compared with sums that Polars makes of the events. The limit is LMDB's own `putmulti` of as
many rows, as they are at the end, ready in memory, in the same steps. Feast's `push` writes into SQLite 12 ready values
for each of the first events, which something else would have to make; its online values are compared with what was
pushed, which are Bedplate's.

Reads: a reader in another process asks for 12 features of 500 users, again and again, in turns beside a worker that
takes in the even keys at full speed, and alone; from LMDB, and from Redis, a third process on the same cores.
Each contestant is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import polars as pl
from record import judge, machine, save
from servers import redis_server

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.features.entity import Entity
from bedplate.features.view import CompiledView, FeatureView
from bedplate.online import keys as store_keys
from bedplate.online.base import OnlineStore, open_store
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.lmdb import LmdbStore
from bedplate.online.load import bulk_load
from bedplate.sources.base import Source

HERE = Path(__file__).parent
START, DAY = 1_700_006_400_000_000, 86_400_000_000
WINDOWS = {"1h": DAY // 24, "1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}
HOPS = {"1h": DAY // 288, "1d": DAY // 24, "7d": DAY // 24, "30d": DAY}
FILE_ROWS, READ_KEYS, COMPARED, FILLED, STEP = 250_000, 500, 1_000, 500_000, LmdbStore.step_events
KINDS, LASTING = ("even", "skewed"), "lasting"


def view_of() -> CompiledView:
    """4 windows x 3 aggregations."""
    frame = pl.DataFrame(schema={"user": pl.Int64, "time": pl.Int64, "price": pl.Float64})
    names = list(WINDOWS)
    features = {"n": Count(windows=names), "s": Sum("price", windows=names), "m": Mean("price", windows=names)}
    return FeatureView("v", Entity("user", key="user"), Source("events", frame, time="time"), features).compile()


def generate(folder: Path, events: int, keys: int, days: int) -> None:
    """The events of each kind in files, in order of time; and more of the even ones, for what lasts longer."""
    draw = np.random.default_rng(0)
    for kind, count in (*((k, events) for k in KINDS), (LASTING, 4 * events)):
        times = START + np.arange(count) * (days * DAY // count)
        users = draw.zipf(1.3, count) % keys if kind == "skewed" else draw.integers(0, keys, count)
        frame = pl.DataFrame({"user": users, "time": times, "price": draw.random(count)})
        (folder / kind).mkdir()
        for first in range(0, count, FILE_ROWS):
            frame[first : first + FILE_ROWS].write_parquet(folder / kind / f"{first:09}.parquet")


def opened(url: str) -> OnlineStore:
    """A new store with the view loaded, and nothing in it."""
    store = open_store(url)
    bulk_load(store, view_of(), [], START)
    return store


def end_of(folder: Path, kind: str) -> int:
    """A time just after the last event."""
    last = max((folder / kind).glob("*.parquet"))
    return int(pl.scan_parquet(last).select(pl.col("time").max()).collect().item()) + 1


def ours(name: str, kind: str) -> None:
    """Takes in all files of a kind."""
    folder, view = Path(name), view_of()
    with opened(f"lmdb:{folder}/warm-{kind}") as store:
        Ingest(store, [view], folder / kind).turn()
    with opened(f"lmdb:{folder}/online-{kind}") as store:
        worker = Ingest(store, [view], folder / kind)
        wall, processor = time.perf_counter(), time.process_time()
        done = worker.run()
        seconds, core_seconds = time.perf_counter() - wall, time.process_time() - processor
        wrong = differing(folder, kind, store, view)
    print(json.dumps({"events": done.events, "seconds": seconds, "core_seconds": core_seconds, "wrong": wrong}))


def differing(folder: Path, kind: str, store: LmdbStore, view: CompiledView) -> int:
    """How many of the online values are not what Polars makes of the events."""
    events, end = pl.scan_parquet(folder / kind / "*.parquet"), end_of(folder, kind)
    users = events.select(pl.col("user").unique().sort()).collect()["user"].to_numpy()
    users = np.random.default_rng(1).choice(users, min(COMPARED, len(users)), replace=False)
    found = OnlineReader(store).read(view, list(view.features), users.reshape(-1, 1), np.full(len(users), end))
    order, wrong = pl.DataFrame({"user": users}), 0
    for window, length in WINDOWS.items():
        begin = (end - length) // HOPS[window] * HOPS[window]
        inside = events.filter(pl.col("time") >= begin).group_by("user").agg(n=pl.len(), s=pl.col("price").sum())
        both = order.join(inside.collect(), "user", how="left", maintain_order="left").fill_null(0)
        n, s = both["n"].to_numpy(), both["s"].to_numpy()
        got = {f: np.asarray(found[f"v.{f}_{window}"].values) for f in ("n", "s", "m")}  # type: ignore[union-attr]
        wrong += int((got["n"] != n).sum() + (~np.isclose(got["s"], s)).sum())
        wrong += int((~np.isclose(got["m"][n > 0], s[n > 0] / n[n > 0])).sum())
    return wrong


def limit(name: str, kind: str) -> None:
    """Puts the rows of each step's users into another LMDB."""
    folder, view = Path(name), view_of()
    with LmdbStore(folder / f"online-{kind}") as store:
        rows = {key: row for page in store.pages(store_keys.rows_of(view)) for key, row in page}
    prefix = next(iter(rows))[:10]
    steps: list[list[tuple[bytes, bytes]]] = []
    for path in sorted((folder / kind).glob("*.parquet")):
        users = pl.read_parquet(path, columns=["user"])["user"]
        for first in range(0, len(users), STEP):
            keys = store_keys.prefixed(prefix, users[first : first + STEP].unique().sort().to_numpy().reshape(-1, 1))
            steps.append([(key, rows[key]) for key in keys])
    environment: Any = lmdb.open(str(folder / f"raw-{kind}"), map_size=4 << 30)
    wall, processor = time.perf_counter(), time.process_time()
    for step in steps:
        with environment.begin(write=True) as transaction:
            transaction.cursor().putmulti(step)
    seconds, core_seconds = time.perf_counter() - wall, time.process_time() - processor
    environment.close()
    width = sum(map(len, rows.values())) / len(rows)
    puts = sum(map(len, steps))
    print(json.dumps({"seconds": seconds, "core_seconds": core_seconds, "puts": puts, "row_bytes": width}))


def ready_values(folder: Path, count: int) -> pl.DataFrame:
    """The first events with the 12 values that their users have in the end."""
    view, end = view_of(), end_of(folder, "even")
    users = pl.read_parquet(min((folder / "even").glob("*.parquet")))["user"][:count].to_numpy()
    with LmdbStore(folder / "online-even") as store:
        found = OnlineReader(store).read(view, list(view.features), users.reshape(-1, 1), np.full(len(users), end))
    values = {n.removeprefix("v."): np.asarray(c.values, np.float64) for n, c in found.items()}  # type: ignore[union-attr]
    moment = pl.Series(START + np.arange(len(users))).cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame({"user": users, "event_timestamp": moment, **values}).fill_nan(-1.0)


def worker(name: str, url: str) -> None:
    """Takes in the even keys for so many seconds, whenever it is told to on standard input."""
    folder, view = Path(name), view_of()
    with opened(url) as store:
        taking = Ingest(store, [view], folder / LASTING)
        while taking.events < FILLED:
            taking.turn()
        print("ready", flush=True)
        for line in sys.stdin:
            before, processor, began = taking.events, time.process_time(), time.perf_counter()
            while time.perf_counter() < began + float(line):
                if not taking.turn().taken:
                    raise SystemExit("the events are at an end: give it more")
            seconds, core_seconds = time.perf_counter() - began, time.process_time() - processor
            facts = {"events": taking.events - before, "seconds": seconds, "core_seconds": core_seconds}
            print(json.dumps(facts), flush=True)


def reader(name: str, url: str, keys: str) -> None:
    """Reads for so many seconds, whenever it is told to on standard input, and says what a read took."""
    folder, view, draw = Path(name), view_of(), np.random.default_rng(2)
    with open_store(url) as store:
        asking, end = OnlineReader(store), np.full(READ_KEYS, end_of(folder, LASTING))
        for line in sys.stdin:
            until, took = time.perf_counter() + float(line), list[float]()
            while time.perf_counter() < until:
                users = draw.integers(0, int(keys), (READ_KEYS, 1))
                began = time.perf_counter()
                asking.read(view, list(view.features), users, end)
                took.append(time.perf_counter() - began)
            print(json.dumps(took), flush=True)


def started(name: str, *words: str) -> subprocess.Popen[str]:
    """A contestant that does what it is told."""
    return subprocess.Popen(command(name, *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ALONE)


def told(process: subprocess.Popen[str], seconds: float) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def reads_beside(folder: str, url: str, keys: int, rounds: int, seconds: float) -> dict[str, Any]:
    """What a read takes alone and beside a worker, in turns; the first of each is not counted.

    Rows grow meanwhile: so one comes first in every other round, the other in those between.
    """
    quiet, busy, taken = list[float](), list[float](), list[dict[str, float]]()
    with started("worker", folder, url) as writing, started("reader", folder, url, str(keys)) as reading:
        assert writing.stdout is not None
        if writing.stdout.readline() != "ready\n":
            raise SystemExit("the worker failed")
        told(reading, seconds)
        answer(reading)
        for beside in [False, True, True, False] * rounds:
            if beside:
                told(writing, seconds)
            told(reading, seconds)
            (busy if beside else quiet).extend(answer(reading))
            if beside:
                taken.append(answer(writing))
        for process in (reading, writing):
            assert process.stdin is not None
            process.stdin.close()
    milliseconds = {
        f"{name}_{what}_ms": round(1000 * float(np.percentile(took, share)), 4)
        for name, took in (("quiet", quiet), ("busy", busy))
        for what, share in (("p50", 50), ("p99", 99))
    }
    total = {what: sum(t[what] for t in taken) for what in ("events", "seconds", "core_seconds")}
    return {**milliseconds, "quiet_reads": len(quiet), "busy_reads": len(busy), "ingest": total}


ALONE = {**os.environ, "POLARS_MAX_THREADS": "1"}
"""The environment of a process that takes one core."""


def command(name: str, *words: str) -> list[str]:
    """A contestant in a process of its own."""
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import ingest as i; i.{name}(*sys.argv[1:])"
    return [sys.executable, "-c", code, *words]


def child(words: list[str]) -> dict[str, Any]:
    """What a process printed last."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=ALONE)
    if done.returncode:
        raise SystemExit(f"{' '.join(words[:2])} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def feast(folder: str, python: Path, count: int) -> dict[str, Any]:
    """Pushes ready values into Feast, and compares what it then answers."""
    ready_values(Path(folder), count).write_parquet(Path(folder) / "push.parquet")
    found = child([str(python), str(HERE / "feast_push.py"), folder, str(COMPARED)])
    if found["wrong"]:
        raise SystemExit(f"{found['wrong']} of Feast's online values are not those that were pushed")
    return found


def main() -> int:
    """Runs all contestants; 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3, help="reads are measured twice as often, alone and beside")
    parser.add_argument("--feast-events", type=int, default=20_000)
    parser.add_argument("--feast-python", type=Path, default=os.environ.get("FEAST_PYTHON"))
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    python = options.feast_python or HERE.parent / ".venv-feast" / "bin" / "python"
    result: dict[str, Any] = {
        "machine": machine(),
        "events": options.events,
        "keys": options.keys,
        "days": options.days,
    }
    targets: dict[str, tuple[float, str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), options.events, options.keys, options.days)
        for kind in KINDS:
            mine, raw = child(command("ours", folder, kind)), child(command("limit", folder, kind))
            if mine["wrong"]:
                raise SystemExit(f"{mine['wrong']} online values of {kind} keys are not those of the events")
            wall, core = mine["events"] / mine["seconds"], mine["events"] / mine["core_seconds"]
            times = mine["seconds"] / raw["seconds"]
            result[kind] = {"bedplate": mine, "limit": raw, "per_second": wall, "per_core": core, "times_limit": times}
            print(f"{kind} keys: {wall:,.0f} events/s, {core:,.0f} a core; {times:.1f} times the raw puts of its rows")
            targets[f"events/s a core, {kind} keys"] = (round(core), ">=", 100_000)
        with redis_server(Path(folder)) as port:
            for store, url in (("LMDB", f"lmdb:{folder}/beside"), ("Redis", f"redis://127.0.0.1:{port}")):
                reads = reads_beside(folder, url, options.keys, options.rounds, 1.0)
                speed = reads["ingest"]["events"] / reads["ingest"]["seconds"]
                both = f"{reads['quiet_p50_ms']} ms alone, {reads['busy_p50_ms']} beside {speed:,.0f} events/s"
                print(f"{READ_KEYS} keys of {store}: {both}", flush=True)
                ratio = round(reads["busy_p50_ms"] / reads["quiet_p50_ms"], 3)
                result["reads" if store == "LMDB" else "reads_redis"] = reads | {"ratio": ratio}
        targets["median read of LMDB beside a worker over alone"] = (result["reads"]["ratio"], "<=", 1.5)
        if Path(python).exists():
            theirs = result["feast"] = feast(folder, python, options.feast_events)
            theirs["per_second"] = theirs["events"] / theirs["seconds"]
            theirs["times"] = result["even"]["per_second"] / theirs["per_second"]
            print(f"feast {theirs['per_second']:,.0f} events/s of ready values: {theirs['times']:.0f} times slower")
    code = judge(result, targets)
    save("ingest", result, options.json)
    return code


if __name__ == "__main__":
    sys.exit(main())
