"""Bulk load: from a view's history to its rows in an online store, so that a stream can go on from there."""

from __future__ import annotations

import contextlib
import gc
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeAlias

import numpy as np

from bedplate.clock import Clock, system_clock
from bedplate.features.rows import GroupedRows, SelectedValues
from bedplate.features.view import CompiledView
from bedplate.online.adoption import release, thaw
from bedplate.online.base import OnlineStore
from bedplate.online.codec import Layout
from bedplate.online.forms import form_of
from bedplate.online.generations import Loading
from bedplate.online.rows import Events, new_rows
from bedplate.online.state import REWIND, ViewState, states
from bedplate.types import Bools, Int64s

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of events taken in so far."""

BATCH = 50_000
"""How many events are written in one step, by default."""


def bulk_load(
    store: OnlineStore,
    view: CompiledView,
    blocks: Iterable[GroupedRows],
    until: int,
    *,
    rewind: int = REWIND,
    batch: int = BATCH,
    progress: Progress | None = None,
    clock: Clock = system_clock,
) -> ViewState:
    """Fills the store with a view's events before a time, in place of whatever it holds of this version of the view.

    It is written beside the rows that are read, a new generation of them (see `generations`), to which the last step
    switches: until then, and where the load is interrupted, the view is read as it was before. Called again it starts
    from nothing. After it the store's reads are exact at `until` and later, and its stream begins with the first file.
    `Ingest` refuses events before `until` unless told that they are late: the blocks hold all that history has of them.
    A changed version that goes on with the rows of this one (see `adoption`) gets them under its own keys before.

    Args:
        store: the store.
        view: the compiled view.
        blocks: its events by key, no key in two blocks, as the as-of index gives them.
        until: only events before this time are taken, or where the source says by row when it could be known, those
            that could be known before it; microseconds.
        rewind: reads may ask for a time so much before the watermark; microseconds.
        batch: about how many events are written in one step.
        progress: called after each step.
        clock: says when the version came to the store.

    Returns:
        the state of the view.

    Raises:
        StoreError: the store can't be written, or another writer is at work on the view.
    """
    layout = Layout(view)
    events, newest = 0, -1
    with store.writing([view.id]):
        release(store, view.id)
        loading = Loading.begin(store, view, until, clock())
        for block in blocks:
            for part in _parts(_before(block, until), batch):
                packed = Events(part.keys, part.offsets, layout.pack(part))
                with _uncollected():
                    rows = new_rows(layout, packed, until - rewind, loading.generation)
                    loading.add(rows, part)
                events += len(part.times)
                newest = max(newest, int(part.times.max(initial=-1)))
                if progress is not None:
                    progress(events)
        state = ViewState(
            view.name, view.id, True, until, until, newest, events, generation=loading.generation, texts=loading.token
        )
        state = loading.switch(state, form_of(layout))
        for old in states(store):
            thaw(store, old.id, view.id)
    return state


@contextlib.contextmanager
def _uncollected() -> Generator[None]:
    """Without the search for cycles: it would look again and again at the many pairs of a step, which are in none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _before(block: GroupedRows, until: int) -> GroupedRows:
    """The events before a time, and the keys that have some."""
    kept = block.visible < until
    if kept.all():
        return block
    sums = np.zeros(len(kept) + 1, np.int64)
    np.cumsum(kept, out=sums[1:])
    counts: Int64s = np.diff(sums[block.offsets])
    there = counts > 0
    offsets = np.zeros(int(there.sum()) + 1, np.int64)
    np.cumsum(counts[there], out=offsets[1:])
    return _rows(block, block.keys[there], offsets, kept)


def _rows(block: GroupedRows, keys: Int64s, offsets: Int64s, rows: Bools | slice) -> GroupedRows:
    """Some rows of a block."""
    return GroupedRows(
        keys,
        offsets,
        block.times[rows],
        tuple(_chosen(s, rows) for s in block.selections),
        block.key_texts,
        None if block.known is None else block.known[rows],
        None if block.sequence is None else block.sequence[rows],
    )


def _chosen(selected: SelectedValues, rows: Bools | slice) -> SelectedValues:
    valid = None if selected.valid is None else selected.valid[rows]
    return SelectedValues(valid, tuple(v[rows] for v in selected.inputs), selected.texts)


def _parts(block: GroupedRows, batch: int) -> Iterator[GroupedRows]:
    """The block in parts of whole keys with at most `batch` events, or of one key."""
    begin, offsets = 0, block.offsets.tolist()
    while begin < len(block.keys):
        end = bisect_right(offsets, offsets[begin] + batch) - 1
        end = min(max(end, begin + 1), len(block.keys))
        a, b = offsets[begin], offsets[end]
        yield _rows(block, block.keys[begin:end], block.offsets[begin : end + 1] - a, slice(a, b))
        begin = end
