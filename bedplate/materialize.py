"""Filling an online store from history: up to which time, and what of an old version of a view goes on."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, final

from bedplate.clock import system_clock
from bedplate.errors import ConfigError, StoreError
from bedplate.features.view import CompiledView
from bedplate.online import adoption
from bedplate.online.load import bulk_load
from bedplate.online.state import own_states
from bedplate.types import format_time, parse_moment

if TYPE_CHECKING:
    from bedplate.offline.extend import Progress
    from bedplate.offline.history import IndexedHistory
    from bedplate.offline.reading import ViewReader
    from bedplate.online.base import OnlineStore
    from bedplate.online.state import ViewState

_BLOCK_EVENTS = 200_000
"""About how many events of history are in memory at once while an online store is filled."""


@final
@dataclass(frozen=True, slots=True)
class Materialized:
    """What `Project.materialize` did for a view.

    Attributes:
        view: the view's name.
        until: the events before this time are in the store; microseconds.
        events: how many events the store has taken in.
        later: how many events of history are at `until` or later: they are the stream's.
        seconds: how long it took.
        kept: whether the view was left as it is, because its stream goes on from this time.
        adopted: whether it goes on with the rows of an old version, which hold all that it needs.
    """

    view: str
    until: int
    events: int
    later: int
    seconds: float
    kept: bool
    adopted: bool


def materialize(
    history: IndexedHistory,
    every: Sequence[CompiledView],
    readers: Mapping[CompiledView, ViewReader],
    store: OnlineStore,
    until: str | int | date | None,
    *,
    replace: bool,
    adopt: bool,
    progress: Progress,
) -> list[Materialized]:
    """Fills an online store from history; `Project.materialize` says how.

    Args:
        history: the offline store.
        every: all views of the project: those of one source begin their streams at one time.
        readers: the views to fill, each with its reader of history.
        store: the online store.
        until: only events before this time are loaded.
        replace: loads views anew whose stream is at work.
        adopt: changed views go on with the rows of their old version.
        progress: told what is under way.

    Raises:
        ConfigError: `until` is no time, or later than now.
        StoreError: the store can't be written or holds a view for another project, or `until` is not where the stream
            of a view began.
    """
    chosen = list(readers)
    asked = None if until is None else _until_now(until)
    known = {s.id: s for s in own_states(store, chosen) if s.complete}
    known |= adoption.adopt(store, chosen, asked) if adopt and not replace else {}
    adoption.resume(store, [] if replace else [view.id for view in chosen])
    begun = adoption.begun(store, chosen) if adopt and asked is None and not replace else {}
    untils = [_until(history, every, v, begun.get(v.id, asked), {} if replace else known) for v in chosen]
    done: list[Materialized] = []
    for (view, reader), micros in zip(readers.items(), untils, strict=True):
        began, state, count = time.perf_counter(), known.get(view.id), reader.rows
        adopted = state is not None and state.adopted is not None and asked in (None, state.until)
        kept = state is not None and (bool(state.positions) or adopted) and not replace
        if state is None or not kept:
            blocks = history.grouped(view, max(1, _BLOCK_EVENTS * reader.keys // max(1, count)))
            told = functools.partial("{}: {:,} of {:,} events".format, view.name)
            state = bulk_load(store, view, blocks, micros, progress=lambda n, c=count, t=told: progress(t(n, c)))
        later = 0 if kept else count - state.events
        seconds = time.perf_counter() - began
        done.append(Materialized(view.name, state.until, state.events, later, seconds, kept, kept and adopted))
    return done


def _until(
    history: IndexedHistory,
    every: Sequence[CompiledView],
    view: CompiledView,
    asked: int | None,
    known: Mapping[str, ViewState],
) -> int:
    """Up to which time to load a view."""
    own = known.get(view.id)
    if own is not None and own.positions:
        if asked not in (None, own.until):
            raise StoreError(
                f"the stream of the view began at {format_time(own.until)} and is at work, got until "
                f"{format_time(asked or 0)}",
                where=view.place,
                hint="leave the time out to keep it; or load it anew (--replace), and let the stream's directory "
                "hold only files with events from the new time on",
            )
        return own.until
    if asked is not None:
        return asked
    source = view.view.source.name
    of_source = [known[v.id] for v in every if v.view.source.name == source and v.id in known]
    began = [s.until for s in of_source if s.positions]
    # A stream begins at one time for all views of its source: one with a condition has had a last event before.
    return max(began) if began else min(system_clock(), history.known_of_source(view) + 1)


def _until_now(until: str | int | date) -> int:
    micros, now = parse_moment(until, "until"), system_clock()
    if micros > now:
        raise ConfigError(
            f"got {format_time(micros)}, which is later than now, {format_time(now)}",
            where="until",
            hint="the store's answers are exact from this time on, and what happens until then is not known yet; "
            "leave it out to load all there is",
        )
    return micros
