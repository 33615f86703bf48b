"""Why an online store answers something else than history, found by evidence: what else would give the same answers.

For a key whose features differ, its events of history are put into rows as a store would hold them, in variants:
without the newest ones, without one, with one twice, with those that could not be known yet. A variant that answers all
features as the store does says what happened. Where none does, the stored row is looked at: the events that it shows
one by one, and its form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import final

import numpy as np

from bedplate.aggregations.arithmetic import Count
from bedplate.batch import Column, Dense, TextLookup
from bedplate.health.parity import equal_rows
from bedplate.online.codec import Layout
from bedplate.online.held import Condition, HeldRow, answers, rows_of_events
from bedplate.online.plan import ReadPlan
from bedplate.online.state import ViewState
from bedplate.types import Bools, Int64s, format_time

_WORDS = 4_000_000
"""So many words of events are folded at once while variants are tried."""

_MOST = 200
"""So many of a key's events, the newest, are tried one by one."""

_ROUNDS = 4
"""So many events that each explain a part are looked for."""


class Cause(Enum):
    """Why a value differs."""

    LATE = "late event"
    DELAY = "delay"
    CHANGED = "definition changed"
    BEHIND = "worker behind"
    OLD_VERSION = "row of an old version"
    LEFT_OUT = "event left out"
    TWICE = "event taken in twice"
    EXTRA = "event not in history"
    MISSING_ROW = "row missing"
    MISSING_TEXT = "text missing"
    DAMAGED = "row damaged"
    COMPUTED = "computed otherwise"
    UNKNOWN = "unknown"


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """A cause, and what shows that it is the cause.

    Attributes:
        cause: the cause, several joined by "or" where the evidence is the same for each.
        evidence: a sentence.
    """

    cause: str
    evidence: str

    @staticmethod
    def of(cause: Cause, evidence: str) -> Finding:
        """The finding of one cause."""
        return Finding(cause.value, evidence)


@final
@dataclass(frozen=True, slots=True)
class Case:
    """A key at which something differs.

    Attributes:
        plan: reads every feature of the view.
        state: of the view in the store.
        at: the time asked for, microseconds.
        row: what the store has of the key.
        condition: of the row.
        events: [n, width] int64, the key's events in history, packed, in order (time, ties, arrival).
        got: the store's values, one row; none where its row can't be read.
        expected: history's values, one row.
        texts: the texts behind string ids.
        letters: how many events were withheld from the view and wait as dead letters.
    """

    plan: ReadPlan
    state: ViewState
    at: int
    row: HeldRow
    condition: Condition
    events: Int64s
    got: Mapping[str, Column]
    expected: Mapping[str, Column]
    texts: TextLookup
    letters: int

    @property
    def layout(self) -> Layout:
        """The layout of the view's rows."""
        return self.plan.layout

    @property
    def known(self) -> Int64s:
        """[n] int64: when each event could be known, apart from a delay."""
        return self.events[:, max(self.layout.known_at, 0)]

    @property
    def seen(self) -> Int64s:
        """The positions of the events that count at the time asked for."""
        return np.flatnonzero(self.known + self.layout.delay < self.at)

    def same(self, events: Int64s, parts: Sequence[Int64s], values: Mapping[str, Column]) -> Bools:
        """[m, features]: what rows with some events (see `answers`) answer as these values of one row are."""
        found, one = answers(self.plan, events, parts, self.at, self.texts), np.zeros(len(parts), np.int64)
        return np.stack([equal_rows(found[name], values[name].take(one)) for name in self.plan.names], axis=1)


def explain(case: Case) -> Finding:
    """Why the store answers something else for a key than history does."""
    if case.condition is Condition.OLD:
        word = int(case.row.words[0])
        return Finding.of(
            Cause.OLD_VERSION,
            f"the row begins with {word}, those of this version of the view and of the row's form with "
            f"{case.layout.fingerprint}",
        )
    if case.condition is Condition.BROKEN:
        return Finding.of(Cause.DAMAGED, f"the row has {len(case.row.words)} words, its counts say another number")
    if case.condition is Condition.ABSENT:
        return _absent(case)
    try:
        if len(case.events) and not case.same(case.events, [case.seen], case.expected).all():
            return Finding.of(Cause.COMPUTED, "history's own events in a new row do not give history's values")
        found = _omitted(case) or _delayed(case) or _doubled(case)
    except OverflowError:
        return Finding.of(Cause.UNKNOWN, "a sum of history's events is beyond 64 bits")
    return found or _shown(case) or _changed_words(case)


