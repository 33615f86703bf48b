"""Verification finds what differs between a store and history, and names the cause that was really there."""

from __future__ import annotations

import polars as pl
import pytest
from verified_world import FEATURES, UNTIL, Case, filled, only, rows, split

from bedplate.aggregations.arithmetic import Sum
from bedplate.canonical import string_ids
from bedplate.features.view import FeatureView
from bedplate.health.verify import verify
from bedplate.offline.history import IndexedHistory
from bedplate.online import keys
from bedplate.online.adoption import adopt
from bedplate.online.base import Changes, text_puts
from bedplate.online.codec import Layout
from bedplate.online.ingest import Ingest
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.state import ViewState
from bedplate.testing.simulator import ITEM, START, USER, simulate, simulated_view
from bedplate.types import HOUR, MINUTE, to_micros

FAR = to_micros("2150-01-01")

every_store = pytest.mark.parametrize("case", ["memory", "lmdb", "redis"], indirect=True)


def test_a_store_that_is_right_is_proven(case):
    table = filled(case)
    found = case.verify(table)
    [view] = found.views
    assert (view.at, view.keys, view.values, view.differ, view.ahead) == (START + 99 * MINUTE, 5, 20, 0, 0)
    assert (view.later, found.differences, found.causes, found.is_wrong) == (1, [], {}, False)


@pytest.mark.parametrize("entities", [(USER,), (ITEM, USER)])
@pytest.mark.parametrize("available", [None, "known"])
def test_simulated_histories_are_equal(tmp_path, entities, available):
    simulation = simulate(11, events=200)
    view = simulated_view(simulation, entities, available=available, delay=None if available else HOUR)
    history, store = IndexedHistory(tmp_path / "offline"), MemoryStore()
    history.build(view).run(lambda _: None)
    bulk_load(store, view, history.grouped(view), START + HOUR)
    bulk_load(store, view, history.grouped(view), until := int(simulation.events["time"].max()) + 1)
    found = verify(store, history, [view])
    assert (found.differ, found.views[0].until) == (0, until)
    assert found.views[0].values > 200


def test_a_late_event_that_history_got_after_the_load(case):
    table = rows()
    case.load(split(table)[0].filter(pl.col("kind") != "kind 42"))
    case.stream(split(table)[1])
    cause, evidence = only(case.verify(table), 2, {"n", "x", "n_in_1h"})
    assert cause == "late event"
    assert "without 1 event of history, 2024-03-01T00:42:00Z" in evidence


@every_store
def test_a_late_event_that_came_with_the_stream_only(case):
    table = filled(case)
    late = table[42:43].with_columns(x=pl.lit(1e6), time=pl.col("time") + 1, known=pl.col("time") + 1)
    case.stream(late, late=True)
    cause, evidence = only(case.verify(table), 2, {"n", "x", "n_in_1h"})
    assert cause == "late event or event not in history"
    assert "more events than history" in evidence


def test_an_event_that_only_the_stream_had(case):
    table = filled(case)
    case.stream(table[-5:-4].with_columns(pl.col("time") + 1, pl.col("known") + 1, x=pl.lit(1e30), kind=pl.lit("new")))
    cause, evidence = only(case.verify(table, START + 200 * MINUTE), 0, {"n", "x", "kind"})
    assert cause == "event not in history"
    assert "the row shows an event of 2024-03-01T01:35:00.000001Z" in evidence


def test_an_event_that_the_stream_left_out(case):
    table = rows()
    case.load(split(table)[0])
    case.stream(split(table)[1].filter(pl.col("kind") != "kind 71"))
    cause, evidence = only(case.verify(table), 1, {"n", "x", "n_in_1h"})
    assert cause == "event left out"
    assert "2024-03-01T01:11:00Z" in evidence


@every_store
def test_a_worker_that_is_behind(case):
    table = rows()
    case.load(split(table)[0])
    case.stream(table[60:97])
    assert case.verify(table).differ == 0
    assert case.verify(table).views[0].later == 4
    found = case.verify(table, START + 200 * MINUTE)
    assert {d.keys["user"] for d in found.differences} == {2, 3, 4}
    assert set(found.causes) == {"worker behind"}
    assert "taken in up to 2024-03-01T01:36:00Z" in found.differences[0].evidence


def test_a_worker_that_is_behind_an_event_of_the_far_future(case):
    table = rows()
    far = table[:1].with_columns(time=pl.lit(FAR), known=pl.lit(FAR))
    case.load(split(table)[0])
    case.stream(pl.concat([far, table[60:97]]))
    found = case.verify(pl.concat([table, far]), START + 200 * MINUTE)
    assert {d.keys["user"] for d in found.differences} == {2, 3, 4}
    assert set(found.causes) == {"worker behind"}
    assert "taken in up to 2024-03-01T01:36:00Z" in found.differences[0].evidence


def test_an_event_that_is_a_dead_letter(case):
    table = rows()
    case.load(split(table)[0])
    case.store.commit(Changes([(keys.letter_of(case.view(), "t@0@7"), b"1")]))  # as the step that withheld it
    case.stream(split(table)[1].filter(pl.col("kind") != "kind 71"))
    cause, evidence = only(case.verify(table), 1, {"n", "x", "n_in_1h"})
    assert cause == "event left out"
    assert evidence.endswith("; as dead letters (bedplate ingest replay) wait 1 event")


def test_an_event_twice(case):
    table = filled(case)
    case.stream(table[42:43], late=True)
    cause, evidence = only(case.verify(table), 2, {"n", "x", "n_in_1h"})
    assert cause == "event taken in twice"
    assert "2024-03-01T00:42:00Z" in evidence


