"""Training with 1, 3 and 10 times the rows, and with embedding tables of up to 36 million rows.

    python benchmarks/train_scaling.py rows [--rows 200000] [--epochs 2] [--json FILE]
    python benchmarks/train_scaling.py tables [--rows 200000] [--users 1000000,9000000,36000000] [--json FILE]

DeepFM of `train_peers.py`, users and items joined while it trains, each size in a process of its own. `rows`: the
seconds of the training, all waiting included, against linear, and the peak memory of the process, in which the spine's
requests are (some numbers each). `tables`: rows a second with larger and larger tables of users, of which a step
touches the rows of its batch only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import ctr_data
from record import judge, machine, save
from train_peers import measured

TIMES = (1, 3, 10)
OVER = 1.15
"""How many times linear the seconds of more rows may be."""
FLAT = 0.85
"""Of the rows a second of the smallest table, with the largest."""


def run(rows: int, users: int, epochs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ctr_data.write(folder, rows, users, 1682)
        (folder / "shape.json").write_text(json.dumps({"rows": rows}))
        found = measured(sys.executable, "train_bedplate", folder, users, 1682, epochs)
    speed = found["rows"] / found["seconds"]
    print(
        f"{rows:10,} rows {users:12,} users {found['seconds']:8.2f} s {speed:12,.0f} rows/s "
        f"{found['peak_bytes'] / 1e6:8,.0f} MB  waiting {found['waiting']:.1%}  AUC {found['auc']:.4f}",
        flush=True,
    )
    return found | {"rows_per_second": speed}


def by_rows(args: argparse.Namespace) -> int:
    runs: dict[int, list[dict[str, Any]]] = {times: [] for times in TIMES}
    for _ in range(args.rounds):
        for times in TIMES:
            runs[times].append(run(times * args.rows, args.users_of_rows, args.epochs))
    seconds = {times: statistics.median(r["seconds"] for r in each) for times, each in runs.items()}
    wanted = {
        f"seconds for {times} times the rows, of linear": (seconds[times] / (times * seconds[1]), "<=", OVER)
        for times in TIMES[1:]
    }
    result = {"rows": args.rows, "epochs": args.epochs, "seconds": seconds, "runs": runs}
    code = judge(result, wanted)
    save("train_scaling_rows", machine() | result, args.json)
    return code


def by_tables(args: argparse.Namespace) -> int:
    sizes = [int(text) for text in args.users.split(",")]
    runs = {size: [run(args.rows, size, args.epochs) for _ in range(args.rounds)] for size in sizes}
    speeds = {size: statistics.median(r["rows_per_second"] for r in each) for size, each in runs.items()}
    what = f"rows a second with {sizes[-1]:,} users, of those with {sizes[0]:,}"
    result = {"rows": args.rows, "rows_per_second": speeds, "runs": runs}
    code = judge(result, {what: (speeds[sizes[-1]] / speeds[sizes[0]], ">=", FLAT)})
    save("train_scaling_tables", machine() | result, args.json)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rows", "tables"])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--users-of-rows", type=int, default=943, help="of `rows`")
    parser.add_argument("--users", default="1000000,9000000,36000000", help="of `tables`, commas between")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    return by_rows(args) if args.what == "rows" else by_tables(args)


if __name__ == "__main__":
    sys.exit(main())
