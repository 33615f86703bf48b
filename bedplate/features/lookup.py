"""Features row by row: views read, and derived features computed, for n keys and times that need not be requests."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bedplate.batch import Column
from bedplate.errors import DataError
from bedplate.features.assemble import Read, Reader
from bedplate.features.derived import evaluate
from bedplate.features.graph import Selected
from bedplate.types import Int64s


def lookup(selected: Selected, reader: Reader, keys: Mapping[str, Int64s], times: Int64s) -> dict[str, Column]:
    """The values of the selected features, in their order.

    Args:
        selected: the features.
        reader: history or the online store.
        keys: [n] int64 for each entity that a view to read is about, by the entity's name.
        times: [n] int64 microseconds.

    Returns:
        a column of length n for each feature, by its full name.

    Raises:
        DataError: an entity has no keys.
    """
    reads: list[Read] = []
    for view, names in selected.views:
        entities = [e.name for e in view.view.entities]
        missing = [e for e in entities if e not in keys]
        if missing:
            raise DataError(f"no keys of '{missing[0]}', got those of {list(keys)}", where=view.place)
        reads.append(Read(view, names, np.stack([keys[e] for e in entities], axis=1), times))
    columns: dict[str, Column] = {}
    for found in reader.read_all(reads):
        columns.update(found)
    for derived in selected.derived:
        columns |= evaluate([derived], columns, times)
    return {name: columns[name] for name in selected.names}
