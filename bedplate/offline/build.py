"""Building one bucket of a segment: its events in order of key and time, columns, and what makes reductions fast."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, final

import numpy as np

from bedplate.aggregations.base import Reduce, Reduction
from bedplate.canonical import to_json
from bedplate.errors import DataError
from bedplate.features.rows import Rows, SelectedValues
from bedplate.features.view import CompiledView
from bedplate.offline import kernels, running
from bedplate.offline.blocks import BLOCKED, build_blocks
from bedplate.offline.flight import Known, following_same
from bedplate.offline.index import Timeline, selection_id
from bedplate.offline.key_ranges import RangedRows
from bedplate.offline.mapped import open_array
from bedplate.offline.order import extremes, order_rows
from bedplate.offline.ragged import RAGGED, build_ragged, previous_table
from bedplate.offline.sums import write_sums
from bedplate.offline.texts import Texts
from bedplate.offline.writing import write_gathered
from bedplate.types import Array, Int64s

Progress: TypeAlias = Callable[[str], None]
"""Told each step that begins, such as "customer_lines: sort 392,732 rows"."""

COST = "cost.json"
"""The file of a column or a reduction that says what it took to build."""


@final
@dataclass(frozen=True, slots=True)
class Sorted:
    """What the sorting of a bucket's events found: the number of rows and keys, and their times as the manifest has."""

    rows: int
    keys: int
    first: int
    end: int
    known: int


@final
class PartBuild:
    """Writes what one view needs of one bucket of a segment.

    Args:
        view: the compiled view.
        timeline: the bucket, which need not be there yet.
        threads: how many threads put a column in order.
    """

    __slots__ = ("_columns", "_order", "_threads", "timeline", "view")

    def __init__(self, view: CompiledView, timeline: Timeline, threads: int = 1) -> None:
        self.view, self.timeline, self._threads = view, timeline, threads
        self._columns = column_ids(view)
        self._order: Array | None = None

    def missing_columns(self) -> list[int]:
        """The positions of the selections without values in the index."""
        return [i for i, c in enumerate(self._columns) if not self.timeline.column_folder(c).exists()]

    def missing_reductions(self) -> list[tuple[int, Reduction]]:
        """The reductions without files, by selection."""
        wanted, folder = wanted_reductions(self.view), self.timeline.reduction_folder
        return [(i, r) for i, r in wanted if not folder(self._columns[i], r.stored).exists()]

    def check_rows(self, rows: int) -> None:
        """Raises `DataError` unless there are as many rows as were sorted."""
        if rows != len(self.timeline.order):
            raise DataError(
                f"the source has {rows:,} events, its index {len(self.timeline.order):,}",
                where=self.view.place,
                hint="the prepare step must give the same rows each time; then delete the index and apply again",
            )

    def write_timeline(self, folder: Path, rows: Rows, ranged: RangedRows | None = None) -> Sorted:
        """Writes the order of rows by key and time into an empty folder.

        Args:
            folder: the folder.
            rows: the rows, in order of arrival unless `ranged` says another.
            ranged: these rows in order of key range.
        """
        found = order_rows(rows, self._threads) if ranged is None else ranged.order(self._threads)
        keys, offsets, order = found.keys, found.offsets, found.order
        np.save(folder / "keys.npy", keys)
        np.save(folder / "offsets.npy", offsets)
        if ranged is None:
            np.save(folder / "order.npy", order)
        else:
            write_gathered(folder / "order.npy", ranged.arrival, order, self._threads)
        write_gathered(folder / "times.npy", rows.times, order, self._threads)
        if rows.known is not None:
            Known.of(rows.known[order]).save(folder)
        if rows.sequence is not None:
            write_gathered(folder / "sequence.npy", rows.sequence, order, self._threads)
        for entity, texts in enumerate(rows.key_texts):
            if texts is not None:
                Texts.write(folder / f"key {entity}", texts)
        (folder / "columns").mkdir()
        (folder / "reductions").mkdir()
        self._order = order
        names = ("keys", "offsets", "order", "times")
        self.timeline.adopt({name: open_array(folder / f"{name}.npy") for name in names})
        if not len(rows):
            return Sorted(0, 0, -1, -1, -1)
        first, end = extremes(rows.times, self._threads)
        return Sorted(len(rows), len(keys), first, end, end if rows.known is None else int(rows.known.max()))

    def write_column(self, folder: Path, position: int, values: SelectedValues) -> None:
        """Writes the values of a selection into an empty folder.

        Args:
            folder: the folder.
            position: of the selection.
            values: its values, of the rows that `write_timeline` was given; else in order of arrival.
        """
        began, order = time.perf_counter(), self.timeline.order if self._order is None else self._order
        if values.valid is not None:
            rank, found = np.empty(len(order) + 1, np.int64), np.empty(len(order), np.int64)
            found = found[: kernels.valid_rows(values.valid, order, rank, found)]
            np.save(folder / "rank.npy", rank)
            np.save(folder / "rows.npy", found)
            order = order[found]
        for i, (array, texts) in enumerate(zip(values.inputs, values.texts, strict=True)):
            write_gathered(folder / f"input {i}.npy", array, order, self._threads)
            if texts is not None:
                Texts.write(folder / f"input {i}", texts)
        write_cost(folder, began)
        self.timeline.open_column(self._columns[position], folder, self.view.types[position])

    def write_reduction(self, folder: Path, position: int, reduction: Reduction) -> None:
        """Writes what makes a reduction of a selection fast into an empty folder."""
        began, column = time.perf_counter(), self._columns[position]
        files = self.timeline.column(column, self.view.types[position])
        starts = self.timeline.key_starts(column, files)
        try:
            if reduction.reduce in RAGGED:
                arrays = build_ragged(reduction, files, starts)
            elif reduction.reduce in BLOCKED:
                arrays = build_blocks(reduction, files, self.timeline.times)
            elif reduction.reduce is Reduce.SUM and files.inputs[0].dtype.kind == "f":
                arrays = write_sums(folder / "prefix.npy", files.inputs[0], starts, self._threads)
            else:
                arrays = _reduction_arrays(reduction.reduce, files.inputs[0], starts)
        except OverflowError:
            raise self._overflow(position, files.inputs[0], starts) from None
        if reduction.reduce is Reduce.DISTINCT and self.view.view.source.available is not None:
            arrays["following"] = following_same(arrays["previous"])
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        write_cost(folder, began)

    def _overflow(self, position: int, values: Array, starts: Int64s) -> DataError:
        sizes = np.add.reduceat(np.abs(values.astype(np.float64)), starts[:-1]) * (starts[1:] > starts[:-1])
        key = self.timeline.keys[int(sizes.argmax())].tolist()
        return DataError(
            f"a sum of whole numbers is beyond 64 bits, for the key {key} it reaches about {sizes.max():.1e}",
            where=f"{self.view.place}, {self.view.selections[position].inputs[0]}",
            hint="sum it as floats: pl.col(...).cast(pl.Float64)",
        )


