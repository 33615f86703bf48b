"""What embedding tables that are sharded over two processes take of each one's memory, and what that costs in speed.

    python benchmarks/train_sharding.py [--rows 9000000] [--steps 40] [--rounds 3] [--json FILE]

DCN-V2 with a table of ROWS vectors of 16 numbers, 8 random ids a candidate, batches of 4096 candidates; by one process,
by two that hold the whole table each, and by two with `--sharding torchrec`. Memory is the anonymous memory of each
process as the operating system counts it: at the last step, above what it was before the model was made; and the most
that the process ever held, mapped files included. On a busy machine rows a second say little: the time of cores that a
step takes, in all processes together, is told beside. The losses and the tables after the last step are compared. Needs
TorchRec, see `docs/training.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import judge, machine, peak_bytes, save

from bedplate.batch import Batch, Ids
from bedplate.features.encoding import Layout
from bedplate.layers.embedding import without_rows
from bedplate.models.config import DCNConfig
from bedplate.models.dcn import DCN
from bedplate.training.alone import alone
from bedplate.training.checkpoint import load_state
from bedplate.training.config import TrainerConfig
from bedplate.training.processes import own_place, started
from bedplate.training.report import Status
from bedplate.training.sharding import ShardedTables, require_torchrec
from bedplate.training.trainer import Trainer
from bedplate.types import Array

WIDTH, IDS, BATCH, WARM = 16, 8, 4096, 5
MODES = ("one process", "two, whole tables", "two, sharded")
HALF, SAME = 0.6, 1e-5
"""Of the memory of a whole table, what a process may take with half of it; and how much a loss may differ."""


class Drawn:
    """Batches of random ids, the same ones in every process."""

    def __init__(self, steps: int, rows: int) -> None:
        self.steps, self.rows = steps, rows

    def __len__(self) -> int:
        return self.steps

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        for step in range(start, self.steps):
            rng = np.random.default_rng([seed, epoch, step])
            ids = {f"x{i}": Ids(rng.integers(1, self.rows, BATCH)) for i in range(IDS)}
            label = (rng.random(BATCH) < 0.2 + 0.6 * (ids["x0"].values % 2)).astype(np.float32)
            offsets, times = np.arange(BATCH + 1), np.full(BATCH, 10**15)
            request = {name: ids.pop(name) for name in [*ids][: IDS // 2]}
            yield Batch(request, ids, offsets, times, np.arange(BATCH), np.arange(BATCH), {"label": label})


class AsTheyAre:
    """An encoder of ids that are rows of the table already."""

    def __init__(self, rows: int) -> None:
        self.layout = Layout(rows=rows, request_ids=IDS // 2, item_ids=IDS - IDS // 2)

    def digest(self) -> str:
        return str(self.layout.rows)

    def encode(self, batch: Batch) -> dict[str, Array]:
        sides = {"request_ids": batch.request, "item_ids": batch.item}
        found = {name: np.stack([one.values for one in side.values()], axis=1) for name, side in sides.items()}
        return found | {"request_of_item": np.repeat(np.arange(batch.requests), np.diff(batch.offsets))}


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def train(mode: str, args: argparse.Namespace, folder: Path) -> None:
    """Trains in this process, which may be one of two, and writes down what was measured."""
    place = own_place()
    rank = 0 if place is None else place.rank
    if place is not None:
        place.end_with_parent()
    shard = ShardedTables if mode == MODES[2] else None
    if shard is not None:
        require_torchrec()
    torch.set_num_threads(1)
    again = [sys.executable, __file__, "--rows", str(args.rows), "--steps", str(args.steps), "--mode", mode]
    others = nullcontext() if mode == MODES[0] or place is not None else started([*again, "--folder", str(folder)], 2)
    seen: list[tuple[int, float]] = []

    def show(_: Status) -> None:
        seen.append((anonymous_bytes() - before, time.process_time()))

    with others as workers:
        peers = place if place is not None else workers
        with alone() if peers is None else peers.connect(shard) as exchange:
            torch.set_num_threads(1)
            encoder, before = AsTheyAre(args.rows), anonymous_bytes()
            with without_rows() if rank and exchange.shards else nullcontext():
                model = DCN(DCNConfig("label", layers=(64, 64), embedding=WIDTH), encoder.layout)
            config = TrainerConfig(epochs=1, checkpoint_every=10**9, seed=3)
            validation = Drawn(2, args.rows)
            trainer = Trainer(config, exchange=exchange, show=show)
            result = trainer.fit(model, encoder, Drawn(args.steps, args.rows), validation, folder / "checkpoints")
    (_, began), (held, ended) = seen[WARM - 1], seen[args.steps - 1]
    found: dict[str, Any] = {"at_last_step": held, "peak_bytes": peak_bytes()}
    found["milliseconds_a_step"] = 1000 * (ended - began) / (args.steps - WARM)
    found |= {"rows_per_second": result.rows_per_second, "history": result.history}
    (folder / f"{rank}.json").write_text(json.dumps(found))


def measured(mode: str, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """What each process of a training measured, in fresh ones."""
    folder.mkdir()
    sizes = ["--rows", str(args.rows), "--steps", str(args.steps)]
    command = [sys.executable, __file__, *sizes, "--mode", mode, "--folder", str(folder)]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("?.json"))]
    for rank, one in enumerate(found):
        print(
            f"{mode:18} rank {rank} {one['at_last_step'] / 1e6:8,.0f} MB at the last step, most "
            f"{one['peak_bytes'] / 1e6:8,.0f} MB {one['rows_per_second']:10,.0f} rows/s, "
            f"{one['milliseconds_a_step']:5.0f} ms of a core a step",
            flush=True,
        )
    return found


def difference(one: Path, other: Path) -> float:
    """The largest difference between the tables of two checkpoints."""
    states = [load_state(folder / "checkpoints" / "checkpoint.pt", mapped=True)["model"] for folder in (one, other)]
    (name,) = [
        name
        for name, weight in states[0].items()
        if len(weight.shape) == 2 and weight.shape[1] == WIDTH and "embedding" in name
    ]
    pieces = zip(*(state[name].split(1 << 20) for state in states), strict=True)
    return max(float((a - b).abs().max()) for a, b in pieces)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=9_000_000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.mode is not None:
        train(args.mode, args, args.folder)
        return 0
    runs: dict[str, list[list[dict[str, Any]]]] = {mode: [] for mode in MODES}
    differences: list[float] = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as name:
            folders = {mode: Path(name) / mode.replace(" ", "-").replace(",", "") for mode in MODES}
            for mode in MODES:
                runs[mode].append(measured(mode, args, folders[mode]))
            differences.append(difference(folders[MODES[0]], folders[MODES[2]]))
    whole, sharded = (runs[mode] for mode in MODES[1:])
    losses = [[run[0]["history"][0]["loss"] for run in runs[mode]] for mode in MODES]
    speeds = {mode: statistics.median(run[0]["rows_per_second"] for run in each) for mode, each in runs.items()}
    cores = {
        mode: statistics.median(sum(one["milliseconds_a_step"] for one in run) for run in each)
        for mode, each in runs.items()
    }
    held = [max(max(one["at_last_step"] for one in run) for run in each) for each in (whole, sharded)]
    result = {"rows": args.rows, "width": WIDTH, "table_bytes": 4 * args.rows * (WIDTH + 1), "rows_per_second": speeds}
    result |= {"milliseconds_of_all_cores_a_step": cores}
    result |= {"largest_difference_of_tables": max(differences), "runs": runs}
    apart = max(abs(loss / losses[0][0] - 1) for each in losses for loss in each)
    code = judge(
        result,
        {
            "memory of a process above what it was before the model, of that with whole tables": (
                held[1] / held[0],
                "<=",
                HALF,
            ),
            "difference of a loss from that of one process": (apart, "<=", SAME),
            "largest difference between the tables": (max(differences), "<=", SAME),
        },
    )
    print(f"rows a second: {', '.join(f'{mode} {speed:,.0f}' for mode, speed in speeds.items())}")
    print(f"milliseconds of cores a step: {', '.join(f'{mode} {found:,.0f}' for mode, found in cores.items())}")
    print(f"wrote {save('train_sharding', machine() | result, args.json)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
