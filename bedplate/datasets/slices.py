"""Parts of a batch as views: large joins are made once and handed out in batches without copies."""

from __future__ import annotations

from bedplate.batch import Batch, Column, Dense, Embedding, Ids, Ragged


def slice_column(column: Column, first: int, last: int) -> Column:
    """The rows `[first, last)`; only the offsets of a ragged column are new.

    >>> import numpy as np
    >>> slice_column(Ragged(Dense(np.array([1.0, 2.0, 3.0])), np.array([0, 1, 3])), 1, 2).values.values.tolist()
    [2.0, 3.0]
    """
    if isinstance(column, Ragged):
        start, stop = int(column.offsets[first]), int(column.offsets[last])
        values = _slice_values(column.values, start, stop)
        return Ragged(values, column.offsets[first : last + 1] - start)
    if isinstance(column, Embedding):
        present = None if column.present is None else column.present[first:last]
        return Embedding(column.values[first:last], present)
    return _slice_values(column, first, last)


def _slice_values(column: Dense | Ids, first: int, last: int) -> Dense | Ids:
    present = None if column.present is None else column.present[first:last]
    if isinstance(column, Ids):
        return Ids(column.values[first:last], present, column.texts)
    return Dense(column.values[first:last], present)


def slice_batch(batch: Batch, first: int, last: int) -> Batch:
    """The requests `[first, last)` with their candidates.

    >>> import numpy as np
    >>> batch = Batch({}, {}, np.array([0, 2, 3]), np.array([5, 6]), np.array([0, 1]), np.array([7, 8, 9]))
    >>> slice_batch(batch, 1, 2).candidates.tolist()
    [9]
    """
    start, stop = int(batch.offsets[first]), int(batch.offsets[last])
    return Batch(
        request={n: slice_column(c, first, last) for n, c in batch.request.items()},
        item={n: slice_column(c, start, stop) for n, c in batch.item.items()},
        offsets=batch.offsets[first : last + 1] - start,
        times=batch.times[first:last],
        request_ids=batch.request_ids[first:last],
        candidates=batch.candidates[start:stop],
        labels={n: v[start:stop] for n, v in batch.labels.items()},
        weights=None if batch.weights is None else batch.weights[start:stop],
        keys={n: k[first:last] for n, k in batch.keys.items()},
        texts=batch.texts,
    )