def column_ids(view: CompiledView) -> list[str]:
    """The id of the column of each of a view's selections."""
    return [selection_id(s, t) for s, t in zip(view.selections, view.types, strict=True)]


def wanted_reductions(view: CompiledView) -> list[tuple[int, Reduction]]:
    """The reductions that a view needs files of, by selection; one of each `Reduction.stored`."""
    wanted = {
        (view.reduction_index(r), r.stored): r
        for call in view.calls
        for r in call.aggregation.reductions
        if r.reduce not in (Reduce.COUNT, Reduce.LATEST, Reduce.EARLIEST)
    }
    return [(i, r) for (i, _), r in wanted.items()]


def write_cost(folder: Path, began: float) -> None:
    """Writes down how many seconds a part took, since `began` of the performance counter."""
    (folder / COST).write_bytes(to_json({"seconds": round(time.perf_counter() - began, 3)}))


def _reduction_arrays(reduce: Reduce, values: Array, starts: Int64s) -> dict[str, Array]:
    if reduce is Reduce.SUM:
        whole = np.empty(len(values), np.int64)
        running.whole_prefix_sums(values, starts, whole)
        return {"prefix": whole}
    if reduce in (Reduce.MIN, Reduce.MAX):
        first = _blocks(values, reduce is Reduce.MAX)
        return {"first": first, "second": _blocks(first, reduce is Reduce.MAX)}
    previous = np.empty(len(values), np.int64)
    blocks = np.empty(len(values), np.int64)
    kernels.previous_same(values.astype(np.int64), starts, previous_table(starts), previous)
    kernels.sort_blocks(previous, kernels.DISTINCT_BLOCK, blocks)
    return {"previous": previous, "blocks": blocks}


def _blocks(values: Array, largest: bool) -> Array:
    out = np.empty(-(-len(values) // kernels.BLOCK), values.dtype)
    kernels.block_extremes(values, kernels.BLOCK, largest, out)
    return out
