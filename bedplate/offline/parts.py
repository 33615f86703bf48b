"""What a view needs of each segment of its index: columns and reductions, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from bedplate.aggregations.text import expression_text
from bedplate.features.view import CompiledView
from bedplate.offline.build import column_ids, wanted_reductions
from bedplate.offline.cover import Slot

_RATE = 4e6
"""Row-columns that are built in a second, as measured; for estimates."""


_TIMELINE, _REDUCTION = 12, 8
"""Bytes that a row takes in a timeline (its time and its place of arrival) and about so many in a reduction."""


@final
@dataclass(frozen=True, slots=True)
class Missing:
    """A part that is to be built.

    Attributes:
        segment: the id of its segment.
        folder: where it will be; what several views miss has the same folder.
        kind: "timeline", "column" or "reduction".
        text: what it is, for a person.
        rows: about how many rows it is built from.
        bytes: about how many bytes it will take, at most where only some rows count.
    """

    segment: str
    folder: Path
    kind: str
    text: str
    rows: int
    bytes: int

    @property
    def seconds(self) -> float:
        """A rough estimate."""
        return self.rows * (3 if self.kind == "timeline" else 1) / _RATE


@final
class ViewParts:
    """The columns and reductions that a view needs of each bucket.

    Args:
        view: the compiled view.

    Attributes:
        columns: the id of the column of each selection.
    """

    __slots__ = ("_names", "_timeline", "_view", "columns")

    def __init__(self, view: CompiledView) -> None:
        self._view, self.columns = view, column_ids(view)
        names = [(Path("columns") / c, "column", self.text(i), self._bytes(i)) for i, c in enumerate(self.columns)]
        for i, reduction in wanted_reductions(view):
            name = Path("reductions") / f"{self.columns[i]}-{reduction.stored}"
            names.append((name, "reduction", f"{reduction.stored} of {self.text(i)}", _REDUCTION))
        self._names = names
        source = view.view.source
        self._timeline = _TIMELINE + 8 * sum(x is not None for x in (source.available, source.sequence))

    def text(self, position: int) -> str:
        """A selection for a person to read."""
        selection = self._view.selections[position]
        text = selection.text or "events"
        return text if selection.where is None else f"{text} where {expression_text(selection.where)}"

    def _bytes(self, position: int) -> int:
        """About how many bytes a row takes in a column: its values, and where some rows do not count which do."""
        selection = self._view.selections[position]
        values = sum(np.dtype(t.dtype).itemsize * max(1, t.width) for t in self._view.types[position])
        return values + (0 if selection.where is None else 8)

    def names(self) -> set[str]:
        """The columns and reductions by their paths in a bucket."""
        return {name.as_posix() for name, *_ in self._names}

    def missing(self, slot: Slot, folder: Path) -> list[Missing]:
        """What is to be built of a segment.

        Args:
            slot: the segment.
            folder: where it is or will be.
        """
        segment, rows = slot.segment, slot.rows
        found = (
            []
            if segment is not None
            else [Missing(folder.name, folder, "timeline", "timeline", rows, rows * self._timeline)]
        )
        return found + [
            Missing(folder.name, folder / name, kind, text, rows, rows * width)
            for name, kind, text, width in self._names
            if segment is None or not segment.has(name)
        ]
