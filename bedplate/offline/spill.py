"""Rows of a large segment on the way from the table to its buckets.

A table that does not fit into memory is read once, batch by batch, and each batch's rows are appended to the file of
the bucket of their key; then each bucket is read back and built by itself. What is wholly written stays when a build is
interrupted, and the next one goes on from it:

    building/<id>/spill/        the buckets' rows, one file a bucket: arrays of one batch after the other
        rows.json               how many rows each bucket has
    building/<id>/segment/      the buckets that are finished
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from io import BufferedIOBase, BufferedReader
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
    kernels.counting_sort(numbers, order[:0], offsets, order)
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
                        _write(file, batch, rows)
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
        while file.peek(1):
            times, keys = _load(file), _load(file)
            known = None if source.available is None else _load(file)
            sequence = None if source.sequence is None else _load(file)
            key_texts = _load_texts(file)
            selections: list[SelectedValues] = []
            for s in wanted:
                valid = _load(file)
                inputs = tuple(_load(file) for _ in view.types[s])
                selections.append(SelectedValues(valid if len(valid) else None, inputs, _load_texts(file)))
            yield Rows(times, keys, tuple(selections), key_texts, known, sequence)


def _write(file: BufferedIOBase, batch: Rows, rows: Array) -> None:
    def save(array: Array) -> None:
        np.save(file, array[rows], allow_pickle=False)

    save(batch.times)
    save(batch.keys)
    if batch.known is not None:
        save(batch.known)
    if batch.sequence is not None:
        save(batch.sequence)
    _save_texts(file, batch.key_texts, list(batch.keys.T), None, rows)
    for selected in batch.selections:
        valid = selected.valid
        np.save(file, np.zeros(0, np.bool_) if valid is None else valid[rows])
        for values in selected.inputs:
            save(values)
        _save_texts(file, selected.texts, selected.inputs, valid, rows)


def _save_texts(
    file: BufferedIOBase, texts: Sequence[TextLookup | None], columns: Sequence[Array], valid: Array | None, rows: Array
) -> None:
    """The strings behind the ids of some rows."""
    found: list[dict[int, str] | None] = []
    for known, column in zip(texts, columns, strict=True):
        ids = column[rows] if valid is None else column[rows[valid[rows]]]
        found.append(None if known is None else {i: known[i] for i in np.unique(ids).tolist()})
    np.save(file, np.frombuffer(msgspec.msgpack.encode(found), np.uint8))


def _load(file: BufferedIOBase) -> Array:
    return np.load(file, allow_pickle=False)


def _load_texts(file: BufferedIOBase) -> tuple[dict[int, str] | None, ...]:
    kind: Any = list[dict[int, str] | None]
    return tuple(msgspec.msgpack.decode(_load(file).tobytes(), type=kind))
