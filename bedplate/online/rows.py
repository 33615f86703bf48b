"""Rows of a view in an online store: what a step from new events to changed rows puts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from bedplate.errors import StoreError
from bedplate.features.rows import GroupedRows, Rows
from bedplate.online import keys
from bedplate.online.base import OnlineStore, text_puts
from bedplate.online.codec import Layout
from bedplate.online.folding import merge_into_rows
from bedplate.online.forms import form_of
from bedplate.online.old_rows import rows_to_write
from bedplate.online.overflow import BeyondWordsError, beyond_in_merge, beyond_when_folded
from bedplate.online.state import ViewState
from bedplate.types import Int64s

MOST_TEXTS = 1_000_000
"""So many ids whose texts are in the store are remembered by a writer; then it begins afresh."""


@final
@dataclass(frozen=True, slots=True)
class Events:
    """Packed events of k keys, sorted by (key, time, ties, arrival).

    Attributes:
        keys: [k, entities] int64.
        offsets: [k + 1] int64, the events of each key.
        words: [n, width] int64, see `Layout.pack`.
    """

    keys: Int64s
    offsets: Int64s
    words: Int64s


def group(layout: Layout, rows: Rows) -> Events:
    """Events in order of arrival, packed and sorted by (key, time, ties, arrival)."""
    order = rows.order()
    sorted_keys = rows.keys[order]
    begins = np.ones(len(order), np.bool_)
    np.any(sorted_keys[1:] != sorted_keys[:-1], axis=1, out=begins[1:])
    first = np.flatnonzero(begins)
    words = layout.pack(rows)[order]
    return Events(sorted_keys[first], np.append(first, len(order)), words)


def merged_rows(
    store: OnlineStore, layout: Layout, events: Events, line: int, state: ViewState | None = None
) -> list[tuple[bytes, bytes]]:
    """What to put so that events are in their rows.

    Args:
        store: where the rows are now.
        layout: of the view.
        events: the events.
        line: those that could be seen before this time are folded.
        state: of the view, as it is before these events; None: it was loaded once, and nothing else.

    Raises:
        BeyondWordsError: sums of some keys are beyond 64 bits, or would be once all their events are folded.
    """
    names = keys.row_keys(layout.view, events.keys, 0 if state is None else state.generation)
    words, offsets = store.read_many(names).rows(len(names))
    if state is not None and state.adopted is not None:
        words, offsets = rows_to_write(store, form_of(layout), state.adopted, events.keys, words, offsets)
    check_rows(store, layout, words, offsets)
    found = beyond_when_folded(layout, words, offsets, events.words, events.offsets)
    if found:
        raise BeyondWordsError(layout.view, events.keys[found])
    return _puts(names, layout, words, offsets, events, line)


def new_rows(layout: Layout, events: Events, line: int, generation: int) -> list[tuple[bytes, bytes]]:
    """What to put so that events are in their rows, where none of the keys has one; see `merged_rows`."""
    names = keys.row_keys(layout.view, events.keys, generation)
    none = np.zeros(len(names) + 1, np.int64)
    return _puts(names, layout, none[:0], none, events, line)


def _puts(
    names: list[bytes], layout: Layout, words: Int64s, offsets: Int64s, events: Events, line: int
) -> list[tuple[bytes, bytes]]:
    try:
        out, ends = merge_into_rows(layout, words, offsets, events.words, events.offsets, line)
    except OverflowError:
        found = beyond_in_merge(layout, words, offsets, events.words, events.offsets, line)
        raise BeyondWordsError(layout.view, events.keys[found]) from None
    return list(zip(names, split_rows(out, ends), strict=True))


def split_rows(words: Int64s, ends: Int64s) -> list[bytes]:
    """The rows that words hold: from each of the offsets [k + 1] to the next."""
    sizes = np.diff(ends)
    if len(sizes) and (sizes == sizes[0]).all():
        return words.view(f"V{8 * sizes[0]}").tolist()
    data, at = words.tobytes(), (ends * 8).tolist()
    return list(map(data.__getitem__, map(slice, at[:-1], at[1:])))


def check_rows(store: OnlineStore, layout: Layout, words: Int64s, offsets: Int64s) -> Int64s:
    """The first words of the rows that are there.

    Raises:
        StoreError: a row is not of this layout.
    """
    begins = offsets[:-1][offsets[1:] > offsets[:-1]]
    if len(begins) and (words[begins] != layout.fingerprint).any():
        raise StoreError(
            f"the online store '{store.url}' holds rows of another version",
            where=layout.view.place,
            hint="load the view again",
        )
    return begins


def texts_of(rows: Rows | GroupedRows, known: set[int]) -> list[tuple[bytes, bytes]]:
    """What to put so that the texts of keys and values are found; those in `known` are left out, and added to it."""
    found: dict[int, str] = {}
    columns = [(rows.keys[:, i], texts) for i, texts in enumerate(rows.key_texts)]
    for selected in rows.selections:
        for values, texts in zip(selected.inputs, selected.texts, strict=True):
            columns.append((values if selected.valid is None else values[selected.valid], texts))
    for ids, texts in columns:
        if texts is not None:
            found.update((i, texts[i]) for i in np.unique(ids).tolist() if i not in known)
    known.update(found)
    return text_puts(found)
