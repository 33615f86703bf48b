"""Reading features from an online store: one multi-get, one compiled pass, and the aggregations' own `finalize`.

What is to be read of a view is planned once. Calls that differ only in what they read (fifty `Last`, say) are finalised
together, as if their keys were of one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from bedplate.batch import Columns
from bedplate.errors import AheadError
from bedplate.features.assemble import Read, Reader
from bedplate.features.view import CompiledView
from bedplate.online import keys as store_keys
from bedplate.online.base import OnlineStore, StoredTexts, Values
from bedplate.online.codec import LAST_FOLDED
from bedplate.online.old_rows import with_old_rows
from bedplate.online.plan import ReadPlan, UnreadableRowError
from bedplate.online.state import ViewState, beyond_words, check_rows, decode_state
from bedplate.types import Int64s, format_time

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
        found: list[Columns] | None = None
        while found is None:
            values = self._values(reads)
            found = None if values is None else self._found(reads, *values)
        return found

    def _found(self, reads: Sequence[Read], values: Values, states: Sequence[ViewState]) -> list[Columns] | None:
        """The columns; None: rows of an old version were taken over meanwhile, so that all is read again."""
        words, offsets = values.rows(len(values.ends) - 1 - len(reads))
        found, first = list[Columns](), 0
        for read, state in zip(reads, states, strict=True):
            rows = words, offsets[first : first + len(read.keys) + 1]
            if state.adopted is not None:
                layout = self._plan(read.view, tuple(read.names)).layout
                own = words[rows[1][0] : rows[1][-1]], rows[1] - rows[1][0]
                with_old = with_old_rows(self._store, layout, state.adopted, read.keys, *own)
                if with_old is None:
                    return None
                rows = with_old
            found.append(self._columns(read, *rows))
            first += len(read.keys)
        return found

    def _values(self, reads: Sequence[Read]) -> tuple[Values, list[ViewState]] | None:
        """The rows, and the states; None: a view has been switched to a generation that was not known."""
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
        states = [self._state(read.view, state) for read, state in zip(reads, last, strict=True)]
        return (values, states) if [state.generation for state in states] == known else None

    def _state(self, view: CompiledView, state: bytes) -> ViewState:
        known = self._states.get(view.id, _UNKNOWN)
        if known[0] != state:
            known = self._states[view.id] = state, decode_state(state, view, self._store)
        return known[1]

    def _columns(self, read: Read, words: Int64s, offsets: Int64s) -> Columns:
        plan, times = self._plan(read.view, tuple(read.names)), np.ascontiguousarray(read.times, np.int64)
        try:
            return plan.read(words, offsets, times, self.texts)
        except OverflowError as error:
            raise beyond_words(read.view, error) from None
        except UnreadableRowError as error:
            check_rows(self._store, plan.layout, words, offsets)
            folded = int(words[offsets[error.row] + LAST_FOLDED])
            raise _ahead(read.view, int(times[error.row]), folded) from None

    def _plan(self, view: CompiledView, names: tuple[str, ...]) -> ReadPlan:
        key = (view.id, names)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = ReadPlan(view, names)
        return plan


def _ahead(view: CompiledView, asked: int, folded: int) -> AheadError:
    return AheadError(
        f"the store is ahead of the time asked for, {format_time(asked)}: it holds events up to "
        f"{format_time(folded)} that could not be seen then",
        where=view.place,
        hint="ask for the present, or read the past from history",
    )
