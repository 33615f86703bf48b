"""The feature server beside `feast serve`: 50 features of 1, 100 and 500 keys over loopback, request by request.

    python benchmarks/feature_server.py [--feast-python .venv-feast/bin/python] [--requests 60] [--json FILE]

All serve the same values of 5,000 users, each a process of its own with one worker, and take turns: Bedplate from LMDB,
Feast from SQLite and from a new Redis server on a free port. What a client has at the end is compared: Feast's JSON
decoded, Bedplate's JSON decoded, and Bedplate's Arrow stream as columns; decoding counts for each. One connection to
each, kept open. Values must be equal.

The target is that the binary answer for 500 keys takes at most 1/50 of Feast's time at the median.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.client
import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from record import judge, machine, save
from served import Served
from servers import redis_server

from bedplate.types import DAY, HOUR

USERS, FEATURES, SIZES, BLOCK = 5_000, 50, (1, 100, 500), 10
TARGET = 50.0
ARROW = "application/vnd.apache.arrow.stream"
ROOT = Path(__file__).parents[1]
CONFIG = '[online]\nurl = "lmdb:online"\n'
DEFINITIONS = f"""
from bedplate import Entity, FeatureView, Last, Source

rows = FeatureView(
    "rows",
    Entity("user", key="user"),
    Source("rows", "rows.parquet", time="event_timestamp"),
    {{f"f{{i}}": Last(f"f{{i}}") for i in range({FEATURES})}},
)
"""


class Client:
    """One connection to a server."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        self.connection.request("POST", path, body, headers)
        response = self.connection.getresponse()
        content = response.read()
        assert response.status == 200, content
        return content


@contextlib.contextmanager
def feast_server(feast_python: Path, folder: Path) -> Generator[int]:
    """The port of `feast serve`, once it accepts connections."""
    port = free_port()
    command = [str(feast_python.parent / "feast"), "serve", "-p", str(port), "--no-access-log"]
    file = folder / "serve.log"
    with file.open("w") as log, subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process:
        try:
            until = time.monotonic() + 120
            while not accepts(port):
                if process.poll() is not None or time.monotonic() > until:
                    sys.exit(f"{command} does not serve:\n{file.read_text()}")
                time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def prepare(root: Path, feast_python: Path, port: int) -> pl.DataFrame:
    """The table, and all stores filled from it; the Redis server listens at the port."""
    rng = np.random.default_rng(0)
    now = int(time.time()) * 1_000_000
    columns: dict[str, Any] = {"user": np.arange(USERS)}
    columns |= {f"f{i}": rng.random(USERS) for i in range(FEATURES)}
    columns["event_timestamp"] = now - rng.integers(HOUR, 30 * DAY, USERS)
    frame = pl.DataFrame(columns).with_columns(pl.col("event_timestamp").cast(pl.Datetime("us", "UTC")))
    frame.write_parquet(root / "rows.parquet")
    (root / "bedplate.toml").write_text(CONFIG)
    (root / "features.py").write_text(DEFINITIONS)
    for command in ("apply", "materialize"):
        subprocess.run(
            [sys.executable, "-m", "bedplate", command],
            cwd=root,
            check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
        )
    script = Path(__file__).with_name("feast_online.py")
    command = [str(feast_python), str(script), str(root), str(FEATURES), str(port)]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return frame


