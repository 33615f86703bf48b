"""Reading features from an online store: one multi-get, one compiled pass, and the aggregations' own `finalize`.

What is to be read of a view is planned once. Calls that differ only in what they read (fifty `Last`, say) are finalised
together, as if their keys were of one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np

from bedplate.batch import Column
from bedplate.errors import AheadError
from bedplate.features.view import CompiledView
from bedplate.online import keys as store_keys
from bedplate.online.base import OnlineStore, StoredTexts
from bedplate.online.codec import LAST_FOLDED
from bedplate.online.plan import ReadPlan, UnreadableRowError
from bedplate.online.state import check_rows, decode_state
from bedplate.types import Int64s, format_time


@final
class OnlineReader:
    """Reads features as of now from an online store. Satisfies `Reader`; any number of threads may use it.

    Args:
        store: the store; its views must be completely loaded.

    Attributes:
        texts: the texts behind string ids of keys and values.
    """

    __slots__ = ("_plans", "_store", "texts")

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._plans: dict[tuple[str, tuple[str, ...]], ReadPlan] = {}
        self.texts = StoredTexts(store)

    def read(self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s) -> Mapping[str, Column]:
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
        wanted = store_keys.row_keys(view, keys)
        wanted.append(store_keys.state_of(view))
        values = self._store.read_many(wanted)
        decode_state(values.last(), view, self._store)
        words, offsets = values.rows(len(keys))
        plan = self._plan(view, tuple(names))
        times = np.ascontiguousarray(times, np.int64)
        try:
            return plan.read(words, offsets, times, self.texts)
        except UnreadableRowError as error:
            check_rows(self._store, plan.layout, words, offsets)
            raise _ahead(view, int(times[error.row]), int(words[offsets[error.row] + LAST_FOLDED])) from None

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
