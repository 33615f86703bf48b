"""The strings behind 64-bit ids, on disk and on the way there: never as many of them in memory as a table has.

ids.npy [n]         the ids, ascending
starts.npy [n + 1]  where each string begins among the bytes, and the end
bytes.npy           the strings in UTF-8, one after the other
"""

from __future__ import annotations

import shutil
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np

from bedplate.batch import TextLookup
from bedplate.compiling import compiled
from bedplate.errors import DataError
from bedplate.offline.mapped import open_array
from bedplate.types import Array, Int64s

_FILES = ("ids.npy", "starts.npy", "bytes.npy")
_HELD = 1 << 12
"""As many strings as a reader holds as a dictionary; of more it looks up one by one."""
_MERGED = 1 << 20
"""Bytes of strings that are merged at once, about."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class TextBlock(Mapping[int, str]):
    """n strings in three arrays.

    Attributes:
        ids: [n] int64, ascending.
        starts: [n + 1] int64: where each string begins in `blob`.
        blob: uint8: the strings in UTF-8.

    >>> block = TextBlock.of({7: "mug", 3: "plate", 5: "jug"}, np.array([3, 7]))
    >>> dict(block), 5 in block
    ({3: 'plate', 7: 'mug'}, False)
    """

    ids: Int64s
    starts: Int64s
    blob: Array

    @staticmethod
    def of(texts: TextLookup, ids: Int64s) -> TextBlock:
        """The strings of some ids, which are ascending."""
        if isinstance(texts, TextBlock):
            return texts.take(np.searchsorted(texts.ids, ids))
        encoded = [texts[i].encode() for i in ids.tolist()]
        starts = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(e) for e in encoded], out=starts[1:])
        return TextBlock(ids, starts, np.frombuffer(b"".join(encoded), np.uint8))

    def take(self, positions: Int64s) -> TextBlock:
        """The strings at these positions, copied."""
        starts = np.zeros(len(positions) + 1, np.int64)
        np.cumsum(self.starts[positions + 1] - self.starts[positions], out=starts[1:])
        blob = np.empty(int(starts[-1]), np.uint8)
        copy_ranges(self.blob, self.starts, positions, blob)
        return TextBlock(self.ids[positions], starts, blob)

    def text(self, position: int) -> str:
        """The string at a position."""
        return self.blob[self.starts[position] : self.starts[position + 1]].tobytes().decode()

    def _place(self, key: object) -> int:
        at = bisect_left(self.ids.data, key) if isinstance(key, int) else len(self.ids)
        return at if at < len(self.ids) and self.ids[at] == key else -1

    def __getitem__(self, key: int) -> str:
        """The string of an id."""
        place = self._place(key)
        if place < 0:
            raise KeyError(key)
        return self.text(place)

    def __contains__(self, key: object) -> bool:
        """Whether an id has a string."""
        return self._place(key) >= 0

    def __iter__(self) -> Iterator[int]:
        """The ids."""
        return iter(self.ids.tolist())

    def __len__(self) -> int:
        """How many strings there are."""
        return len(self.ids)


@final
class Texts(Mapping[int, str]):
    """The strings in a folder, opened when first asked for; what is not asked for stays on the disk."""

    __slots__ = ("_block", "_folder", "_known")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._block: TextBlock | None = None
        self._known: dict[int, str] | None = None

    def _open(self) -> TextBlock:
        if self._block is None:
            self._block = TextBlock(*(open_array(self._folder / name) for name in _FILES))
        return self._block

    def _lookup(self) -> Mapping[int, str]:
        if self._known is None:
            block = self._open()
            if len(block) > _HELD:
                return block
            self._known = {i: block.text(p) for p, i in enumerate(block.ids.tolist())}
        return self._known

    def __getitem__(self, key: int) -> str:
        """The string of an id."""
        return self._lookup()[key]

    def __contains__(self, key: object) -> bool:
        """Whether an id has a string."""
        return key in self._lookup()

    def __iter__(self) -> Iterator[int]:
        """The ids."""
        return iter(self._open())

    def __len__(self) -> int:
        """How many strings there are."""
        return len(self._open())

    def arrays(self) -> Sequence[Array]:
        """The arrays that are open."""
        block = self._block
        return () if block is None else (block.ids, block.starts, block.blob)

    @staticmethod
    def write(folder: Path, texts: TextLookup) -> None:
        """Writes strings into a new folder."""
        folder.mkdir()
        if isinstance(texts, Texts):
            for name in _FILES:
                shutil.copyfile(texts._folder / name, folder / name)
            return
        ids = np.sort(np.fromiter(texts, np.int64, len(texts)))
        block = TextBlock.of(texts, ids)
        for name, array in zip(_FILES, (block.ids, block.starts, block.blob), strict=True):
            np.save(folder / name, array)


@final
@dataclass(frozen=True, slots=True)
class TextRun:
    """Where the strings of a block are in a file, as `append` has written them.

    Attributes:
        at: where they begin.
        count: how many there are.
        size: their bytes.
    """

    at: int
    count: int
    size: int

    def read(self, file: BufferedReader, first: int, last: int, starts: Int64s) -> Array:
        """The bytes of the strings `[first, last)`."""
        file.seek(self.at + 8 * (2 * self.count + 1) + int(starts[first]))
        return np.frombuffer(file.read(int(starts[last] - starts[first])), np.uint8)

    def heads(self, file: BufferedReader) -> tuple[Int64s, Int64s]:
        """The ids [n], ascending, and where their strings begin [n + 1]."""
        file.seek(self.at)
        found = np.frombuffer(file.read(8 * (2 * self.count + 1)), np.int64)
        return found[: self.count], found[self.count :]

    def block(self, file: BufferedReader) -> TextBlock:
        """All of them; the file is then at their end."""
        ids, starts = self.heads(file)
        return TextBlock(ids, starts, np.frombuffer(file.read(self.size), np.uint8))

    @property
    def end(self) -> int:
        """Where they end in the file."""
        return self.at + 8 * (2 * self.count + 1) + self.size


def packed(block: TextBlock) -> list[bytes]:
    """A block as a `TextRun` reads it."""
    return [block.ids.tobytes(), block.starts.tobytes(), block.blob.tobytes()]


def merge_runs(folder: Path, file: BufferedReader, runs: Sequence[TextRun]) -> Texts:
    """The strings of runs, each once, in a folder; few are in memory at once.

    Args:
        folder: where they go; what is there is deleted.
        file: that of the runs.
        runs: blocks of strings, some of which may be in several.

    Raises:
        DataError: two different strings have the same id.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    heads = [run.heads(file) for run in runs]
    # Ids are hashes: equal ranges of them have about as many strings.
    pieces = max(1, sum(run.size for run in runs) // _MERGED)
    bounds = [round(-(2.0**63) + 2.0**64 * i / pieces) for i in range(1, pieces)]
    cuts = [np.concatenate([[0], np.searchsorted(ids, bounds), [len(ids)]]).astype(np.int64) for ids, _ in heads]
    ids, starts, end = [np.zeros(0, np.int64)], [np.zeros(1, np.int64)], 0
    raw = folder / "bytes"
    with raw.open("wb") as out:
        for piece in range(pieces):
            blocks: list[TextBlock] = []
            for run, (own, begins), cut in zip(runs, heads, cuts, strict=True):
                a, b = int(cut[piece]), int(cut[piece + 1])
                if a < b:
                    blocks.append(TextBlock(own[a:b], begins[a : b + 1] - begins[a], run.read(file, a, b, begins)))
            merged = _merge(blocks)
            out.write(merged.blob.data)
            ids.append(merged.ids)
            starts.append(merged.starts[1:] + end)
            end += len(merged.blob)
    np.save(folder / "ids.npy", np.concatenate(ids))
    np.save(folder / "starts.npy", np.concatenate(starts))
    with raw.open("rb") as source, (folder / "bytes.npy").open("wb") as out:
        write_head(out, np.dtype(np.uint8), (end,))
        shutil.copyfileobj(source, out)
    raw.unlink()
    return Texts(folder)


def write_head(file: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Writes what stands before the values in an array file."""
    head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)


def _merge(blocks: Sequence[TextBlock]) -> TextBlock:
    """The strings of blocks, each once."""
    if not blocks:
        return TextBlock(np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, np.uint8))
    if len(blocks) == 1:
        return blocks[0]
    ids = np.concatenate([b.ids for b in blocks])
    starts = np.zeros(len(ids) + 1, np.int64)
    np.cumsum(np.concatenate([np.diff(b.starts) for b in blocks]), out=starts[1:])
    blob = np.concatenate([b.blob for b in blocks])
    order = np.argsort(ids, kind="stable")
    if not same_texts(blob, starts, ids, order):
        raise DataError("two different strings have the same 64-bit id")
    first = np.ones(len(ids), np.bool_)
    first[1:] = ids[order][1:] != ids[order][:-1]
    return TextBlock(ids, starts, blob).take(order[first])


@compiled
def copy_ranges(blob: Array, starts: Int64s, positions: Int64s, out: Array) -> None:
    """Puts the strings at some positions one after the other."""
    at = 0
    for p in positions:
        for i in range(starts[p], starts[p + 1]):
            out[at] = blob[i]
            at += 1


@compiled
def same_texts(blob: Array, starts: Int64s, ids: Int64s, order: Int64s) -> Any:
    """Whether strings with the same id, which are next to each other in an order, are the same."""
    for k in range(1, len(order)):
        one, other = order[k - 1], order[k]
        if ids[one] == ids[other]:
            size = starts[one + 1] - starts[one]
            if starts[other + 1] - starts[other] != size:
                return False
            for i in range(size):
                if blob[starts[one] + i] != blob[starts[other] + i]:
                    return False
    return True
