"""Writing a training set to files: part by part, whole or not there, resumable after a kill at any moment.

    OUT/manifest.json                       what it is, see `Manifest`
    OUT/train-0/00000.requests.parquet      the first part of the training split's epoch 0: a row a request
    OUT/train-0/00000.items.parquet         and a row a candidate
    OUT/validation-0/...  OUT/test-0/...

While it is written it lies beside `OUT` in a hidden folder, with a line in `parts.jsonl` for each part that is whole.
The folder gets its name when everything is in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeAlias, final

import msgspec
import polars as pl

from bedplate.batch import Batch
from bedplate.datasets.layout import Layout, WrittenColumn, columns_of
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.loader import BLOCK_ITEMS, Loader
from bedplate.datasets.split import SPLITS
from bedplate.errors import ConfigError, DataError, StoreError
from bedplate.files import aside, fsync_dir, fsync_file, fsync_tree, move_folder, write_atomic

FORMAT = 2
"""The version of the files."""

MANIFEST, PLAN, JOURNAL, LOCK = "manifest.json", "plan.json", "parts.jsonl", "lock"

PART_ITEMS = 131_072
"""Rows of `items` after which a part is written: what is in memory at once."""

Progress: TypeAlias = Callable[[str], None]
"""Told each part that is written."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What decides every byte of the files.

    Attributes:
        format: `FORMAT`.
        dataset: the dataset's name.
        id: the hash of what decides its rows and values.
        definitions: the ids of its parts and features, by name.
        snapshots: the snapshot that was read of each source.
        seed: of the order of training and of the negatives.
        epochs: of training; the others are the same in each.
        part_items: rows of `items` after which a part ends.
        columns: the features.
        labels: their names.
        keys: the names of the request's entities.
    """

    format: int
    dataset: str
    id: str
    definitions: dict[str, str]
    snapshots: dict[str, str]
    seed: int
    epochs: int
    part_items: int
    columns: tuple[WrittenColumn, ...]
    labels: tuple[str, ...]
    keys: tuple[str, ...] = ()


class PartFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two files of one part.

    Attributes:
        path: of both without their endings, from the folder.
        split: train, validation or test.
        epoch: of training; 0 of the others.
        first: the number of its first batch.
        batches: how many it has.
        requests: rows of `requests`.
        items: rows of `items`.
        sizes: bytes of the two files.
        hashes: BLAKE2b of the two files.
    """

    path: str
    split: str
    epoch: int
    first: int
    batches: int
    requests: int
    items: int
    sizes: tuple[int, int]
    hashes: tuple[str, str]

    def files(self, folder: Path) -> tuple[Path, Path]:
        """The files of `requests` and of `items`."""
        return folder / f"{self.path}.requests.parquet", folder / f"{self.path}.items.parquet"


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in the folder: the plan, and every part in its order.

    Attributes:
        plan: what decides the files.
        parts: in order of split, epoch and batch.
    """

    plan: Plan
    parts: tuple[PartFiles, ...]


def write_dataset(
    dataset: LoadedDataset,
    target: Path,
    *,
    seed: int = 0,
    epochs: int = 1,
    part_items: int = PART_ITEMS,
    progress: Progress = lambda _: None,
) -> Manifest:
    """Writes the batches of a dataset's splits to a folder of Parquet files; `written.WrittenDataset` reads them.

    Memory holds the requests of the dataset (see `LoadedDataset`) and one part. A writing that was interrupted goes on
    after its last whole part, when the same is written to the same place again.

    Args:
        dataset: the dataset over its data.
        target: the folder; its parent is made where it is missing.
        seed: of the order of training requests and of the negatives; training from the files needs the same.
        epochs: how many epochs of training to write: each has an order and negatives of its own.
        part_items: rows of candidates of a part.
        progress: told each part.

    Returns:
        the manifest; of a folder that holds exactly this already, the one that is there.

    Raises:
        ConfigError: `epochs` or `part_items` is below 1.
        StoreError: the folder is there and holds something else, another process is writing it, or it can't be written.
        DefinitionError: a feature has the name of another column.
    """
    for name, value in (("epochs", epochs), ("part_items", part_items)):
        if value < 1:
            raise ConfigError(f"{name} is {value}, expected at least 1", where="writing a dataset")
    plan = _plan(dataset, seed, epochs, part_items)
    if target.exists():
        return _same(target, plan)
    working = target.with_name(f".{target.name}.writing")
    try:
        with _locked(working):
            if not (working / MANIFEST).exists() or _read(working) != plan:
                _Writer(dataset, plan, working, progress).run()
            for name in (JOURNAL, PLAN, LOCK):
                (working / name).unlink(missing_ok=True)
            fsync_tree(working)
            if not move_folder(working, target):
                raise StoreError("it was made by another process meanwhile", where=str(target))
    except OSError as error:
        raise StoreError(
            f"can't write the training set: {error.strerror or error}",
            where=str(target),
            hint="check free space and permissions; the whole parts are kept, and the same command goes on from them",
        ) from error
    return read_manifest(target)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a training set in files.

    Raises:
        StoreError: it can't be read, or is of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreError(
            f"can't read the manifest: {getattr(error, 'strerror', None) or error}",
            where=str(path),
            hint="is this a folder that 'bedplate datasets write' wrote?",
        ) from error
    if manifest.plan.format != FORMAT:
        raise StoreError(f"it has format {manifest.plan.format}, expected {FORMAT}", where=str(path))
    return manifest


def digest_file(path: Path) -> str:
    """BLAKE2b of a file, 40 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20)).hexdigest()


