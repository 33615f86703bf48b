"""Links: keys found in features, at every step as of the same time, in history and online, on both sides of a batch."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.attribute import Attribute
from bedplate.aggregations.ordered import Last, LastN
from bedplate.batch import Batch, expand
from bedplate.errors import DataError, DefinitionError, RequestError
from bedplate.features.assemble import Candidates, Join
from bedplate.features.derived import DerivedFeature
from bedplate.features.entity import Entity
from bedplate.features.graph import FeatureGraph, Selected
from bedplate.features.links import Link
from bedplate.features.lookup import lookup
from bedplate.features.reader import Reader
from bedplate.features.view import FeatureView
from bedplate.health.parity import ParityReport
from bedplate.offline.history import IndexedHistory
from bedplate.offline.reference import Reference, linked
from bedplate.online.fetch import OnlineReader
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.sources.base import Source
from bedplate.testing.columns import plain
from bedplate.testing.simulator import simulate
from bedplate.types import format_duration

USER, ITEM, KIND, SHELF = (Entity(n, key=n) for n in ("user", "item", "kind", "shelf"))
LINKS = [
    Link("item_kind", "items.kind", KIND),
    Link("kind_shelf", "kinds.shelf", SHELF),
    Link("user_shelf", "users.shelf", SHELF),
]


def with_shelf(frame: pl.LazyFrame) -> pl.LazyFrame:
    """A shelf is a small integer, 0 included: what a missing key must not become."""
    return frame.with_columns(shelf=pl.col("quantity") % 3)


def with_kind(frame: pl.LazyFrame) -> pl.LazyFrame:
    return with_shelf(frame).drop_nulls("kind")


def on_shelf(frame: pl.LazyFrame) -> pl.LazyFrame:
    return with_shelf(frame).drop_nulls("shelf")


def graph_of(events: pl.DataFrame, delay: int | None = None, derived=(), links=LINKS) -> FeatureGraph:
    late = None if delay is None else format_duration(delay)
    every = Source("every", events, time="time", prepare=with_shelf, delay=late)
    of_kind = Source("of_kind", events, time="time", prepare=with_kind)
    of_shelf = Source("of_shelf", events, time="time", prepare=on_shelf)
    views = [
        FeatureView("users", USER, every, {"shelf": Last("shelf"), "n": Count(windows="1d")}),
        FeatureView("items", ITEM, every, {"kind": Attribute("kind", valid_to="until", deleted="gone"), "n": Count()}),
        FeatureView("kinds", KIND, of_kind, {"shelf": Attribute("shelf"), "n": Count(), "last": Last("price")}),
        FeatureView("tastes", [USER, KIND], of_kind, {"n": Count(), "recent": LastN(["quantity", "item"], 2)}),
        FeatureView("shelves", SHELF, of_shelf, {"n": Count(windows="1d"), "flag": Last("flag"), "sum": Sum("price")}),
        FeatureView("places", [SHELF, ITEM], of_shelf, {"n": Count()}),
    ]
    return FeatureGraph(views, derived, links=links)


EVENTS = simulate(3, events=150).events
GRAPH = graph_of(EVENTS)


def test_what_links_reach():
    assert sorted(GRAPH.groups) == sorted(
        [
            *("users", "items", "kinds", "tastes", "shelves", "places"),
            *("item_kind", "item_kind.kinds", "item_kind.tastes", "user_shelf", "user_shelf.shelves"),
            *("user_shelf.places", "kind_shelf", "kind_shelf.shelves", "kind_shelf.places"),
            *("item_kind.kind_shelf", "item_kind.kind_shelf.shelves", "item_kind.kind_shelf.places"),
        ]
    )
    chosen = GRAPH.select(["item_kind.*", "user_shelf.shelves.*"])
    assert "item_kind.kind_shelf.places.n" in chosen.names
    assert {n for n in chosen.names if n.startswith("user_shelf")} == {
        *("user_shelf.shelves.n_1d", "user_shelf.shelves.flag", "user_shelf.shelves.sum"),
    }
    assert [e.name for e in GRAPH.select(["item_kind.kind_shelf.shelves.n_1d"]).entities] == ["item"]
    assert [e.name for e in GRAPH.select(["item_kind.tastes.n"]).entities] == ["item", "user"]
    assert {v.name for v in GRAPH.select(["item_kind.kind_shelf.shelves.n_1d"]).every_view} == {
        "items",
        "kinds",
        "shelves",
    }


def expected(graph: FeatureGraph, keys: dict[str, np.ndarray], times: np.ndarray) -> dict[str, list]:
    references = {name: Reference(view) for name, view in graph.views.items()}
    links = {link.name: link for link in LINKS}
    rows = [{e: int(k[i]) for e, k in keys.items()} for i in range(len(times))]
    return {
        name: [linked(name, links, references, row, t) for row, t in zip(rows, times.tolist(), strict=True)]
        for name in graph.chained
        if {e.name for e in graph.chained[name][0].entities} <= keys.keys()
    }


def online_at(graph: FeatureGraph, history: IndexedHistory, time: int) -> OnlineReader:
    store = MemoryStore()
    for view in graph.views.values():
        bulk_load(store, view, history.grouped(view), time)
    return OnlineReader(store)


def assert_equal(got: dict[str, list], wanted: dict[str, list]) -> None:
    assert got.keys() == wanted.keys()
    for name, values in wanted.items():
        for row, (one, other) in enumerate(zip(got[name], values, strict=True)):
            same = one == pytest.approx(other, rel=1e-6, abs=1e-9) if isinstance(other, float) else one == other
            assert same, f"{name}, row {row}: got {one}, expected {other}"


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), events=st.integers(0, 150), delay=st.sampled_from([None, 3_600_000_000]))
def test_equals_the_oracle_in_history_and_online(seed, events, delay):
    simulation = simulate(seed, events=events, questions=30)
    graph = graph_of(simulation.events, delay)
    keys, times = {"user": simulation.users, "item": simulation.items}, simulation.times
    wanted = expected(graph, keys, times)
    selected = graph.select(list(wanted))
    with TemporaryDirectory() as folder:
        history = IndexedHistory(Path(folder))
        for view in graph.views.values():
            history.build(view).run()
        got = lookup(selected, history, keys, times)
        assert_equal({n: plain(c) for n, c in got.items()}, wanted)
        at = int(times.max())
        online = lookup(selected, online_at(graph, history, at), keys, np.full_like(times, at))
    assert_equal({n: plain(c) for n, c in online.items()}, expected(graph, keys, np.full_like(times, at)))


@pytest.fixture(scope="module")
def history(tmp_path_factory) -> IndexedHistory:
    made = IndexedHistory(tmp_path_factory.mktemp("history"))
    for view in GRAPH.views.values():
        made.build(view).run()
    return made


class Counting(Reader):
    """Reads from another reader, and counts how often."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.reads: list[list[tuple[str, int]]] = []

    def read(self, view, names, keys, times):
        return self.reader.read(view, names, keys, times)

    def read_all(self, reads):
        self.reads.append([(read.view.name, len(read.keys)) for read in reads])
        return self.reader.read_all(reads)


