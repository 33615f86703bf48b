"""Building an as-of index: only what is missing, each part whole or not there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np

from bedplate.aggregations.base import Reduce, Reduction
from bedplate.canonical import to_json
from bedplate.errors import DataError, StoreError
from bedplate.features.rows import Rows, SelectedValues, prepare_table
from bedplate.features.view import CompiledView
from bedplate.files import remove_leftovers
from bedplate.offline import kernels
from bedplate.offline.blocks import BLOCKED, build_blocks
from bedplate.offline.index import (
    FORMAT,
    Texts,
    Timeline,
    TimelineManifest,
    open_array,
    row_type,
    selection_id,
    timeline_id,
)
from bedplate.offline.ragged import RAGGED, build_ragged, previous_table
from bedplate.offline.seal import Sealer
from bedplate.sources.base import Snapshot
from bedplate.types import Array, Int64s

Progress: TypeAlias = Callable[[str], None]
"""Told each step that begins, such as "customer_lines: sort 392,732 rows"."""

_CHUNK = 1 << 20


@final
class Build:
    """What one view needs in the offline store, and the building of it.

    Args:
        path: the offline store's folder.
        view: the compiled view.
    """

    __slots__ = ("_columns", "path", "snapshot", "timeline", "view")

    def __init__(self, path: Path, view: CompiledView) -> None:
        self.path, self.view = path, view
        self.snapshot: Snapshot = view.view.source.table(view.root).snapshot()
        self.timeline = Timeline(path / timeline_id(view, self.snapshot))
        self._columns = [selection_id(s, t) for s, t in zip(view.selections, view.types, strict=True)]

    @property
    def needs_timeline(self) -> bool:
        """Whether the events must be sorted by key and time."""
        return not (self.timeline.folder / "timeline.json").exists()

    def missing_columns(self) -> list[int]:
        """The positions of the selections without values in the index."""
        return [i for i, c in enumerate(self._columns) if not self.timeline.column_folder(c).exists()]

    def missing_reductions(self) -> list[tuple[int, Reduction]]:
        """The reductions without files, by selection."""
        wanted = {
            (self.view.reduction_index(r), r.stored): r
            for call in self.view.calls
            for r in call.aggregation.reductions
            if r.reduce not in (Reduce.COUNT, Reduce.LATEST, Reduce.EARLIEST)
        }
        there = self.timeline.reduction_folder
        return [(i, r) for (i, stored), r in wanted.items() if not there(self._columns[i], stored).exists()]

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return not (self.needs_timeline or self.missing_columns() or self.missing_reductions())

    @property
    def changed(self) -> str | None:
        """What to say where the source has an index of an earlier state and none of its present one, else None."""
        if not self.needs_timeline:
            return None
        name, entities = self.view.view.source.name, [e.name for e in self.view.view.entities]
        paths = sorted(self.path.glob("*/timeline.json"), key=lambda p: p.stat().st_mtime_ns)
        built = [m for m in (Timeline(path.parent).manifest for path in paths) if m.source == name]
        before = [m for m in built if m.entities == entities]
        if not before or any(m.snapshot == self.snapshot.id for m in built):
            return None
        return (
            f"the source '{name}' changed since its index was built: {before[-1].rows:,} events were indexed, it is "
            f"{self.snapshot.text} now; another name, size or modification time of a file is a change too"
        )

    def seconds(self) -> float:
        """A rough estimate of the build, from rows and parts; measured at about 4M row-columns a second."""
        parts = 3 * self.needs_timeline + len(self.missing_columns()) + len(self.missing_reductions())
        return self.snapshot.rows * parts / 4e6

    def run(self, progress: Progress = lambda _: None) -> Timeline:
        """Builds what is missing; a part that another process built meanwhile is kept.

        Raises:
            DataError: the rows are not what the definition says.
            StoreError: the folder can't be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.path)
            self._run(progress)
        except OSError as error:
            raise StoreError(
                f"can't write the as-of index: {error}",
                where=str(self.path),
                hint="check free space and permissions; nothing half-written is left in place",
            ) from error
        return self.timeline

    def _run(self, progress: Progress) -> None:
        columns, reductions, name = self.missing_columns(), self.missing_reductions(), self.view.name
        with Sealer(self.path) as sealer:
            if self.needs_timeline or columns:
                progress(f"{name}: read {self.snapshot.rows:,} rows")
                raw = self.view.view.source.table(self.view.root).scan()
                rows = prepare_table(self.view, raw, self.snapshot.rows, columns)
                self._check_snapshot()
                selected = list(zip(columns, rows.selections, strict=True))
                if self.needs_timeline:
                    progress(f"{name}: sort {len(rows):,} events by key and time")
                    self._build_timeline(rows, sealer)
                self._check_rows(len(rows))
                del rows
                while selected:
                    position, values = selected.pop()
                    progress(f"{name}: column {self._described(position)}")
                    self._build_column(position, values, sealer)
            for position, reduction in reductions:
                progress(f"{name}: {reduction.stored} of {self._described(position)}")
                self._build_reduction(position, reduction, sealer)

    def _described(self, position: int) -> str:
        return self.view.selections[position].text or "events"

    def _check_snapshot(self) -> None:
        source = self.view.view.source
        now = source.table(self.view.root).snapshot()
        if now.id != self.snapshot.id:
            raise DataError(
                f"the table was changed since the build began: {self.snapshot.text}, now {now.text}",
                where=f"{self.view.place}, source '{source.name}'",
                hint="run it again; nothing was built under the old name",
            )

    def _check_rows(self, rows: int) -> None:
        if rows != len(self.timeline.order):
            raise DataError(
                f"the source has {rows:,} events, its index {len(self.timeline.order):,}",
                where=self.view.place,
                hint="the prepare step must give the same rows each time; then delete the index and apply again",
            )

    def _build_timeline(self, rows: Rows, sealer: Sealer) -> None:
        began = time.perf_counter()
        keys, codes = _number_keys(rows.keys)
        offsets = np.zeros(len(keys) + 1, np.int64)
        order = np.empty(len(rows), row_type(len(rows)))
        kernels.counting_sort(codes, order[:0], offsets, order)
        del codes
        if not kernels.is_ascending(rows.times):
            kernels.sort_slices(rows.times, offsets, order)
        with sealer.folder(self.timeline.folder) as folder:
            np.save(folder / "keys.npy", keys)
            np.save(folder / "offsets.npy", offsets)
            np.save(folder / "order.npy", order)
            _write_gathered(folder / "times.npy", rows.times, order)
            times = open_array(folder / "times.npy")
            for entity, texts in enumerate(rows.key_texts):
                if texts is not None:
                    Texts.write(folder / f"key {entity}", texts)
            (folder / "columns").mkdir()
            (folder / "reductions").mkdir()
            manifest = TimelineManifest(
                format=FORMAT,
                source=self.view.view.source.name,
                snapshot=self.snapshot.id,
                entities=[e.name for e in self.view.view.entities],
                rows=len(rows),
                keys=len(keys),
                end=int(rows.times.max()) if len(rows) else -1,
                seconds=round(time.perf_counter() - began, 3),
            )
            (folder / "timeline.json").write_bytes(to_json(manifest))
            self.timeline.adopt(keys, offsets, order, times)

    def _build_column(self, position: int, values: SelectedValues, sealer: Sealer) -> None:
        order, column = self.timeline.order, self._columns[position]
        with sealer.folder(self.timeline.column_folder(column)) as folder:
            if values.valid is not None:
                rank, found = np.empty(len(order) + 1, np.int64), np.empty(len(order), np.int64)
                found = found[: kernels.valid_rows(values.valid, order, rank, found)]
                np.save(folder / "rank.npy", rank)
                np.save(folder / "rows.npy", found)
                order = order[found]
            for i, (array, texts) in enumerate(zip(values.inputs, values.texts, strict=True)):
                _write_gathered(folder / f"input {i}.npy", array, order)
                if texts is not None:
                    Texts.write(folder / f"input {i}", texts)
            self.timeline.open_column(column, folder, self.view.types[position])

    def _overflow(self, position: int, values: Array, starts: Int64s) -> DataError:
        sizes = np.add.reduceat(np.abs(values.astype(np.float64)), starts[:-1]) * (starts[1:] > starts[:-1])
        key = self.timeline.keys[int(sizes.argmax())].tolist()
        return DataError(
            f"a sum of whole numbers is beyond 64 bits, for the key {key} it reaches about {sizes.max():.1e}",
            where=f"{self.view.place}, {self.view.selections[position].inputs[0]}",
            hint="sum it as floats: pl.col(...).cast(pl.Float64)",
        )

    def _build_reduction(self, position: int, reduction: Reduction, sealer: Sealer) -> None:
        column = self._columns[position]
        files = self.timeline.column(column, self.view.types[position])
        starts = self.timeline.key_starts(column, files)
        try:
            if reduction.reduce in RAGGED:
                arrays = build_ragged(reduction, files, starts)
            elif reduction.reduce in BLOCKED:
                arrays = build_blocks(reduction, files, self.timeline.times)
            else:
                arrays = _reduction_arrays(reduction.reduce, files.inputs[0], starts)
        except OverflowError:
            raise self._overflow(position, files.inputs[0], starts) from None
        with sealer.folder(self.timeline.reduction_folder(column, reduction.stored)) as folder:
            for name, array in arrays.items():
                np.save(folder / f"{name}.npy", array)


