"""Features row by row: views read, and derived features computed, for n keys and times that need not be requests."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from bedplate.batch import Column
from bedplate.errors import DataError
from bedplate.features.assemble import Read, Reader
from bedplate.features.chains import Chains, Level
from bedplate.features.graph import Selected
from bedplate.features.model import Scorers, compute
from bedplate.types import Int64s


def lookup(
    selected: Selected,
    reader: Reader,
    keys: Mapping[str, Int64s],
    times: Int64s,
    scorers: Scorers = MappingProxyType({}),
) -> dict[str, Column]:
    """The values of the selected features, in their order.

    Args:
        selected: the features.
        reader: history or the online store.
        keys: [n] int64 for each entity that a view to read is about, by the entity's name.
        times: [n] int64 microseconds.
        scorers: the models behind the features.

    Returns:
        a column of length n for each feature, by its full name.

    Raises:
        DataError: an entity has no keys.
    """
    needed = [(view, view.view.entities) for view, _ in selected.views]
    for view, entities in [*needed, *((chain.view, chain.entities) for chain, _ in selected.chains)]:
        missing = [e.name for e in entities if e.name not in keys]
        if missing:
            raise DataError(f"no keys of '{missing[0]}', got those of {list(keys)}", where=view.place)
    reads = [
        Read(view, names, np.stack([keys[e.name] for e in view.view.entities], axis=1), times)
        for view, names in selected.views
    ]
    columns: dict[str, Column] = {}
    groups = list(reader.read_all(reads))
    chains = Chains(selected.chains)
    if chains:
        found = Level(keys.__getitem__, lambda n: next(g[n] for g in groups if n in g), times, groups)
        chains.follow(reader, found, None)
    for group in groups:
        columns.update(group)
    for derived in selected.derived:
        columns |= compute([derived], columns, times, scorers)
    return {name: columns[name] for name in selected.names}
