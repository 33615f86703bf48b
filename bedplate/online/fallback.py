"""Reads that always answer: where the store is slow or down, the rows seen last, and where there is none, no value.

Views that are resident are read from their versions, and the store is not asked for them unless these are too old.

What an answer lacks is said of each view: `Degraded`. A view whose stream was taken in no further than its `freshness`
before the time asked for has no values either, wherever its rows come from. No value is a presence mask, never a zero.
How far each view was behind is said in any case. A view that the store does not hold is answered as if the store were
down for it, and the others as ever.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from time import monotonic
from typing import final

import msgspec
import numpy as np

from bedplate.batch import Column, Columns, Ids, Ragged
from bedplate.errors import StoreError
from bedplate.features.chains import masked
from bedplate.features.graph import Selected
from bedplate.features.reader import Read, Reader
from bedplate.features.view import CompiledView
from bedplate.online import keys as store_keys
from bedplate.online.base import OnlineStore, StoredTexts, Values
from bedplate.online.fetch import OnlineReader
from bedplate.online.guard import GuardedStore, UnansweredError, reads_until
from bedplate.online.recent import RecentRows
from bedplate.online.resident import ResidentViews, with_gaps_filled
from bedplate.online.state import NotHeldError, decode_state, fresh_until
from bedplate.types import SECOND, Bools, Float64s, Int64s, Type

log = logging.getLogger("bedplate.online")

DEADLINE_SECONDS = 0.05
RECENT_BYTES = 64_000_000
LOOK_SECONDS = 0.02


@final
class Degraded(msgspec.Struct, omit_defaults=True):
    """What is not as it should be of one view in one answer, in rows, the keys of a read; or of one step of a pipeline.

    Attributes:
        cached: rows that are the last ones seen, because the store could not be read.
        default: rows without values, because the store could not be read and they were not seen before.
        missing: rows of a view that the store does not hold, or not any more: they are `cached` or `default`.
        stale: rows without values, because the view is older than its `freshness`.
        age_seconds: how long ago the oldest of the cached rows was read.
        behind_seconds: how long before the time asked for the view's stream was last known to be taken in, where it is
            stale.
        texts: rows without some value, because the store has no text behind it: `bedplate online verify` names them.
        why: of a step: it was `late`, it `failed`, or it was `skipped` because that happened a moment ago.
        instead: of a step: what the answer has instead of what it would have made.
        items: of a step that filters: how many candidates it could not look at, and left out.
    """

    cached: int = 0
    default: int = 0
    missing: int = 0
    stale: int = 0
    texts: int = 0
    age_seconds: float = 0.0
    behind_seconds: float = 0.0
    why: str = ""
    instead: str = ""
    items: int = 0

    def counts(self) -> dict[str, int]:
        """The rows by how they are degraded; those of which there is none are left out.

        >>> Degraded(cached=3, age_seconds=1.5).counts()
        {'cached': 3}
        """
        ways = ("cached", "default", "missing", "stale", "texts")
        return {how: rows for how in ways if (rows := getattr(self, how))}


@final
class Said:
    """What an answer says of the views that it read.

    Attributes:
        degraded: what is not as it should be, by the view's name.
        behind: for each view that was read, by its name, how many seconds before the time asked for its stream was
            last known to be taken in; 0: it was known later. A live worker keeps it at seconds, also while the stream
            is quiet; beyond that there may be events that the values lack.
    """

    __slots__ = ("behind", "degraded")

    def __init__(self) -> None:
        self.degraded: dict[str, Degraded] = {}
        self.behind: dict[str, float] = {}

    def flag(self, view: CompiledView) -> Degraded:
        """What is not as it should be of a view, to add to."""
        return self.degraded.setdefault(view.name, Degraded())

    def note(self, read: Read, watermark: int) -> None:
        """Says how far the view of a read is behind whose stream was taken in up to a time, microseconds."""
        if len(read.times):
            behind = max(0, int(read.times.max()) - watermark) / SECOND
            self.behind[read.view.name] = max(behind, self.behind.get(read.view.name, 0.0))


@final
class FallbackReader(Reader):
    """An `OnlineReader` that never waits long for its store. Any number of threads may use it.

    Args:
        store: the store; its views must be completely loaded.
        seconds: how long the store may take for a read; after one that failed, the rest of an answer does without.
        recent_bytes: about how much memory the rows seen last may take.
        guard: the store with another guard than the one of `seconds`.
        resident: the views that are resident.

    Attributes:
        guard: the store as it is read.
        resident: as given.
    """

    __slots__ = ("_lacking", "_reader", "_recent", "_watermarks", "guard", "resident")

    def __init__(
        self,
        store: OnlineStore,
        seconds: float = DEADLINE_SECONDS,
        recent_bytes: int = RECENT_BYTES,
        guard: GuardedStore | None = None,
        resident: ResidentViews | None = None,
    ) -> None:
        self.guard, self.resident = guard or GuardedStore(store, seconds), resident
        self._reader = OnlineReader(self.guard)
        self._recent = RecentRows(recent_bytes)
        self._watermarks: dict[str, tuple[bytes, int]] = {}
        self._lacking: set[str] = set()

    def with_resident(self, resident: ResidentViews | None) -> FallbackReader:
        """Another reader of the same store, with what this one knows of it: the rows seen last, and how reads failed.

        Args:
            resident: the views that are resident, in place of those of this reader.
        """
        other = FallbackReader(self.guard, guard=self.guard, resident=resident)
        other._reader, other._recent = self._reader, self._recent
        other._watermarks, other._lacking = self._watermarks, self._lacking
        return other

    def missing(self, views: Collection[CompiledView]) -> list[str] | None:
        """The names of those of some views that the store does not hold now, or only in part; None: it can't be read.

        A store that is left alone because it failed is left alone, and one that is slow is not waited for: probes ask.
        """
        if not self.guard.is_up:
            return None
        found: list[str] = []
        try:
            values = self.guard.read_many([store_keys.state_of(view) for view in views], (), monotonic() + LOOK_SECONDS)
        except UnansweredError:
            return None
        for view, value in zip(views, values, strict=True):
            try:
                decode_state(value, view, self.guard)
            except StoreError:
                found.append(view.name)
        return found

    def begin(self, texts_of: Collection[str] = (), deadline: float = math.inf) -> Reading:
        """The reads of one answer.

        Args:
            texts_of: full names of features whose texts the answer needs: they are read with the rows.
            deadline: of the monotonic clock, when the store is to have been read; where that is sooner than its own.
        """
        return Reading(self, texts_of, deadline)

    def read(self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s) -> Columns:
        """As `OnlineReader.read`; what the answer lacks is not said. Raises as `read_all`."""
        return self.read_all([Read(view, names, keys, times)])[0]

    def read_all(self, reads: Sequence[Read]) -> list[Columns]:
        """As `OnlineReader.read_all`; what the answer lacks is not said.

        Raises:
            NotHeldError: the store does not hold a view: nobody would know of it.
        """
        reading = self.begin()
        found = reading.read_all(reads)
        for error in reading.lacking.values():
            raise error
        return found

    def fresh(self, reads: Sequence[Read], texts_of: Collection[str], said: Said) -> list[Columns]:
        """What the store says.

        Raises:
            UnansweredError: the store can't be read in time.
            NotHeldError: it does not hold some of the views; says which.
            AheadError: it is ahead of a time asked for.
        """
        values = self._reader.rows(reads)
        if self._lacking:
            self._lacking.difference_update(read.view.id for read in reads)
        watermarks = self._watermarks_of(reads, values)
        self._recent.remember(reads, values, watermarks, monotonic())
        found = self._reader.columns(reads, values)
        if texts_of:
            for i, read in enumerate(reads):
                names = [n for n in read.names if n in texts_of]
                found[i] = _with_texts(found[i], names, said, read.view)
        for i, (read, watermark) in enumerate(zip(reads, watermarks, strict=True)):
            said.note(read, watermark)
            if read.view.view.freshness is not None:
                found[i] = _without_stale(read, found[i], np.full(len(read.times), watermark), said)
        return found

    def lack(self, read: Read, error: NotHeldError, said: Said) -> None:
        """Says of a read that the store does not hold its view; it is logged once, until the store holds it."""
        if len(read.keys):
            said.flag(read.view).missing += len(read.keys)
        if read.view.id not in self._lacking:
            self._lacking.add(read.view.id)
            log.error("answers are made without view '%s': %s", read.view.name, error)

    def recalled(self, reads: Sequence[Read], texts_of: Collection[str], said: Said) -> list[Columns]:
        """What was seen last; the store is not asked.

        Raises:
            AheadError: a row is ahead of a time asked for.
        """
        recalled = [self._recent.recall(read) for read in reads]
        found = self._reader.columns(reads, Values([row for rows, _, _ in recalled for row in rows]))
        now = monotonic()
        for i, (read, (_, seen, watermarks)) in enumerate(zip(reads, recalled, strict=True)):
            there = ~np.isnan(seen)
            _flag_recalled(read, seen[there], now, said)
            if there.any():
                said.note(read, int(watermarks[there].min()))
            if not there.all():
                found[i] = _masked(found[i], there)
            if texts_of:
                found[i] = _without_unknown_texts(found[i], [n for n in read.names if n in texts_of])
            if read.view.view.freshness is not None:
                found[i] = _without_stale(read, found[i], np.where(there, watermarks, read.times), said)
        return found

    def mapped(self, read: Read, said: Said, *, any_age: bool = False) -> Columns | None:
        """What the resident version of a view says; None: there is none, or it is too old.

        Raises:
            AheadError: a row is ahead of a time asked for.
        """
        columns = None if self.resident is None else self.resident.read(read, self._reader, any_age=any_age)
        if columns is None or self.resident is None or not len(read.keys):
            return columns
        view, watermark = read.view, self.resident.watermark(read.view)
        said.note(read, watermark)
        if not any_age:
            return columns
        flag = said.flag(view)
        flag.cached += len(read.keys)
        flag.age_seconds = max(flag.age_seconds, self.resident.ages()[view.name])
        if view.view.freshness is None:
            return columns
        return _without_stale(read, columns, np.full(len(read.times), watermark), said)

    def _watermarks_of(self, reads: Sequence[Read], values: Values) -> list[int]:
        """Up to when the stream of each read's view was taken in."""
        found: list[int] = []
        for read, state in zip(reads, values.last(len(reads)), strict=True):
            known = self._watermarks.get(read.view.id)
            if known is None or known[0] != state:
                told = msgspec.json.decode(state, type=_State)
                known = self._watermarks[read.view.id] = state, fresh_until(told.watermark, told.seen)
            found.append(known[1])
        return found


