"""Of each trouble alone the cause is named, and where the evidence is the same for several, these and no others."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from verified_world import UNTIL, Case, filled, only, rows, split

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.health.verify import verify
from bedplate.online import keys as store_keys
from bedplate.online import loaded
from bedplate.online.base import Changes
from bedplate.online.compact import compact
from bedplate.online.ingest import Ingest
from bedplate.online.load import bulk_load
from bedplate.testing.simulator import START
from bedplate.types import MINUTE

CORRECTED, DELETED = "event corrected in history", "event deleted from history"
DIFFERENT = "event differs from the stream's or row damaged"


def changed(table: pl.DataFrame, number: int, **values: object) -> pl.DataFrame:
    """The table with other values in one row."""
    is_it = pl.int_range(pl.len()) == number
    return table.with_columns(pl.when(is_it).then(pl.lit(v)).otherwise(name).alias(name) for name, v in values.items())


def without(table: pl.DataFrame, number: int) -> pl.DataFrame:
    """The table without one row."""
    return table.filter(pl.int_range(pl.len()) != number)


def forget_sums(case: Case) -> None:
    """Makes the store one that was loaded before there were sums."""
    case.store.commit(Changes(drops=[store_keys.of_view(store_keys.LOADED, case.view().id)]))


def test_a_loaded_event_was_corrected(case):
    table = changed(filled(case), 42, x=9000.0)
    cause, evidence = only(case.verify(table), 2, {"x"})
    assert cause == CORRECTED
    assert "2024-03-01T01:00:00Z, the time of the load, has as many events as were loaded" in evidence


def test_a_loaded_event_was_moved(case):
    case.features = {"n_in": Count(windows="1h")}
    table = filled(case)
    cause, _ = only(case.verify(changed(table, 2, time=START + 57 * MINUTE)), 2, {"n_in_1h"})
    assert cause == CORRECTED


@pytest.mark.parametrize(("values", "user", "feature"), [({"x": 9000.0}, 1, "x"), ({"kind": "other"}, 1, "kind")])
def test_a_streamed_event_was_corrected(case, values, user, feature):
    number = 71 if feature == "x" else 96
    assert only(case.verify(changed(filled(case), number, **values)), user, {feature})[0] == DIFFERENT


def test_a_loaded_event_was_deleted(case):
    cause, evidence = only(case.verify(without(filled(case), 42)), 2, {"n", "n_in_1h", "x"})
    assert cause == DELETED
    assert "has 1 event less than were loaded" in evidence


def test_a_loaded_event_was_deleted_that_no_count_shows(case):
    case.features = {"n_in": Count(windows="1h"), "x": Sum("x")}
    assert only(case.verify(without(filled(case), 2)), 2, {"x"})[0] == DELETED


def test_a_streamed_event_was_deleted(case):
    """The store can't tell it from one that history never had."""
    cause, evidence = only(case.verify(without(filled(case), 71)), 1, {"n", "n_in_1h", "x"})
    assert cause == "late event or event not in history"
    assert evidence == "the store counts more events than history holds"


def test_all_events_of_a_key_were_deleted(case):
    found = case.verify(filled(case).filter(pl.col("user") != 3))
    cause, evidence = only(found, 3, {"n", "n_in_1h", "x", "kind"})
    assert cause == DELETED
    assert "has 12 events less than were loaded" in evidence


def test_one_of_two_equal_events_was_deleted(case):
    """The store answers as with an event twice, and it was history that held it twice."""
    table = rows()
    filled(case, pl.concat([table[:43], table[42:]]))
    cause, evidence = only(case.verify(table), 2, {"n", "n_in_1h", "x"})
    assert cause == DELETED
    assert "history held it twice at the time of the load" in evidence


def test_a_loaded_event_is_another_keys_now(case):
    found = case.verify(changed(filled(case), 42, user=3))
    assert {(d.keys["user"], d.cause) for d in found.differences} == {(2, DELETED), (3, "late event")}


def test_history_got_an_event_in_the_past(case):
    """Of events without which the values are right alike, it is the one that was added."""
    case.features = {"n": Count(), "n_in": Count(windows="1h")}
    table = filled(case)
    late = table[42:43].with_columns(pl.col("time") + 1, pl.col("known") + 1)
    cause, evidence = only(case.verify(pl.concat([table, late])), 2, {"n", "n_in_1h"})
    assert (cause, "2024-03-01T00:42:00.000001Z" in evidence) == ("late event", True)


def test_the_stream_left_out_an_event_that_only_a_count_shows(case):
    case.features = {"n": Count(), "n_in": Count(windows="1h")}
    table = rows()
    case.load(split(table)[0])
    case.stream(without(split(table)[1], 11))
    assert only(case.verify(table), 1, {"n", "n_in_1h"})[0] == "event left out"


