"""Reading a training set from files: the same batches as the loader's, in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import final

import numpy as np
import polars as pl

from bedplate.batch import Batch
from bedplate.datasets import writing
from bedplate.datasets.blocks import Block, Part, Room, Stretch, batches_of
from bedplate.datasets.layout import BATCH, Layout
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.slices import slice_batch
from bedplate.datasets.split import SPLITS
from bedplate.datasets.writing import Manifest, digest_file, read_manifest
from bedplate.errors import ConfigError, DataError, NotFoundError, StoreError, reason, suggest
from bedplate.sources.base import UNREADABLE


@final
class WrittenDataset:
    """A training set that `writing.write_dataset` wrote.

    Args:
        folder: where it is.

    Attributes:
        folder: as given.
        manifest: what it holds.

    Raises:
        StoreError: the folder holds none, or a file of it is missing or of another size.
    """

    __slots__ = ("folder", "manifest")

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        for part in self.manifest.parts:
            for path, size in zip(part.files(self.folder), part.sizes, strict=True):
                if not path.is_file() or path.stat().st_size != size:
                    raise _damaged(path, f"it is missing or not of {size:,} bytes")

    def loader(self, split: str) -> WrittenLoader:
        """The batches of a split.

        Raises:
            NotFoundError: there is no such split.
            DataError: it has no requests.
        """
        return WrittenLoader(self, split)

    def verify(self) -> None:
        """Checks every byte.

        Raises:
            StoreError: a file was changed.
        """
        for part in self.manifest.parts:
            for path, digest in zip(part.files(self.folder), part.hashes, strict=True):
                if digest_file(path) != digest:
                    raise _damaged(path, "its content was changed")

    def check(self, dataset: LoadedDataset) -> None:
        """Checks that the files are of this dataset, on these snapshots.

        Raises:
            DataError: they are of another one.
        """
        plan, compiled = self.manifest.plan, dataset.compiled
        now = compiled.definitions() | {f"feature {f.name}": f.id for f in compiled.selected.features}
        changed = [name for name in {**plan.definitions, **now} if plan.definitions.get(name) != now.get(name)]
        if plan.id != compiled.id:
            shown = ", ".join(changed) or f"dataset {plan.dataset}"
            raise DataError(
                f"the files are of other definitions than the project's: {shown}",
                where=str(self.folder),
                hint="write them anew: bedplate datasets write",
            )
        if plan.snapshots != dict(dataset.snapshots):
            sources = [n for n, s in dataset.snapshots.items() if plan.snapshots.get(n) != s]
            raise DataError(
                f"the files are of another state of the sources {', '.join(sources)}",
                where=str(self.folder),
                hint="write them anew: bedplate datasets write",
            )


@final
class WrittenLoader:
    """Batches of one split; takes the place of `loader.Loader`.

    Args:
        dataset: the files.
        split: train, validation or test.
    """

    __slots__ = ("_dataset", "_epochs", "_length", "_split")

    def __init__(self, dataset: WrittenDataset, split: str) -> None:
        if split not in SPLITS:
            raise NotFoundError(f"no split '{split}'", where=str(dataset.folder), hint=suggest(split, SPLITS, "splits"))
        self._dataset, self._split = dataset, split
        self._epochs: dict[int, list[writing.PartFiles]] = {}
        for part in dataset.manifest.parts:
            if part.split == split:
                self._epochs.setdefault(part.epoch, []).append(part)
        if not self._epochs:
            raise DataError(f"the split '{split}' has no requests", where=str(dataset.folder))
        self._length = sum(p.batches for p in self._epochs[0])

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return self._length

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, as the loader gives them.

        Args:
            seed: of the run; the files hold one.
            epoch: its number; the files hold some.
            start: how many batches to skip; parts of which all are skipped are not read.

        Raises:
            ConfigError: the files hold another seed, or not this epoch, or `start` is not within it.
        """
        return batches_of(self, Stretch(seed, epoch, start))

    def blocks(self, stretch: Stretch, room: Room) -> Iterator[Block]:
        """The blocks of a stretch, a pair of files each, whatever the room; see `blocks.Blocks`.

        Raises:
            ConfigError: as `epoch`.
        """
        plan = self._dataset.manifest.plan
        where, seed, epoch = str(self._dataset.folder), stretch.seed, stretch.epoch
        if seed != plan.seed:
            raise ConfigError(
                f"the files hold the batches of seed {plan.seed}, got {seed}",
                where=where,
                hint=f"train with trainer.seed={plan.seed}, or write them with --seed {seed}",
            )
        number = epoch if self._split == "train" else 0
        if number not in self._epochs:
            raise ConfigError(
                f"the files hold {plan.epochs} epochs of training, got epoch {epoch} (the first is 0)",
                where=where,
                hint=f"write them with --epochs {epoch + 1} or more: each has its own order and negatives",
            )
        return self._blocks(self._epochs[number], stretch.within(len(self), where), stretch.part)

    def _blocks(self, files: list[writing.PartFiles], batches: range, part: Part) -> Iterator[Block]:
        for pair in files:
            if max(pair.first, batches.start) < min(pair.first + pair.batches, batches.stop):
                yield Block(pair.items, partial(self._make, pair, batches, part))

    def _make(self, pair: writing.PartFiles, batches: range, part: Part) -> Iterator[Batch]:
        requests, items = (_read(path) for path in pair.files(self._dataset.folder))
        plan = self._dataset.manifest.plan
        whole = Layout(plan.columns, plan.labels, plan.keys).batch(requests, items)
        bounds = np.searchsorted(requests[BATCH].to_numpy(), np.arange(pair.first, pair.first + pair.batches + 1))
        firsts, stops = (edge.tolist() for edge in part.cut(whole.offsets, bounds))
        for i in range(max(0, batches.start - pair.first), min(batches.stop - pair.first, pair.batches)):
            yield slice_batch(whole, firsts[i], stops[i])


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except UNREADABLE as error:
        raise _damaged(path, reason(error)) from error


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(
        f"a file of the training set can't be used: {what}",
        where=str(path),
        hint="delete the folder and write it anew: bedplate datasets write",
    )
