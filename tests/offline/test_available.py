"""A row counts from the moment it could be known, in history and online alike."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from split_table import SplitTable

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.extremes import Max
from bedplate.aggregations.ordered import Last, LastN
from bedplate.aggregations.window import Window
from bedplate.errors import DataError, DefinitionError
from bedplate.features.rows import prepare_rows
from bedplate.features.view import FeatureView
from bedplate.offline import flight, memory
from bedplate.offline.history import IndexedHistory
from bedplate.offline.reference import Reference
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches, plain
from bedplate.testing.online_store import grouped, write_files
from bedplate.testing.simulator import ITEM, START, USER, every_aggregation, simulated_view, simulations, ttls
from bedplate.types import DAY, HOUR, MINUTE, format_duration


def _view(rows, features, **options):
    """Rows are (user, minutes, value, minutes at which the row could be known)."""
    frame = pl.DataFrame(
        {
            "user": [r[0] for r in rows],
            "time": [START + r[1] * MINUTE for r in rows],
            "value": [r[2] for r in rows],
            "known": [None if r[3] is None else START + r[3] * MINUTE for r in rows],
        },
        schema={"user": pl.Int64, "time": pl.Int64, "value": pl.Int64, "known": pl.Int64},
    )
    source = Source("events", frame, time="time", available="known", **options)
    return FeatureView("v", USER, source, features).compile()


def _history(path, view):
    history = IndexedHistory(path)
    history.build(view).run()
    return history


def _ask(reader, view, minutes, user=1):
    times = np.array([START + m * MINUTE for m in minutes])
    columns = reader.read(view, list(view.features), np.full((len(times), 1), user), times)
    return {n.removeprefix("v."): plain(c) for n, c in columns.items()}


def test_a_late_row_changes_values_only_from_the_moment_it_could_be_known(tmp_path):
    rows = [(1, 0, 10, 0), (1, 10, 20, 30), (1, 20, 40, 20)]
    view = _view(rows, {"n": Count(), "sum": Sum("value"), "last": Last("value"), "all": LastN("value", 5)})
    got = _ask(_history(tmp_path, view), view, [0, 1, 11, 21, 30, 31])
    assert got == {
        "n": [0, 1, 1, 2, 2, 3],
        "sum": [0, 10, 10, 50, 50, 70],
        "last": [None, 10, 10, 40, 40, 40],
        "all": [[], [10], [10], [10, 40], [10, 40], [10, 20, 40]],
    }


def test_windows_are_measured_on_event_time(tmp_path):
    view = _view([(1, 0, 1, 55), (1, 50, 2, 50)], {"n": Count(windows=Window.of("1h", hop="5m"))})
    assert _ask(_history(tmp_path, view), view, [54, 56, 64, 65]) == {"n_1h": [1, 2, 2, 1]}


def test_an_exact_window_keeps_the_last_events_that_could_be_known(tmp_path):
    rows = [(1, m, m, 100 if m == 8 else m) for m in (1, 3, 5, 7, 8)]
    view = _view(rows, {"near": LastN("value", 9, windows=Window.of("2h", hop="exact", bound=2))})
    assert _ask(_history(tmp_path, view), view, [9, 101]) == {"near_2h": [[5, 7], [7, 8]]}


def test_rows_that_say_to_be_known_before_they_happened_count_from_their_time(tmp_path):
    view = _view([(1, 10, 1, 2)], {"n": Count()})
    assert _ask(_history(tmp_path, view), view, [5, 10, 11]) == {"n": [0, 0, 1]}


def test_rows_of_one_time_are_in_the_order_of_the_sequence_else_as_they_could_be_known(tmp_path):
    rows = [(1, 5, 3, 9), (1, 5, 1, 7), (1, 5, 2, 7)]
    by_known = _view(rows, {"all": LastN("value", 3), "last": Last("value")})
    assert _ask(_history(tmp_path / "a", by_known), by_known, [20]) == {"all": [[1, 2, 3]], "last": [3]}
    by_value = _view(rows, {"all": LastN("value", 3)}, sequence="value")
    assert _ask(_history(tmp_path / "b", by_value), by_value, [20]) == {"all": [[1, 2, 3]]}
    frame = pl.DataFrame({"user": [1, 1, 1], "time": [START] * 3, "value": [2, 3, 1]})
    source = Source("events", frame, time="time", sequence="value")
    plainly = FeatureView("v", USER, source, {"all": LastN("value", 2)}).compile()
    assert _ask(_history(tmp_path / "c", plainly), plainly, [20]) == {"all": [[2, 3]]}


def test_a_row_that_does_not_say_when_it_could_be_known_is_named(tmp_path):
    view = _view([(1, 0, 1, 0), (1, 1, 1, None)], {"n": Count()})
    with pytest.raises(DataError, match=r"1 of 2 rows do not say when they could be known, the first is row 1") as got:
        _history(tmp_path, view)
    assert "column 'known'" in str(got.value)


def test_a_row_of_an_impossible_availability_is_named(tmp_path):
    view = _view([(1, 0, 1, 0), (1, 1, 1, 10**9)], {"n": Count()})
    with pytest.raises(DataError, match=r"row 1 could be known at \d+"):
        _history(tmp_path, view)


def test_a_row_without_a_place_in_the_sequence_is_named(tmp_path):
    frame = pl.DataFrame({"user": [1, 1], "time": [START] * 2, "value": [2, None]})
    view = FeatureView("v", USER, Source("s", frame, time="time", sequence="value"), {"n": Count()}).compile()
    with pytest.raises(DataError, match="1 of 2 rows have no place in the sequence, the first is row 1"):
        _history(tmp_path, view)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"available": "seen"}, "no available column 'seen'"),
        ({"available": "name"}, "the available column 'name' is String, expected a datetime"),
        ({"sequence": "name"}, "the sequence column 'name' is String, expected a datetime or integers"),
        ({"available": "at", "delay": "5m"}, "got delay='5m' and available='at', expected one of them"),
        ({"available": 3}, "got the available 3, expected a text"),
    ],
)
def test_a_wrong_declaration_is_refused(options, said):
    frame = pl.DataFrame({"user": [1], "time": [START], "at": [START], "name": ["a"]})
    with pytest.raises(DefinitionError, match=said):
        FeatureView("v", USER, Source("s", frame, time="time", **options), {"n": Count()}).compile()


def test_a_view_says_from_when_its_rows_count():
    view = _view([], {"n": Count(windows="1d")})
    assert next(iter(view.features.values())).text.endswith(", known from known")


@settings(max_examples=6)
@given(seed=st.integers(0, 100), late=st.sampled_from([0.002, 0.3]), batch=st.sampled_from([1, 700]))
def test_rows_in_flight_of_long_histories_equal_the_oracle(tmp_path_factory, seed, late, batch):
    """Keys of many blocks of rows; `batch` rows become known together, which makes long runs of rows in flight."""
    draw = np.random.default_rng(seed)
    times = START + np.sort(draw.integers(0, 10 * DAY, 12_000))
    known = times[np.minimum(np.arange(len(times)) // batch * batch + batch, len(times)) - 1]
    known = np.where(draw.random(len(times)) < late, known + draw.integers(0, 5 * DAY, len(times)), known)
    frame = pl.DataFrame({"user": draw.integers(0, 2, len(times)), "time": times, "known": known})
    frame = frame.with_columns(value=pl.Series(draw.integers(0, 50, len(times))))
    source = Source("events", frame, time="time", available="known")
    features = {
        "n": Count(windows=["6h", "7d"]),
        "sum": Sum("value"),
        "odd": CountDistinct("value", windows="1h", where=pl.col("value") % 2 == 1),
        "different": CountDistinct("value", windows="1d"),
        "high": Max("value", windows="1d"),
        "near": LastN("value", 40, windows=Window.of("2d", hop="exact", bound=30)),
    }
    view = FeatureView("v", USER, source, features).compile()
    asked = START + draw.integers(0, 16 * DAY, 25)
    keys, names = draw.integers(0, 3, (25, 1)), list(view.features)
    got = _history(tmp_path_factory.mktemp("history"), view).read(view, names, keys, asked)
    assert mismatches(got, Reference(view).read(view, names, keys, asked)) == []


@settings(max_examples=20)
@given(
    known=st.lists(st.integers(0, 9), max_size=300),
    time=st.integers(0, 10),
    bound=st.integers(-1, 5),
    ends=st.tuples(st.integers(0, 300), st.integers(0, 300)),
)
def test_pieces_hold_the_rows_that_could_be_known(known, time, bound, ends):
    low, high = sorted(min(e, len(known)) for e in ends)
    rows = flight.Known.of(np.array(known, np.int64))
    pieces = rows.pieces(np.array([time]), np.array([low]), np.array([high]), max(bound, -1) or 1)
    expected = [i for i in range(low, high) if known[i] < time][-(bound or 1) if bound >= 0 else 0 :]
    got = [i for a, b in zip(pieces.first.tolist(), pieces.stop.tolist(), strict=True) for i in range(a, b)]
    assert got == expected
    assert len(pieces.first) <= 1 + sum(b > a + 1 for a, b in pairwise(expected))


@settings(max_examples=25)
@given(simulation=simulations(), ttl=ttls(), hours=st.integers(-2, 90), sequence=st.sampled_from([None, "rank"]))
def test_history_then_stream_equal_the_oracle_wherever_they_meet(tmp_path_factory, simulation, ttl, hours, sequence):
    """What could be known before a time comes from the load, all else from the stream: no event is lost or doubled."""
    views = [
        simulated_view(simulation, e, ttl=ttl, available="known", sequence=sequence) for e in ((USER,), (ITEM, USER))
    ]
    until, store = START + hours * HOUR, MemoryStore()
    later = simulation.events.with_columns(at=pl.max_horizontal("time", "known")).filter(pl.col("at") >= until)
    files = later.sort("at", maintain_order=True).drop("at")
    folder = tmp_path_factory.mktemp("stream")
    write_files(files, folder, [0, len(files) // 3])
    for view in views:
        state = bulk_load(store, view, [grouped(view, simulation.events)], until)
        assert state.events == len(simulation.events) - len(later)
    watermark = max(until, Ingest(store, views, folder, batch=17).run().watermark)
    asked = simulation.since(watermark)
    for view in views:
        keys, names = asked.keys(view.view.entities), list(view.features)
        got = OnlineReader(store).read(view, names, keys, asked.times)
        assert mismatches(got, Reference(view).read(view, names, keys, asked.times)) == []


def test_a_stream_refuses_rows_that_the_load_held(tmp_path):
    view = _view([(1, 0, 1, 40), (1, 30, 1, 30)], {"n": Count()})
    store, folder = MemoryStore(), Path(tmp_path)
    frame = view.view.source.table().scan().collect()
    bulk_load(store, view, [grouped(view, frame)], START + 35 * MINUTE)
    write_files(frame, folder, [0])
    with pytest.raises(DataError, match=r"row 1 is of 2024-03-01T00:30:00Z.*would count twice") as caught:
        Ingest(store, [view], folder).run()
    assert "column 'known'" in str(caught.value)


@settings(max_examples=8)
@given(
    simulation=simulations(events=100),
    ttl=ttls(),
    order=st.sampled_from([("known", None), (None, "rank"), ("known", "rank")]),
    cuts=st.lists(st.integers(1, 99), min_size=1, max_size=3),
    buckets=st.sampled_from([1, 3]),
)
def test_late_rows_and_ties_across_segments_equal_the_oracle(tmp_path_factory, simulation, ttl, order, cuts, buckets):
    """A table that grows: rows of a later piece may be older, or tied, or known sooner than those of an earlier one."""
    folder, available = tmp_path_factory.mktemp("history"), order[0]
    where = sorted({c * len(simulation.events) // 100 for c in cuts})
    used = ("events_in", "quantity", "cheapest", "last_kind", "recent", "near_recent", "different_in", "since")
    used += ("first_price", "first_kind", "first_seen_in", "first_item_in", "last_over_first")
    chosen = {n: a for n, a in every_aggregation().items() if n in used}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory.Budget, "buckets", lambda self, view, rows, threads: buckets)
        for count in range(1, len(where) + 2):
            rows = simulation.events[: where[count - 1]] if count <= len(where) else simulation.events
            source = Source(
                "events", SplitTable(rows, where[: count - 1]), time="time", available=available, sequence=order[1]
            )
            lifetime = None if ttl is None else format_duration(ttl)
            view = FeatureView("v", USER, source, chosen, ttl=lifetime).compile()
            history = _history(folder, view)
    keys, names = simulation.keys((USER,)), list(view.features)
    assert (
        mismatches(
            history.read(view, names, keys, simulation.times), Reference(view).read(view, names, keys, simulation.times)
        )
        == []
    )
    assert history.known(view) == int(prepare_rows(view, simulation.events.lazy()).visible.max(initial=-1))
    until, store = START + 30 * HOUR, MemoryStore()
    bulk_load(store, view, history.grouped(view), until)
    whole = MemoryStore()
    bulk_load(whole, view, [grouped(view, simulation.events)], until)
    later = np.maximum(simulation.times, until)
    got, expected = (OnlineReader(s).read(view, names, keys, later) for s in (store, whole))
    assert mismatches(got, expected) == []
