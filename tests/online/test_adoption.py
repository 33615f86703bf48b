"""Rows of an old version of a view give, read as rows of a new one, what a fresh load of the new one gives."""

from __future__ import annotations

import shutil

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.extremes import Max, Min
from bedplate.aggregations.ordered import Last, LastN
from bedplate.errors import StoreError
from bedplate.features.entity import Entity
from bedplate.features.view import FeatureView
from bedplate.online import keys
from bedplate.online.adoption import adopt, begun, finish
from bedplate.online.base import Changes, StoredTexts
from bedplate.online.codec import Layout
from bedplate.online.compact import compact, drop
from bedplate.online.fetch import OnlineReader
from bedplate.online.forms import conversion, form_of
from bedplate.online.held import Held
from bedplate.online.ingest import Ingest
from bedplate.online.lmdb import LmdbStore
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.plan import ReadPlan
from bedplate.online.state import read_state, states
from bedplate.online.streams import Position
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches
from bedplate.testing.online_store import fill, grouped, write_files
from bedplate.testing.simulator import USER, delays, every_aggregation, simulated_view, simulations, ttls
from bedplate.types import DAY, HOUR

NAMES = sorted(every_aggregation())


@given(
    simulation=simulations(events=100),
    chosen=st.sets(st.sampled_from(NAMES), min_size=1, max_size=12) | st.just(set(NAMES)),
    delay=delays(),
    ttl=ttls(),
    rewind=st.sampled_from([0, 86_400_000_000]),
    order=st.sampled_from([(None, None), (None, "rank"), ("known", "rank")]),
)
def test_rows_convert(simulation, chosen, delay, ttl, rewind, order):
    available, sequence = order
    options = {"delay": None if available else delay, "available": available, "sequence": sequence}
    old = simulated_view(simulation, (USER,), **options)
    some = {f"new_{n}": a for n, a in every_aggregation().items() if n in chosen}
    new = simulated_view(simulation, (USER,), features=some, ttl=ttl, **options)
    way = conversion(form_of(Layout(old)), form_of(Layout(new)))
    near = {n for n, a in every_aggregation().items() if any(w is not None and w.hop == 0 for w in a.windows)}
    assert way is not None or near & chosen
    if way is None:
        return
    store, watermark = fill(old, simulation.events, [40, 80], rewind)
    fresh, _ = fill(new, simulation.events, [40, 80], rewind)
    asked = simulation.since(watermark)
    users = asked.keys([USER])
    plan = ReadPlan(new, list(new.features))
    rows = store.read_many(keys.row_keys(old, users, 0)).rows(len(users))
    got = plan.read(*way.rows(*rows), asked.times, StoredTexts(store))
    expected = fresh.read_many(keys.row_keys(new, users, 0)).rows(len(users))
    assert mismatches(got, plan.read(*expected, asked.times, StoredTexts(fresh))) == []


def loaded(store, view, frame):
    """The view in the store, with the events before END."""
    bulk_load(store, view, [grouped(view, frame)], END)


def read(store, view):
    """All features of users 0 to 9 now."""
    return OnlineReader(store).read(view, list(view.features), np.arange(10).reshape(-1, 1), np.full(10, END + 3 * DAY))


def small(**features):
    source = Source("events", FRAME, time="time")
    return FeatureView("v", Entity("user", key="user"), source, features).compile()


