"""Point-in-time training sets: Bedplate beside Feast, Polars and DuckDB.

    python benchmarks/point_in_time.py feast [--rows N] [--labels N] [--features N] [--feast-python FILE] [--json FILE]
    python benchmarks/point_in_time.py asof [--rows N] [--labels N] [--features N] [--json FILE]

One run, the same Parquet files, each contestant a process of its own whose seconds are of the work without importing
and whose peak of memory is what the operating system counts for all of it. Results are compared row by row.

`feast`: 200k labels, 1M rows, 10 features. 1 % of the labels share key and time with another one; Feast's default store
drops these, which is counted. `asof`: 1M labels, 10M rows in order of time, against joins from the files and, where
Bedplate's index is there already, against joins of sorted frames that are in memory already.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from record import judge, machine, peak_bytes, save

HERE = Path(__file__).parent
DAY = 86_400_000_000
START = 1_700_006_400_000_000  # a whole day
SIZES = {"feast": (1_000_000, 200_000, 10), "asof": (10_000_000, 1_000_000, 2)}
REPEATS = 5
SLOW = 60  # seconds

DEFINITIONS = """\
from bedplate import Entity, FeatureView, Last, Source

user = Entity("user", key="user")
rows = Source("rows", "rows.parquet", time="event_timestamp")
view = FeatureView("rows", user, rows, {{f"f{{i}}": Last(f"f{{i}}") for i in range({features})}})
"""


def generate(folder: Path, rows: int, labels: int, features: int, users: int) -> None:
    """Rows at whole seconds, each of another key and time, and labels in between; 1 % of these are there twice."""
    draw = np.random.default_rng(1)
    cells = draw.choice(users * 60 * 86_400, int(rows * 1.01) + 10, replace=False) if rows < 2e6 else None
    if cells is None:
        cells = np.unique(draw.integers(0, users * 60 * 86_400, int(rows * 1.02) + 10))
        draw.shuffle(cells)
    cells = cells[:rows]
    order = np.argsort(cells // users, kind="stable")
    cells = cells[order]
    values = {f"f{i}": draw.normal(size=rows) for i in range(features)}
    pl.DataFrame({"user": cells % users, "event_timestamp": START + cells // users * 1_000_000, **values}).with_columns(
        pl.col("event_timestamp").cast(pl.Datetime("us", "UTC"))
    ).write_parquet(folder / "rows.parquet")
    at = START + draw.integers(20 * 86_400, 60 * 86_400, labels) * 1_000_000 + 500_000
    of = draw.integers(0, users, labels)
    twice = draw.choice(labels, labels // 100, replace=False)
    at[twice[1::2]], of[twice[1::2]] = at[twice[: len(twice) // 2 * 2 : 2]], of[twice[: len(twice) // 2 * 2 : 2]]
    pl.DataFrame({"user": of, "event_timestamp": at, "row": np.arange(labels)}).with_columns(
        pl.col("event_timestamp").cast(pl.Datetime("us", "UTC"))
    ).write_parquet(folder / "labels.parquet")
    (folder / "bedplate.toml").touch()
    (folder / "features.py").write_text(DEFINITIONS.format(features=features))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def several(work: Callable[[], Any]) -> tuple[float, Any]:
    """The median of a few runs, after one that warms up."""
    work()
    runs = [timed(work) for _ in range(REPEATS)]
    return statistics.median(r[0] for r in runs), runs[-1][1]


def bedplate(folder: Path, features: int, labels: pl.DataFrame | None = None) -> pl.DataFrame:
    from bedplate import Project

    project = Project(folder)
    project.apply()
    asked = pl.read_parquet(folder / "labels.parquet") if labels is None else labels
    return project.lookup(
        [f"rows.f{i}" for i in range(features)],
        {"user": asked["user"]},
        asked["event_timestamp"].dt.epoch("us").to_numpy(),
    )


def warm_up() -> None:
    """Compiles the kernels, or loads them from their cache."""
    with tempfile.TemporaryDirectory() as name:
        generate(Path(name), 100_000, 40_000, 2, 100)
        bedplate(Path(name), 2)


def with_bedplate(folder: Path, features: int) -> dict[str, float]:
    warm_up()
    built, found = timed(lambda: bedplate(folder, features))
    peak = peak_bytes()
    labels = pl.read_parquet(folder / "labels.parquet")
    there, again = several(lambda: bedplate(folder, features, labels))
    assert found.equals(again)
    columns = {f"f{i}": found[f"rows.f{i}"] for i in range(features)}
    labels.select("row").with_columns(**columns).write_parquet(folder / "bedplate.parquet")
    return {"seconds": built, "index_there_s": there, "peak_bytes": peak, "rows": len(found)}


def with_polars(folder: Path, features: int) -> dict[str, float]:
    """From the files, whose rows are in order of time; and of frames in memory that are said to be sorted."""
    names = [f"f{i}" for i in range(features)]

    def join(labels: pl.LazyFrame, rows: pl.LazyFrame) -> pl.DataFrame:
        joined = labels.join_asof(
            rows,
            on="event_timestamp",
            by="user",
            strategy="backward",
            allow_exact_matches=False,
            check_sortedness=False,
        )
        return joined.select("row", *names).collect()

    def from_files() -> pl.DataFrame:
        labels = pl.scan_parquet(folder / "labels.parquet").sort("event_timestamp")
        rows = pl.scan_parquet(folder / "rows.parquet").with_columns(pl.col("event_timestamp").set_sorted())
        return join(labels, rows).sort("row")

    pl.DataFrame({"a": [1]}).lazy().collect()
    seconds, found = timed(from_files)
    peak = peak_bytes()
    found.write_parquet(folder / "polars.parquet")
    labels = pl.read_parquet(folder / "labels.parquet").sort("event_timestamp")
    rows = pl.read_parquet(folder / "rows.parquet").with_columns(pl.col("event_timestamp").set_sorted())
    in_memory, _ = several(lambda: join(labels.lazy(), rows.lazy()))
    return {"seconds": seconds, "in_memory_s": in_memory, "peak_bytes": peak, "rows": len(found)}


def with_duckdb(folder: Path, features: int) -> dict[str, float]:
    import duckdb

    names = ", ".join(f"e.f{i}" for i in range(features))
    connection = duckdb.connect(config={"threads": os.cpu_count() or 1})

    def join(labels: str, rows: str) -> Any:
        query = f"""SELECT l.row, {names} FROM {labels} l ASOF LEFT JOIN {rows} e
            ON e.user = l.user AND e.event_timestamp < l.event_timestamp"""
        return connection.execute(query).to_arrow_table()

    seconds, found = timed(lambda: join(f"'{folder}/labels.parquet'", f"'{folder}/rows.parquet'"))
    peak = peak_bytes()
    pl.DataFrame(found).sort("row").write_parquet(folder / "duckdb.parquet")
    for name in ("labels", "rows"):
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM '{folder}/{name}.parquet'")
    in_memory, _ = several(lambda: join("labels", "rows"))
    return {"seconds": seconds, "in_memory_s": in_memory, "peak_bytes": peak, "rows": len(found)}


CONTESTANTS = {"bedplate": with_bedplate, "polars": with_polars, "duckdb": with_duckdb}


def child(name: str, folder: Path, features: int) -> dict[str, float]:
    """What a contestant measured in a process of its own."""
    command = [sys.executable, __file__, "child", str(folder), name, "--features", str(features)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def feast_child(engine: str, folder: Path, features: int, python: Path) -> dict[str, float]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [str(python), str(HERE / "feast_point_in_time.py"), str(folder), engine, str(features)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"feast with {engine}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(folder: Path, name: str, features: int) -> dict[str, int]:
    """How many labels a contestant lost, and how many of these share key and time with another; the rest must agree.

    Raises:
        SystemExit: a value differs.
    """
    ours = pl.read_parquet(folder / "bedplate.parquet")
    theirs = pl.read_parquet(folder / f"{name}.parquet").select("row", *(f"f{i}" for i in range(features)))
    joined = ours.join(theirs, on="row", how="inner", suffix=" theirs", maintain_order="left")
    for i in range(features):
        a, b = joined[f"f{i}"], joined[f"f{i} theirs"].fill_nan(None)
        if not a.equals(b, check_dtypes=False, null_equal=True):
            raise SystemExit(f"{name}: f{i} differs in {(a.ne_missing(b)).sum():,} rows")
    lost = ours.join(theirs, on="row", how="anti")["row"]
    labels = pl.read_parquet(folder / "labels.parquet")
    shared = labels.filter(pl.struct("user", "event_timestamp").is_duplicated())["row"]
    return {"lost": len(lost), "lost_that_share_key_and_time": int(lost.is_in(shared.implode()).sum())}


def measure(part: str, folder: Path, features: int, python: Path, rounds: int) -> dict[str, Any]:
    """Each contestant several times, in turn, and of the times the median; one that takes minutes once."""
    others = ["feast dask", "feast duckdb"] if part == "feast" else ["polars", "duckdb"]
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in ("bedplate", *others)}
    for number in range(rounds):
        for name, done in taken.items():
            if done and done[0]["seconds"] > SLOW:
                continue
            if name == "bedplate":
                shutil.rmtree(folder / ".bedplate", ignore_errors=True)
            engine = name.removeprefix("feast ")
            is_feast = part == "feast" and name != "bedplate"
            done.append(feast_child(engine, folder, features, python) if is_feast else child(engine, folder, features))
            print(f"{number + 1}: {name}: {done[-1]}", flush=True)
            if name != "bedplate" and not number:
                done[0] |= compare(folder, engine, features)
    runs = {name: done[0] | medians(done) for name, done in taken.items()}
    ours = runs["bedplate"]
    for other in others:
        run = runs[other]
        run["time_ratio_with_build"] = round(run["seconds"] / ours["seconds"], 2)
        run["memory_ratio"] = round(run["peak_bytes"] / ours["peak_bytes"], 2)
        there = run.get("in_memory_s", run["seconds"])
        run["time_ratio_index_there"] = round(there / ours["index_there_s"], 2)
    return runs


def medians(done: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each time, the greatest peak of memory, and the number of runs."""
    times = {key: statistics.median(d[key] for d in done) for key in done[0] if key.endswith(("seconds", "_s"))}
    return times | {"peak_bytes": max(d["peak_bytes"] for d in done), "runs": len(done)}


