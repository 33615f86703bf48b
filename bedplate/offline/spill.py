"""Rows of a large segment on the way from the table to its buckets.

A table that does not fit into memory is read once, batch by batch, and each batch's rows are appended to the file of
the bucket of their key; then each bucket is read back and built by itself. What is wholly written stays when a build is
interrupted, and the next one goes on from it:

    building/<id>/spill/        the buckets' rows, one file a bucket: of each batch a head, arrays, strings
        rows.json               how many rows each bucket has
        7 parts/                as spill/, the parts of a bucket that is cut, see `cuts`
    building/<id>/segment/      the parts that are finished
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeAlias, final

import msgspec
import numpy as np

from bedplate.batch import TextLookup
from bedplate.canonical import to_json
from bedplate.features.rows import JoinedRows, Rows, SelectedValues
from bedplate.features.view import CompiledView
from bedplate.files import new_folder
from bedplate.offline import kernels
from bedplate.offline.cuts import Cut, part_numbers
from bedplate.offline.order import order_by_code
from bedplate.offline.texts import TextBlock, TextRun, merge_runs, packed
from bedplate.offline.writing import gathered, write_all
from bedplate.overlap import overlapped
from bedplate.types import Array, Int64s, Type

_ROWS = "rows.json"

_Runs: TypeAlias = "list[TextRun | None]"


def bucket_numbers(keys: Int64s, buckets: int) -> Array:
    """[n] int32: the bucket of each key [n, c], by the first bits of its hash: twice as many buckets halve each."""
    numbers = np.zeros(len(keys), np.int32)
    if buckets > 1:
        kernels.first_bits(np.ascontiguousarray(keys), 63 - (buckets.bit_length() - 1), numbers)
    return numbers


def bucket_rows(numbers: Array, buckets: int) -> tuple[Int64s, Array]:
    """Where each bucket's rows begin [buckets + 1], and the rows in order of bucket, in each as they stand."""
    offsets, order = np.zeros(buckets + 1, np.int64), np.empty(len(numbers), np.int64)
    order_by_code(numbers, order[:0], offsets, order, threads=1)
    return offsets, order


@final
class Spill:
    """Rows by bucket, in files.

    Args:
        folder: where they are.
        view: the compiled view.
        only: the positions of the selections whose values they have; None: all.
    """

    __slots__ = ("_folder", "_only", "_view")

    def __init__(self, folder: Path, view: CompiledView, only: Sequence[int] | None = None) -> None:
        self._folder, self._view, self._only = folder, view, only

    @property
    def buckets(self) -> int:
        """How many buckets there are."""
        return len(self.counts)

    @property
    def counts(self) -> list[int]:
        """How many rows each bucket has."""
        return msgspec.json.decode((self._folder / _ROWS).read_bytes(), type=list[int])

    def write(self, batches: Iterable[Rows], buckets: int) -> None:
        """Puts rows into buckets; the folder is there, and whole, when all of them are."""
        self._write(((batch, bucket_numbers(batch.keys, buckets)) for batch in batches), buckets)

    def _write(self, batches: Iterable[tuple[Rows, Array]], buckets: int) -> None:
        """Puts batches of rows, each with the numbers of its rows' buckets, into files."""
        counts = [0] * buckets

        def put(found: tuple[Rows, Array]) -> None:
            offsets, order = bucket_rows(found[1], buckets)
            batch = _in_order(found[0], order)
            for bucket in np.flatnonzero(np.diff(offsets)).tolist():
                rows = slice(*offsets[bucket : bucket + 2].tolist())
                counts[bucket] += rows.stop - rows.start
                with (folder / str(bucket)).open("ab", buffering=0) as file:
                    write_all(file, _packed(batch, rows))

        with new_folder(self._folder) as folder:
            for bucket in range(buckets):
                (folder / str(bucket)).touch()
            overlapped(put, batches)
            (folder / _ROWS).write_bytes(to_json(counts))

    def split(self, bucket: int, cuts: Sequence[Cut]) -> Spill:
        """The rows of a bucket by part, as an earlier call has left them or cut now; the bucket has none then."""
        parts = Spill(self._folder / f"{bucket} parts", self._view, self._only)
        if not parts._folder.exists():
            parts._write(part_numbers(self.batches(bucket), cuts), len(cuts) + 1)
        self.forget(bucket)
        return parts

    def rows(self, bucket: int) -> Rows:
        """The rows of a bucket, in order of arrival; their strings stay in files until `forget`."""
        joined = JoinedRows(self._view, self.counts[bucket], self._only)
        runs: list[_Runs] = []
        with (self._folder / str(bucket)).open("rb") as file:
            for batch, of_batch in self._read(file):
                joined.add(batch)
                runs.append(of_batch)
                if of_batch:
                    file.seek(max([file.tell(), *(run.end for run in of_batch if run is not None)]))
            texts = [
                self._merged(bucket, number, file, [r[number] for r in runs]) if is_text else None
                for number, is_text in enumerate(self._text_columns())
            ]
        return self._with_texts(joined.rows(), texts)

    def batches(self, bucket: int) -> Iterator[Rows]:
        """As `rows`, in the batches in which they came."""
        with (self._folder / str(bucket)).open("rb") as file:
            for batch, runs in self._read(file):
                blocks = [None if run is None else run.block(file) for run in runs]
                yield self._with_texts(batch, blocks)

    def forget(self, bucket: int) -> None:
        """Deletes the rows of a bucket that is built."""
        with suppress(FileNotFoundError):
            (self._folder / str(bucket)).unlink()
        for number in range(len(self._text_columns())):
            shutil.rmtree(self._folder / f"{bucket} texts {number}", ignore_errors=True)

    def _wanted(self) -> Sequence[int]:
        return range(len(self._view.selections)) if self._only is None else self._only

    def _text_columns(self) -> list[bool]:
        """For each key and each input of the selections whether it is a string."""
        kinds = [*self._view.key_types, *(kind for s in self._wanted() for kind in self._view.types[s])]
        return [kind is Type.STRING for kind in kinds]

    def _merged(self, bucket: int, number: int, file: BufferedReader, runs: Sequence[TextRun | None]) -> TextLookup:
        return merge_runs(self._folder / f"{bucket} texts {number}", file, [run for run in runs if run is not None])

    def _with_texts(self, rows: Rows, texts: Sequence[TextLookup | None]) -> Rows:
        """Rows with the strings behind their keys, and then behind the inputs of one selection after the other."""
        at, selections = len(self._view.key_types), list[SelectedValues]()
        for selected in rows.selections:
            selections.append(replace(selected, texts=tuple(texts[at : at + len(selected.inputs)])))
            at += len(selected.inputs)
        return replace(rows, key_texts=tuple(texts[: len(self._view.key_types)]), selections=tuple(selections))

    def _read(self, file: BufferedReader) -> Iterator[tuple[Rows, _Runs]]:
        """The batches without their strings, and where these are: the file is to be at their end for the next one."""
        view, source, long = self._view, self._view.view.source, np.dtype(np.int64)
        while size := file.read(8):
            head = msgspec.msgpack.decode(file.read(int.from_bytes(size, "little")), type=_Head)

            def load(dtype: np.dtype[Any], shape: tuple[int, ...] = (), rows: int = head.rows) -> Array:
                count = rows * math.prod(shape)
                return np.frombuffer(file.read(count * dtype.itemsize), dtype).reshape(rows, *shape)

            times, keys = load(long), load(long, (len(view.key_types),))
            known = None if source.available is None else load(long)
            sequence = None if source.sequence is None else load(long)
            selections: list[SelectedValues] = []
            for s, some in zip(self._wanted(), head.some, strict=True):
                valid = load(np.dtype(np.bool_)) if some else None
                inputs = tuple(load(kind.dtype, kind.shape) for kind in view.types[s])
                selections.append(SelectedValues(valid, inputs, (None,) * len(inputs)))
            runs: _Runs = []
            at = file.tell()
            for sizes in head.texts:
                runs.append(None if sizes is None else TextRun(at, *sizes))
                at = at if sizes is None else TextRun(at, *sizes).end
            yield Rows(times, keys, tuple(selections), (None,) * len(view.key_types), known, sequence), runs


