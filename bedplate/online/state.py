"""The state of a view in an online store, and the step from new events to changed rows."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import msgspec
import numpy as np

from bedplate.errors import ConflictError, StoreError
from bedplate.features.rows import GroupedRows, Rows
from bedplate.features.view import CompiledView
from bedplate.online import keys
from bedplate.online.base import OnlineStore, text_puts
from bedplate.online.codec import Layout
from bedplate.online.folding import merge_into_rows
from bedplate.online.old_rows import Adopted, with_old_rows
from bedplate.online.overflow import BeyondWordsError, beyond_in_merge, beyond_when_folded
from bedplate.online.streams import BEGINNING, Position
from bedplate.types import MINUTE, Int64s

REWIND = MINUTE
"""How far before the watermark a read may ask, by default: events that recent stay pending, so that a request that is
answered a little after its time still gets the values of its time."""

MOST_TEXTS = 1_000_000
"""So many ids whose texts are in the store are remembered by a writer; then it begins afresh."""


@final
class ViewState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a store holds of a view.

    Attributes:
        name: the view's.
        id: the view's.
        complete: whether the bulk load came to its end.
        until: every event before this time was in the bulk load; microseconds.
        watermark: reads at this time or later are exact; microseconds.
        newest: the time of the newest event taken in, microseconds; -1: none.
        events: how many events were taken in.
        positions: up to where each partition of the stream was taken in; see `streams`.
        generation: of the rows that are read; see `generations`.
        adopted: the old rows that are read where there is none of the generation; None: none.
        successor: the id of the version that goes on with these rows, which never change any more; empty: none.
        seen: up to when each partition of the stream was taken in, microseconds: the time of its newest event, or of a
            look at it that found no more.
        texts: changes whenever texts are about to be dropped: a writer then puts again all that it names; see `texts`.
    """

    name: str
    id: str
    complete: bool
    until: int
    watermark: int
    newest: int = -1
    events: int = 0
    positions: dict[str, Position] = {}
    generation: int = 0
    adopted: Adopted | None = None
    successor: str = ""
    texts: str = ""
    seen: dict[str, int] = {}

    def position(self, partition: str) -> Position:
        """Up to where a partition of the stream was taken in."""
        return self.positions.get(partition, BEGINNING)

    @property
    def fresh_until(self) -> int:
        """Up to when the stream is known to be taken in, of all its partitions; microseconds."""
        return fresh_until(self.watermark, self.seen)

    def put(self, view: CompiledView) -> tuple[bytes, bytes]:
        """What to put so that this is the view's state."""
        return keys.state_of(view), msgspec.json.encode(self)


def fresh_until(watermark: int, seen: Mapping[str, int]) -> int:
    """See `ViewState.fresh_until`.

    >>> fresh_until(20, {}), fresh_until(20, {"a": 20, "b": 90}), fresh_until(20, {"a": 20, "b": 5})
    (20, 20, 5)
    """
    return min(seen.values(), default=watermark)


@final
class _OneFile(msgspec.Struct, frozen=True):
    """The stream's position in a state of a store that was written before streams had partitions."""

    file: str
    row: int


def _decoded(value: bytes) -> ViewState:
    """A state from its bytes.

    Raises:
        StoreError: it has a form that is not known here.
    """
    try:
        return msgspec.json.decode(value, type=ViewState)
    except msgspec.ValidationError as error:
        with contextlib.suppress(msgspec.ValidationError):
            before = msgspec.json.decode(value, type=_OneFile)
            kept = msgspec.json.decode(value, type=dict[str, Any])
            positions = {"": {"name": before.file, "at": before.row}} if before.file else {}
            fields = {name: v for name, v in kept.items() if name not in _OneFile.__struct_fields__}
            return msgspec.convert(fields | {"positions": positions}, ViewState)
        raise StoreError(
            f"the online store holds a view's state in a form that is not known here: {error}",
            where="online store",
            hint="another version of Bedplate wrote it: use that one, or load the view anew into another store",
        ) from error


def decode_state(value: bytes, view: CompiledView, store: OnlineStore) -> ViewState:
    """The state from its bytes; empty: there is none.

    Raises:
        StoreError: the view was never loaded, or not completely.
    """
    if not value:
        raise StoreError(
            f"the online store '{store.url}' does not hold this version of the view",
            where=view.place,
            hint="the definition is new, or has changed since it was loaded; run: bedplate materialize",
        )
    state = _decoded(value)
    if not state.complete or state.id != view.id:
        raise StoreError(
            f"the online store '{store.url}' holds the view only in part",
            where=view.place,
            hint="its load is at work or was interrupted; run again: bedplate materialize",
        )
    return state


def read_state(store: OnlineStore, view: CompiledView) -> ViewState:
    """The state of a view that is completely loaded, for those who write.

    Raises:
        StoreError: the view was never loaded, or not completely, or a changed version of it goes on with its rows.
    """
    return decode_to_write(store.read_many([keys.state_of(view)]).data, view, store)


def decode_to_write(value: bytes, view: CompiledView, store: OnlineStore) -> ViewState:
    """The state from its bytes, for those who write.

    Raises:
        StoreError: as `read_state`.
    """
    state = decode_state(value, view, store)
    if state.successor:
        raise StoreError(
            "a changed version of the view goes on with these rows, which can only be read as they were",
            where=view.place,
            hint="take the stream in with the changed definition; or load this one again: bedplate materialize",
        )
    return state


def states(store: OnlineStore) -> list[ViewState]:
    """The states of all views in a store, by name, those in part included."""
    found = [_decoded(value) for _, value in store.scan(keys.STATES)]
    return sorted(found, key=lambda s: (s.name, s.id))


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
        words, offsets = _with_adopted(store, layout, state.adopted, events.keys, words, offsets)
    check_rows(store, layout, words, offsets)
    found = beyond_when_folded(layout, words, offsets, events.words, events.offsets)
    if found:
        raise BeyondWordsError(layout.view, events.keys[found])
    return _puts(names, layout, words, offsets, events, line)


def _with_adopted(
    store: OnlineStore, layout: Layout, adopted: Adopted, entities: Int64s, words: Int64s, offsets: Int64s
) -> tuple[Int64s, Int64s]:
    found = with_old_rows(store, layout, adopted, entities, words, offsets)
    if found is None:
        raise ConflictError(
            "all rows of the old version were taken over meanwhile", where=store.url, hint="run it again"
        )
    return found


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
