"""One call reads many views and keys of several entities into one table, with one look at the store a step of links."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from redis_server import running

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.ordered import Last, LastN
from bedplate.canonical import string_ids
from bedplate.features.derived import DerivedFeature
from bedplate.features.entity import Entity
from bedplate.features.graph import FeatureGraph
from bedplate.features.links import Link
from bedplate.features.lookup import lookup
from bedplate.features.view import FeatureView
from bedplate.online import fetch
from bedplate.online.base import OnlineStore, Values, open_store
from bedplate.online.fallback import FallbackReader
from bedplate.online.fetch import OnlineReader
from bedplate.online.load import bulk_load
from bedplate.online.plan import ReadPlan
from bedplate.sources.base import Source
from bedplate.testing.columns import plain
from bedplate.testing.online_store import grouped
from bedplate.types import DAY, HOUR

NOW = 20_000 * DAY
USER, ITEM = Entity("user", key="user"), Entity("item", key="item")
FRAME = pl.DataFrame(
    {
        "user": [1, 1, 2, 3],
        "item": ["a", "b", "a", "c"],
        "time": [NOW - 3 * HOUR, NOW - 2 * HOUR, NOW - 2 * HOUR, NOW - HOUR],
        "price": [1.0, 2.0, 0.0, None],
    }
)
EVENTS = Source("events", FRAME, time="time")
GRAPH = FeatureGraph(
    [
        FeatureView("users", USER, EVENTS, {"item": Last("item"), "n": Count(windows="1d")}),
        FeatureView("items", ITEM, EVENTS, {"price": Mean("price"), "sum": Sum("price")}, freshness="2h"),
        FeatureView("pairs", [USER, ITEM], EVENTS, {"prices": LastN("price", 2), "last": Last("price")}),
    ],
    [DerivedFeature("double", pl.col("favourite.items.price") * 2)],
    links=[Link("favourite", "users.item", ITEM)],
)
NAMES = ["users.item", "users.n_1d", "items.price", "items.sum", "pairs.prices", "pairs.last", "favourite.items.price"]
SELECTED = GRAPH.select([*NAMES, "double"])
USERS = np.array([1, 2, 3, 9, 1], np.int64)
ITEMS = np.array(string_ids(["a", "a", "c", "z", "z"]), np.int64)


@pytest.fixture(params=["memory", "lmdb", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[OnlineStore]:
    if request.param == "redis":
        with running("--appendonly", "no") as server, open_store(server.url) as store:
            yield loaded(store)
        return
    with open_store("memory:" if request.param == "memory" else f"lmdb:{tmp_path}") as store:
        yield loaded(store)


def loaded(store: OnlineStore) -> OnlineStore:
    for view in GRAPH.views.values():
        bulk_load(store, view, [grouped(view, FRAME)], NOW)
    return store


def read(reader: OnlineReader | FallbackReader, time: int = NOW) -> dict[str, list[object]]:
    found = lookup(SELECTED, reader, {"user": USERS, "item": ITEMS}, np.full(len(USERS), time))
    return {name: plain(column) for name, column in found.items()}


EXPECTED = {
    "users.item": ["b", "a", "c", None, "b"],
    "users.n_1d": [2, 1, 1, 0, 2],
    "items.price": [0.5, 0.5, None, None, None],
    "items.sum": [1.0, 1.0, 0.0, 0.0, 0.0],
    "pairs.prices": [[1.0], [0.0], [], [], []],
    "pairs.last": [1.0, 0.0, None, None, None],
    "favourite.items.price": [2.0, 0.5, None, None, 2.0],
    "double": [4.0, 1.0, None, None, 4.0],
}


def test_views_of_several_entities_are_read_at_once_and_what_is_missing_is_absent(
    store: OnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, kind = OnlineReader(store), type(store)
    assert read(reader) == EXPECTED
    asked, read_many = list[int](), kind.read_many

    def counted(
        self: OnlineStore, wanted: Sequence[bytes], runs: Sequence[slice] = (), deadline: float | None = None
    ) -> Values:
        asked.append(len(wanted))
        return read_many(self, wanted, runs, deadline)

    monkeypatch.setattr(kind, "read_many", counted)
    assert read(reader) == EXPECTED
    assert len(asked) == 2  # the three views, and then the items that the users' rows named


def test_what_is_to_be_read_is_planned_once(store: OnlineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = list[tuple[str, ...]]()

    def counting(view: object, names: tuple[str, ...]) -> ReadPlan:
        planned.append(names)
        return ReadPlan(view, names)

    monkeypatch.setattr(fetch, "ReadPlan", counting)
    reader = OnlineReader(store)
    for time in (NOW, NOW + HOUR, NOW + DAY):
        read(reader, time)
    assert sorted(planned) == sorted(set(planned))
    assert {name for names in planned for name in names} >= {"users.item", "items.price", "pairs.last"}


def test_stale_values_are_absent_and_counted_and_so_is_what_they_lead_to(store: OnlineStore) -> None:
    reader = FallbackReader(store)
    late = read(reader, NOW + 2 * HOUR + 1)
    absent = ["items.price", "items.sum", "favourite.items.price", "double"]
    assert {name: late[name] for name in absent} == {name: [None] * 5 for name in absent}
    assert {n: v for n, v in late.items() if n not in absent} == {n: v for n, v in EXPECTED.items() if n not in absent}
    assert read(reader, NOW + 2 * HOUR) == EXPECTED
