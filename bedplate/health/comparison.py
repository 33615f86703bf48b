"""A sample of a view's keys in an online store, compared with history at one time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import msgspec
import numpy as np

from bedplate.batch import Column, Columns, Ids, Ragged, TextLookup, column_to_series
from bedplate.features.view import CompiledView
from bedplate.health.causes import Case, Cause, Finding, explain
from bedplate.health.parity import equal_rows
from bedplate.health.past import Past, pasts_of
from bedplate.offline.history import IndexedHistory
from bedplate.online import keys as store_keys
from bedplate.online.base import OnlineStore, StoredTexts
from bedplate.online.codec import Layout
from bedplate.online.held import Condition, Held
from bedplate.online.old_rows import decoded_form
from bedplate.online.plan import ReadPlan
from bedplate.online.state import ViewState
from bedplate.types import Bools, Int64s, Type


@final
class Difference(msgspec.Struct, frozen=True):
    """A feature of a key that differs, or that can't be read.

    Attributes:
        feature: its full name.
        keys: of each entity, by its name.
        at: the time asked for, microseconds.
        online: the store's value; None too where its row can't be read.
        history: history's value.
        cause: the likely cause; several joined by "or" where the evidence is the same.
        evidence: what shows it.
    """

    feature: str
    keys: dict[str, Any]
    at: int
    online: Any
    history: Any
    cause: str
    evidence: str


@final
class Comparison:
    """A sample of a view's keys, compared at a time.

    Args:
        store: the store, which holds the view.
        history: the offline store; the view is built.
        view: the compiled view.
        keys: [n, entities] int64, different ones in ascending order.
        at: the time, microseconds.

    Attributes:
        view: as given.
        at: as given.
        held: the store's rows of the keys.
        keys: [k, entities] int64, those that were compared.
        ahead: how many were not: the store holds events of them that could not be seen at the time, or nothing any more
            as of a later time nothing of them counts.
        gone: how many of these have no row any more, as nothing of them counts as of a later time.
        wrong_rows: the positions of the keys of which some feature differs or can't be read.
        differ: how many values that are.

    Raises:
        StoreError: a store can't be read.
    """

    def __init__(self, store: OnlineStore, history: IndexedHistory, view: CompiledView, keys: Int64s, at: int) -> None:
        self.view, self.at, self._history, self._store, self._letters = view, at, history, store, 0
        self._plan, self._texts = ReadPlan(view, list(view.features)), StoredTexts(store)
        self.held = Held.read(store, view, keys)
        every: list[Condition] = [self.held.row(i).condition(self._plan.layout, at) for i in range(len(keys))]
        gone = _gone(history, self._plan.layout, self.held.state, keys, every, at)
        left = (i for i, c in enumerate(every) if c is not Condition.AHEAD and i not in gone)
        self._asked = np.array(list(left), np.int64)
        self._conditions: list[Condition] = [every[i] for i in self._asked.tolist()]
        self.keys, self.ahead, self.gone = keys[self._asked], len(keys) - len(self._asked), len(gone)
        times = np.full(len(self.keys), at, np.int64)
        self._expected: Mapping[str, Column] = history.read(view, self._plan.names, self.keys, times)
        self._got = self._answers(times)
        unreadable = np.array([c in (Condition.OLD, Condition.BROKEN) for c in self._conditions], np.bool_)
        names = self._plan.names
        self._lost = {name: _without_text(self._got[name]) for name in names}
        self._wrong = {n: ~equal_rows(self._got[n], self._expected[n]) | unreadable for n in names}
        found = np.array([self._wrong[n] | self._lost[n] for n in names]).reshape(len(names), len(self.keys))
        self.differ, self.wrong_rows = int(found.sum()), np.flatnonzero(found.any(axis=0)).tolist()

    @property
    def values(self) -> int:
        """How many values were compared."""
        return len(self.keys) * len(self._plan.names)

    def _answers(self, times: Int64s) -> Columns:
        """What the store answers; a row that can't be read as if there were none."""
        parts = [
            self.held.row(i).words if condition is Condition.READABLE else self.held.words[:0]
            for i, condition in zip(self._asked.tolist(), self._conditions, strict=True)
        ]
        offsets: Int64s = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(p) for p in parts], out=offsets[1:])
        return self._plan.read(np.concatenate([self.held.words[:0], *parts]), offsets, times, self._texts)

    def differences(self, most: int) -> list[Difference]:
        """What differs of the first so many keys, with the cause of each."""
        rows = self.wrong_rows[:most]
        self._letters = len(self._store.scan(store_keys.letters_of(self.view)))
        reader, layout, state = self._history.reader(self.view), self._plan.layout, self.held.state
        events = reader.events(self.keys[rows])
        packed, found = layout.pack(events), list[Difference]()
        pasts = pasts_of(self._store, reader, layout, self.keys[rows], state.until)
        self._forms = {decoded_form(value).fingerprint for _, value in self._store.scan(store_keys.FORMS)}
        for row, past, begin, end in zip(
            rows, pasts, events.offsets.tolist(), events.offsets[1:].tolist(), strict=False
        ):
            found.extend(self._of_key(row, packed[begin:end], events.key_texts, past))
        return found

    def _of_key(
        self, row: int, events: Int64s, key_texts: Sequence[TextLookup | None], past: Past | None
    ) -> list[Difference]:
        at, condition = np.array([row], np.int64), self._conditions[row]
        got = {n: self._got[n].take(at) for n in self._plan.names}
        expected = {n: self._expected[n].take(at) for n in self._plan.names}
        wrong = [n for n in self._plan.names if self._wrong[n][row]]
        found: dict[str, Finding] = {}
        if wrong:
            stored = self.held.row(int(self._asked[row]))
            state = self.held.state
            case = Case(
                self._plan,
                state,
                self.at,
                stored,
                condition,
                events,
                got,
                expected,
                self._texts,
                self._letters,
                self.keys[row],
                past,
                self._forms,
                state.project if state.is_of_another(self._store.project) else "",
            )
            found = dict.fromkeys(wrong, explain(case))
        for name in (n for n in self._plan.names if self._lost[n][row]):
            found.setdefault(name, Finding.of(Cause.MISSING_TEXT, "the store has no text behind an id of the value"))
        keys = {
            entity.name: _key(int(key), kind, [texts, self._texts])
            for entity, key, kind, texts in zip(
                self.view.view.entities, self.keys[row], self.view.key_types, key_texts, strict=True
            )
        }
        is_readable = condition in (Condition.READABLE, Condition.ABSENT)
        return [
            Difference(
                name,
                keys,
                self.at,
                _value(got[name]) if is_readable else None,
                _value(expected[name]),
                finding.cause,
                finding.evidence,
            )
            for name, finding in found.items()
        ]


