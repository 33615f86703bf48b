"""Reading features from an online store: one multi-get, one compiled pass, and the aggregations' own `finalize`.

What is to be read of a view is planned once. Calls that differ only in what they read (fifty `Last`, say) are finalised
together, as if their keys were of one call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import pairwise
from typing import final

import numpy as np

from bedplate.batch import Columns
from bedplate.errors import AheadError
from bedplate.features.reader import Read, Reader
from bedplate.features.view import CompiledView
from bedplate.online import keys as store_keys
from bedplate.online.base import OnlineStore, StoredTexts, Values
from bedplate.online.codec import LAST_FOLDED
from bedplate.online.forms import form_of
from bedplate.online.old_rows import with_old_rows
from bedplate.online.overflow import BeyondWordsError, beyond
from bedplate.online.plan import ReadPlan, UnreadableRowError
from bedplate.online.rows import check_rows
from bedplate.online.state import NotHeldError, ViewState, decode_state
from bedplate.types import Int64s, format_time

_MOST_PLANS = 4096
_UNKNOWN: tuple[bytes | None, ViewState] = None, ViewState("", "", complete=False, until=0, watermark=0)


@final
class OnlineReader(Reader):
    """Reads features as of now from an online store. Any number of threads may use it.

    Args:
        store: the store; its views must be completely loaded.

    Attributes:
        texts: the texts behind string ids of keys and values.
    """

    __slots__ = ("_plans", "_states", "_store", "texts")

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._plans: dict[tuple[str, tuple[str, ...]], ReadPlan] = {}
        self._states: dict[str, tuple[bytes | None, ViewState]] = {}  # of each view the state that was found last
        self.texts = StoredTexts(store)

    def read(self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s) -> Columns:
        """The values of n rows; a key that the store does not know has no events.

        Args:
            view: the compiled view.
            names: full names of features of the view.
            keys: [n, entities] int64.
            times: [n] int64 microseconds. Values are exact from the watermark on and a little before it (see
                `state.REWIND`).

        Raises:
            StoreError: the store can't be read or does not hold the view.
            AheadError: it is ahead of a time asked for.
        """
        return self.read_all([Read(view, names, keys, times)])[0]

    def read_all(self, reads: Sequence[Read]) -> list[Columns]:
        """Several reads with one multi-get, of the store as one step left it; see `read`."""
        return self.columns(reads, self.rows(reads))

    def rows(self, reads: Sequence[Read]) -> Values:
        """The packed rows of several reads, one read's after the other's, and then the state of each read's view.

        Raises:
            NotHeldError: it does not hold some of the views; says which.
            StoreError: the store can't be read.
        """
        found: Values | None = None
        while found is None:
            found = self._rows(reads)
        return found

    def _rows(self, reads: Sequence[Read]) -> Values | None:
        """What `rows` gives; None: a view has been switched meanwhile, so that all is to be read again."""
        wanted: list[bytes] = []
        runs: list[slice] = []
        known = [self._states.get(read.view.id, _UNKNOWN)[1].generation for read in reads]
        for read, generation in zip(reads, known, strict=True):
            first = len(wanted)
            wanted += store_keys.row_keys(read.view, read.keys, generation)
            # The candidates of one request, in a view of request and candidate, differ in the last entity only.
            if len(read.keys) > 1 < read.keys.shape[1] and (read.keys[:, :-1] == read.keys[0, :-1]).all():
                runs.append(slice(first, len(wanted)))
        wanted += [store_keys.state_of(read.view) for read in reads]
        values = self._store.read_many(wanted, runs)
        last = values.last(len(reads))
        states = self._states_of(reads, last)
        if [state.generation for state in states] != known:
            return None
        return values if all(state.adopted is None for state in states) else self._with_old(reads, values, states)

    def _with_old(self, reads: Sequence[Read], values: Values, states: Sequence[ViewState]) -> Values | None:
        """Values with rows of old versions where the view took them over; None: as `_rows`."""
        words, offsets = values.rows(len(values.ends) - 1 - len(reads))
        found, first = list[bytes](), 0
        for read, state in zip(reads, states, strict=True):
            of_read = offsets[first : first + len(read.keys) + 1]
            rows = words[of_read[0] : of_read[-1]], of_read - of_read[0]
            if state.adopted is not None:
                layout = self._plan(read.view, tuple(read.names)).layout
                try:
                    with_old = with_old_rows(self._store, form_of(layout), state.adopted, read.keys, *rows)
                except NotHeldError as error:
                    error.views = frozenset([read.view.id])
                    raise
                if with_old is None:
                    return None
                rows = with_old
            data, ends = rows[0].tobytes(), (rows[1] * 8).tolist()
            found += [data[begin:end] for begin, end in pairwise(ends)]
            first += len(read.keys)
        return Values([*found, *values.last(len(reads))])

    def columns(self, reads: Sequence[Read], values: Values) -> list[Columns]:
        """The features of several reads from the packed rows that `rows` gave; the store is not asked.

        Raises:
            AheadError: a row is ahead of a time asked for.
        """
        words, offsets = values.rows(sum(len(read.keys) for read in reads))
        found, first = list[Columns](), 0
        for read in reads:
            found.append(self.unpacked(read, words, offsets[first : first + len(read.keys) + 1]))
            first += len(read.keys)
        return found

    def _states_of(self, reads: Sequence[Read], values: Sequence[bytes]) -> list[ViewState]:
        states, lacking = list[ViewState](), dict[str, NotHeldError]()
        for read, value in zip(reads, values, strict=True):
            try:
                states.append(self._state(read.view, value))
            except NotHeldError as error:
                lacking.setdefault(read.view.id, error)
        for error in lacking.values():
            error.views = frozenset(lacking)
            raise error
        return states

    def _state(self, view: CompiledView, state: bytes) -> ViewState:
        known = self._states.get(view.id, _UNKNOWN)
        if known[0] != state:
            known = self._states[view.id] = state, decode_state(state, view, self._store)
        return known[1]

    def unpacked(self, read: Read, words: Int64s, offsets: Int64s) -> Columns:
        """The features of a read from its packed rows; the store is not asked.

        Args:
            read: the read of n keys.
            words: holds the rows.
            offsets: [n + 1] into them.

        Raises:
            AheadError: a row is ahead of a time asked for.
        """
        plan, times = self._plan(read.view, tuple(read.names)), np.ascontiguousarray(read.times, np.int64)
        try:
            return plan.read(words, offsets, times, self.texts)
        except OverflowError:

            def part(first: int, last: int) -> None:
                with contextlib.suppress(UnreadableRowError):
                    plan.read(words, offsets[first : last + 1], times[first:last], self.texts)

            raise BeyondWordsError(read.view, read.keys[beyond(part, 0, len(times))]) from None
        except UnreadableRowError as error:
            check_rows(self._store, plan.layout, words, offsets)
            folded = int(words[offsets[error.row] + LAST_FOLDED])
            raise _ahead(read.view, int(times[error.row]), folded) from None

    def _plan(self, view: CompiledView, names: tuple[str, ...]) -> ReadPlan:
        key = (view.id, names)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MOST_PLANS:  # whoever asks for ever other features must not fill the memory
                self._plans.clear()
            plan = self._plans[key] = ReadPlan(view, names)
        return plan


def _ahead(view: CompiledView, asked: int, folded: int) -> AheadError:
    return AheadError(
        f"the store is ahead of the time asked for, {format_time(asked)}: it holds events up to "
        f"{format_time(folded)} that could not be seen then",
        where=view.place,
        hint="ask for the present, or read the past from history",
    )
