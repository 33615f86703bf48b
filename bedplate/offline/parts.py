"""What a view needs of each segment of its index: columns and reductions, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from bedplate.features.view import CompiledView
from bedplate.offline.build import column_ids, wanted_reductions
from bedplate.offline.cover import Slot

_RATE = 4e6
"""Row-columns that are built in a second, as measured; for estimates."""


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
    """

    segment: str
    folder: Path
    kind: str
    text: str
    rows: int

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

    __slots__ = ("_names", "_view", "columns")

    def __init__(self, view: CompiledView) -> None:
        self._view, self.columns = view, column_ids(view)
        names = [(Path("columns") / c, "column", self.text(i)) for i, c in enumerate(self.columns)]
        for i, reduction in wanted_reductions(view):
            name = Path("reductions") / f"{self.columns[i]}-{reduction.stored}"
            names.append((name, "reduction", f"{reduction.stored} of {self.text(i)}"))
        self._names = names

    def text(self, position: int) -> str:
        """A selection for a person to read."""
        return self._view.selections[position].text or "events"

    def names(self) -> set[str]:
        """The columns and reductions by their paths in a bucket."""
        return {name.as_posix() for name, _, _ in self._names}

    def missing(self, slot: Slot, folder: Path) -> list[Missing]:
        """What is to be built of a segment.

        Args:
            slot: the segment.
            folder: where it is or will be.
        """
        segment, rows = slot.segment, slot.rows
        found = [] if segment is not None else [Missing(folder.name, folder, "timeline", "timeline", rows)]
        return found + [
            Missing(folder.name, folder / name, kind, text, rows)
            for name, kind, text in self._names
            if segment is None or not segment.has(name)
        ]
