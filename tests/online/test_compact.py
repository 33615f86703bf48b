"""Compaction takes out what no read can see, and nothing else; rows that all windows have left are forgotten."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.base import Aggregation
from bedplate.aggregations.ordered import Last
from bedplate.batch import Column
from bedplate.errors import AheadError, ConflictError, NotFoundError, StoreError
from bedplate.features.entity import Entity
from bedplate.features.view import CompiledView, FeatureView
from bedplate.online import keys
from bedplate.online.base import Changes, OnlineStore, StoredTexts
from bedplate.online.codec import Layout
from bedplate.online.compact import compact, drop
from bedplate.online.expiry import NEVER, ends_of
from bedplate.online.fetch import OnlineReader
from bedplate.online.listing import listing
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.state import read_state
from bedplate.online.texts import drop_texts
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches
from bedplate.testing.online_store import fill, grouped
from bedplate.testing.simulator import ITEM, USER, Simulation, delays, simulated_view, simulations, ttls
from bedplate.types import DAY, HOUR, MINUTE

NOW = 20_000 * DAY


def read(store: OnlineStore, view: CompiledView, simulation: Simulation, time: int) -> Mapping[str, Column]:
    """All features of all keys, as of a time and some days after it."""
    asked = simulation.keys(list(view.view.entities))
    times = time + np.arange(len(asked)) % 7 * (HOUR * 9)
    return OnlineReader(store).read(view, list(view.features), asked, times)


def move(store: OnlineStore, view: CompiledView, watermark: int) -> None:
    """Says that the stream has come so far."""
    state = msgspec.structs.replace(read_state(store, view), watermark=watermark)
    store.commit(Changes([state.put(view)]))


@settings(max_examples=12)
@given(
    simulation=simulations(),
    after=st.sampled_from([0, 10 * MINUTE, 3 * HOUR, 2 * DAY, 60 * DAY]),
    rewind=st.sampled_from([0, MINUTE, HOUR]),
    delay=delays(),
    ttl=ttls(),
    entities=st.sampled_from([(USER,), (ITEM, USER)]),
)
def test_nothing_that_is_read_changes(simulation, after, rewind, delay, ttl, entities):
    view = simulated_view(simulation, entities, delay=delay, ttl=ttl)
    store, watermark = fill(view, simulation.events, [40, 80], rewind)
    watermark += after + (delay or 0)
    move(store, view, watermark)
    before = [read(store, view, simulation, t) for t in (watermark - rewind, watermark, watermark + DAY)]
    (would,) = compact(store, [view], rewind=rewind, dry_run=True)
    (done,) = compact(store, [view], rewind=rewind)
    assert done == would
    after_all = [read(store, view, simulation, t) for t in (watermark - rewind, watermark, watermark + DAY)]
    assert [mismatches(a, b) for a, b in zip(after_all, before, strict=True)] == [[], [], []]
    (again,) = compact(store, [view], rewind=rewind)
    assert (again.shrunk, again.deleted, again.bytes) == (0, 0, 0)
    drop_texts(store)
    assert mismatches(read(store, view, simulation, watermark), before[1]) == []


def visits(features: dict[str, Aggregation], ttl: str | None = None) -> CompiledView:
    """A view of visits."""
    frame = pl.DataFrame({"user": ["a", "b"], "time": [NOW - 9 * DAY, NOW - HOUR], "page": ["x", "y"], "n": [1, 2]})
    source = Source("visits", frame, time="time")
    return FeatureView("visits", Entity("user", key="user"), source, features, ttl=ttl).compile()


def loaded(view: CompiledView) -> MemoryStore:
    """A store with the view's events before NOW."""
    store = MemoryStore()
    bulk_load(store, view, [grouped(view, view.view.source.table(None).scan().collect())], NOW)
    return store


WINDOWED: dict[str, Aggregation] = {"n": Count(windows="1d"), "page": Last("page", windows="2d")}


def test_rows_of_which_nothing_counts_are_gone_with_their_texts():
    view = visits(WINDOWED)
    store = loaded(view)
    assert sorted(StoredTexts(store).values()) == ["a", "b", "x", "y"]
    (would,) = compact(store, [view], dry_run=True)
    assert (would.rows, would.deleted, len(store.scan(keys.ROWS))) == (2, 1, 2)
    assert drop_texts(store, dry_run=True) == 0
    (done,) = compact(store, [view])
    assert (done, len(store.scan(keys.ROWS))) == (would, 1)
    assert drop_texts(store, dry_run=True) == 2
    assert drop_texts(store) == 2
    assert sorted(StoredTexts(store).values()) == ["b", "y"]


@pytest.mark.parametrize("features", [{"n": Count()}, {"page": Last("page")}, WINDOWED | {"sum": Sum("n")}])
def test_what_counts_for_ever_is_kept(features):
    view = visits(features)
    store = loaded(view)
    move(store, view, NOW + 400 * DAY)
    (done,) = compact(store, [view])
    assert (done.rows, done.deleted) == (2, 0)


def test_a_last_value_is_gone_after_its_ttl():
    view = visits({"page": Last("page")}, ttl="5d")
    (done,) = compact(loaded(view), [view])
    assert (done.rows, done.deleted) == (2, 1)


def test_a_read_before_what_was_taken_out_is_refused():
    view = visits({"n": Count(windows=["1d", "30d"]), "all": Count()})
    store = loaded(view)
    move(store, view, NOW + 35 * DAY)
    (done,) = compact(store, [view])
    assert (done.shrunk, done.deleted) == (2, 0)
    reader = OnlineReader(store)
    key = np.array([[i for i, t in StoredTexts(store).items() if t == "b"]])
    with pytest.raises(AheadError):
        reader.read(view, ["visits.n_30d"], key, np.array([NOW]))
    found = reader.read(view, ["visits.n_30d", "visits.all"], key, np.array([NOW + 35 * DAY]))
    assert [column.values.tolist() for column in found.values()] == [[0], [1]]


