"""The as-of index on disk: plain column files, memory-mapped, in folders named by what they were built from.

    offline/<timeline id>/                      the order of a source's events by key and time
        timeline.json                           what it is, for people
        segments/<segment id>/                  the events of some pieces of the table, see `segment`
            segment.json                        what it holds, for checks
            0/ 1/ ...                           its buckets: the keys whose hash begins with these bits; see `cuts` too
                keys.npy [K, entities]  offsets.npy [K + 1]  times.npy [N]  order.npy [N] (each row's place of arrival)
                known.npy [N] ...               only where the source says when rows could be known, see `flight`
                sequence.npy [N]                only where the source declares a sequence
                key 0/                          the strings behind string keys, see `texts`
                columns/<selection id>/         the values of one selection, in the bucket's order
                    input 0.npy [M] ...         one file an input, for the M rows that count; of vectors [M, width]
                    rank.npy [N + 1]  rows.npy [M]  only where some rows do not count
                    input 0/                    the strings behind a string input
                reductions/<selection id>-<reduce>/  what makes one reduction fast: prefix sums, extremes of blocks, ...
        building/                               what an interrupted build of a large segment goes on from, see `spill`

A timeline's id is the hash of the source's definition, the entities and the view's condition; a segment's id is the
hash of the pieces and the range of times that it covers; a selection's id is the hash of its expressions. New data adds
a segment, a new feature at most a column and a reduction, a new window, delay or ttl nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np

from bedplate.aggregations.base import Selection
from bedplate.batch import TextLookup
from bedplate.canonical import digest
from bedplate.features.view import CompiledView
from bedplate.offline.flight import Known
from bedplate.offline.mapped import open_array, release
from bedplate.offline.texts import Texts
from bedplate.types import Array, Int64s, Type

FORMAT = 4
"""The version of the layout; part of every timeline's id, so that an old layout is never read by new code."""


def timeline_id(view: CompiledView) -> str:
    """The id of the timeline that a view reads."""
    form = view.view.form()
    source = {k: v for k, v in form["source"].items() if k != "delay"}
    kinds = [k.value for k in view.key_types]
    return digest([FORMAT, source, view.prepare_id, form["entities"], kinds, form["where"]])


def selection_id(selection: Selection, types: tuple[Type, ...]) -> str:
    """The id of a selection's column."""
    return digest([selection.form, [t.value for t in types]])[:24]


def row_type(rows: int) -> type[np.unsignedinteger[Any] | np.signedinteger[Any]]:
    """The type of the numbers of so many rows."""
    return np.uint32 if rows < 2**32 else np.int64


@final
@dataclass(frozen=True, slots=True)
class ColumnFiles:
    """The values of one selection.

    Attributes:
        rank: [N + 1] or None when every row counts.
        rows: [M] the timeline's row of each value, or None when every row counts.
        inputs: one array [M] an input.
        texts: for each input the strings behind its ids, or None.
    """

    rank: Int64s | None
    rows: Int64s | None
    inputs: tuple[Array, ...]
    texts: tuple[TextLookup | None, ...]


@final
class Timeline:
    """An open bucket of a segment: memory-mapped arrays, columns and reductions opened when first used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._columns: dict[str, ColumnFiles] = {}
        self._reductions: dict[str, dict[str, Array]] = {}
        self._starts: dict[str, Int64s] = {}

    @cached_property
    def keys(self) -> Int64s:
        """[K, entities], ascending."""
        return open_array(self.folder / "keys.npy")

    @cached_property
    def offsets(self) -> Int64s:
        """[K + 1]: where each key's rows begin."""
        return open_array(self.folder / "offsets.npy")

    @cached_property
    def times(self) -> Int64s:
        """[N] microseconds, ascending within a key."""
        return open_array(self.folder / "times.npy")

    @cached_property
    def known(self) -> Known | None:
        """When each row could be known, where the source says it by row."""
        path = self.folder / "known.npy"
        if not path.exists():
            return None
        folder = self.folder
        greatest, least = ([open_array(folder / f"{n} {i}.npy") for i in range(3)] for n in ("greatest", "least"))
        return Known(open_array(path), (greatest[0], greatest[1], greatest[2]), (least[0], least[1], least[2]))

    @cached_property
    def sequence(self) -> Int64s | None:
        """[N] the order of rows of equal time, where the source declares one."""
        path = self.folder / "sequence.npy"
        return open_array(path) if path.exists() else None

    @cached_property
    def order(self) -> Array:
        """[N]: each row's place of arrival."""
        return open_array(self.folder / "order.npy")

    def column_folder(self, column: str) -> Path:
        """Where a selection's values are."""
        return self.folder / "columns" / column

    def reduction_folder(self, column: str, stored: str) -> Path:
        """Where a reduction's files are; see `Reduction.stored`."""
        return self.folder / "reductions" / f"{column}-{stored}"

    def adopt(self, arrays: Mapping[str, Array]) -> None:
        """Takes arrays that a build has just made, by the names of the properties."""
        self.__dict__.update(arrays)

    def column(self, column: str, types: tuple[Type, ...]) -> ColumnFiles:
        """The values of a selection."""
        if column not in self._columns:
            self.open_column(column, self.column_folder(column), types)
        return self._columns[column]

    def open_column(self, column: str, folder: Path, types: tuple[Type, ...]) -> None:
        """Maps the values of a selection from a folder, which may be renamed afterwards."""
        ranked = (folder / "rank.npy").exists()
        texts = self.column_folder(column)
        self._columns[column] = ColumnFiles(
            rank=open_array(folder / "rank.npy") if ranked else None,
            rows=open_array(folder / "rows.npy") if ranked else None,
            inputs=tuple(open_array(folder / f"input {i}.npy") for i in range(len(types))),
            texts=tuple(Texts(texts / f"input {i}") if t is Type.STRING else None for i, t in enumerate(types)),
        )

    def reduction(self, column: str, stored: str) -> dict[str, Array]:
        """The arrays of a reduction by name; see `Reduction.stored`."""
        name = f"{column}-{stored}"
        if name not in self._reductions:
            folder = self.reduction_folder(column, stored)
            self._reductions[name] = {p.stem: open_array(p) for p in sorted(folder.glob("*.npy"))}
        return self._reductions[name]

    def forget(self) -> None:
        """Lets go of the pages of the arrays, and of what was worked out from them."""
        self._starts.clear()
        release(self.arrays())

    def arrays(self) -> list[Array]:
        """The arrays that are open."""
        found: list[Any] = [v for v in self.__dict__.values() if isinstance(v, np.ndarray)]
        known = self.__dict__.get("known")
        if known is not None:
            found += [known.rows, *known.greatest, *known.least]
        for files in self._columns.values():
            found += [a for a in (files.rank, files.rows, *files.inputs) if a is not None]
            found += [a for t in files.texts if isinstance(t, Texts) for a in t.arrays()]
        for arrays in self._reductions.values():
            found += arrays.values()
        return found

    def key_starts(self, column: str, files: ColumnFiles) -> Int64s:
        """[K + 1]: where each key's values begin among those of a selection."""
        if files.rank is None:
            return self.offsets
        if column not in self._starts:
            self._starts[column] = files.rank[self.offsets]
        return self._starts[column]

    def key_texts(self, entity: int) -> TextLookup | None:
        """The strings behind an entity's keys, or None where they are integers."""
        folder = self.folder / f"key {entity}"
        return Texts(folder) if folder.exists() else None
