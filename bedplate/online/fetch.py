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
from bedplate.online.plan import ReadPlan, UnreadableRowError
from bedplate.online.state import beyond_words, check_rows, decode_state
from bedplate.types import Int64s, format_time

_UNKNOWN: tuple[bytes | None, int] = None, 0


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
        self._states: dict[str, tuple[bytes | None, int]] = {}  # of each view the state found last, and its generation
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
        values: Values | None = None
        while values is None:
            values = self._values(reads)
        words, offsets = values.rows(len(values.ends) - 1 - len(reads))
        found, first = list[Columns](), 0
        for read in reads:
            found.append(self._columns(read, words, offsets[first : first + len(read.keys) + 1]))
            first += len(read.keys)
        return found

    def _values(self, reads: Sequence[Read]) -> Values | None:
        """The rows, and the states after them; None: a view has been switched to a generation that was not known."""
        wanted: list[bytes] = []
        runs: list[slice] = []
        known = [self._states.get(read.view.id, _UNKNOWN)[1] for read in reads]
        for read, generation in zip(reads, known, strict=True):
            first = len(wanted)
            wanted += store_keys.row_keys(read.view, read.keys, generation)
            # The candidates of one request, in a view of request and candidate, differ in the last entity only.
            if len(read.keys) > 1 < read.keys.shape[1] and (read.keys[:, :-1] == read.keys[0, :-1]).all():
                runs.append(slice(first, len(wanted)))
        wanted += [store_keys.state_of(read.view) for read in reads]
        values = self._store.read_many(wanted, runs)
        states = values.last(len(reads))
        is_current = [self._generation(r.view, s) for r, s in zip(reads, states, strict=True)] == known
        return values if is_current else None

    def _generation(self, view: CompiledView, state: bytes) -> int:
        """The generation that is read by a state."""
        known = self._states.get(view.id, _UNKNOWN)
        if known[0] != state:
            known = self._states[view.id] = state, decode_state(state, view, self._store).generation
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