@final
class Reading(Reader):
    """The reads of one answer: once the store has failed, it is not asked again for this answer. For one thread.

    Args:
        reader: what reads.
        texts_of: see `FallbackReader.begin`.
        deadline: see `FallbackReader.begin`.

    Attributes:
        degraded: what is not as it should be, by the view's name.
        behind: how far each view was behind, by its name, as of `Said`.
        failure: why the store could not be read; None: it was.
        lacking: why a view could not be read that the store does not hold, by the view's id.
    """

    __slots__ = ("_deadline", "_reader", "_said", "_texts_of", "behind", "degraded", "failure", "lacking")

    def __init__(self, reader: FallbackReader, texts_of: Collection[str], deadline: float = math.inf) -> None:
        self._reader, self._texts_of, self._deadline = reader, texts_of, deadline
        self._said = Said()
        self.degraded, self.behind = self._said.degraded, self._said.behind
        self.failure: UnansweredError | None = None
        self.lacking: dict[str, NotHeldError] = {}

    def read(self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s) -> Columns:
        """As `OnlineReader.read`, whatever the store does."""
        return self.read_all([Read(view, names, keys, times)])[0]

    def read_all(self, reads: Sequence[Read]) -> list[Columns]:
        """As `OnlineReader.read_all`, whatever the store does."""
        with reads_until(self._deadline):
            return self._read_all(reads)

    def _read_all(self, reads: Sequence[Read]) -> list[Columns]:
        return with_gaps_filled([self._mapped(read) for read in reads], reads, self._stored)

    def _stored(self, reads: Sequence[Read]) -> list[Columns]:
        while self.failure is None:
            held = [read for read in reads if read.view.id not in self.lacking]
            try:
                found = iter(self._reader.fresh(held, self._texts_of, self._said) if held else [])
            except UnansweredError as error:
                self.failure = error
            except NotHeldError as error:
                self.lacking |= dict.fromkeys(error.views, error)  # at least one: the next round reads fewer
            else:
                columns = [None if read.view.id in self.lacking else next(found) for read in reads]
                return with_gaps_filled(columns, reads, self._without)
        return self._seen(reads)

    def _without(self, reads: Sequence[Read]) -> list[Columns]:
        for read in reads:
            self._reader.lack(read, self.lacking[read.view.id], self._said)
        return self._seen(reads)

    def _seen(self, reads: Sequence[Read]) -> list[Columns]:
        return with_gaps_filled([self._mapped(read, any_age=True) for read in reads], reads, self._recalled)

    def _recalled(self, reads: Sequence[Read]) -> list[Columns]:
        return self._reader.recalled(reads, self._texts_of, self._said)

    def _mapped(self, read: Read, *, any_age: bool = False) -> Columns | None:
        columns = self._reader.mapped(read, self._said, any_age=any_age)
        names = [n for n in read.names if n in self._texts_of] if self._texts_of else []
        if columns is None or not names:
            return columns
        if self.failure is None:
            try:
                return _with_texts(columns, names, self._said, read.view)
            except UnansweredError as error:
                self.failure = error
        return _without_unknown_texts(columns, names)