def test_rows_that_a_changed_view_took_over_are_compared(case):
    table = rows()
    filled(case, table[:-20])
    old_row = case.key(3)
    less = {n: f for n, f in FEATURES.items() if n != "kind"}
    changed = FeatureView("v", USER, case.view().view.source, less).compile()
    assert list(adopt(case.store, [changed])) == [changed.id]
    case.history(table[:-17])
    history = IndexedHistory(case.folder / "offline")
    history.build(changed).run(lambda _: None)
    found = verify(case.store, history, [changed])
    assert (found.differ, found.views[0].keys) == (0, 5)
    table[-20:-17].write_parquet(case.folder / "stream" / "010.parquet")
    Ingest(case.store, [changed], case.folder / "stream").run()
    found = verify(case.store, history, [changed])
    assert (found.differ, found.views[0].keys) == (0, 5)
    case.store.commit(Changes(drops=[old_row]))  # of a user without a new one
    assert set(verify(case.store, history, [changed]).causes) == {"row missing or late event"}  # it was never loaded


def test_a_row_that_is_missing(case):
    table = filled(case)
    case.store.commit(Changes(drops=[case.key(3)]))
    cause, evidence = only(case.verify(table), 3, {"n", "x", "n_in_1h", "kind"})
    assert cause == "row missing"
    assert "a row of 12 events" in evidence


def test_a_damaged_row(case):
    table = filled(case)

    count = Layout(case.view()).fixed - 1  # the last of the totals over all history

    def more(words):
        words[count] += 1
        return words

    case.change(4, more)
    cause, _ = only(case.verify(table), 4, {"n"})
    # A count is more, and nothing else: nothing tells it from an event more of which nothing else can be seen.
    assert cause == "late event or event not in history or row damaged"

    def less(words):
        words[count] -= 6
        return words

    case.change(4, less)
    cause, evidence = only(case.verify(table), 4, {"n"})
    assert cause == "row damaged"
    assert evidence.startswith("the row is of as many events as history has, and 1 of its ")
    case.change(4, lambda words: words[:-1])
    cause, evidence = only(case.verify(table), 4, {"n", "x", "n_in_1h", "kind"})
    assert (cause, "its counts say another number" in evidence) == ("row damaged", True)


@every_store
def test_a_row_of_an_old_version(case):
    table = filled(case)

    def change(words):
        words[0] -= 1 << 56  # the form that rows had before
        return words

    case.change(4, change)
    found = case.verify(table)
    assert only(found, 4, {"n", "x", "n_in_1h", "kind"})[0] == "row of an old version"
    assert {d.online for d in found.differences} == {None}


def test_a_text_that_is_missing(case):
    table = filled(case)
    case.store.commit(Changes(drops=[name for name, _ in text_puts({string_ids(["kind 98"])[0]: ""})]))
    found = case.verify(table)
    cause, _ = only(found, 3, {"kind"})
    assert cause == "text missing"
    [difference] = found.differences
    assert (difference.history, difference.online[:3]) == ("kind 98", "id ")


@every_store
def test_a_definition_that_has_changed(case):
    table = filled(case)
    found = case.verify(table, more=Sum("x", windows="1d"))
    assert (found.views[0].cause, found.causes, found.is_wrong) == (
        "definition changed",
        {"definition changed": 1},
        True,
    )
    assert case.view().id[:12] in found.views[0].evidence


def test_views_that_are_not_held(case):
    table = rows()
    found = case.verify(table)
    assert (found.views[0].cause, found.is_wrong) == ("not loaded", False)
    view = case.view()
    case.store.commit(Changes([ViewState("v", view.id, complete=False, until=0, watermark=0).put(view)]))
    found = case.verify(table)
    assert (found.views[0].cause, found.is_wrong) == ("load interrupted", True)


def test_another_time_at_which_an_event_could_be_known(tmp_path):
    case = Case(tmp_path, available="known")
    table = rows()
    case.load(split(table)[0])
    later = pl.when(pl.col("kind") == "kind 91").then(pl.col("known") + HOUR).otherwise(pl.col("known"))
    case.stream(split(table)[1].with_columns(later))
    cause, evidence = only(case.verify(table, START + 100 * MINUTE), 1, {"n", "x", "n_in_1h"})
    assert cause == "delay"
    assert "known from 2024-03-01T02:31:00Z on" in evidence


def test_an_event_that_could_not_be_known_yet(tmp_path):
    case = Case(tmp_path, available="known")
    table = filled(case)
    later = pl.when(pl.col("kind") == "kind 91").then(pl.col("known") + HOUR).otherwise(pl.col("known"))
    cause, evidence = only(case.verify(table.with_columns(later), START + 100 * MINUTE), 1, {"n", "x", "n_in_1h"})
    assert cause == "delay"
    assert "could be known at 2024-03-01T02:31:00Z only" in evidence


def test_history_that_is_behind_is_no_proof(case):
    table = filled(case)
    found = case.verify(table[:70])
    assert (found.views[0].cause, found.views[0].ahead, found.is_wrong) == ("history behind", 5, False)
    found = case.verify(table[:97])  # users 2, 3 and 4 have no later event apart from those of the last minute
    [view] = found.views
    assert (view.keys + view.ahead, view.differ) == (5, 0)
    assert view.keys > 0


def test_samples_are_of_both_sides_and_repeat(case):
    table = filled(case)
    alone = table[:1].with_columns(user=pl.lit(99, pl.Int64), time=pl.lit(UNTIL), known=pl.lit(UNTIL))
    case.stream(alone, late=True)
    found = case.verify(table)
    assert {d.keys["user"] for d in found.differences} == {99}
    history = case.history(table)
    views = [verify(case.store, history, [case.view()], keys=2, seed=seed) for seed in (1, 1)]
    assert [v.views[0].keys for v in views] == [2, 2]
