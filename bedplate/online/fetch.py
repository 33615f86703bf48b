"""Reading features from an online store: one multi-get, one compiled pass, and the aggregations' own `finalize`.

What is to be read of a view is planned once. Calls that differ only in what they read (fifty `Last`, say) are finalised
together, as if their keys were of one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np

from bedplate.aggregations.base import Partial
from bedplate.batch import Column, Dense, Embedding, Ids, Ragged
from bedplate.errors import AheadError
from bedplate.features.view import CompiledView
from bedplate.online import keys as store_keys
from bedplate.online.base import OnlineStore, StoredTexts
from bedplate.online.codec import LAST_FOLDED
from bedplate.online.plan import ReadPlan
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
        decode_state(values.data[len(values.data) - values.lengths[-1] :], view, self._store)
        words, offsets = values.rows(len(keys))
        plan = self._plan(view, tuple(names))
        times = np.ascontiguousarray(times, np.int64)
        begins = check_rows(self._store, plan.layout, words, offsets)
        asked = times if len(begins) == len(times) else times[offsets[1:] > offsets[:-1]]
        ahead = words[begins + LAST_FOLDED] >= asked
        if ahead.any():
            first = int(ahead.argmax())
            raise AheadError(
                f"the store is ahead of the time asked for, {format_time(int(asked[first]))}: it holds events up to "
                f"{format_time(int(words[begins[first] + LAST_FOLDED]))} that could not be seen then",
                where=view.place,
                hint="ask for the present, or read the past from history",
            )
        return self._finalized(plan, words, offsets, times)

    def _plan(self, view: CompiledView, names: tuple[str, ...]) -> ReadPlan:
        key = (view.id, names)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = ReadPlan(view, names)
        return plan

    def _finalized(self, plan: ReadPlan, words: Int64s, offsets: Int64s, times: Int64s) -> dict[str, Column]:
        n = len(times)
        partials = plan.read(words, offsets, times, self.texts)
        found: dict[str, Column] = {}
        for index, alike in enumerate(plan.groups):
            of_group: list[Partial] = partials[index]
            repeated = times if len(alike.calls) == 1 else np.tile(times, len(alike.calls))
            columns = alike.calls[0].aggregation.finalize(of_group, repeated)
            for output, column in enumerate(columns):
                for part, call in zip(split(column, len(alike.calls), n), alike.calls, strict=True):
                    found[f"{plan.layout.view.name}.{call.names[output]}"] = part
        return {name: found[name] for name in plan.names}


def split(column: Column, parts: int, n: int) -> list[Column]:
    """A column of `parts` times n rows as columns of n rows, without copying.

    >>> [c.values.tolist() for c in split(Dense(np.arange(4)), 2, 2)]
    [[0, 1], [2, 3]]
    """
    if parts == 1:
        return [column]
    if isinstance(column, Ragged):
        ends = [column.offsets[i * n : (i + 1) * n + 1] for i in range(parts)]
        return [Ragged(_slice(column.values, int(e[0]), int(e[-1])), e - e[0]) for e in ends]
    return [_slice(column, i * n, (i + 1) * n) for i in range(parts)]


def _slice(column: Dense | Ids | Embedding, begin: int, end: int) -> Dense | Ids:
    present = None if column.present is None else column.present[begin:end]
    if isinstance(column, Ids):
        return Ids(column.values[begin:end], present, column.texts)
    return Dense(column.values[begin:end], present)