def texts_read(selected: Selected, shown: Collection[str] = ()) -> frozenset[str]:
    """Features, as their views call them, whose texts are needed for derived features, or to show them.

    Args:
        selected: the features.
        shown: full names of features whose values are shown.
    """
    wanted = {*shown, *(name for derived in selected.derived for name in derived.inputs)}
    reads = [("", view, names) for view, names in selected.views]
    reads += [(chain.prefix, chain.view, names) for chain, names in selected.chains]
    return frozenset(
        name
        for prefix, view, names in reads
        for name in names
        if prefix + name in wanted and view.features[name].type is Type.STRING
    )


class _State(msgspec.Struct):
    """What is needed of a view's state."""

    watermark: int
    seen: dict[str, int] = {}


def _flag_recalled(read: Read, seen: Float64s, now: float, said: Said) -> None:
    """Says that some rows of a read are those seen at these times, and the others without values."""
    if not len(read.keys):
        return
    flag = said.flag(read.view)
    flag.cached += len(seen)
    flag.default += len(read.keys) - len(seen)
    if len(seen):
        flag.age_seconds = max(flag.age_seconds, now - float(seen.min()))


def _without_stale(read: Read, columns: Columns, watermarks: Int64s, said: Said) -> Columns:
    """The columns, without values in rows whose watermark [n] is too far behind the time asked for."""
    behind = read.times - watermarks
    stale: Bools = behind > (read.view.view.freshness or 0)
    if not stale.any():
        return columns
    flag = said.flag(read.view)
    flag.stale += int(stale.sum())
    flag.behind_seconds = max(flag.behind_seconds, int(behind.max()) / SECOND)
    return _masked(columns, ~stale)