def test_a_step_of_the_view_comes_between(monkeypatch):
    view = visits(WINDOWED)
    store = loaded(view)
    before = store.read_many([keys.state_of(view)]).data
    commit, refused = MemoryStore.commit, list[Changes]()

    def late(self: MemoryStore, changes: Changes) -> None:
        if changes.drops and not refused:
            refused.append(changes)
            raise ConflictError("another writer was first")
        commit(self, changes)

    monkeypatch.setattr(MemoryStore, "commit", late)
    (done,) = compact(store, [view])
    assert (done.deleted, len(refused)) == (1, 1)
    assert refused[0].expects == [(keys.state_of(view), before)]


def test_old_versions_go_once_the_new_one_is_there():
    old, new = visits(WINDOWED), visits({"n": Count(windows="1d")})
    store = loaded(old)
    assert [(d.id, d.dropped) for d in compact(store, [new])] == []
    bulk_load(store, new, [grouped(new, new.view.source.table(None).scan().collect())], NOW)
    assert [(v.state.id, v.is_current) for v in listing(store, {new.id}).views] == sorted(
        [(old.id, False), (new.id, True)]
    )
    done = compact(store, [new], dry_run=True)
    assert {d.id: d.dropped for d in done} == {old.id: True, new.id: False}
    assert len(listing(store, {new.id}).views) == 2
    compact(store, [new])
    assert store.scan(keys.rows_of(old)) == []
    (left,) = listing(store, {new.id}).views
    assert (left.state.id, left.rows, left.left_rows) == (new.id, 1, 0)


def test_views_of_other_names_go_when_asked_and_not_under_a_writer():
    view = visits(WINDOWED)
    store = loaded(view)
    assert compact(store, []) == []
    with store.writing([view.id]):
        with pytest.raises(StoreError, match="another writer"):
            compact(store, [], removed=True)
        assert drop_texts(store) == 0
    (done,) = compact(store, [], removed=True)
    assert (done.dropped, done.rows) == (True, 2)
    assert drop_texts(store) == 4
    assert store.scan(b"") == []


def test_drop_deletes_every_version_of_a_view():
    store = loaded(visits(WINDOWED))
    with pytest.raises(NotFoundError, match="holds no view 'visit'"):
        drop(store, "visit")
    assert [d.rows for d in drop(store, "visits")] == [2]
    assert store.scan(keys.ROWS) == store.scan(keys.STATES) == []


@pytest.mark.parametrize("known", [False, True])
def test_a_pending_event_keeps_its_row_until_it_has_left_every_window(known):
    times = [NOW - 9 * DAY, NOW - 1]
    frame = pl.DataFrame({"user": [1, 1], "time": times, "seen": [t + HOUR for t in times], "n": [1, 2]})
    source = Source("visits", frame, time="time", available="seen" if known else None, delay=None if known else "1h")
    view = FeatureView("visits", Entity("user", key="user"), source, {"n": Count(windows="1d")}).compile()
    store = MemoryStore()
    bulk_load(store, view, [grouped(view, frame)], NOW + DAY, rewind=DAY)
    (row,) = [value for _, value in store.scan(keys.ROWS)]
    found = ends_of(Layout(view), np.frombuffer(row, np.int64), np.zeros(1, np.int64))
    # When the last of several events that are not folded is known is not known by the row: it is kept.
    assert found.tolist() == [NEVER if known else NOW + HOUR + DAY + HOUR]
    (done,) = compact(store, [view], rewind=0)
    assert done.deleted == 0
    move(store, view, NOW + 3 * DAY)
    (done,) = compact(store, [view], rewind=0)
    assert done.deleted == (0 if known and store.scan(keys.ROWS) else 1)
    reader = OnlineReader(store)
    got = reader.read(view, ["visits.n_1d"], np.array([[1]]), np.array([NOW + 3 * DAY]))["visits.n_1d"]
    assert got.values.tolist() == [0]


def test_a_listing_tells_what_a_load_at_work_has_written():
    view = visits(WINDOWED)
    store, frame = loaded(view), view.view.source.table(None).scan().collect()

    def broken():
        yield grouped(view, frame[:1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bulk_load(store, view, broken(), NOW + DAY)
    found = listing(store, {view.id})
    (facts,) = found.views
    assert (facts.generation, facts.rows, facts.left_rows) == (0, 2, 1)
    assert facts.loading is not None
    assert (facts.loading.generation, facts.loading.until) == (1, NOW + DAY)
    assert facts.bytes == sum(len(k) + len(v) for k, v in store.scan(keys.rows_of(view, 0)))
    assert facts.left_bytes == sum(len(k) + len(v) for k, v in store.scan(keys.rows_of(view, 1)))
    assert (found.texts, found.text_bytes) == (4, sum(len(k) + len(v) for k, v in store.scan(keys.TEXTS)))
    bulk_load(store, view, [grouped(view, frame)], NOW + DAY)
    (facts,) = listing(store, set()).views
    assert (facts.generation, facts.left_rows, facts.loading, facts.is_current) == (1, 0, None, False)


@pytest.mark.parametrize("value", [b'{"token": 7}', b"{"])
def test_what_another_version_wrote_of_a_load_is_an_error(value: bytes) -> None:
    """Of a form that is not known here, or no JSON at all; not taken for no load."""
    view = visits(WINDOWED)
    store = loaded(view)
    store.commit(Changes([(keys.load_of(view), value)]))
    with pytest.raises(StoreError, match=r"online store: .* holds a load in a form that is not known here"):
        listing(store, {view.id})
