"""How often a label is positive among the listed candidates of a split."""

from __future__ import annotations

import numpy as np

from bedplate.datasets.labels import CompiledLabel
from bedplate.datasets.loaded import LoadedDataset, select_requests
from bedplate.errors import NotFoundError, suggest
from bedplate.metrics.rates import LabelRate
from bedplate.types import Int64s

REQUESTS = 50_000
"""So many requests of a split are looked at, evenly over its time; all of them where these have only one class."""
_AT_ONCE = 65_536


def label_rate(dataset: LoadedDataset, label: str, split: str) -> LabelRate:
    """The rate of a label in a split; negatives that are drawn do not count, and rows in which it is not known neither.

    Args:
        dataset: over its data.
        label: the name of one of its labels.
        split: train, validation or test.

    Raises:
        NotFoundError: there is no such label or split.
    """
    compiled = {c.label.name: c for c in dataset.compiled.labels}
    if label not in compiled:
        raise NotFoundError(
            f"no label '{label}'", where=dataset.compiled.dataset.place, hint=suggest(label, compiled, "labels")
        )
    first, last = dataset.positions(split)
    chosen = np.unique(np.linspace(first, last - 1, min(REQUESTS, last - first)).astype(np.int64))
    found = _rate(dataset, compiled[label], chosen)
    if found.has_both or len(chosen) == last - first:
        return found
    return _rate(dataset, compiled[label], np.arange(first, last))


def _rate(dataset: LoadedDataset, label: CompiledLabel, chosen: Int64s) -> LabelRate:
    """The rate in the requests at these positions."""
    rows, positives = 0, 0.0
    for start in range(0, len(chosen), _AT_ONCE):
        read = select_requests(dataset.spine.rows, chosen[start : start + _AT_ONCE])
        values = label.read(dataset.history, read, dataset.split)
        known = values[np.isfinite(values)]
        rows, positives = rows + len(known), positives + float(known.sum(dtype=np.float64))
    return LabelRate(rows, positives)
