"""All events of a bucket by key, from every segment that has some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bedplate.aggregations.merge import chain_texts
from bedplate.batch import TextLookup
from bedplate.features.rows import GroupedRows, SelectedValues
from bedplate.offline import seek
from bedplate.offline.build import column_ids
from bedplate.offline.lookup import IndexReader, values_at
from bedplate.offline.spill import bucket_numbers
from bedplate.types import Array, Int64s


def merged_groups(
    readers: Sequence[IndexReader], bucket: int, buckets: int, keys_at_once: int
) -> Iterator[GroupedRows]:
    """The events of a bucket's keys, a run of keys at a time.

    Args:
        readers: one for each segment, in order of arrival; one with fewer buckets has keys of others too.
        bucket: the number of the bucket.
        buckets: how many there are.
        keys_at_once: how many keys are in a run.
    """
    of_reader = [_own(reader.timeline.keys, bucket, buckets) for reader in readers]
    keys = np.unique(np.concatenate([k for _, k in of_reader]), axis=0)
    # Where each key's events are in each segment: none where it has no place.
    places = [_positions(reader.timeline.keys, keys) for reader in readers]
    for start in range(0, len(keys), keys_at_once):
        stop = min(len(keys), start + keys_at_once)
        yield _group(readers, keys[start:stop], [p[start:stop] for p in places])


def events_of(readers: Sequence[IndexReader], keys: Int64s) -> GroupedRows:
    """All events of some keys.

    Args:
        readers: of all buckets of all segments, those of a segment before those that arrived after it.
        keys: [k, entities] int64, different ones.
    """
    return _group(readers, keys, [_positions(reader.timeline.keys, keys) for reader in readers])


def _own(keys: Int64s, bucket: int, buckets: int) -> tuple[Array, Int64s]:
    own = np.flatnonzero(bucket_numbers(keys, buckets) == bucket)
    return own, keys[own]


def _positions(known: Int64s, keys: Int64s) -> Array:
    codes = np.empty(len(keys), np.int32)
    seek.find_keys(known, np.ascontiguousarray(keys), codes)
    return codes


def _group(readers: Sequence[IndexReader], keys: Int64s, places: Sequence[Array]) -> GroupedRows:
    rows: list[Array] = []
    owners: list[Array] = []
    for reader, codes in zip(readers, places, strict=True):
        there = np.flatnonzero(codes >= 0)
        starts, ends = reader.timeline.offsets[codes[there]], reader.timeline.offsets[codes[there] + 1]
        counts = ends - starts
        before = np.cumsum(counts) - counts
        rows.append(np.repeat(starts - before, counts) + np.arange(int(counts.sum())))
        owners.append(np.repeat(there, counts))
    times = np.concatenate([r.timeline.times[i] for r, i in zip(readers, rows, strict=True)])
    known = [r.timeline.known for r in readers]
    sequences = [r.timeline.sequence for r in readers]
    whole_known = _joined([None if k is None else k.rows for k in known], rows)
    sequence = _joined(sequences, rows)
    ties = [t for t in (whole_known, sequence) if t is not None]
    owner = np.concatenate(owners)
    order = np.lexsort((*ties, times, owner))
    offsets = np.zeros(len(keys) + 1, np.int64)
    np.cumsum(np.bincount(owner, minlength=len(keys)), out=offsets[1:])
    return GroupedRows(
        keys=keys,
        offsets=offsets,
        times=times[order],
        selections=tuple(_selected(readers, rows, s, order) for s in range(len(readers[0].view.selections))),
        key_texts=tuple(
            chain_texts([r.timeline.key_texts(e) for r in readers]) for e in range(len(readers[0].view.key_types))
        ),
        known=None if whole_known is None else whole_known[order],
        sequence=None if sequence is None else sequence[order],
    )


def _joined(arrays: Sequence[Array | None], rows: Sequence[Array]) -> Array | None:
    found = [a[i] for a, i in zip(arrays, rows, strict=True) if a is not None]
    return np.concatenate(found) if found else None


def _selected(readers: Sequence[IndexReader], rows: Sequence[Array], position: int, order: Array) -> SelectedValues:
    """The values of a selection for rows of all segments, in the order given."""
    view = readers[0].view
    column, types = column_ids(view)[position], view.types[position]
    parts = [values_at(r.timeline.column(column, types), i) for r, i in zip(readers, rows, strict=True)]
    valid: Array | None = None
    if any(p.valid is not None for p in parts):
        valid = np.concatenate(
            [np.ones(len(r), np.bool_) if p.valid is None else p.valid for p, r in zip(parts, rows, strict=True)]
        )[order]
    count = len(parts[0].inputs)
    texts: list[TextLookup | None] = [chain_texts([p.texts[i] for p in parts]) for i in range(count)]
    inputs = tuple(np.concatenate([p.inputs[i] for p in parts])[order] for i in range(count))
    return SelectedValues(valid, inputs, tuple(texts))