def _with_texts(columns: Columns, names: Sequence[str], said: Said, view: CompiledView) -> Columns:
    """The columns with their texts read; without the values that have none in the store, which is said of the view."""
    lacking: list[str] = []
    for name in names:
        ids = _stored_ids(columns[name])
        if ids is not None and isinstance(ids.texts, StoredTexts):
            wanted = ids.values if ids.present is None else ids.values[ids.present]
            if not ids.texts.loads_all(wanted.tolist()):
                lacking.append(name)
    lost = list[Bools]()
    found = _without_unknown_texts(columns, lacking, lost)
    if lost:
        said.flag(view).texts += int(np.count_nonzero(np.any(lost, axis=0)))
    return found


def _without_unknown_texts(columns: Columns, names: Sequence[str], lost: list[Bools] | None = None) -> Columns:
    """The columns, without values whose texts are not known here; which rows [n] lost one goes to `lost`."""
    parts, places = list(columns.parts), dict(columns.places)
    for name in names:
        column = columns[name]
        ids = _stored_ids(column)
        if ids is None or not isinstance(ids.texts, StoredTexts):
            continue
        there = ids.texts.known(ids.values) if ids.present is None else ids.texts.known(ids.values) | ~ids.present
        if there.all():
            continue
        if isinstance(column, Ragged):
            rows = np.ones(len(column), np.bool_)
            rows[np.repeat(np.arange(len(column)), np.diff(column.offsets))[~there]] = False
            there = rows
        places[name] = len(parts), -1
        parts.append(masked(column, there))
        if lost is not None:
            lost.append(~there)
    return Columns(parts, places)


def _stored_ids(column: Column) -> Ids | None:
    """The identities in a column, of one row each or in lists."""
    ids = column.values if isinstance(column, Ragged) else column
    return ids if isinstance(ids, Ids) else None


def _masked(columns: Columns, there: Bools) -> Columns:
    return Columns([masked(part, there) for part in columns.parts], columns.places)
