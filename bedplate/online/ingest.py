"""Ingest: from a stream to the rows of an online store, each event once.

A worker takes in micro-batches. What one changes in the rows and texts of a view, and the view's new position in the
partition, are one step of the store, which is taken only if the view's state is still the one that the worker read: a
kill at any moment loses nothing and counts nothing twice, and any number of workers may share a stream. A worker that
another one overtook reads again and goes on from where the view is. A worker claims a partition for the time of a
micro-batch, which saves work that would be thrown away; nothing depends on it.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import final

import msgspec
import numpy as np
import polars as pl

from bedplate.clock import Clock, system_clock
from bedplate.errors import ConfigError, ConflictError, DataError, DefinitionError, StoreError, UncertainError
from bedplate.features.rows import Rows, prepare_rows
from bedplate.features.view import CompiledView
from bedplate.online import keys
from bedplate.online.base import Changes, OnlineStore
from bedplate.online.codec import Layout
from bedplate.online.completed import CompletedNames
from bedplate.online.files import FileStream, naming
from bedplate.online.measures import Measures
from bedplate.online.origins import check_origin
from bedplate.online.overflow import BeyondWordsError
from bedplate.online.refused import AHEAD, check_each_time, refused_rows, rows_of_keys
from bedplate.online.rows import MOST_TEXTS, Events, group, merged_rows, texts_of
from bedplate.online.state import REWIND, ViewState, decode_to_write
from bedplate.online.streams import MicroBatch, Origin, Position, Stream, StuckError
from bedplate.online.stuck import StuckPartitions
from bedplate.online.sweep import Sweep
from bedplate.online.workers import POLL, Progress, Turn, run_workers
from bedplate.sources.base import AVAILABLE, TIME
from bedplate.sources.events import RowName, row_text
from bedplate.types import LATEST_TIME, format_time

_LONGEST_WAIT = 0.05  # seconds before a step that met with a conflict is tried again
_NOTE_SECONDS = 5.0  # between two notes that a partition has no more
_LAG_SECONDS = 5.0  # between two looks at how much is left
_LAG_SHARE = 20  # looking takes at most so small a part of the time


@final
@dataclass(frozen=True, slots=True)
class Ingested:
    """What one run took in.

    Attributes:
        events: events of the stream.
        passed_over: events of the stream that were not taken in, as the load had those of their time.
        files: files taken in to their end.
        seconds: how long it took.
        watermark: the least of the views' watermarks, microseconds: reads from then on are exact.
        interrupted: whether a signal ended it.
    """

    events: int
    passed_over: int
    files: int
    seconds: float
    watermark: int
    interrupted: bool


@final
@dataclass(slots=True)
class _Reached:
    """What the store says of a view: the bytes of its state, which the next step expects, and what they mean."""

    raw: bytes
    state: ViewState
    completed: CompletedNames


@final
@dataclass(frozen=True, slots=True)
class _Taking:
    """What a micro-batch counts once it is taken in."""

    end: Position
    events: int
    passed_over: int
    newest: int
    ahead: int
    completes: bool


@final
@dataclass(frozen=True, slots=True)
class _Prepared:
    """The events of a micro-batch as rows of a view, packed by key."""

    view: CompiledView
    until: int  # for which time the view was loaded when they were checked
    rows: Rows
    events: Events
    passed_over: int
    withheld: frozenset[str]  # the names of events that it could have held, see `letters`


@final
class Ingest:
    """The stream worker of a source: keeps its views in a store current.

    Args:
        store: the store; the views are completely loaded.
        views: compiled views of one source.
        stream: where events come from; a path is a directory to which files are appended.
        batch: events of a micro-batch, apart from what the stream gives in one piece; None: as many as a step of the
            store is best made of.
        rewind: reads may ask for a time so much before the watermark; microseconds.
        clock: an event ahead of this clock does not push the watermark beyond it.
        ahead: an event that is further ahead of the clock does not move the watermark at all. Of a topic it goes to the
            dead letters; in a file, whose rows history has too, it is taken in and counts once its time has come;
            microseconds.
        late: take in events from before the time that a view was loaded for. The load held every event of history that
            is so old, so these must be events that history did not hold; they count from now on. Without it they are an
            error. A topic has both kinds, and nothing tells which is which.

    Attributes:
        measures: how it stands.

    Raises:
        DefinitionError: the views are not of one source.
        ConfigError: `late` with a stream that also holds what history has, such as a topic.
    """

    def __init__(
        self,
        store: OnlineStore,
        views: Sequence[CompiledView],
        stream: Stream | Path,
        *,
        batch: int | None = None,
        rewind: int = REWIND,
        clock: Clock = system_clock,
        ahead: int = AHEAD,
        late: bool = False,
    ) -> None:
        names = sorted({v.view.source.name for v in views})
        if len(names) != 1:
            raise DefinitionError(f"got views of the sources {names}, expected one source", where="ingest")
        self._store, self._views = store, tuple(views)
        self._stream = FileStream(stream, views[0]) if isinstance(stream, Path) else stream
        if late and self._stream.overlaps_history:
            raise _late_refused(self._stream.name, names[0])
        self._batch = store.step_events if batch is None else batch
        self._rewind, self._clock, self._ahead, self._late = rewind, clock, ahead, late
        self._layouts = {v.id: Layout(v) for v in views}
        self._sweeps = {v.id: Sweep(store, v, rewind) for v in views}
        self._reached: dict[str, _Reached] = {}
        self._texts: set[int] = set()
        self._partitions: Sequence[str] = ()
        self._uncertain: dict[str, _Taking] = {}
        self._stuck = StuckPartitions()
        self._lag_due, self._note_due = 0.0, dict[str, float]()
        self.measures = Measures(names[0])
        self._is_over = self._is_overtaken = False

    @property
    def events(self) -> int:
        """Events taken in so far."""
        return self.measures.events

    @property
    def files(self) -> int:
        """Files taken in to their end so far."""
        return self.measures.files

    @property
    def watermark(self) -> int:
        """The least of the views' watermarks when they were last read, microseconds."""
        return min((r.state.watermark for r in self._reached.values()), default=0)

    def run(
        self, until: int | None = None, *, follow: bool = False, progress: Progress | None = None, poll: float = POLL
    ) -> Ingested:
        """Takes in what is there, and with `follow` what comes; see `workers.run_workers`."""
        measures = self.measures
        before, begin = (measures.events, measures.passed_over, measures.files), monotonic()
        interrupted = run_workers([self], until, follow=follow, progress=progress, poll=poll)
        taken = measures.events - before[0], measures.passed_over - before[1], measures.files - before[2]
        return Ingested(*taken, monotonic() - begin, self.watermark, interrupted)

    def turn(self, until: int | None = None, progress: Progress | None = None) -> Turn:
        """Takes in at most one micro-batch of each partition.

        Args:
            until: leave out a file with an event at this time or later, and what comes after it; microseconds.
            progress: called after each micro-batch.

        Raises:
            UnavailableError: the store can't be reached now; nothing of a micro-batch was taken in.
            UncertainError: whether a micro-batch was taken in is not known. The next turn finds out.
            StoreError: the store can't be written, or a view is not loaded.
            DataError: the stream can't be read or events would be lost. What was taken in before stays, and the
                position is before the micro-batch. What is wrong with one partition is in what is returned.
        """
        taken = busy = False
        self._is_over = self._is_overtaken = False
        self._refresh()
        self._partitions = self._stream.partitions()
        self.measures.stream_trouble, self.measures.strangers = self._stream.trouble, tuple(self._stream.strangers)
        self._stuck.keep(self._partitions)
        for partition in self._partitions:
            if self._stuck.rests(partition):
                continue
            with contextlib.ExitStack() as claimed:
                try:
                    claimed.enter_context(self._store.writing([f"{v.id}/{partition}" for v in self._views]))
                except ConflictError:
                    busy = True
                    continue
                self._refresh()
                try:
                    found = self._step(partition, until)
                    self._stuck.went_on(partition)
                except StuckError as error:
                    self._stuck.add(partition, error)
                    found = None
                self.measures.stuck = self._stuck.reasons
            self.measures.letters, self.measures.stream_errors = self._stream.letters_written, self._stream.errors
            if not found:
                if found is not None:
                    self._note_end(partition)
                continue
            taken = True
            if progress is not None:
                progress(self.measures)
        for view in self._views:
            self.measures.swept += self._sweeps[view.id].turn(self._reached[view.id].state)
        if monotonic() >= self._lag_due:
            self.measure_lag()
        return Turn(taken, busy or self._is_overtaken, self._is_over and not taken, self._stuck.errors)

    def _refresh(self) -> None:
        """Reads the states of the views, and the names of what they have wholly taken in where a state has changed."""
        found = self._store.read_many([keys.state_of(v) for v in self._views])
        for view, raw in zip(self._views, found, strict=True):
            known = self._reached.get(view.id)
            if known is not None and known.raw == raw:
                continue
            state = decode_to_write(raw, view, self._store)
            # Of steps that the store has lost, the texts and the names of what they completed are gone too.
            before = None if known is None or state.went_back(known.state) else known
            if before is None or before.state.texts != state.texts:
                self._texts.clear()
            if before is None or (before.state.generation, before.state.until) != (state.generation, state.until):
                completed = CompletedNames(self._store, view)
            else:
                completed = before.completed
                completed.forget_absent()
            self._reached[view.id] = _Reached(raw, state, completed)
            self.measures.watermarks[view.name] = state.watermark

    def _note_end(self, partition: str) -> None:
        """Says in the states now and then that a partition has no more, so that a quiet stream is known to be quiet."""
        if self._is_over or not self._stream.has(partition) or monotonic() < self._note_due.get(partition, 0.0):
            return
        now, at = self._clock(), self._positions(partition)
        with contextlib.suppress(DataError, OSError):
            if self._stream.lag(partition, min(at.values())) == 0:
                for view in self._views:
                    self._note(view, partition, at[view.id], now)
        self._note_due[partition] = monotonic() + _NOTE_SECONDS

    def _note(self, view: CompiledView, partition: str, at: Position, now: int) -> None:
        while (reached := self._reached[view.id]).state.position(partition) == at:
            seen = dict.fromkeys(self._stream.all_partitions(), reached.state.fresh_until)
            seen |= {name: time for name, time in reached.state.seen.items() if self._stream.has(name)}
            seen[partition] = max(now, seen.get(partition, now))
            noted = msgspec.structs.replace(reached.state, seen=seen)
            try:
                self._store.commit(Changes([noted.put(view)], expects=[(keys.state_of(view), reached.raw)]))
            except ConflictError:
                self._refresh()
                continue
            reached.raw, reached.state = noted.put(view)[1], noted
            return

    def measure_lag(self) -> None:
        """Asks the stream how many events of each partition are left; where it can't say, that is not known."""
        began, lags = monotonic(), dict[str, int | None]()
        with contextlib.suppress(DataError, OSError):
            for partition in self._partitions:
                with contextlib.suppress(StuckError):
                    lags[partition] = self._stream.lag(partition, min(self._positions(partition).values()))
        self.measures.found_lags(lags, self._partitions)
        self._lag_due = monotonic() + max(_LAG_SECONDS, _LAG_SHARE * (monotonic() - began))

    def _positions(self, partition: str) -> dict[str, Position]:
        """Up to where each view, by its id, has taken in a partition."""
        return {v.id: self._reached[v.id].state.position(partition) for v in self._views}

    def _step(self, partition: str, until: int | None) -> bool:
        """Takes in one micro-batch of a partition; False: there was none, or another worker was first."""
        at = self._positions(partition)
        for view in self._views:
            reached, state = self._reached[view.id], self._reached[view.id].state
            check_origin(view, partition, at[view.id], state.origins, self._stream.origin)
            self._stream.check(partition, at[view.id], reached.completed.of(partition), state.until)
        # A view that was loaded later than the others is at a position of its own.
        begin = min(at.values())
        uncertain = self._uncertain.pop(partition, None)
        if uncertain is not None and uncertain.end <= begin:
            self._took(partition, uncertain)
        views = [v for v in self._views if at[v.id] == begin]
        before = min((p for p in at.values() if p > begin), default=None)
        completed = self._reached[views[0].id].completed.of(partition)
        batch = self._stream.read(partition, begin, before, self._batch, completed)
        if batch is None:
            return False
        if until is not None and batch.newest() >= until:
            self._is_over = True
            return False
        batch, prepared = self._prepared(views, batch)
        now = self._clock()
        newest = max(_newest(p.rows, now, self._ahead) for p in prepared)
        ahead = max(int(np.count_nonzero(p.rows.visible > now + self._ahead)) for p in prepared)
        passed_over = self._passed_over(prepared, batch)
        taking = _Taking(batch.end, len(batch.rows) - passed_over, passed_over, newest, ahead, bool(batch.completes))
        counts: list[int] = []
        try:
            for each in prepared:
                if (count := self._commit(each, batch)) is None:
                    self._is_overtaken = True
                    return False
                counts.append(count)
        except UncertainError:
            self._uncertain[partition] = taking
            raise
        self._took(partition, replace(taking, events=max(counts) - passed_over))
        return True

    def _took(self, partition: str, taken: _Taking) -> None:
        left = [p for p in self._positions(partition).values() if p < taken.end]
        self.measures.files += taken.completes and not left
        self.measures.took(partition, taken.end, taken.events, taken.newest, taken.passed_over)
        self.measures.ahead += taken.ahead

    def _passed_over(self, prepared: Sequence[_Prepared], batch: MicroBatch) -> int:
        """How many events of a micro-batch are of a time that the loads of all views had."""
        if not any(p.passed_over for p in prepared):
            return 0
        source, until = self._views[0].view.source, min(p.until for p in prepared)
        known = [name for name in (TIME, AVAILABLE) if name in source.order_columns()]
        old = pl.max_horizontal(known) < until
        return min(int(source.events(batch.rows.lazy()).select(old.sum()).collect().item()), len(batch.rows))

    def _prepared(self, views: Sequence[CompiledView], batch: MicroBatch) -> tuple[MicroBatch, list[_Prepared]]:
        """The micro-batch without what can't be taken in, as rows of all views, before one of them is changed."""
        withheld: Collection[str] = ()
        # Rows of a file are history's too, which counts them once their time has come.
        latest = self._clock() + self._ahead if self._stream.overlaps_history else LATEST_TIME
        try:
            with naming(batch.where):
                prepared = [self._prepare(view, batch) for view in views]
                if batch.refuse is not None:
                    check_each_time(views[0].view.source, batch.rows, latest)
                    withheld = batch.refuse({})
        except DataError:
            if batch.refuse is None:
                raise
            wrong = refused_rows(views, batch.rows, latest)
            withheld, batch = batch.refuse(wrong), batch.without(wrong)
            with naming(batch.where):
                prepared = [self._prepare(view, batch) for view in views]
        return batch, [replace(each, withheld=frozenset(withheld)) for each in prepared]

    def _without(self, prepared: _Prepared, batch: MicroBatch, error: BeyondWordsError) -> tuple[_Prepared, MicroBatch]:
        """What was prepared without the events that sums have no room for; an error where they can't be kept aside."""
        view = prepared.view
        since = prepared.until if self._stream.overlaps_history else 0
        wrong = rows_of_keys(view, batch.rows, error.keys, since)
        if batch.refuse is None:
            raise DataError(
                f"{batch.row(wrong[0])}: {error.message}", where=f"{batch.where}: {error.where}", hint=error.hint
            ) from None
        withheld = batch.refuse(dict.fromkeys(wrong, f"{error.where}: {error.message}"))
        batch = batch.without(wrong)
        return replace(self._prepare(view, batch), withheld=prepared.withheld.union(withheld)), batch

    def _prepare(self, view: CompiledView, batch: MicroBatch) -> _Prepared:
        raw = batch.rows.lazy()
        found = rows = prepare_rows(view, raw, name=batch.row)
        until = self._reached[view.id].state.until
        if self._stream.overlaps_history:
            rows = rows.where(rows.visible >= until)
        elif not self._late:
            _check_not_loaded(view, raw, rows, until, batch.row)
        count = len(found) - len(rows)
        return _Prepared(view, until, rows, group(self._layouts[view.id], rows), count, frozenset())

    def _commit(self, prepared: _Prepared, batch: MicroBatch) -> int | None:
        """Changes a view's rows and position in one step.

        Returns:
            how many events the step has, those left out that sums have no room for; None: the view is no longer where
            the micro-batch begins.
        """
        view, wait = prepared.view, 0.001
        while True:
            reached = self._reached[view.id]
            if (reached.state.position(batch.partition), reached.state.until) != (batch.begin, prepared.until):
                return None
            try:
                state, changes = self._changes(prepared, batch, reached)
            except BeyondWordsError as error:
                prepared, batch = self._without(prepared, batch, error)
                continue
            texts = texts_of(prepared.rows, self._texts)
            changes.puts.extend(texts)
            try:
                self._store.commit(changes)
            except StoreError as error:  # then nothing of the step is known to be stored
                self._texts.difference_update(int.from_bytes(key[1:], "big", signed=True) for key, _ in texts)
                if not isinstance(error, ConflictError):
                    raise
                self.measures.conflicts += 1
                # Another partition's step, or one of a worker that took this partition over.
                time.sleep(random.uniform(0, wait))
                wait = min(2 * wait, _LONGEST_WAIT)
                self._refresh()
                if not all(self._store.read_many([keys.letter_of(view, name) for name in batch.letters])):
                    return None  # somebody else took a letter in
                continue
            reached.raw, reached.state = state.put(view)[1], state
            self.measures.watermarks[view.name] = state.watermark
            reached.completed.of(batch.partition).add(batch.completes)
            if len(self._texts) > MOST_TEXTS:
                self._texts.clear()
            return len(batch.rows)

    def _changes(self, prepared: _Prepared, batch: MicroBatch, reached: _Reached) -> tuple[ViewState, Changes]:
        """The step from a view's state to the one after a micro-batch."""
        view, rows, before, origin = prepared.view, prepared.rows, reached.state, self._stream.origin
        watermark = max(before.watermark, _newest(rows, self._clock(), self._ahead))
        state = msgspec.structs.replace(
            before,
            watermark=watermark,
            newest=max(before.newest, int(rows.times.max(initial=-1))),
            events=before.events + len(rows),
            positions=before.positions | {batch.partition: batch.end},
            seen=self._seen(prepared, batch, before),
            origins=before.origins if origin is None else _with_origin(before, batch.partition, origin),
        )
        changes = Changes(expects=[(keys.state_of(view), reached.raw)])
        layout = self._layouts[view.id]
        changes.puts.extend(merged_rows(self._store, layout, prepared.events, watermark - self._rewind, before))
        changes.puts.append(state.put(view))
        changes.puts.extend((reached.completed.key(batch.partition, name), b"1") for name in batch.completes)
        changes.puts.extend((keys.letter_of(view, name), b"1") for name in sorted(prepared.withheld))
        changes.expects.extend((keys.letter_of(view, name), b"1") for name in batch.letters)
        changes.drops.extend(keys.letter_of(view, name) for name in batch.letters)
        return state, changes

    def _seen(self, prepared: _Prepared, batch: MicroBatch, before: ViewState) -> dict[str, int]:
        """Up to when each partition is taken in after a micro-batch."""
        if not self._stream.has(batch.partition):
            return before.seen
        # A partition that nobody has looked at holds the view back.
        seen = dict.fromkeys(self._stream.all_partitions(), before.fresh_until) | before.seen
        newest = max(_newest(prepared.rows, self._clock(), self._ahead), before.seen.get(batch.partition, before.until))
        return seen | {batch.partition: newest}