def requests() -> Candidates:
    simulation = simulate(3, events=150, questions=24)
    counts = np.array([0, 5, 1, 6, 12])
    offsets = np.cumsum(counts)
    return Candidates(
        {"user": simulation.users[:4]}, "item", simulation.items, offsets, simulation.times[:4], np.arange(4)
    )


def by_rows(rows: Candidates, selected: Selected, reader: Reader) -> dict[str, list]:
    of_item = expand(rows.offsets)
    keys = {"user": rows.request_keys["user"][of_item], "item": rows.candidates}
    return {n: plain(c) for n, c in lookup(selected, reader, keys, rows.times[of_item]).items()}


def by_batch(batch: Batch, names: tuple[str, ...]) -> dict[str, list]:
    of_item = batch.request_of_item()
    return {n: plain(batch.item[n] if n in batch.item else batch.request[n].take(of_item)) for n in names}


@pytest.mark.parametrize("known", [False, True])
def test_requests_and_candidates_get_what_rows_get(known, history):
    derived = [
        DerivedFeature("ratio", pl.col("item_kind.kind_shelf.shelves.n_1d") / (pl.col("user_shelf.shelves.n_1d") + 1)),
        DerivedFeature("doubled", pl.col("user_shelf.shelves.n_1d") * 2),
    ]
    graph, rows = graph_of(EVENTS, derived=derived), requests()
    selected = graph.select(["item_kind.*", "user_shelf.*", "ratio", "doubled", "users.n_1d"])
    join, reader = Join(selected, "item"), Counting(history)
    batch = join.batch(reader, rows, known=join.request(reader, rows) if known else None)
    assert_equal(by_batch(batch, selected.names), by_rows(rows, selected, history))
    of_request = {
        "user_shelf.shelves.n_1d",
        "user_shelf.shelves.flag",
        "user_shelf.shelves.sum",
        "doubled",
        "users.n_1d",
    }
    assert set(batch.request) == of_request
    assert {n for n, level in join.levels.items() if level} == of_request | {"users.shelf"}
    assert len(reader.reads) == (
        2 + 3 if known else 3
    )  # one for each step on a way: direct, behind one link, behind two
    sizes = {view: n for reads in reader.reads for view, n in reads}
    assert sizes["users"] == 4
    assert sizes["kinds"] == sizes["places"] == 24


def test_a_project_without_links_is_read_once(history):
    reader = Counting(history)
    Join(GRAPH.select(["users.n_1d", "items.n"]), "item").batch(reader, requests())
    assert reader.reads == [[("users", 4), ("items", 24)]]


