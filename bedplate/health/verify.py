"""Verification of an online store: keys are sampled, its answers compared with history's at one instant, causes found.

The instant is one at which both sides can be right: the view's watermark, from which on the store's reads are exact, or
where history ends before it, just after history's last event. A row that holds events that could not be seen at that
instant can't answer as of it, and is left out and counted: history has to catch up first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, final

import msgspec
import numpy as np

from bedplate.features.view import CompiledView
from bedplate.health.causes import Cause
from bedplate.health.comparison import Comparison, Difference
from bedplate.offline.history import IndexedHistory
from bedplate.online import keys as store_keys
from bedplate.online.base import OnlineStore
from bedplate.online.held import stored_keys
from bedplate.online.state import Gone, ViewState, decode, states
from bedplate.types import Int64s, format_time

HISTORY_BEHIND, NOT_LOADED, INTERRUPTED = "history behind", "not loaded", "load interrupted"
"""Why a view was not compared, apart from a changed definition."""

_WRONG = (Cause.CHANGED.value, Cause.REPLACED.value, INTERRUPTED)

EXPLAINED = 50
"""Of so many keys of a view that differ the causes are looked for, by default."""

Progress: TypeAlias = Callable[[str], None]
"""Told what is under way."""


@final
class ViewVerified(msgspec.Struct):
    """What was found of a view.

    Attributes:
        view: its name.
        at: the instant at which both sides were asked, microseconds; -1: they were not.
        until: of the load, and the watermark; microseconds, -1: the store does not hold the view.
        watermark: reads at this time or later are exact.
        later: how many events of history could be known at the watermark or later, so that the store lacks them yet.
        keys: how many keys were compared.
        ahead: how many were left out: the store holds events of them that could not be seen at the instant.
        values: how many values were compared.
        differ: how many of them differ or can't be read.
        cause: why nothing was compared; empty where it was.
        evidence: what shows it.
    """

    view: str
    at: int = -1
    until: int = -1
    watermark: int = -1
    later: int = 0
    keys: int = 0
    ahead: int = 0
    values: int = 0
    differ: int = 0
    cause: str = ""
    evidence: str = ""


@final
@dataclass(frozen=True, slots=True)
class Verification:
    """What was found of several views.

    Attributes:
        views: of each view.
        differences: those whose causes were looked for.
    """

    views: list[ViewVerified] = field(default_factory=list[ViewVerified])
    differences: list[Difference] = field(default_factory=list[Difference])

    @property
    def compared(self) -> int:
        """How many values were compared."""
        return sum(v.values for v in self.views)

    @property
    def differ(self) -> int:
        """How many values differ or can't be read."""
        return sum(v.differ for v in self.views)

    @property
    def is_wrong(self) -> bool:
        """Whether a value differs, or the store holds another version of a view, or a part of one."""
        return self.differ > 0 or any(v.cause in _WRONG for v in self.views)

    @property
    def causes(self) -> dict[str, int]:
        """How often each cause was found."""
        found = Counter(d.cause for d in self.differences)
        found.update(v.cause for v in self.views if v.cause)
        return dict(found.most_common())


def verify(
    store: OnlineStore,
    history: IndexedHistory,
    views: Sequence[CompiledView],
    *,
    keys: int = 1000,
    at: int | None = None,
    seed: int = 0,
    explained: int = EXPLAINED,
    progress: Progress = lambda _: None,
) -> Verification:
    """Compares what a store answers with history, for a sample of each view's keys.

    Args:
        store: the store.
        history: the offline store; the views are built.
        views: the compiled views.
        keys: about how many keys of each view, half of them from history, half from the store.
        at: the time to ask for, microseconds; by default each view's own, see above.
        seed: equal seeds choose equal keys.
        explained: of how many keys of a view that differ the causes are looked for.
        progress: told what is under way.

    Raises:
        StoreError: a store can't be read, or a view's index is not built.
    """
    found, held = Verification(), states(store)
    for view in views:
        progress(f"{view.name}: reading")
        state = next((s for s in held if s.id == view.id and s.complete), None)
        if state is None:
            found.views.append(_not_held(store, view, held))
            continue
        sample = _sample(store, history, view, keys, seed)
        comparison = Comparison(store, history, view, sample, _instant(history, view, state) if at is None else at)
        found.views.append(_verified(comparison, history))
        if comparison.wrong_rows:
            progress(f"{view.name}: looking for causes")
            found.differences.extend(comparison.differences(explained))
    return found


def _not_held(store: OnlineStore, view: CompiledView, held: Sequence[ViewState]) -> ViewVerified:
    """Why the store can't be asked for a view."""
    for state in held:
        if state.id == view.id:
            return ViewVerified(view.name, cause=INTERRUPTED, evidence="the store holds the view only in part")
    noted = store.read_many([store_keys.of_view(store_keys.GONE, view.id)]).data
    if noted:
        gone = decode(noted, Gone, "a note")
        evidence = f"it was deleted at {format_time(gone.made)}, after version {gone.after[:12]} had been loaded"
        return ViewVerified(view.name, cause=Cause.REPLACED.value, evidence=evidence)
    for state in held:
        if state.name == view.name and not state.is_of_another(store.project):
            evidence = (
                f"the store holds version {state.id[:12]}, loaded until {format_time(state.until)}, and the definition "
                f"is of version {view.id[:12]}"
            )
            return ViewVerified(view.name, cause=Cause.CHANGED.value, evidence=evidence)
    others = ", ".join(sorted({f"'{s.project}'" for s in held if s.name == view.name}))
    more = f", apart from that of other projects: {others}" if others else ""
    return ViewVerified(view.name, cause=NOT_LOADED, evidence=f"the store holds no version of the view{more}")


def _sample(store: OnlineStore, history: IndexedHistory, view: CompiledView, count: int, seed: int) -> Int64s:
    """[n, entities] int64: keys of history and of the store, ascending."""
    known = _chosen(history.reader(view).all_keys(), count, seed)
    stored = stored_keys(store, view, count, seed)
    return _chosen(np.unique(np.concatenate([known, stored]), axis=0), count, seed)


def _chosen(keys: Int64s, count: int, seed: int) -> Int64s:
    """At most so many of some keys, in order."""
    if len(keys) <= count:
        return keys
    return keys[np.sort(np.random.default_rng(seed).choice(len(keys), count, replace=False))]


def _instant(history: IndexedHistory, view: CompiledView, state: ViewState) -> int:
    """The time at which both sides can be right; an event counts just after the time from which on it can be seen.

    Rows may be gone that counted before `swept`. History knows all up to that time if the load, which was made from it,
    came so far.
    """
    end = history.known(view)
    seen = state.watermark if end < 0 else min(state.watermark, end + view.view.source.delay + 1)
    return max(seen, min(state.swept, state.until))


def _verified(comparison: Comparison, history: IndexedHistory) -> ViewVerified:
    """What was found of a view."""
    view, state = comparison.view, comparison.held.state
    found = ViewVerified(
        view.name,
        comparison.at,
        state.until,
        state.watermark,
        later=history.reader(view).later(state.watermark),
        keys=len(comparison.keys),
        ahead=comparison.ahead,
        values=comparison.values,
        differ=comparison.differ,
    )
    if not found.keys and found.ahead:
        found.cause = HISTORY_BEHIND
        found.evidence = (
            f"no key can be compared as of {format_time(comparison.at)}: of {found.ahead - comparison.gone} the store "
            f"holds events that could not be seen then, and {comparison.gone} have no row since nothing of them counts"
        )
    return found