def test_all_events_of_a_key_came_late(case):
    table = rows()
    is_other = pl.col("user") != 3
    case.load(split(table)[0].filter(is_other))
    case.stream(split(table)[1].filter(is_other))
    known = table.filter(is_other | (pl.col("time") < UNTIL))
    cause, evidence = only(case.verify(known), 3, {"n", "n_in_1h", "x", "kind"})
    assert (cause, "history got all of them after it" in evidence) == ("late event", True)


def test_a_row_of_which_the_stream_brought_all(case):
    table = rows().with_columns(user=pl.when(pl.col("time") == START + 71 * MINUTE).then(9).otherwise("user"))
    filled(case, table)
    case.store.commit(Changes(drops=[case.key(9)]))
    assert only(case.verify(table), 9, {"n", "n_in_1h", "x", "kind"})[0] == "event left out or row missing"


def test_a_row_that_lost_a_loaded_event(case):
    """History is as it was loaded, so that no event came late: the row is not the one that was written."""
    table = rows()
    filled(case, without(table, 42))
    row = case.store.read_many([case.key(2)]).data
    case.load(split(table)[0])
    Ingest(case.store, [case.view()], case.folder / "stream").run()
    case.store.commit(Changes([(case.key(2), row)]))
    cause, evidence = only(case.verify(table), 2, {"n", "n_in_1h", "x"})
    assert (cause, "2024-03-01T00:42:00Z" in evidence) == ("row damaged", True)


def test_a_first_word_of_no_known_version(case):
    table = filled(case)

    def change(words):
        words[0] ^= 2
        return words

    case.change(4, change)
    cause, _ = only(case.verify(table), 4, {"n", "n_in_1h", "x", "kind"})
    assert cause == "row of an old version or row damaged"


def test_a_row_of_a_version_that_the_store_holds(case):
    table = filled(case)
    more = case.view(more=Sum("x", windows="1d"))
    bulk_load(case.store, more, case.history(table, more=Sum("x", windows="1d")).grouped(more), UNTIL)
    own, word = case.key(4), case.store.read_many([store_keys.rows_of(more, 0) + case.key(4)[10:]]).data
    case.store.commit(Changes([(own, word)]))
    assert only(case.verify(table), 4, {"n", "n_in_1h", "x", "kind"})[0] == "row of an old version"


@pytest.mark.parametrize(
    ("number", "values", "user", "features", "cause"),
    [
        (42, {"x": 9000.0}, 2, {"x"}, f"{CORRECTED} or {DIFFERENT}"),
        (2, {"user": 99}, 2, {"n", "x"}, f"late event or event not in history or {DELETED}"),
    ],
)
def test_a_store_without_sums_names_what_they_would_tell_apart(case, number, values, user, features, cause):
    table = filled(case)
    forget_sums(case)
    table = changed(table, number, **values).filter(pl.col("user") < 99)
    assert only(case.verify(table), user, features)[0] == cause


def test_keys_that_are_known_together(case, monkeypatch):
    """What of them was changed is not known: what would be said of the key alone is said too."""
    monkeypatch.setattr(loaded, "MOST_SHARES", 1)
    table = filled(case)
    cause, evidence = only(case.verify(changed(table, 42, x=9000.0)), 2, {"x"})
    assert (cause, "of 5 keys that are known together" in evidence) == (f"{CORRECTED} or {DIFFERENT}", True)


def test_a_version_that_was_deleted_for_another_one(case):
    table, more = filled(case), {"more": Sum("x", windows="1d")}
    newer = case.view(**more)
    bulk_load(case.store, newer, case.history(table, **more).grouped(newer), UNTIL)
    compact(case.store, [newer])
    [view] = case.verify(table).views
    assert (view.cause, newer.id[:12] in view.evidence) == ("version deleted", True)
    case.load(split(table)[0])
    assert case.verify(table[:60]).views[0].cause == ""
    compact(case.store, [case.view()], newer=True)
    assert case.verify(table, **more).views[0].cause == "version deleted"


def test_views_of_other_projects(case):
    case.store.project = "shop"
    table = filled(case)
    case.store.project = "search"
    found = case.verify(changed(table, 42, x=9000.0))
    cause, evidence = only(found, 2, {"x"})
    assert (cause, "'shop'" in evidence) == ("another project's rows", True)
    [view] = case.verify(table, more=Sum("x", windows="1d")).views
    assert (view.cause, "other projects: 'shop'" in view.evidence) == ("not loaded", True)


def test_what_could_be_known_later_is_none_of_the_load(tmp_path: Path) -> None:
    """An event of before the load that could be known after it came with the stream: correcting it shows no load."""
    case = Case(tmp_path, available="known")
    table = changed(rows(), 42, known=START + 75 * MINUTE)
    case.load(table)
    case.stream(table.filter(pl.col("known") >= UNTIL))
    assert case.verify(table).differ == 0
    assert only(case.verify(changed(table, 42, x=9000.0)), 2, {"x"})[0] == DIFFERENT
    history = case.history(without(table, 1))
    assert set(verify(case.store, history, [case.view()]).causes) == {DELETED}