def _gone(
    history: IndexedHistory, layout: Layout, state: ViewState, keys: Int64s, conditions: Sequence[Condition], at: int
) -> set[int]:
    """Which keys have no row any more, as nothing of them counted when the store was swept, later than `at`."""
    absent = [i for i, condition in enumerate(conditions) if condition is Condition.ABSENT]
    if layout.lifetime < 0 or at >= state.swept or not absent:
        return set()
    events = history.reader(layout.view).events(keys[absent])
    ends = events.visible + layout.delay + layout.lifetime + 1
    spans = zip(absent, events.offsets[:-1].tolist(), events.offsets[1:].tolist(), strict=True)
    return {i for i, begin, end in spans if end > begin and ends[begin:end].max() <= state.swept}


def _key(key: int, kind: Type, lookups: Sequence[TextLookup | None]) -> int | str:
    """The key of an entity as definitions and commands have it, where some lookup knows its text."""
    if kind is not Type.STRING:
        return key
    return next((texts[key] for texts in lookups if texts is not None and key in texts), f"id {key}")


def _without_text(column: Column) -> Bools:
    """[n]: which rows hold the id of a text that is not known."""
    if isinstance(column, Ragged):
        sums = np.append(0, np.cumsum(_without_text(column.values)))
        return sums[column.offsets[1:]] > sums[column.offsets[:-1]]
    if not isinstance(column, Ids) or column.texts is None:
        return np.zeros(len(column), np.bool_)
    texts = column.texts
    lost = {
        i
        for i in np.unique(column.values if column.present is None else column.values[column.present]).tolist()
        if i not in texts
    }
    there = np.isin(column.values, np.array(sorted(lost), np.int64))
    return there if column.present is None else there & column.present


def _value(column: Column) -> Any:
    """The value of a column of one row; an id whose text is not known as the text "id NUMBER"."""
    return column_to_series(_named(column)).to_list()[0]


def _named(column: Column) -> Column:
    if isinstance(column, Ragged):
        values = _named(column.values)
        assert isinstance(values, type(column.values))
        return Ragged(values, column.offsets)
    if not isinstance(column, Ids) or column.texts is None:
        return column
    known = column.texts
    return Ids(column.values, column.present, {i: known.get(i, f"id {i}") for i in column.values.tolist()})