def _absent(case: Case) -> Finding:
    """The store has no row: what its events say."""
    seen = case.known[case.seen]
    loaded = int((seen < case.state.until).sum())
    until = format_time(case.state.until)
    if loaded:
        return Finding.of(
            Cause.MISSING_ROW,
            f"the load of what was known before {until} must have made a row of {_events(loaded)}: the row was "
            "deleted, or history got all of them later",
        )
    return _of_omitted(case, case.seen)


def _omitted(case: Case) -> Finding | None:
    """Whether the store answers as without some of history's events: the newest ones, or any single ones."""
    seen = case.seen
    if not len(seen):
        return None
    by_known = seen[np.argsort(case.known[seen], kind="stable")]
    cuts = np.unique(case.known[seen])[::-1][: _room(case)]
    parts = [seen[case.known[seen] < cut] for cut in [*cuts.tolist(), case.state.until]]
    newest = by_known[::-1][: _room(case)]
    parts += [seen[seen != one] for one in newest.tolist()]
    right = np.flatnonzero(case.same(case.events, parts, case.got).all(axis=1))
    found = [np.setdiff1d(seen, parts[i]) for i in right.tolist()]
    found = found or _several(case, seen, newest)
    return _joined([_of_omitted(case, affected) for affected in found if len(affected)])


def _several(case: Case, seen: Int64s, newest: Int64s) -> list[Int64s]:
    """A few single events without which the store's answers are right, one after the other; none: not found."""
    left, best = seen, case.same(case.events, [seen], case.got).sum()
    for _ in range(_ROUNDS):
        parts = [left[left != one] for one in newest.tolist()]
        right = case.same(case.events, parts, case.got).sum(axis=1)
        if right.max() <= best:
            return []
        best, left = right.max(), parts[int(right.argmax())]
        if best == len(case.plan.names):
            return [np.setdiff1d(seen, left)]
    return []


def _of_omitted(case: Case, affected: Int64s) -> Finding:
    """What it means that the store lacks some events."""
    known, state = case.known[affected], case.state
    shown = f"the store answers as without {_events(len(affected))} of history, {_moments(case, affected)}"
    pending = _pending_alike(case, affected)
    if pending is not None:
        return Finding.of(Cause.DELAY, f"{shown}: it holds them as known from {format_time(pending)} on")
    if (known < state.until).any():
        return Finding.of(
            Cause.LATE,
            f"{shown}, which could be known before {format_time(state.until)}, the time of the load: history got them "
            "after it",
        )
    if (known >= state.watermark).all():
        return Finding.of(Cause.BEHIND, f"{shown}: the stream was taken in up to {format_time(state.watermark)}")
    aside = f"; as dead letters (bedplate ingest replay) wait {_events(case.letters)}"
    return Finding.of(
        Cause.LEFT_OUT,
        f"{shown}: the stream was taken in up to {format_time(state.watermark)}, and did not hold them yet"
        + (aside if case.letters else ""),
    )


def _pending_alike(case: Case, affected: Int64s) -> int | None:
    """When the row takes the last of some events for known, where it has all of them pending too long; else None."""
    if case.layout.known_at < 0 or case.condition is not Condition.READABLE:
        return None
    held = case.row.pending(case.layout)
    found: list[int] = []
    for event in case.events[affected]:
        alike = (held[:, :-1] == event[:-1]).all(axis=1) & (held[:, -1] > event[-1])
        if not alike.any():
            return None
        found.append(int(held[alike, -1].max()))
    return max(found)


