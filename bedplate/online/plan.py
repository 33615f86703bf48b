"""The plan of a read: which words of a view's packed rows become which partial results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

from bedplate.aggregations.base import Finish, Latest, Newest, Partial, Reduce, Reduction, Scalar
from bedplate.batch import Column, Columns, Dense, Embedding, Ids, Places, Ragged, Stack, TextLookup
from bedplate.canonical import to_json
from bedplate.features.view import Call, CompiledView
from bedplate.online import kernels
from bedplate.online.codec import CODES, Layout, Need, from_words, vectors_from, words_in
from bedplate.online.folding import settle
from bedplate.online.ragged import RaggedFound, ragged_request, ragged_requests, read_ragged
from bedplate.online.wide import RESULTS, filled, wide_partial
from bedplate.types import Array, Bools, Int64s, Type

_SCALAR, _SLOT, _LATEST, _RAGGED = range(4)
_WIDTHS = (kernels.SCALAR_WIDTH, kernels.LATEST_WIDTH, kernels.LATEST_WIDTH)


@final
@dataclass(frozen=True, slots=True)
class Part:
    """A reduction of all calls of a group: rows `first` to `last` of a kernel's requests, and what they give.

    Attributes:
        kernel: `_SCALAR`, `_SLOT`, `_LATEST` or `_RAGGED`.
        first: the first request.
        last: the request after the last one.
        kinds: the type of a scalar, or of each input.
        out: the first output column of slots.
        reduction: of the first call.
    """

    kernel: int
    first: int
    last: int
    kinds: tuple[Type, ...]
    out: int
    reduction: Reduction


@final
@dataclass(frozen=True, slots=True)
class Group:
    """Calls with equal aggregations, of inputs of equal types and kept alike: they differ only in what they read.

    Attributes:
        calls: the calls.
        names: for each output the full name of the feature of each call.
        parts: what the aggregation's reductions give, in its order.
        types: of the inputs.
    """

    calls: tuple[Call, ...]
    names: tuple[tuple[str, ...], ...]
    parts: tuple[Part, ...]
    types: tuple[Type, ...]


class UnreadableRowError(Exception):
    """A row has another fingerprint than the plan's layout, or is ahead of the time asked for.

    Attributes:
        row: its position among those read.
    """

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


@final
class _Rows(NamedTuple):
    """Packed rows of n keys, and what `kernels.read_rows` found in them."""

    words: Int64s
    offsets: Int64s
    times: Int64s
    out: Int64s


@final
class ReadPlan:
    """How features of a view are read.

    Args:
        view: the compiled view.
        names: full names of its features.

    Attributes:
        layout: of the view's rows.
        names: as asked for.
        groups: the calls to finalise, those that are alike together.
        places: where each feature is in what `read` gives.
    """

    __slots__ = (
        "_columns",
        "_deepest",
        "_flags",
        "_latest_requests",
        "_located",
        "_most_calls",
        "_most_inputs",
        "_ragged_requests",
        "_slot_columns",
        "_slots_at",
        "_tables",
        "_values_at",
        "groups",
        "layout",
        "names",
        "places",
    )

    def __init__(self, view: CompiledView, names: Sequence[str]) -> None:
        self.layout, self.names = Layout(view), tuple(names)
        wanted = {view.short(n) for n in names}
        self._slot_columns = 0
        columns: list[int] = []
        requests: tuple[list[tuple[int, ...]], ...] = ([], [], [], [])
        alike = self._alike([c for c in view.calls if wanted.intersection(c.names)])
        self.groups = tuple(self._group(calls, requests, columns) for calls in alike)
        self._most_calls = max((len(g.calls) for g in self.groups), default=1)
        self.places = self._all_places()
        scalars, slots, self._latest_requests = (
            np.array(r, np.int64).reshape(-1, w) for r, w in zip(requests[:_RAGGED], _WIDTHS, strict=True)
        )
        self._ragged_requests = ragged_requests(requests[_RAGGED])
        self._columns: Int64s = np.array(columns, np.int64)
        self._tables = kernels.pack_tables(self.layout, scalars, slots, self._columns)
        # Where `read_rows` puts what it finds, in arrays of one value a key.
        self._slots_at, self._flags = len(scalars), len(scalars) + len(slots)
        self._values_at = self._flags
        self._located = self._values_at + self._slot_columns
        self._deepest = int(self._latest_requests[:, kernels.L_DEPTH].max(initial=0))
        self._most_inputs = int(self._latest_requests[:, kernels.L_NUMBER].max(initial=0))

    def read(self, words: Int64s, offsets: Int64s, times: Int64s, texts: TextLookup) -> Columns:
        """The values of the features for n keys, by full name; those of a group in one stack.

        Args:
            words: packed rows of n keys.
            offsets: [n + 1] int64 into them.
            times: [n] int64 microseconds.
            texts: the texts behind string ids.

        Raises:
            UnreadableRowError: a row is not of this layout, or ahead of its time.
        """
        if self.layout.known_at >= 0:
            words, offsets = settle(self.layout, words, offsets, times)
        n = len(times)
        # Uninitialised: the pass fills all of it.
        out = np.empty((self._located + len(self.layout.sections) + 3) * n, np.int64)
        present = np.empty(self._flags * n, np.bool_)
        wrong: int = kernels.read_rows(words, offsets, times, self._tables, out, present)
        if wrong >= 0:
            raise UnreadableRowError(wrong)
        rows = _Rows(words, offsets, times, out)
        latest = self._latest_events(rows) if self._deepest else None
        ragged = self._ragged(rows) if len(self._ragged_requests) else None
        found = _Found(out, present, self._slots_at * n, self._values_at * n, latest, ragged, texts, n)
        parts: list[Stack | Column] = []
        repeated = times if self._most_calls == 1 else np.concatenate([times] * self._most_calls)
        for group in self.groups:
            aggregation, calls = group.calls[0].aggregation, len(group.calls)
            if aggregation.finish is Finish.NUMBER:
                parts.append(found.numbers(group.parts[0]))
            elif aggregation.finish is Finish.NEWEST and group.parts[0].kernel == _SLOT and not group.types[0].width:
                parts.append(found.newest(group.parts[0]))
            else:
                # The calls of a group are finalised as if their keys were of one call.
                partials = [found.partial(part) for part in group.parts]
                for column in aggregation.finalize(partials, repeated[: calls * n]):
                    parts.extend(split(column, calls))
        return Columns(parts, self.places)

    def _all_places(self) -> Places:
        """Where `read` puts each feature."""
        places: dict[str, tuple[int, int]] = {}
        part = 0
        for group in self.groups:
            outputs = group.calls[0].aggregation.outputs(group.types)
            for names, output in zip(group.names, outputs, strict=True):
                is_stacked = not output.is_list and not output.type.width
                for call, name in enumerate(names):
                    places[name] = (part, call) if is_stacked else (part + call, -1)
                part += 1 if is_stacked else len(names)
        return {name: places[name] for name in self.names}

    def _places_of(self, rows: _Rows) -> tuple[Int64s, Int64s]:
        """What `kernels.locate_rows` found."""
        n = len(rows.times)
        end = len(rows.out) - n
        return rows.out[self._located * n : end].reshape(n, len(self.layout.sections) + 2), rows.out[end:]

    def _ragged(self, rows: _Rows) -> RaggedFound:
        where = self._places_of(rows)
        return read_ragged(self.layout, self._ragged_requests, rows.words, rows.offsets, rows.times, *where)

    def _latest_events(self, rows: _Rows) -> tuple[Array, Array, Array]:
        requests, layout, n = self._latest_requests, self.layout, len(rows.times)
        common = (
            rows.words, rows.offsets, rows.times, layout.shape, layout.sections, *self._places_of(rows), requests,
        )  # fmt: skip
        counts, ends = np.empty(len(requests) * n, np.int64), np.zeros(len(requests) * n + 1, np.int64)
        kernels.count_latest(*common, self._deepest, counts)
        np.cumsum(counts, out=ends[1:])
        found, values = np.empty(ends[-1], np.int64), np.empty((self._most_inputs, ends[-1]), np.int64)
        kernels.fill_latest(*common, self._columns, self._deepest, ends[1:], found, values)
        return ends, found, values

    def _alike(self, calls: Sequence[Call]) -> list[tuple[Call, ...]]:
        """The calls that differ only in what they read."""
        groups: dict[tuple[object, ...], list[Call]] = {}
        for call in calls:
            aggregation = call.aggregation
            kept = tuple(self._kernel(n) for n in self._needs(call))
            of_window = None if aggregation.over(call.window) is aggregation else call.window
            key = (type(aggregation), to_json(dict(aggregation.options())), self._types(call), kept, of_window)
            groups.setdefault(key, []).append(call)
        return [tuple(group) for group in groups.values()]

    def _group(self, calls: tuple[Call, ...], requests: tuple[list[tuple[int, ...]], ...], columns: list[int]) -> Group:
        view, types = self.layout.view.name, self._types(calls[0])
        names = tuple(zip(*([f"{view}.{n}" for n in c.names] for c in calls), strict=True))
        reductions = range(len(calls[0].aggregation.reductions))
        parts = tuple(self._part(calls, i, requests, columns) for i in reductions)
        return Group(calls, names, parts, types)

    def _types(self, call: Call) -> tuple[Type, ...]:
        return self.layout.view.input_types(call.aggregation)

    def _needs(self, call: Call) -> list[Need]:
        view = self.layout.view
        return [Need(r, view.reduction_index(r), call.window) for r in call.aggregation.reductions]

    def _kernel(self, need: Need) -> int:
        reduce = need.reduction.reduce
        if reduce in (Reduce.COUNTS, Reduce.SMALLEST):
            return _RAGGED
        if reduce not in (Reduce.LATEST, Reduce.LATEST_BY):
            return _SCALAR
        is_slot = reduce is Reduce.LATEST and not need.is_exact and need.selection in self.layout.slot_at
        return _SLOT if is_slot else _LATEST

    def _part(
        self,
        calls: tuple[Call, ...],
        index: int,
        requests: tuple[list[tuple[int, ...]], ...],
        columns: list[int],
    ) -> Part:
        needs = [self._needs(call)[index] for call in calls]
        kernel, out = self._kernel(needs[0]), self._slot_columns
        first, reduction = len(requests[kernel]), needs[0].reduction
        if kernel == _SCALAR and calls[0].aggregation.finish is not None:  # equal sums and counts are read once
            made, known = [self._scalar(need, len(needs)) for need in needs], requests[_SCALAR]
            for begin in range(first):
                if known[begin : begin + len(made)] == made:
                    kinds = (self.layout.view.output_type(reduction),)
                    return Part(kernel, begin, begin + len(made), kinds, out, reduction)
        for i, need in enumerate(needs):
            if kernel == _SCALAR:
                requests[kernel].append(self._scalar(need, len(needs)))
            elif kernel == _RAGGED:
                requests[kernel].append(ragged_request(self.layout, need, _window(need)))
            else:
                inputs = self.layout.words[need.selection]
                place = (len(columns), len(inputs), out + i, len(needs))
                requests[kernel].append((*self._latest(need), *place))
                columns.extend(inputs)
        kinds = self.layout.view.types[needs[0].selection]
        last = len(requests[kernel])
        if kernel == _SLOT:
            self._slot_columns += len(needs) * sum(map(words_in, kinds))
        elif reduction.reduce in RESULTS:
            requests[kernel].extend(filled(len(needs), reduction.reduce))
        elif kernel == _SCALAR:
            kinds = (self.layout.view.output_type(reduction),)
        return Part(kernel, first, last, kinds, out, reduction)

    def _scalar(self, need: Need, stride: int) -> tuple[int, ...]:
        layout, reduce, selection = self.layout, need.reduction.reduce, need.selection
        kept = reduce, selection, need.reduction.half_life
        source, at, partial, number = kernels.RING, layout.ring, 0, 0
        if need.is_exact:
            pass
        elif reduce is Reduce.DISTINCT:
            source, at = kernels.VALUES, layout.distinct[selection]
        elif need.window is None:
            source, at = kernels.TOTAL, layout.totals_at
            partial, number = layout.totals.at(*kept), layout.totals.count_at(*kept)
        else:
            source, (at, group) = kernels.TILE, layout.tiles[need.window.hop]
            partial, number = 1 + group.at(*kept), 1 + group.count_at(*kept)
        place = (CODES[reduce], source, at, partial, number, selection, *layout.input_of(reduce, selection))
        return (*place, *_window(need), *layout.partial_row(*kept), stride)

    def _latest(self, need: Need) -> tuple[int, ...]:
        layout, selection = self.layout, need.selection
        by = layout.words[selection][-1] if need.reduction.reduce is Reduce.LATEST_BY else -1
        if need.is_exact:
            at = layout.ring
        elif by >= 0:
            at = layout.latest_by[selection]
        else:
            at = layout.slot_at[selection] if selection in layout.slot_at else layout.latest[selection]
        ttl = layout.view.view.ttl
        age = -1 if ttl is None else ttl
        return (at, int(need.is_exact), selection, need.reduction.depth, *_window(need), age, by)


def _window(need: Need) -> tuple[int, int, int]:
    """Length, hop and bound; -1 where there is none."""
    window = need.window
    if window is None:
        return -1, 0, -1
    return window.length, window.hop, -1 if window.bound is None else window.bound


@final
class _Found(NamedTuple):
    """What was found for n keys.

    Attributes:
        out: see `kernels.read_rows`.
        present: the same.
        slots: where the times of slots begin in `out`, and what says whether they are there in `present`.
        values: where their values begin in `out`.
        latest: of deeper lists the ends [requests * n], times and values; None: there is none.
        ragged: counts of values and hashes; None: there are none.
        texts: behind string ids.
        n: the number of keys.
    """

    out: Int64s
    present: Bools
    slots: int
    values: int
    latest: tuple[Array, Array, Array] | None
    ragged: RaggedFound | None
    texts: TextLookup
    n: int

    def numbers(self, part: Part) -> Stack:
        """What `Finish.NUMBER` makes of scalars."""
        values = from_words(self.out[part.first * self.n : part.last * self.n], part.kinds[0])
        return Stack(values.reshape(part.last - part.first, self.n))

    def newest(self, part: Part) -> Stack:
        """What `Finish.NEWEST` makes of slots."""
        n, calls, kind = self.n, part.last - part.first, part.kinds[0]
        values = from_words(self.out[self.values + part.out * n :][: calls * n], kind).reshape(calls, n)
        present = self.present[self.slots + part.first * n : self.slots + part.last * n].reshape(calls, n)
        return Stack(values, present, True, self.texts) if kind is Type.STRING else Stack(values, present)

    def partial(self, part: Part) -> Partial:
        if part.kernel == _SCALAR:
            a, b = part.first * self.n, part.last * self.n
            if part.reduction.reduce in RESULTS:
                return wide_partial(part.reduction.reduce, self.out, self.present, a, b, part.kinds, self.texts)
            return Scalar(from_words(self.out[a:b], part.kinds[0]), self.present[a:b])
        if self.ragged is not None and part.kernel == _RAGGED:
            if part.reduction.depth:
                return self.ragged.hashes(part.first, part.last)
            return self.ragged.counted(part.first, part.last, part.kinds[0], self.texts)
        texts = tuple([self.texts if kind is Type.STRING else None for kind in part.kinds])
        if self.latest is None or part.kernel == _SLOT:
            return self._slots(part, texts)
        return self._lists(part, texts, self.latest)

    def _slots(self, part: Part, texts: tuple[TextLookup | None, ...]) -> Newest:
        a, b = self.slots + part.first * self.n, self.slots + part.last * self.n
        at, columns = self.values + part.out * self.n, list[Array]()
        for kind in part.kinds:
            stop = at + (b - a) * words_in(kind)
            columns.append(_values(self.out[at:stop].reshape(words_in(kind), b - a), kind))
            at = stop
        return Newest(self.present[a:b], self.out[a:b], tuple(columns), texts)

    def _lists(
        self, part: Part, texts: tuple[TextLookup | None, ...], latest: tuple[Array, Array, Array]
    ) -> Latest | Newest:
        ends, times, values = latest
        offsets = ends[part.first * self.n : part.last * self.n + 1]
        a, b = int(offsets[0]), int(offsets[-1])
        columns: list[Array] = []
        at = 0
        for kind in part.kinds:
            columns.append(_values(values[at : at + words_in(kind), a:b], kind))
            at += words_in(kind)
        if part.reduction.depth > 1:
            return Latest(offsets - a, times[a:b], tuple(columns), texts)
        present = offsets[1:] > offsets[:-1]
        return Newest(present, _spread(times[a:b], present), tuple(_spread(c, present) for c in columns), texts)


def _values(words: Int64s, kind: Type) -> Array:
    """Values of their words [words in a value, n]."""
    return vectors_from(words, kind.width) if kind.width else from_words(words[0], kind)


def _spread(found: Array, present: Bools) -> Array:
    every = np.zeros((len(present), *found.shape[1:]), found.dtype)
    every[present] = found
    return every


def split(column: Column, parts: int) -> Sequence[Stack | Column]:
    """A column of `parts` times n rows as that many columns of n rows, without copying; lists and vectors not stacked.

    >>> [stack] = split(Dense(np.arange(4)), 2)
    >>> stack.column(1).values.tolist()
    [2, 3]
    """
    n = len(column) // parts
    if isinstance(column, Ragged):
        ends = [column.offsets[i * n : (i + 1) * n + 1] for i in range(parts)]
        return [Ragged(_slice(column.values, int(e[0]), int(e[-1])), e - e[0]) for e in ends]
    if isinstance(column, Embedding):
        return [
            Embedding(column.values[r], _present(column, r)) for r in (slice(i * n, i * n + n) for i in range(parts))
        ]
    values = column.values.reshape(parts, n)
    present = None if column.present is None else column.present.reshape(parts, n)
    return [Stack(values, present, True, column.texts) if isinstance(column, Ids) else Stack(values, present)]


def _present(column: Dense | Ids | Embedding, rows: slice) -> Bools | None:
    return None if column.present is None else column.present[rows]


def _slice(column: Dense | Ids, begin: int, end: int) -> Dense | Ids:
    present = _present(column, slice(begin, end))
    if isinstance(column, Ids):
        return Ids(column.values[begin:end], present, column.texts)
    return Dense(column.values[begin:end], present)
