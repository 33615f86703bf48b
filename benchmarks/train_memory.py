"""A training set in files, five times the budget of memory, trained within it, as the operating system counts it.

    python benchmarks/train_memory.py [--memory 700e6] [--times 5] [--json FILE]

The whole process is counted, libraries included (VmHWM). The files are those of `bedplate datasets write`, 32 numbers
of random bits a candidate; one part is written and the others are copies of it under their own names, so that the files
take their room on the disk but little time. Printed are rows a second and the share of time that the trainer waited for
data, beside the same batches held in memory (some of them, again and again).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from record import judge, machine, peak_bytes, save

from bedplate import Count, Dataset, Entity, FeatureView, Label, LogisticConfig, Number, Source, Spine, Sum, TimeSplit
from bedplate.batch import Batch
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.writing import MANIFEST, Manifest, write_dataset
from bedplate.datasets.written import WrittenDataset, WrittenLoader
from bedplate.features.encoder import Encoder
from bedplate.features.fitting import fit
from bedplate.features.graph import FeatureGraph
from bedplate.models.logistic import Logistic
from bedplate.offline.history import IndexedHistory
from bedplate.training.config import TrainerConfig
from bedplate.training.trainer import Trainer
from bedplate.types import DAY

START = 1_700_006_400_000_000
COLUMNS, PART_ROWS, BATCH = 32, 131_072, 4096


def write_one(folder: Path) -> Path:
    """A training set whose training split is a single part."""
    draw, rows = np.random.default_rng(0), PART_ROWS + 16 * BATCH
    frame: dict[str, Any] = {"page": np.arange(rows), "item": np.arange(rows), "user": draw.integers(0, 999, rows)}
    frame |= {"time": START + np.sort(draw.integers(0, DAY, rows)), "liked": draw.integers(0, 2, rows)}
    frame |= {f"x{i}": draw.normal(size=rows) for i in range(COLUMNS)}
    table = pl.DataFrame(frame)
    split = int(table["time"][PART_ROWS]) + 10**6
    pages = Source("pages", table, time="time")
    known = Source("known", table.with_columns(time=pl.lit(START - DAY)), time="time")
    user, item = Entity("user", key="user"), Entity("item", key="item")
    items = FeatureView("items", item, known, {f"x{i}": Sum(f"x{i}") for i in range(COLUMNS)} | {"n": Count()})
    dataset = Dataset(
        "wide",
        spine=Spine(pages, request="page", entities=user, item=item),
        labels=Label("liked", [user, item], pages, Sum("liked"), within="1s", at_least=1),
        features=[items],
        split=TimeSplit(validation=split, test=split + 10**9, gap="1s"),
        batch_items=BATCH,
    )
    compiled = dataset.compile(FeatureGraph([items]))
    history = IndexedHistory(folder / "index")
    for view in compiled.views:
        history.build(view).run()
    write_dataset(LoadedDataset(compiled, history), folder / "wide", part_items=PART_ROWS)
    return folder / "wide"


def repeat(folder: Path, size: float) -> int:
    """Copies the training part until the files take so many bytes; gives the bytes."""
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    one = next(p for p in manifest.parts if p.split == "train")
    copies = int(-(-size // sum(one.sizes)))
    parts = [p for p in manifest.parts if p.split == "validation"]
    for number in range(copies):
        path = f"train-0/{number:05}"
        part = msgspec.structs.replace(one, path=path, first=number * one.batches)
        for source, target in zip(one.files(folder), part.files(folder), strict=True):
            if source != target:
                frame = pl.read_parquet(source)
                if "batch" in frame.columns:
                    frame.with_columns(batch=pl.col("batch") + part.first).write_parquet(
                        target, compression="zstd", statistics=False
                    )
                else:
                    shutil.copy(source, target)
        sizes = tuple(path.stat().st_size for path in part.files(folder))
        parts.append(msgspec.structs.replace(part, sizes=sizes))
    (folder / MANIFEST).write_bytes(msgspec.json.encode(Manifest(manifest.plan, tuple(parts))))
    return sum(sum(p.sizes) for p in parts)


class Memory:
    """Batches in memory, again and again."""

    def __init__(self, batches: list[Batch], length: int) -> None:
        self.batches, self.length = batches, length

    def __len__(self) -> int:
        return self.length

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        return (self.batches[i % len(self.batches)] for i in range(start, self.length))


def measure(folder: Path, threads: int, memory: str, resident: int) -> None:
    """Trains an epoch, and says what it took."""
    written = WrittenDataset(folder)
    train: WrittenLoader = written.loader("train")
    first = [b for b, _ in zip(train.epoch(0, 0), range(16), strict=False)]
    encoder: Encoder = fit({f"items.x{i}": Number() for i in range(COLUMNS)}, first)
    config = TrainerConfig(epochs=1, prefetch_memory=memory, loader_threads=threads)
    source = Memory(first, resident) if resident else train
    model = Logistic(LogisticConfig("liked"), encoder.layout)
    del first
    with tempfile.TemporaryDirectory() as checkpoints:
        result = Trainer(config).fit(model, encoder, source, written.loader("validation"), Path(checkpoints))
    found = {"peak": peak_bytes(), "rows_per_second": round(result.rows_per_second), "steps": result.steps}
    sys.stdout.write(json.dumps(found | {"wait_share": round(result.wait_share, 3)}))


def in_process(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, __file__, "measure", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=float, default=700e6)
    parser.add_argument("--times", type=float, default=5)
    parser.add_argument("--ahead", default="100MB", help="trainer.prefetch_memory")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        written = write_one(Path(folder))
        size = repeat(written, options.times * options.memory)
        found = {"files": in_process(written, 2, options.ahead, 0)}
        found["memory"] = in_process(written, 2, options.ahead, 400)
    result = machine() | {"memory": options.memory, "bytes_of_files": size, "ahead": options.ahead} | found
    result["share_of_memory_fed"] = round(found["files"]["rows_per_second"] / found["memory"]["rows_per_second"], 3)
    for name, value in found.items():
        print(f"{name:16} {value}")
    code = judge(
        result,
        {
            "files over the budget": (round(size / options.memory, 2), ">=", options.times),
            "peak memory over the budget": (round(found["files"]["peak"] / options.memory, 3), "<=", 1.0),
        },
    )
    print(f"wrote {save('train_memory', result, options.json)}")
    return code


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
    else:
        sys.exit(main())