@final
class _Head(msgspec.Struct, frozen=True, array_like=True):
    """What stands before the arrays of a batch.

    Attributes:
        rows: how many there are.
        some: of each selection, whether an array says which rows count.
        texts: of each key, then of each input, how many strings there are and their bytes; None: it is no string.
    """

    rows: int
    some: list[bool]
    texts: list[tuple[int, int] | None]


def _in_order(batch: Rows, order: Array) -> Rows:
    """The rows of a batch in an order of them."""
    return replace(
        batch,
        times=gathered(batch.times, order),
        keys=gathered(batch.keys, order),
        known=None if batch.known is None else gathered(batch.known, order),
        sequence=None if batch.sequence is None else gathered(batch.sequence, order),
        selections=tuple(
            SelectedValues(
                None if s.valid is None else gathered(s.valid, order),
                tuple(gathered(values, order) for values in s.inputs),
                s.texts,
            )
            for s in batch.selections
        ),
    )


def _packed(batch: Rows, rows: slice) -> list[bytes | memoryview]:
    """Some rows of a batch as bytes: the length of the head, the head, arrays and strings one after the other."""
    arrays = [batch.times, batch.keys, *(a for a in (batch.known, batch.sequence) if a is not None)]
    texts = [_texts(t, column, None, rows) for t, column in zip(batch.key_texts, batch.keys.T, strict=True)]
    for selected in batch.selections:
        arrays += [*(() if selected.valid is None else (selected.valid,)), *selected.inputs]
        texts += [_texts(t, c, selected.valid, rows) for t, c in zip(selected.texts, selected.inputs, strict=True)]
    sizes = [None if t is None else (len(t), len(t.blob)) for t in texts]
    some = [s.valid is not None for s in batch.selections]
    head = msgspec.msgpack.encode(_Head(rows.stop - rows.start, some, sizes))
    strings = [part for block in texts if block is not None for part in packed(block)]
    return [len(head).to_bytes(8, "little"), head, *(a[rows].data.cast("B") for a in arrays), *strings]


def _texts(known: TextLookup | None, column: Array, valid: Array | None, rows: slice) -> TextBlock | None:
    """The strings behind the ids of some rows."""
    if known is None:
        return None
    return TextBlock.of(known, np.unique(column[rows] if valid is None else column[rows][valid[rows]]))
