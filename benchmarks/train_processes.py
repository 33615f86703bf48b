"""How many rows a second two processes train on this machine, and one process with as many cores.

    python benchmarks/train_processes.py [--steps 60] [--rounds 3] [--json FILE]

DCN-V2 in two sizes, with a table of 100,000 vectors of 16 numbers, 8 random ids a candidate, batches of 4096.
One process computes with all cores; each of two with half of them, on half of each batch. After a few steps their
losses are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from record import judge, machine, save
from train_sharding import WIDTH, AsTheyAre, Drawn

from bedplate.models.config import DCNConfig
from bedplate.models.dcn import DCN
from bedplate.training.alone import alone
from bedplate.training.config import TrainerConfig
from bedplate.training.processes import own_place, started
from bedplate.training.trainer import Trainer

ROWS = 100_000
LAYERS = {"small": (64, 64), "large": (1024, 512, 256)}
COUNTS = (1, 2)
FEW, SAME = 4, 1e-6
"""After so many steps the loss may differ by so much from that of one process: sums are in another order.

Each further step makes two trainings that differ by a rounding more different; what became of it is printed too.
"""


def train(size: str, count: int, steps: int, folder: Path) -> None:
    """Trains in this process, which may be one of two; the first one writes down what was measured."""
    place = own_place()
    if place is not None:
        place.end_with_parent()
    again = [sys.executable, __file__, "--steps", str(steps), "--size", size, "--count", str(count)]
    first = place is None and count > 1
    with started([*again, "--folder", str(folder)], count) if first else nullcontext() as workers:
        peers = place if place is not None else workers
        with alone() if peers is None else peers.connect() as exchange:
            encoder = AsTheyAre(ROWS)
            model = DCN(DCNConfig("label", layers=LAYERS[size], embedding=WIDTH), encoder.layout)
            trainer = Trainer(TrainerConfig(epochs=2, checkpoint_every=10**9, seed=3), exchange=exchange)
            result = trainer.fit(model, encoder, Drawn(steps, ROWS), Drawn(2, ROWS), folder / "checkpoints")
    if place is None:
        found = {"rows_per_second": result.rows_per_second, "loss": result.history[-1]["loss"]}
        (folder / "found.json").write_text(json.dumps(found))


def measured(size: str, count: int, steps: int) -> dict[str, Any]:
    """What a training measured, in fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--steps", str(steps), "--size", size, "--count", str(count), "--folder", folder]
        subprocess.run([sys.executable, __file__, *words], check=True, env=dict(os.environ))
        found = json.loads((Path(folder) / "found.json").read_text())
    print(f"{size:5} {count} processes {found['rows_per_second']:10,.0f} rows/s", flush=True)
    return found


def apart(runs: list[dict[str, Any]]) -> float:
    """By which share of the first run's last loss the others' differ from it at most."""
    return max(abs(run["loss"] / runs[0]["loss"] - 1) for run in runs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--size", choices=LAYERS, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.size is not None:
        train(args.size, args.count, args.steps, args.folder)
        return 0
    runs: dict[str, list[dict[str, Any]]] = {f"{size}, {count}": [] for size in LAYERS for count in COUNTS}
    for _ in range(args.rounds):
        for size in LAYERS:
            for count in COUNTS:
                runs[f"{size}, {count}"].append(measured(size, count, args.steps))
    speeds = {name: statistics.median(run["rows_per_second"] for run in each) for name, each in runs.items()}
    result: dict[str, Any] = {"layers": LAYERS, "steps": args.steps, "rows_per_second": speeds, "runs": runs}
    result["two_in_place_of_one"] = {size: speeds[f"{size}, 2"] / speeds[f"{size}, 1"] for size in LAYERS}
    result["last_loss_apart"] = {size: apart([run for n in COUNTS for run in runs[f"{size}, {n}"]]) for size in LAYERS}
    for size, difference in result["last_loss_apart"].items():
        print(f"{size}: after {2 * args.steps} steps the losses are {difference:.1e} apart")
    few = max(apart([measured(size, count, FEW // 2) for count in COUNTS]) for size in LAYERS)
    code = judge(result, {f"difference of a loss from that of one process after {FEW} steps": (few, "<=", SAME)})
    for size, times in result["two_in_place_of_one"].items():
        print(f"{size}: two processes train {times:.2f} times as many rows a second as one")
    print(f"wrote {save('train_processes', machine() | result, args.json)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
