"""What all rows of an input's column are, where they are all the same."""

from __future__ import annotations

from typing import Any, final

import msgspec
import numpy as np

from bedplate.batch import Batch, Column, Embedding, Ids, Ragged, known_texts
from bedplate.types import Bools


def column_of(batch: Batch, name: str) -> Column:
    """The column of an input, of requests or of candidates."""
    return batch.request[name] if name in batch.request else batch.item[name]


def missing(column: Column) -> float:
    """The share of nulls, of lists that of empty ones."""
    return 1.0 - float(_present(column).mean()) if len(column) else 0.0


def _present(column: Column) -> Bools:
    """[n]: which rows hold something."""
    if isinstance(column, Ragged):
        return np.diff(column.offsets) > 0
    present = np.ones(len(column), np.bool_) if column.present is None else column.present
    if isinstance(column, Ids) or column.values.dtype.kind != "f":
        return present
    missing = np.isnan(column.values)
    return present & ~(missing if missing.ndim == 1 else missing.any(axis=1))


@final
class Same(msgspec.Struct, frozen=True, eq=False):
    """What all rows of a column are: None for null, else a value."""

    value: Any

    @classmethod
    def of(cls, column: Column) -> Same | None:
        """That of a column; None where its rows differ, and of lists with elements."""
        present = _present(column)
        if not len(column):
            return None
        if not present.any():
            return cls(None)
        if isinstance(column, Ragged) or not present.all():
            return None
        same = cls(column.values[0])
        return same if same.share(column) == 1.0 else None

    def share(self, column: Column) -> float:
        """The share of the rows of a column that are so."""
        if self.value is None:
            return missing(column)
        if isinstance(column, Ragged):
            return 0.0
        equal: Bools = np.asarray(column.values == self.value)
        return float((_present(column) & (equal if equal.ndim == 1 else equal.all(axis=1))).mean())

    def text(self, column: Column) -> str:
        """For a message: what the rows of the column are."""
        if self.value is None:
            return "empty" if isinstance(column, Ragged) else "null"
        if isinstance(column, Embedding):
            return "the same vector"
        key = self.value.item()
        if isinstance(column, Ids) and column.texts is not None:
            name = known_texts(column.texts, [key]).to_list()[0]
            return "the same category" if name is None else f"'{name}'"
        return f"{key:g}" if isinstance(key, float) else str(key)