def test_a_missing_key_gives_nulls_and_not_the_features_of_key_zero():
    events = pl.DataFrame(
        {"user": [1, 2], "item": ["a", "a"], "time": [10, 10], "quantity": [0, None], "kind": ["x", None]}
    ).with_columns(
        until=pl.lit(None, pl.Int64), gone=pl.lit(None, pl.Boolean), price=pl.lit(1.0), flag=pl.lit(value=True)
    )
    graph = graph_of(events)
    names = [
        "user_shelf.shelves.n_1d",
        "user_shelf.shelves.flag",
        "item_kind.tastes.n",
        "item_kind.tastes.recent_quantity",
    ]
    references = {name: Reference(view) for name, view in graph.views.items()}

    class Oracle(Reader):
        def read(self, view, names, keys, times):
            return references[view.name].read(view, names, keys, times)

    found = lookup(
        graph.select(names), Oracle(), {"user": np.array([1, 2, 3]), "item": np.zeros(3, int)}, np.full(3, 11)
    )
    assert plain(found["user_shelf.shelves.n_1d"]) == [1, None, None]
    assert plain(found["user_shelf.shelves.flag"]) == [True, None, None]
    assert plain(found["item_kind.tastes.n"]) == [None, None, None]
    assert plain(found["item_kind.tastes.recent_quantity"]) == [[], [], []]


def test_parity_covers_what_links_reach(history):
    simulation = simulate(3, events=150)
    time = int(EVENTS["time"].max()) + 1
    keys, times = {"user": simulation.users, "item": simulation.items}, np.full(len(simulation.users), time)
    selected = GRAPH.select(["item_kind.*", "user_shelf.*"])
    report = ParityReport()
    report.compare_features(selected, keys, times, online_at(GRAPH, history, time), history)
    assert report.total_mismatches == 0
    assert report.rows.keys() == set(selected.names)


def test_the_keys_that_rows_must_have_are_named(history):
    selected = GRAPH.select(["item_kind.tastes.n"])
    with pytest.raises(DataError, match="no keys of 'user'"):
        lookup(selected, history, {"item": np.zeros(1, np.int64)}, np.ones(1, np.int64))
    rows = requests()
    without = Candidates({}, "item", rows.candidates, rows.offsets, rows.times, rows.request_ids)
    with pytest.raises(RequestError, match="'tastes': needs the entity 'user'"):
        Join(selected, "item").batch(history, without)


def ids(graph: FeatureGraph) -> dict[str, str]:
    return {name: graph.features[name].id for name in graph.chained}


def test_the_id_says_where_the_key_is_found():
    base, delayed = ids(GRAPH), ids(graph_of(EVENTS, delay=60_000_000))
    assert len(set(base.values())) == len(base)
    assert {n for n in base if base[n] != delayed[n]} == {
        n for n in base if n.startswith(("item_kind.", "user_shelf."))
    }  # the delay is of users and items, which hold the keys
    assert base["user_shelf.shelves.n_1d"] != base["kind_shelf.shelves.n_1d"]
    renamed = [Link("kind_of_item", "items.kind", KIND), *LINKS[1:]]
    assert ids(graph_of(EVENTS, links=renamed))["kind_of_item.kinds.n"] == base["item_kind.kinds.n"]
    assert GRAPH.features["user_shelf.shelves.n_1d"].text.endswith("of shelf = users.shelf")


@pytest.mark.parametrize(
    ("links", "message", "hint"),
    [
        ([Link("a", "items.kin", KIND)], "link 'a': no view has the feature 'items.kin'", "'items.kind'"),
        ([Link("a", "items.kind", Entity("kinds", key="k"))], "no view is about the entity 'kinds'", "'kind'"),
        ([Link("a", "items.kind", SHELF)], "of type string, and the key of 'shelf' of type int64", "cast"),
        ([Link("a", "tastes.recent_item", ITEM)], "is a list of string", "one key"),
        ([Link("users", "items.kind", KIND)], "link 'users': a view is named 'users' too", "another name"),
        ([Link("a", "items.kind", KIND), Link("a", "users.shelf", SHELF)], "two links have this name", "another name"),
        (
            [Link("a", "items.kind", KIND), Link("b", "kinds.item", ITEM)],
            r"link 'a': the links form a cycle: item -> kind -> item, by a, b",
            "another name",
        ),
    ],
)
def test_mistakes_are_named(links, message, hint):
    views = [v.view for v in GRAPH.views.values() if v.name != "kinds"]
    kinds = Source("of_kind", EVENTS, time="time", prepare=with_kind)
    views.append(FeatureView("kinds", KIND, kinds, {"item": Last("item"), "shelf": Attribute("shelf")}))
    with pytest.raises(DefinitionError, match=message) as error:
        FeatureGraph(views, links=links)
    assert hint in (error.value.hint or "")


def test_arguments_are_checked():
    with pytest.raises(DefinitionError, match=r"got the name 'a\.b', expected a text without dots"):
        Link("a.b", "items.kind", KIND)
    with pytest.raises(DefinitionError, match="got the feature None"):
        Link("a", None, KIND)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DefinitionError, match="got the entity 'kind', expected an Entity"):
        Link("a", "items.kind", "kind")  # pyright: ignore[reportArgumentType]


def test_an_unknown_name_behind_a_link_is_suggested():
    with pytest.raises(DefinitionError, match=r"unknown feature 'item_kind.kinds.m'") as error:
        GRAPH.select(["item_kind.kinds.m"])
    assert "'item_kind.kinds.n'" in (error.value.hint or "")
