"""Rows of a large segment on the way from the table to its buckets.

A table that does not fit into memory is read once, batch by batch, and each batch's rows are appended to the file of
the bucket of their key; then each bucket is read back and built by itself. What is wholly written stays when a build is
interrupted, and the next one goes on from it:

    building/<id>/spill/        the buckets' rows, one file a bucket: of one batch after the other a head and arrays
        rows.json               how many rows each bucket has
    building/<id>/segment/      the buckets that are finished
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np

from bedplate.batch import TextLookup
from bedplate.canonical import to_json
from bedplate.features.rows import JoinedRows, Rows, SelectedValues
from bedplate.features.view import CompiledView
from bedplate.files import new_folder
from bedplate.offline import kernels
from bedplate.offline.order import order_by_code
from bedplate.types import Array, Int64s

_ROWS = "rows.json"


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
        return len(self._counts())

    def _counts(self) -> list[int]:
        return msgspec.json.decode((self._folder / _ROWS).read_bytes(), type=list[int])

    def write(self, batches: Iterable[Rows], buckets: int) -> None:
        """Puts rows into buckets; the folder is there, and whole, when all of them are."""
        counts = [0] * buckets
        with new_folder(self._folder) as folder:
            for bucket in range(buckets):
                (folder / str(bucket)).touch()
            for batch in batches:
                offsets, order = bucket_rows(bucket_numbers(batch.keys, buckets), buckets)
                for bucket in np.flatnonzero(np.diff(offsets)).tolist():
                    rows = order[offsets[bucket] : offsets[bucket + 1]]
                    counts[bucket] += len(rows)
                    with (folder / str(bucket)).open("ab") as file:
                        file.write(_packed(batch, rows))
            (folder / _ROWS).write_bytes(to_json(counts))

    def rows(self, bucket: int) -> Rows:
        """The rows of a bucket, in order of arrival."""
        joined = JoinedRows(self._view, self._counts()[bucket], self._only)
        with (self._folder / str(bucket)).open("rb") as file:
            for batch in self._batches(file):
                joined.add(batch)
        return joined.rows()

    def forget(self, bucket: int) -> None:
        """Deletes the rows of a bucket that is built."""
        with suppress(FileNotFoundError):
            (self._folder / str(bucket)).unlink()

    def _batches(self, file: BufferedReader) -> Iterator[Rows]:
        source, view = self._view.view.source, self._view
        wanted = range(len(view.selections)) if self._only is None else self._only
        long = np.dtype(np.int64)
        while size := file.read(8):
            head = msgspec.msgpack.decode(file.read(int.from_bytes(size, "little")), type=_Head)

            def load(dtype: np.dtype[Any], shape: tuple[int, ...] = (), rows: int = head.rows) -> Array:
                count = rows * math.prod(shape)
                return np.frombuffer(file.read(count * dtype.itemsize), dtype).reshape(rows, *shape)

            times, keys = load(long), load(long, (len(view.key_types),))
            known = None if source.available is None else load(long)
            sequence = None if source.sequence is None else load(long)
            selections: list[SelectedValues] = []
            for s, some, texts in zip(wanted, head.some, head.texts, strict=True):
                valid = load(np.dtype(np.bool_)) if some else None
                inputs = tuple(load(kind.dtype, kind.shape) for kind in view.types[s])
                selections.append(SelectedValues(valid, inputs, tuple(texts)))
            yield Rows(times, keys, tuple(selections), tuple(head.key_texts), known, sequence)


@final
class _Head(msgspec.Struct, frozen=True, array_like=True):
    """What stands before the arrays of a batch.

    Attributes:
        rows: how many there are.
        key_texts: the strings behind the keys of each entity.
        some: of each selection, whether an array says which rows count.
        texts: of each selection the strings behind its inputs.
    """

    rows: int
    key_texts: list[dict[int, str] | None]
    some: list[bool]
    texts: list[list[dict[int, str] | None]]


def _packed(batch: Rows, rows: Array) -> bytes:
    """Some rows of a batch as bytes: the length of the head, the head, and the arrays one after the other."""
    arrays = [batch.times, batch.keys, *(a for a in (batch.known, batch.sequence) if a is not None)]
    texts: list[list[dict[int, str] | None]] = []
    for selected in batch.selections:
        arrays += [*(() if selected.valid is None else (selected.valid,)), *selected.inputs]
        texts.append(_texts(selected.texts, selected.inputs, selected.valid, rows))
    key_texts = _texts(batch.key_texts, list(batch.keys.T), None, rows)
    head = _Head(len(rows), key_texts, [s.valid is not None for s in batch.selections], texts)
    packed = msgspec.msgpack.encode(head)
    return b"".join([len(packed).to_bytes(8, "little"), packed, *(a[rows].tobytes() for a in arrays)])


def _texts(
    texts: Sequence[TextLookup | None], columns: Sequence[Array], valid: Array | None, rows: Array
) -> list[dict[int, str] | None]:
    """The strings behind the ids of some rows."""
    found: list[dict[int, str] | None] = []
    for known, column in zip(texts, columns, strict=True):
        if known is None:
            found.append(None)
        else:
            ids = column[rows] if valid is None else column[rows[valid[rows]]]
            found.append({i: known[i] for i in np.unique(ids).tolist()})
    return found