END = 20_000 * DAY
FRAME = pl.DataFrame(
    {"user": [i % 9 for i in range(60)], "time": [END - i * HOUR for i in range(1, 61)], "x": range(60)}
)
OLD = small(s=Sum("x"), n=Count("x", windows="1d"), last=LastN("x", 5), low=Min("x"))
FITS = small(mean=Mean("x"), counted=Count("x", windows="1d"), last=LastN("x", 2), one=Last("x"))


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_a_changed_view_goes_on_with_the_rows_and_the_stream_of_the_old_one(tmp_path, kind):
    fresh, more = MemoryStore(), FRAME.with_columns(time=pl.col("time") + 2 * DAY + 13 * HOUR, user=pl.col("user") % 4)
    write_files(more, tmp_path / "files", [0, 20, 40])
    with MemoryStore() if kind == "memory" else LmdbStore(tmp_path / "store") as store:
        loaded(store, OLD, FRAME)
        first = sorted((tmp_path / "files").iterdir())[0]
        (tmp_path / "begun").mkdir()
        shutil.copy(first, tmp_path / "begun" / first.name)
        assert Ingest(store, [OLD], tmp_path / "begun").run().events == 20
        before = read(store, OLD)
        state = adopt(store, [FITS])[FITS.id]
        assert (state.adopted.id, state.position(""), state.events) == (OLD.id, Position(first.name, 20), 80)
        assert adopt(store, [FITS]) == {}
        loaded(fresh, FITS, FRAME)
        assert Ingest(fresh, [FITS], tmp_path / "begun").run().events == 20
        assert mismatches(read(store, FITS), read(fresh, FITS)) == []
        for path in (tmp_path / "files").iterdir():
            shutil.copy(path, tmp_path / "begun" / path.name)
        with pytest.raises(StoreError, match="a changed version of the view goes on"):
            Ingest(store, [OLD], tmp_path / "begun").run()
        assert Ingest(store, [FITS], tmp_path / "begun").run().events == 40
        assert Ingest(fresh, [FITS], tmp_path / "begun").run().events == 40
        assert mismatches(read(store, FITS), read(fresh, FITS)) == []
        assert mismatches(read(store, OLD), before) == []
        assert len(store.scan(keys.rows_of(FITS))) == 4
        done = compact(store, [FITS])
        assert [d.dropped for d in done] == [False, True]
        assert len(store.scan(keys.rows_of(FITS))) == 9
        assert store.scan(keys.rows_of(OLD)) == []
        assert read_state(store, FITS).adopted is None
        assert mismatches(read(store, FITS), read(fresh, FITS)) == []


@pytest.mark.parametrize(
    "features",
    [
        {"n": Count("x", windows="2d")},
        {"last": LastN("x", 6)},
        {"high": Max("x")},
        {"other": Sum(pl.col("x") * 2)},
        {"n": Count("x", windows="1d", where=pl.col("x") > 3)},
    ],
)
def test_rows_that_lack_something_are_not_adopted(features):
    store = MemoryStore()
    loaded(store, OLD, FRAME)
    assert adopt(store, [small(**features)]) == {}
    assert read_state(store, OLD).successor == ""