def _number_keys(keys: Int64s) -> tuple[Int64s, Array]:
    """The different keys in ascending order, and each row's position among them (int32)."""
    rows = len(keys)
    codes, known = np.empty(rows, np.int32), np.empty(keys.shape, np.int64)
    if rows and keys.shape[1] == 1:
        low, high = int(keys.min()), int(keys.max())
        if high - low < rows:
            table = np.zeros(high - low + 1, np.int32)
            count = int(kernels.number_range(keys, low, table, codes, known))
            return known[:count].copy(), codes
    count = int(kernels.number_keys(keys, codes, known))
    different = known[:count]
    order = np.lexsort(different.T[::-1])
    place = np.empty(count, np.int32)
    place[order] = np.arange(count, dtype=np.int32)
    np.take(place, codes, out=codes, mode="clip")
    return np.ascontiguousarray(different[order]), codes


def _write_gathered(path: Path, values: Array, order: Array) -> None:
    """Writes values[order] in pieces, so that no second copy of the column is ever in memory."""
    piece = np.empty(min(len(order), _CHUNK), values.dtype)
    with path.open("wb") as file:
        header: dict[str, Any] = {
            "descr": np.lib.format.dtype_to_descr(values.dtype),
            "fortran_order": False,
            "shape": (len(order),),
        }
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(order), _CHUNK):
            rows = order[start : start + _CHUNK]
            kernels.gather(values, rows, piece)
            file.write(piece[: len(rows)].data)


def _reduction_arrays(reduce: Reduce, values: Array, starts: Int64s) -> dict[str, Array]:
    if reduce is Reduce.SUM:
        if values.dtype.kind == "f":
            floats, exact_starts = np.empty(len(values), np.float64), np.empty(len(starts) - 1, np.int64)
            exact = np.empty((int(kernels.prefix_sums(values, starts, floats, exact_starts)), 2), np.float64)
            if not len(exact):
                return {"prefix": floats}
            kernels.exact_sums(values, starts, exact_starts, exact)
            return {"prefix": floats, "exact": exact, "exact starts": exact_starts}
        whole = np.empty(len(values), np.int64)
        kernels.whole_prefix_sums(values, starts, whole)
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