def _delayed(case: Case) -> Finding | None:
    """Whether the store counts events that history says could not be known yet."""
    at = case.layout.known_at
    unseen = np.flatnonzero((case.known + case.layout.delay >= case.at) & (case.events[:, 0] < case.at))
    if at < 0 or not len(unseen):
        return None
    events = case.events.copy()
    events[unseen, at] = events[unseen, 0]
    chosen = [unseen, *(unseen[i : i + 1] for i in range(min(len(unseen), _room(case))))]
    parts = [np.union1d(case.seen, one) for one in chosen]
    right = np.flatnonzero(case.same(events, parts, case.got).all(axis=1))
    found = [
        Finding.of(
            Cause.DELAY,
            f"the store counts {_events(len(one))} of {_moments(case, one)}, which history says could be known at "
            f"{format_time(int(case.known[one].max()))} only",
        )
        for one in (chosen[i] for i in right.tolist())
    ]
    return _joined(found)


def _doubled(case: Case) -> Finding | None:
    """Whether the store answers as with an event of history twice; several that would do are no proof of any."""
    seen = case.seen
    newest = seen[np.argsort(case.known[seen], kind="stable")][::-1][: _room(case)]
    parts = [np.sort(np.append(seen, one)) for one in newest.tolist()]
    if not parts:
        return None
    found = newest[case.same(case.events, parts, case.got).all(axis=1)]
    if not len(found):
        return None
    shown = f"the store answers as with the event of {_moments(case, found[:1])} twice"
    if len(found) == 1:
        return Finding.of(Cause.TWICE, shown)
    return Finding(
        f"{Cause.TWICE.value} or {Cause.EXTRA.value}", f"{shown}, and so it would with any of {_events(len(found))}"
    )


def _shown(case: Case) -> Finding | None:
    """Whether the stored row shows an event that history does not hold."""
    extra = sorted(case.row.times(case.layout) - set(case.events[:, 0].tolist()))
    if not extra:
        return None
    shown = f"the row shows an event of {format_time(extra[-1])}, which history does not hold"
    if extra[-1] < case.state.until:
        return Finding.of(
            Cause.LATE, f"{shown}: it came with the stream after the load of {format_time(case.state.until)}"
        )
    return Finding.of(Cause.EXTRA, f"{shown}: it came with the stream only")


def _changed_words(case: Case) -> Finding:
    """What the row's form says where no events of history explain its values."""
    layout, stored = case.layout, case.row
    folded = int(stored.words[1])
    positions = np.flatnonzero(case.known + layout.delay <= folded)
    rest = np.setdiff1d(np.arange(len(case.events)), positions)
    held = len(stored.pending(layout))
    part = np.sort(np.concatenate([positions, rest[:held]]))
    fresh = HeldRow(rows_of_events(layout, case.events, [part], folded + 1)[0])
    if fresh.counts(layout) == stored.counts(layout) and not _has_more(case):
        wrong = int((fresh.words != stored.words).sum())
        return Finding.of(
            Cause.DAMAGED,
            f"the row is of as many events as history has, and {wrong} of its {len(fresh.words)} words differ",
        )
    if _has_more(case):
        return Finding(f"{Cause.LATE.value} or {Cause.EXTRA.value}", "the store counts more events than history holds")
    return Finding.of(Cause.UNKNOWN, "no events of history give the store's values")


def _has_more(case: Case) -> bool:
    """Whether the store counts more events than history does."""
    for call in case.layout.view.calls:
        name = f"{case.layout.view.name}.{call.names[0]}"
        got, expected = case.got[name], case.expected[name]
        if not isinstance(call.aggregation, Count) or not isinstance(got, Dense) or not isinstance(expected, Dense):
            continue
        if got.values[0] > expected.values[0]:
            return True
    return False


def _joined(findings: Sequence[Finding]) -> Finding | None:
    """One finding: the causes of all, the evidence of the first; None where there are none."""
    if not findings:
        return None
    return Finding(" or ".join(dict.fromkeys(f.cause for f in findings)), findings[0].evidence)


def _room(case: Case) -> int:
    """How many variants are tried at once."""
    return max(1, min(_MOST, _WORDS // (1 + len(case.events) * case.layout.width)))


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count:,} events"


def _moments(case: Case, affected: Int64s) -> str:
    """The time of an event, or of the first and the last."""
    times = case.events[affected, 0]
    first, last = format_time(int(times.min())), format_time(int(times.max()))
    return first if first == last else f"{first} to {last}"