def targets(part: str, runs: dict[str, Any]) -> dict[str, tuple[float, str, float]]:
    """What the figures are to be."""
    if part == "asof":
        polars = runs["polars"]
        return {
            "times as fast as Polars' join_asof, index there": (polars["time_ratio_index_there"], ">=", 3),
            "times as fast as Polars' join_asof, build included": (polars["time_ratio_with_build"], ">=", 1),
        }
    found: dict[str, tuple[float, str, float]] = {}
    for other in ("feast dask", "feast duckdb"):
        found[f"times as fast as {other}, build included"] = (runs[other]["time_ratio_with_build"], ">=", 10)
        found[f"times the memory of ours that {other} takes"] = (runs[other]["memory_ratio"], ">=", 5)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*SIZES, "child"])
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--labels", type=int)
    parser.add_argument("--features", type=int)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--feast-python", type=Path, default=HERE.parent / ".venv-feast" / "bin" / "python")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.part == "child":
        folder, name = options.words
        print(json.dumps(CONTESTANTS[name](Path(folder), options.features)))
        return
    rows, labels, features = (
        given or default
        for given, default in zip((options.rows, options.labels, options.features), SIZES[options.part], strict=True)
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder, rows, labels, features, options.users)
        runs = measure(options.part, folder, features, options.feast_python, options.rounds)
    result = {
        "machine": machine(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
        "labels": labels,
        "features": features,
        "users": options.users,
        "runs": runs,
    }
    missed = judge(result, targets(options.part, runs))
    save(f"point_in_time-{options.part}", result, options.json)
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