def _newest(rows: Rows, now: int, ahead: int) -> int:
    """When the newest of some events could be known, at most now; none is asked that is too far ahead; -1: none."""
    return min(int(rows.visible.max(initial=-1, where=rows.visible <= now + ahead)), now)


def _with_origin(state: ViewState, partition: str, now: Origin) -> dict[str, Origin]:
    return state.origins | {partition: now.with_known(state.origins.get(partition))}


def _late_refused(stream: str, source: str) -> ConfigError:
    return ConfigError(
        f"got late events of '{stream}', which also holds what was loaded from history: they would count twice",
        where=f"source '{source}'",
        hint="declare when a row could be known: Source(..., available=COLUMN), such as the time at which it came "
        "to the topic; then late events are taken in without --late, and those in the load are not",
    )


def _check_not_loaded(view: CompiledView, raw: pl.LazyFrame, rows: Rows, until: int, name: RowName) -> None:
    """Raises `StuckError` where an event is from before the time that the view was loaded for."""
    before = rows.visible < until
    if not before.any():
        return
    source, at = view.view.source, int(before.argmax())
    shown = row_text(source, raw, pl.Series(rows.times), at, name=name, where=view.view.where)
    raise StuckError(
        f"{shown} is of {format_time(int(rows.visible[at]))}, and events before {format_time(until)} were loaded from "
        f"history: it would count twice ({np.count_nonzero(before):,} of {len(rows):,} events)",
        where=f"{view.place}, source '{source.name}', column '{source.available or source.time}'",
        hint="load the view again with an earlier --until (bedplate materialize), or move the file away; --late takes "
        "such events in where history did not hold them",
    )
