"""Of which keys nothing is known: every feature about them is missing or zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count, Mean
from bedplate.aggregations.ordered import Last, LastN
from bedplate.batch import Column, Columns, Dense, Ids, Ragged, Stack
from bedplate.errors import DefinitionError
from bedplate.features.entity import Entity
from bedplate.features.graph import FeatureGraph
from bedplate.features.reader import Reader
from bedplate.features.view import CompiledView, FeatureView
from bedplate.serving.hydrate import Hydrator, keys_in
from bedplate.sources.base import Source
from bedplate.types import Int64s

FRAME = pl.DataFrame(schema={"user": pl.Int64, "item": pl.Int64, "time": pl.Int64, "x": pl.Float64, "s": pl.String})
SOURCE = Source("e", FRAME, time="time")
USER, ITEM = Entity("user", key="user"), Entity("item", key="item")
OF_ITEM = {"n": Count(), "mean": Mean("x"), "s": Last("s"), "last": LastN("item", 3)}
GRAPH = FeatureGraph(
    [
        FeatureView("i", ITEM, SOURCE, OF_ITEM),
        FeatureView("u", USER, SOURCE, {"n": Count()}),
        FeatureView("ui", [USER, ITEM], SOURCE, {"n": Count()}),
    ]
)
NAMES = ["i.n", "i.mean", "i.s", "i.last", "u.n", "ui.n"]


class GivenReader(Reader):
    """Gives the columns that a test made, whatever is asked."""

    def __init__(self, columns: Mapping[str, Column], stacked: bool) -> None:
        self._columns, self._stacked = columns, stacked

    def read(self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s) -> Mapping[str, Column]:
        found = {name: self._columns.get(name, Dense(np.ones(len(times), np.int64))) for name in names}
        if not self._stacked or set(names) != {"i.n", "i.mean", "i.s", "i.last"}:
            return found
        parts = [_stack(found[n]) for n in names]
        places = {n: (i, 0 if isinstance(parts[i], Stack) else -1) for i, n in enumerate(names)}
        return Columns(parts, places)


def _stack(column: Column) -> Stack | Column:
    if isinstance(column, Dense | Ids):
        present = None if column.present is None else column.present[None]
        return Stack(column.values[None], present, isinstance(column, Ids))
    return column


ROW = st.tuples(st.integers(0, 1), st.sampled_from([None, 0.0, 2.0]), st.sampled_from([None, 0, 7]), st.integers(0, 2))


@given(st.lists(ROW, min_size=1, max_size=6), st.booleans())
def test_an_item_is_unknown_when_all_about_it_is_missing_or_zero(rows, stacked):
    counts, means, ids, lengths = zip(*rows, strict=True)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    columns: dict[str, Column] = {
        "i.n": Dense(np.array(counts)),
        "i.mean": Dense(np.array([m or 0.0 for m in means]), np.array([m is not None for m in means])),
        "i.s": Ids(np.array([i or 0 for i in ids]), np.array([i is not None for i in ids])),
        "i.last": Ragged(Dense(np.zeros(offsets[-1], np.int64)), offsets),
    }
    hydrator = Hydrator(GRAPH, NAMES, "item", GivenReader(columns, stacked), "service 's'")
    keys = {"user": np.array([1])}
    # An identity is a value even where its number is 0; a list is one where it has an element.
    expected = [not c and not m and i is None and not n for c, m, i, n in rows]
    for _ in range(2):  # what is worked out for the first batch serves the next
        batch = hydrator.candidates(keys, 5, np.arange(len(rows)))
        found = hydrator.unknown_items(batch)
        assert (found is None) == (not any(expected))
        assert found is None or found.tolist() == expected
    assert hydrator.unknown_entities(batch.request) == []


@pytest.mark.parametrize(("orders", "expected"), [(0, ["user"]), (3, [])])
def test_a_request_without_orders_is_of_an_unknown_user(orders, expected):
    reader = GivenReader({"u.n": Dense(np.array([orders]))}, stacked=False)
    hydrator = Hydrator(GRAPH, NAMES, "item", reader, "service 's'")
    request = hydrator.request({"user": np.array([1])}, 5)
    assert hydrator.unknown_entities(request) == expected


def test_nothing_can_be_said_of_items_without_features_of_their_own():
    hydrator = Hydrator(GRAPH, ["ui.n"], "item", GivenReader({}, stacked=False), "service 's'")
    batch = hydrator.candidates({"user": np.array([1])}, 5, np.arange(3))
    assert hydrator.unknown_items(batch) is None
    assert hydrator.unknown_items(hydrator.candidates({"user": np.array([1])}, 5, np.arange(0))) is None


def test_keys_are_those_that_are_present():
    assert keys_in(Ids(np.array([4, 5]), np.array([False, True])), "always").tolist() == [5]
    assert keys_in(Ragged(Dense(np.array([1, 2])), np.array([0, 2])), "always").tolist() == [1, 2]
    with pytest.raises(DefinitionError, match="holds no keys"):
        keys_in(Dense(np.array([0.5])), "service 's', always 'x'")


def test_the_candidates_need_a_view_about_them():
    with pytest.raises(DefinitionError, match="no view is about the item 'itm'"):
        Hydrator(GRAPH, NAMES, "itm", GivenReader({}, stacked=False), "service 's'")