def test_an_interrupted_adoption_is_gone_on_with(monkeypatch):
    store, commit = MemoryStore(), MemoryStore.commit
    loaded(store, OLD, FRAME)
    expected = read(store, OLD)

    def killed(self, changes):
        if any(key == keys.state_of(FITS) for key, _ in changes.puts):
            raise KeyboardInterrupt
        commit(self, changes)

    with monkeypatch.context() as patched:
        patched.setattr(MemoryStore, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            adopt(store, [FITS])
    assert adopt(store, [small(s=Sum("x"))]) == {}
    assert mismatches(read(store, OLD), expected) == []
    assert list(adopt(store, [FITS])) == [FITS.id]
    fresh = MemoryStore()
    loaded(fresh, FITS, FRAME)
    assert mismatches(read(store, FITS), read(fresh, FITS)) == []


def test_a_reader_reads_again_when_the_old_rows_were_taken_over_meanwhile(monkeypatch):
    store, read_many, done = MemoryStore(), MemoryStore.read_many, list[str]()
    loaded(store, OLD, FRAME)
    adopt(store, [FITS])
    expected = read(store, FITS)

    def late(self, wanted, runs=(), deadline=None):
        if any(key[1:9] == keys.state_of(OLD)[1:] for key in wanted) and not done:
            done.append("compacted")
            compact(store, [FITS])
        return read_many(self, wanted, runs, deadline)

    monkeypatch.setattr(MemoryStore, "read_many", late)
    assert mismatches(read(store, FITS), expected) == []
    assert done == ["compacted"]


@pytest.mark.parametrize("more", [0, 20])
def test_an_old_version_that_is_loaded_again_takes_nothing_from_the_one_that_reads_its_rows(tmp_path, more):
    store, fresh = MemoryStore(), MemoryStore()
    loaded(store, OLD, FRAME)
    adopt(store, [FITS])
    loaded(fresh, FITS, FRAME)
    if more:
        write_files(
            FRAME[:more].with_columns(time=pl.col("time") + 3 * DAY, user=pl.col("user") % 2), tmp_path, [0, more]
        )
        assert Ingest(store, [FITS], tmp_path).run().events == Ingest(fresh, [FITS], tmp_path).run().events == more
    expected = read(fresh, FITS)
    loaded(store, OLD, FRAME[:5])
    assert read_state(store, FITS).adopted is None
    assert mismatches(read(store, FITS), expected) == []
    other = MemoryStore()
    loaded(other, OLD, FRAME[:5])
    assert mismatches(read(store, OLD), read(other, OLD)) == []


OTHER = small(other=Mean("x"))


def test_whoever_deletes_an_old_version_leaves_its_rows_to_the_one_that_reads_them():
    store = MemoryStore()
    for time, view in enumerate([OLD, OTHER], 1):
        bulk_load(store, view, [grouped(view, FRAME)], END, clock=lambda t=time: t)
    adopt(store, [FITS])
    expected = read(store, FITS)
    done = {d.id: (d.dropped, d.newer) for d in compact(store, [OTHER])}
    assert done == {OLD.id: (True, False), OTHER.id: (False, False), FITS.id: (False, True)}
    assert mismatches(read(store, FITS), expected) == []


def test_rows_whose_writing_the_store_has_lost_are_taken_over_again(monkeypatch):
    store, commit, steps = MemoryStore(), MemoryStore.commit, list[int]()
    loaded(store, OLD, FRAME)
    adopt(store, [FITS])
    expected, before = read(store, FITS), store.scan(b"")

    def losing(self, changes):
        steps.append(len(steps))
        if steps == [0, 1]:  # before the second step the first is lost, as in a server that is started again
            commit(self, Changes(before, deletes=[b""]))
        commit(self, changes)

    monkeypatch.setattr(MemoryStore, "commit", losing)
    finish(store, FITS.id, 3)
    assert read_state(store, FITS).adopted is None
    assert len(store.scan(keys.rows_of(FITS))) == len(store.scan(keys.rows_of(OLD)))
    assert mismatches(read(store, FITS), expected) == []


def test_an_old_project_does_not_delete_what_went_on_with_its_rows():
    store = MemoryStore()
    loaded(store, OLD, FRAME)
    before = read(store, OLD)
    adopt(store, [FITS])
    expected = read(store, FITS)
    done = compact(store, [OLD])
    assert [(d.id, d.dropped, d.newer) for d in done] == [(OLD.id, False, False), (FITS.id, False, True)]
    assert mismatches(read(store, FITS), expected) == []
    done = compact(store, [OLD], newer=True)
    assert [(d.id, d.dropped, d.newer) for d in done] == [(OLD.id, False, False), (FITS.id, True, False)]
    assert read_state(store, OLD).successor == ""
    assert mismatches(read(store, OLD), before) == []


def test_a_version_that_came_later_than_the_one_that_is_defined_stays():
    store = MemoryStore()
    for time, view in enumerate([OLD, OTHER, FITS], 1):
        bulk_load(store, view, [grouped(view, FRAME)], END, clock=lambda t=time: t)
    bulk_load(store, OTHER, [grouped(OTHER, FRAME)], END, clock=lambda: 4)  # it is no newer for that
    done = {d.id: (d.dropped, d.newer) for d in compact(store, [OTHER])}
    assert done == {OLD.id: (True, False), OTHER.id: (False, False), FITS.id: (False, True)}


def test_rows_that_are_gone_behind_a_view_are_an_error_and_no_zeros(tmp_path):
    store = MemoryStore()
    loaded(store, OLD, FRAME)
    state = adopt(store, [FITS])[FITS.id]
    old = read_state_of(store, OLD)
    write_files(FRAME[:5].with_columns(time=pl.col("time") + 3 * DAY), tmp_path, [0, 5])
    for changed in (
        Changes([msgspec.structs.replace(old, generation=old.generation + 1).put(OLD)]),
        Changes([msgspec.structs.replace(old, successor="").put(OLD)]),
        Changes(drops=[keys.state_of(OLD)]),
    ):
        store.commit(changed)
        for call in (
            lambda: read(store, FITS),
            lambda: Held.read(store, FITS, np.arange(10).reshape(-1, 1)),
            lambda: Ingest(store, [FITS], tmp_path).run(),
            lambda: compact(store, [FITS]),
        ):
            with pytest.raises(StoreError, match="were deleted or loaded anew") as caught:
                call()
            assert "--replace" in (caught.value.hint or "")
    assert read_state(store, FITS) == state


def read_state_of(store, view):
    """The state of a view, also where it can't be written."""
    return next(s for s in states(store) if s.id == view.id)


def test_a_version_that_is_dropped_takes_those_with_it_that_read_its_rows():
    store = MemoryStore()
    loaded(store, OLD, FRAME)
    adopt(store, [FITS])
    assert [d.id for d in drop(store, "v")] == [FITS.id, OLD.id]
    assert states(store) == []
    assert store.scan(keys.ROWS) == []


def test_an_adoption_that_is_undone_lets_the_old_version_go_on(tmp_path):
    store = MemoryStore()
    loaded(store, OLD, FRAME)
    adopt(store, [FITS])
    loaded(store, FITS, FRAME)
    write_files(FRAME[:5].with_columns(time=pl.col("time") + 3 * DAY), tmp_path, [0, 5])
    assert Ingest(store, [OLD, FITS], tmp_path).run().events == 5


def lasting(ttl, **features):
    source = Source("events", FRAME, time="time")
    return FeatureView("v", Entity("user", key="user"), source, features, ttl=ttl).compile()


@pytest.mark.parametrize(
    ("old", "new", "fits"),
    [
        (lasting("1d", x=Last("x")), lasting(None, x=Last("x")), False),
        (lasting("1d", x=Last("x")), lasting("2d", x=Last("x")), False),
        (lasting("2d", x=Last("x")), lasting("1d", x=Last("x")), True),
        (lasting(None, x=Last("x")), lasting("1d", x=Last("x")), True),
        (lasting("1d", x=Last("x"), n=Count("x")), lasting(None, x=Last("x")), True),
        (lasting("1d", x=Last("x"), n=Count("x", windows="3d")), lasting("2d", x=Last("x")), True),
        (lasting("1d", x=Last("x"), n=Count("x", windows="3d")), lasting("9d", x=Last("x")), False),
    ],
)
def test_rows_that_may_be_gone_already_are_not_adopted_by_what_needs_them(old, new, fits):
    store, fresh = MemoryStore(), MemoryStore()
    loaded(store, old, FRAME)
    compact(store, [old])
    assert bool(adopt(store, [new])) is fits
    if fits:
        loaded(fresh, new, FRAME)
        asked = np.full(10, END)
        both = [
            OnlineReader(s).read(new, list(new.features), np.arange(10).reshape(-1, 1), asked) for s in (store, fresh)
        ]
        assert mismatches(*both) == []


def test_rows_of_another_project_are_not_adopted(tmp_path):
    """They would be frozen for it; those on nobody's record may be, and are the project's own then."""
    store = MemoryStore()
    store.project = "shop"
    loaded(store, OLD, FRAME)
    store.project = "search"
    assert adopt(store, [FITS]) == {}
    assert read_state_of(store, OLD).successor == ""
    with pytest.raises(StoreError, match="holds it for the project 'shop'"):
        adopt(store, [OLD])
    write_files(FRAME, tmp_path, [0])
    store.project = "shop"
    Ingest(store, [OLD], tmp_path, late=True).run()
    assert begun(store, [FITS]) == {FITS.id: read_state(store, OLD).until}
    store.project = "search"
    assert begun(store, [FITS]) == {}  # its own stream did not begin where the other's did
    store = MemoryStore()
    loaded(store, OLD, FRAME)
    store.project = "search"
    assert adopt(store, [FITS])[FITS.id].project == read_state(store, FITS).project == "search"