def _plan(dataset: LoadedDataset, seed: int, epochs: int, part_items: int) -> Plan:
    compiled = dataset.compiled
    definitions = compiled.definitions() | {f"feature {f.name}": f.id for f in compiled.selected.features}
    return Plan(
        format=FORMAT,
        dataset=compiled.dataset.name,
        id=compiled.id,
        definitions=definitions,
        snapshots=dict(dataset.snapshots),
        seed=seed,
        epochs=epochs,
        part_items=part_items,
        columns=columns_of(compiled),
        labels=tuple(label.label.name for label in compiled.labels),
        keys=tuple(entity.name for entity in compiled.dataset.spine.entities),
    )


def _same(target: Path, plan: Plan) -> Manifest:
    manifest = read_manifest(target)
    if manifest.plan == plan:
        return manifest
    fields = [f for f in plan.__struct_fields__ if getattr(plan, f) != getattr(manifest.plan, f)]
    raise StoreError(
        f"the folder holds another training set: its {', '.join(fields)} differ",
        where=str(target),
        hint="write to another folder, or delete this one first",
    )


def _read(working: Path) -> Plan | None:
    """The plan of a manifest that was written just before a kill."""
    try:
        return read_manifest(working).plan
    except StoreError:
        return None


@contextlib.contextmanager
def _locked(working: Path) -> Generator[None]:
    """The folder that is written to, for one process; a process that ends gives it up."""
    working.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(working / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreError("another process is writing it", where=str(working), hint="wait for it, or stop it") from None
    try:
        yield
    finally:
        os.close(descriptor)


@final
class _Writer:
    """Writes the parts that are missing, and the manifest."""

    def __init__(self, dataset: LoadedDataset, plan: Plan, working: Path, progress: Progress) -> None:
        self._dataset, self._plan, self._working, self._progress = dataset, plan, working, progress
        self._layout = Layout(plan.columns, plan.labels, plan.keys)

    def run(self) -> None:
        """Goes on from the parts that are there."""
        parts = self._known()
        for split in SPLITS:
            for epoch in range(self._plan.epochs if split == "train" else 1):
                done = [p for p in parts if (p.split, p.epoch) == (split, epoch)]
                parts += self._epoch(split, epoch, done)
        order = {name: i for i, name in enumerate(SPLITS)}
        parts.sort(key=lambda p: (order[p.split], p.epoch, p.first))
        content = msgspec.json.format(msgspec.json.encode(Manifest(self._plan, tuple(parts))))
        write_atomic(self._working / MANIFEST, content + b"\n")

    def _known(self) -> list[PartFiles]:
        """The parts that are whole, of a writing of the same; anything else in the folder is deleted."""
        plan = msgspec.json.encode(self._plan)
        path, journal = self._working / PLAN, self._working / JOURNAL
        if not path.is_file() or path.read_bytes() != plan:
            for entry in self._working.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name != LOCK:
                    entry.unlink()
            write_atomic(path, plan)
        found: list[PartFiles] = []
        for line in journal.read_bytes().splitlines(keepends=True) if journal.is_file() else []:
            part = _part_of(line)
            if part is None or any(not f.is_file() for f in part.files(self._working)):
                break
            found.append(part)
        whole = {path for part in found for path in part.files(self._working)}
        for path in self._working.glob("*/*"):
            if path not in whole:
                path.unlink()
        # What a kill left of a line is cut off, so that the next one is a line of its own.
        write_atomic(journal, b"".join(msgspec.json.encode(p) + b"\n" for p in found))
        if found:
            self._progress(f"goes on after {len(found):,} parts")
        return found

    def _epoch(self, split: str, epoch: int, done: list[PartFiles]) -> list[PartFiles]:
        """The parts of an epoch that are missing."""
        try:
            loader = Loader(self._dataset, split, block_items=min(BLOCK_ITEMS, self._plan.part_items))
        except DataError:
            return []  # a split without requests has no parts
        made: list[PartFiles] = []
        number = sum(p.batches for p in done)
        (self._working / f"{split}-{epoch}").mkdir(exist_ok=True)
        for batches in _parts(loader.epoch(self._plan.seed, epoch, number), self._plan.part_items):
            path = f"{split}-{epoch}/{len(done) + len(made):05}"
            made.append(self._write(path, split, epoch, number, batches))
            number += len(batches)
            self._progress(f"{split} epoch {epoch}: {number:,} of {len(loader):,} batches")
        return made

    def _write(self, path: str, split: str, epoch: int, first: int, batches: list[Batch]) -> PartFiles:
        tables = [self._layout.tables(batch, first + i) for i, batch in enumerate(batches)]
        names = [self._working / f"{path}.{table}.parquet" for table in ("requests", "items")]
        frames = [pl.concat([pair[i] for pair in tables]) for i in range(2)]
        for name, frame in zip(names, frames, strict=True):
            temporary = aside(name)
            frame.write_parquet(temporary, compression="zstd", statistics=False)
            fsync_file(temporary)
            temporary.replace(name)
        fsync_dir(names[0].parent)
        part = PartFiles(
            path=path,
            split=split,
            epoch=epoch,
            first=first,
            batches=len(batches),
            requests=frames[0].height,
            items=frames[1].height,
            sizes=(names[0].stat().st_size, names[1].stat().st_size),
            hashes=(digest_file(names[0]), digest_file(names[1])),
        )
        with (self._working / JOURNAL).open("ab") as journal:
            journal.write(msgspec.json.encode(part) + b"\n")
            journal.flush()
            os.fsync(journal.fileno())
        return part


def _part_of(line: bytes) -> PartFiles | None:
    """The part of a line; None: the line was not written to its end."""
    if not line.endswith(b"\n"):
        return None
    try:
        return msgspec.json.decode(line, type=PartFiles)
    except msgspec.MsgspecError:
        return None


def _parts(batches: Iterator[Batch], part_items: int) -> Iterator[list[Batch]]:
    """Batches in runs of about so many rows."""
    waiting: list[Batch] = []
    items = 0
    for batch in batches:
        waiting.append(batch)
        items += batch.items
        if items >= part_items:
            yield waiting
            waiting, items = [], 0
    if waiting:
        yield waiting