def ways(feasts: dict[str, Client], ours: Client) -> dict[str, Callable[[list[int]], np.ndarray[Any, Any]]]:
    """What asks for the features of users, as a matrix [users, features]."""
    names = [f"rows:f{i}" for i in range(FEATURES)]

    def ask_feast(feast: Client, users: list[int]) -> np.ndarray[Any, Any]:
        body = msgspec.json.encode({"features": names, "entities": {"user": users}})
        found = msgspec.json.decode(feast.post("/get-online-features", body, {"Content-Type": "application/json"}))
        order = {name: i for i, name in enumerate(found["metadata"]["feature_names"])}
        return np.array([found["results"][order[f"f{i}"]]["values"] for i in range(FEATURES)]).T

    def ask_json(users: list[int]) -> np.ndarray[Any, Any]:
        body = msgspec.json.encode({"features": ["rows.*"], "keys": {"user": users}})
        values = msgspec.json.decode(ours.post("/v1/features", body, {}))["values"]
        return np.array([values[f"rows.f{i}"] for i in range(FEATURES)]).T

    def ask_arrow(users: list[int]) -> np.ndarray[Any, Any]:
        body = msgspec.json.encode({"features": ["rows.*"], "keys": {"user": users}})
        answer = ours.post("/v1/features", body, {"Accept": ARROW})
        return pl.read_ipc_stream(io.BytesIO(answer)).to_numpy()

    theirs = {f"feast serve, {store}": functools.partial(ask_feast, feast) for store, feast in feasts.items()}
    return {**theirs, "bedplate json": ask_json, "bedplate arrow": ask_arrow}


def measure(root: Path, feast_python: Path, requests: int, redis_port: int) -> dict[str, Any]:
    frame = prepare(root, feast_python, redis_port)
    expected = frame.select(f"f{i}" for i in range(FEATURES)).to_numpy()
    with ExitStack() as stack:
        feasts = {
            store: Client(stack.enter_context(feast_server(feast_python, root / store)))
            for store in ("sqlite", "redis")
        }
        ours = Client(stack.enter_context(Served(root, "features", "serve")).port)
        taken = timed(ways(feasts, ours), expected, requests)
    return {
        name: {
            str(size): {f"p{q}": float(np.quantile(t, q / 100)) for q in (10, 50, 99)} for size, t in by_size.items()
        }
        for name, by_size in taken.items()
    }


def timed(
    asks: dict[str, Callable[[list[int]], np.ndarray[Any, Any]]], expected: np.ndarray[Any, Any], requests: int
) -> dict[str, dict[int, list[float]]]:
    """Milliseconds of requests by who answered them and how many keys they had; the answers are those expected."""
    rng = np.random.default_rng(1)
    taken: dict[str, dict[int, list[float]]] = {name: {size: [] for size in SIZES} for name in asks}
    for size in SIZES:
        for block in range(0, requests + BLOCK, BLOCK):  # the first block warms up
            users = [rng.choice(USERS, size, replace=False).tolist() for _ in range(BLOCK)]
            for name, ask in asks.items():
                for some in users:
                    begin = time.perf_counter()
                    found = ask(some)
                    if block:
                        taken[name][size].append((time.perf_counter() - begin) * 1e3)
                    assert np.array_equal(found, expected[some]), name
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--feast-python", type=Path, default=ROOT / ".venv-feast" / "bin" / "python")
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as port:
        found = measure(Path(folder), options.feast_python.absolute(), options.requests, port)
    result: dict[str, Any] = {"machine": machine(), "features": FEATURES, "ms": found}
    for name, by_size in found.items():
        for size, ms in by_size.items():
            print(f"{name:15} {size:>4} keys  p10 {ms['p10']:8.2f}  p50 {ms['p50']:8.2f}  p99 {ms['p99']:8.2f} ms")
    most = str(SIZES[-1])
    ratios = {
        theirs: {ours: found[theirs][most]["p50"] / found[ours][most]["p50"] for ours in found if "bedplate" in ours}
        for theirs in found
        if "feast" in theirs
    }
    for theirs, of_ours in ratios.items():
        print(f"{theirs}, {most} keys: " + ", ".join(f"{ours} {ratio:.0f}x faster" for ours, ratio in of_ours.items()))
    result["ratios"] = ratios
    targets = {f"{theirs} / arrow, {most} keys": (r["bedplate arrow"], ">=", TARGET) for theirs, r in ratios.items()}
    code = judge(result, targets)
    print(f"wrote {save('feature_server', result, options.json)}")
    sys.exit(code)


if __name__ == "__main__":
    main()
