"""Extension costs what is new; compaction, collection and listing of segments; ranges of times."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from split_table import SplitTable
from test_segments import check, view_of

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.extremes import Max
from bedplate.aggregations.ordered import Last, LastN
from bedplate.aggregations.window import Window
from bedplate.errors import StoreError
from bedplate.features.entity import Entity
from bedplate.features.view import FeatureView
from bedplate.offline import memory
from bedplate.offline.collect import collect
from bedplate.offline.compact import compact, tail
from bedplate.offline.extend import needs_of
from bedplate.offline.history import IndexedHistory
from bedplate.offline.listing import listing
from bedplate.offline.memory import Budget
from bedplate.offline.needs import record_needs
from bedplate.offline.reference import Reference
from bedplate.offline.segment import Lock, Span
from bedplate.process import process_token
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, START, USER, every_aggregation, simulate
from bedplate.types import DAY, HOUR

ACCOUNT = Entity("user", key="user")
DAYS = 30


def days(count: int, *, prepare=None, late: int = 0) -> SplitTable:
    """A table of one piece a day; `late` events of each day are of the day before."""
    draw = np.random.default_rng(1)
    frames = []
    for day in range(DAYS):
        times = START + day * DAY + np.sort(draw.integers(0, DAY, 200))
        times[:late] -= DAY
        frames.append(pl.DataFrame({"user": draw.integers(0, 20, 200), "time": times, "x": draw.integers(0, 9, 200)}))
    frame = pl.concat(frames[:count])
    return SplitTable(frame, [200 * d for d in range(1, count)])


def account_view(table, features=None, prepare=None):
    features = features or {"n": Count(windows="2d"), "s": Sum("x"), "last": Last("x")}
    source = Source("events", table, time="time", prepare=prepare)
    return FeatureView("v", ACCOUNT, source, features).compile()


def built(path: Path, view) -> list[str]:
    steps: list[str] = []
    IndexedHistory(path).build(view).run(steps.append)
    return steps


def sorted_rows(steps: list[str]) -> int:
    return sum(int(s.split("sort ")[1].split(" ")[0].replace(",", "")) for s in steps if "sort " in s)


def size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def test_a_day_costs_a_day(tmp_path):
    """However long the history is, a new day sorts its own rows and writes a day's bytes."""
    first = built(tmp_path, account_view(days(1)))
    assert sorted_rows(first) == 200
    day = size(tmp_path)
    before = tmp_path / "before"
    for count in (10, 20, 29):
        built(before, account_view(days(count)))
        had = size(before)
        steps = built(before, account_view(days(count + 1)))
        assert sorted_rows(steps) == 200
        assert size(before) - had <= 1.1 * day
        assert not any(s.startswith("v: read") and "read 200 rows" not in s for s in steps)


def test_an_extension_reads_the_new_pieces_only(tmp_path, monkeypatch):
    built(tmp_path, account_view(days(3)))
    table = days(4)
    read: list[int] = []
    monkeypatch.setattr(SplitTable, "scan", lambda self: pytest.fail("the whole table was read"))
    pieces = table.pieces()
    monkeypatch.setattr(
        SplitTable,
        "pieces",
        lambda self: [type(p)(p.id, p.rows, lambda p=p: read.append(p.rows) or p.scan()) for p in pieces],
    )
    build = IndexedHistory(tmp_path).build(account_view(table))
    assert build.extends
    assert [m.rows for m in build.missing()] == [200] * len(build.missing())
    build.run()
    assert read == [200]


def test_a_piece_that_changes_in_the_middle_is_built_anew_and_the_others_stay(tmp_path):
    frame = days(4).frame
    for count in range(1, 5):
        built(tmp_path, account_view(SplitTable(frame[: 200 * count], [200 * d for d in range(1, count)])))
    changed = frame.with_row_index("i").with_columns(
        x=pl.when(pl.col("i").is_between(200, 399)).then(100).otherwise(pl.col("x"))
    )
    view = account_view(SplitTable(changed.drop("i"), [200, 400, 600]))
    assert sorted_rows(built(tmp_path, view)) == 200
    keys = np.arange(20).reshape(-1, 1)
    check(IndexedHistory(tmp_path), view, keys, np.full(20, START + 5 * DAY))


def test_cleaning_looks_at_all_rows_of_a_time_so_pieces_that_share_times_are_built_together(tmp_path):
    def clean(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.unique(["user", "time"], maintain_order=True, keep="last")

    frame = pl.DataFrame({"user": [1, 1, 1, 1], "time": [START, START + 5, START + 5, START + 9], "x": [1, 2, 3, 4]})
    for count, rows in ((1, 2), (2, 3), (3, 4)):  # the second piece repeats a time of the first
        table = SplitTable(frame[:rows], [2, 3][: count - 1])
        view = account_view(table, prepare=clean)
        build = IndexedHistory(tmp_path).build(view)
        assert [len(slot.pieces) for slot in build.slots] == [[1], [2], [2, 1]][count - 1]
        build.run()
        check(IndexedHistory(tmp_path), view, np.array([[1], [1]]), np.array([START + 6, START + 10]))


@pytest.mark.parametrize("option", ["sequence", "known"])
def test_late_rows_of_a_source_that_orders_events_of_a_time_cost_no_more(tmp_path, option):
    """Unless two segments have events of a key and time that are the other way round: these are built together."""
    frame = days(3, late=3).frame.with_columns(sequence=pl.lit(1), known=pl.col("time") + HOUR)
    last = frame[400:].with_columns(pl.lit(frame["time"][250]).alias("time"), pl.lit(frame["user"][250]).alias("user"))
    turned = last[:1].with_columns(sequence=pl.lit(0), known=pl.lit(0)).cast(dict(frame.schema))
    column = {"sequence": "sequence", "known": "available"}[option]
    for rows, pieces in ((frame, [1, 1, 1]), (pl.concat([frame[:400], turned, frame[400:]]), [1, 2])):
        for count in (1, 2, 3):
            table = SplitTable(rows[: [200, 400, rows.height][count - 1]], [200, 400][: count - 1])
            source = Source("events", table, time="time", **{column: option})
            windows = ["2d", Window.of("1d", hop="exact", bound=2)]
            features = {"n": Count(windows=windows), "last": Last("x"), "d": CountDistinct("x"), "l": LastN("x", 3)}
            view = FeatureView("v", ACCOUNT, source, features).compile()
            build = IndexedHistory(tmp_path / str(rows.height)).build(view)
            assert [len(slot.pieces) for slot in build.slots] == [1] * count
            build.run()
        assert [len(slot.pieces) for slot in build.slots] == pieces
        assert len(IndexedHistory(tmp_path / str(rows.height)).build(view).slots) == len(pieces)
        asked = np.concatenate([np.arange(20), rows["user"][250:251].to_numpy()]).reshape(-1, 1)
        times = np.append(np.full(20, START + 2 * DAY), rows["time"][250] + 2 * HOUR)
        check(IndexedHistory(tmp_path / str(rows.height)), view, asked, times)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), options=st.sampled_from(["available", "sequence", "both"]), data=st.data())
def test_segments_of_rows_that_are_known_late_equal_the_oracle(seed, options, data):
    simulation = simulate(seed, events=90, questions=25)
    columns = {"available": {"available": "known"}, "sequence": {"sequence": "rank"}}
    chosen = columns.get(options) or columns["available"] | columns["sequence"]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for count in range(1, 4):
            number = data.draw(st.sampled_from([1, 1, 4]))
            patch.setattr(memory.Budget, "buckets", lambda self, view, rows, threads, n=number: n)
            frame = simulation.events[: [40, 70, 90][count - 1]]
            source = Source("events", SplitTable(frame, [40, 70][: count - 1]), time="time", **chosen)
            view = FeatureView("v", [USER], source, every_aggregation()).compile()
            IndexedHistory(Path(folder)).build(view).run()
        check(IndexedHistory(Path(folder)), view, simulation.keys((USER,)), simulation.times)


@pytest.mark.parametrize("size", [lambda i: 1, lambda i: 50 + i * 37 % 100, lambda i: 1000 if i % 7 == 0 else 10])
def test_segments_are_merged_so_that_a_row_is_written_once_a_tier(size):
    rows: list[int] = []
    written = total = 0
    for i in range(2000):
        rows.append(size(i))
        total += rows[-1]
        while count := tail(rows):
            written += sum(rows[-count:])
            rows[-count:] = [sum(rows[-count:])]
    assert written <= 7 * total
    assert len(rows) <= 24
    assert sum(rows) == total


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), number=st.sampled_from([1, 4]), data=st.data())
def test_compaction_at_any_moment_changes_no_value(seed, number, data):
    simulation = simulate(seed, events=90, questions=25)
    entities = data.draw(st.sampled_from([(USER,), (USER, ITEM)]))
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory.Budget, "buckets", lambda self, view, rows, threads: number)
        for count in range(1, 5):
            frame = simulation.events[: [20, 50, 80, 90][count - 1]]
            view = view_of(SplitTable(frame, [20, 50, 80][: count - 1]), entities)
            build = IndexedHistory(Path(folder)).build(view)
            build.run()
            if data.draw(st.booleans()):
                compact([build], Budget(), 2, whole=True)
                assert len(IndexedHistory(Path(folder)).build(view).slots) == 1
        check(IndexedHistory(Path(folder)), view, simulation.keys(entities), simulation.times)
        more = view_of(SplitTable(frame, [20, 50, 80]), entities, features={"m": Mean("price"), "new": Max("rank")})
        assert not any("sort" in s for s in built(Path(folder), more))
        check(IndexedHistory(Path(folder)), more, simulation.keys(entities), simulation.times)


def test_what_a_merged_segment_lacks_is_read_from_the_segments_that_have_it(tmp_path):
    """A view whose columns were not merged goes on with the old segments: nothing is built."""
    one, other = {"s": Sum("x")}, {"last": Last("x"), "m": Max(pl.col("x") + 1)}
    for count in (1, 2):
        built(tmp_path, account_view(days(count), one))
        built(tmp_path, account_view(days(count), other))
    compact([IndexedHistory(tmp_path).build(account_view(days(2), one))], Budget(), 2, whole=True)
    assert len(IndexedHistory(tmp_path).build(account_view(days(2), one)).slots) == 1
    build = IndexedHistory(tmp_path).build(account_view(days(2), other))
    assert build.is_complete
    assert len(build.slots) == 2


def garbage(path: Path, *builds, dry_run=False, root=Path("/none")):
    return [(g.kind, g.in_use) for g in collect(path, root, builds, dry_run=dry_run)]


def test_collection_deletes_what_no_definition_needs_and_a_dry_run_nothing(tmp_path):
    for count in (1, 2):
        built(tmp_path, account_view(days(count), {"s": Sum("x"), "m": Max(pl.col("x") + 1)}))
    view = account_view(days(2), {"s": Sum("x")})
    history = IndexedHistory(tmp_path)
    compact([history.build(view)], Budget(), 2, whole=True)
    had, build = size(tmp_path), IndexedHistory(tmp_path).build(view)
    assert garbage(tmp_path, build, dry_run=True) == [("segment", False), ("segment", False)]
    assert size(tmp_path) == had
    assert garbage(tmp_path, build) == [("segment", False), ("segment", False)]
    assert garbage(tmp_path, build) == []
    assert IndexedHistory(tmp_path).build(view).is_complete
    count_only = IndexedHistory(tmp_path).build(account_view(days(2), {"n": Count()}))
    count_only.run()
    assert sorted(garbage(tmp_path, count_only)) == [("column", False), ("reduction", False)]
    assert garbage(tmp_path) == [("segment", False)]
    assert list(tmp_path.iterdir()) == []


def test_what_a_process_reads_or_builds_is_not_collected(tmp_path):
    view = account_view(days(1))
    built(tmp_path, view)
    history = IndexedHistory(tmp_path)
    reader = history.reader(view)
    assert garbage(tmp_path) == [("segment", True)]
    assert reader.read(["v.s"], np.array([[1]]), np.array([START + DAY]))["v.s"].values[0] > 0
    del reader, history
    held = Lock.shared(IndexedHistory(tmp_path).build(view).folder)  # as a build does
    assert garbage(tmp_path) == [("segment", True)]
    assert held is not None
    held.release()
    assert garbage(tmp_path) == [("segment", False)]


def test_what_a_killed_process_left_aside_is_collected_wherever_it_is(tmp_path):
    view = account_view(days(1))
    built(tmp_path, view)
    build = IndexedHistory(tmp_path).build(view)
    machine, boot, space, pid, _ = process_token().split("-")
    name = f".part.{machine}-{boot}-{space}-{pid}-1.00000000.tmp"  # the pid was used again
    places = [tmp_path, build.segments[0].folder.parent, build.segments[0].parts[0].folder / "columns"]
    for place in places:
        (place / name).mkdir()
    alive = tmp_path / f".part.{process_token()}.00000000.tmp"
    alive.mkdir()
    assert garbage(tmp_path, build, dry_run=True) == [("leftover", False)] * 3
    assert garbage(tmp_path, build) == [("leftover", False)] * 3
    assert not any((place / name).exists() for place in places)
    assert alive.exists()


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_index_of_an_earlier_version_is_collected(tmp_path, dry_run):
    old = tmp_path / "0123"
    (old / "columns").mkdir(parents=True)
    (old / "timeline.json").write_text("{}")
    (old / "keys.npy").touch()
    assert garbage(tmp_path, dry_run=dry_run) == [("timeline", False)]
    assert old.exists() == dry_run


def test_what_another_project_needs_is_kept_until_it_is_forgotten(tmp_path):
    store, other = tmp_path / "store", tmp_path / "other"
    other.mkdir()
    (other / "bedplate.toml").touch()
    view = account_view(days(1))
    built(store, view)
    record_needs(store, other, needs_of([IndexedHistory(store).build(view)]))
    assert garbage(store, root=tmp_path / "mine") == []
    (other / "bedplate.toml").unlink()
    assert garbage(store, root=tmp_path / "mine") == []
    found = collect(store, tmp_path / "mine", [], dry_run=False, forgotten=[other])
    assert [g.kind for g in found] == ["segment"]


def test_the_listing_says_who_reads_a_segment_and_what_it_took(tmp_path):
    for count in (1, 3):
        built(tmp_path, account_view(days(count)))
    (timeline,) = listing(tmp_path, [IndexedHistory(tmp_path).build(account_view(days(3)))])
    assert (timeline.source, timeline.entities, timeline.views) == ("events", ["user"], ["v"])
    assert sorted((s.rows, s.pieces, s.buckets, s.columns, s.reductions) for s in timeline.segments) == [
        (200, 1, 1, 2, 1),
        (400, 2, 1, 2, 1),
    ]
    assert all(s.views == ["v"] and s.bytes > 0 for s in timeline.segments)
    assert timeline.bytes >= sum(s.bytes for s in timeline.segments)


# Ranges of times


def ask(history, view, times):
    keys = np.arange(20).reshape(-1, 1)
    every = np.repeat(np.array(times, np.int64), 20)
    names = list(view.features)
    got = history.read(view, names, np.tile(keys, (len(times), 1)), every)
    reference = Reference(view)
    for name in names:
        values = got[name].values.tolist()
        expected = [reference.values((k,), t)[name] for t in times for k in range(20)]
        assert [v or 0 for v in values] == [e or 0 for e in expected], name


WINDOWED = {"n": Count(windows=["2d", "6h"]), "s": Sum("x", windows="1d")}


def test_a_range_of_times_is_built_and_then_only_what_is_missing(tmp_path):
    view = account_view(days(10, late=5), WINDOWED)
    build = IndexedHistory(tmp_path).build(view, Span(START + 2 * DAY, START + 5 * DAY))
    assert [build.rows(0)] == [600]
    build.run()
    history = IndexedHistory(tmp_path)
    ask(history, view, [START + 4 * DAY, START + 5 * DAY])
    wider = IndexedHistory(tmp_path).build(view, Span(START + 3 * DAY, START + 7 * DAY))
    assert [(s.span.begin, s.segment is not None) for s in wider.slots] == [
        (START + 2 * DAY, True),
        (START + 5 * DAY, False),
    ]
    assert wider.rows(1) == 400
    wider.run()
    ask(IndexedHistory(tmp_path), view, [START + 5 * DAY, START + 5 * DAY + HOUR, START + 7 * DAY])
    whole = IndexedHistory(tmp_path).build(view)
    assert [s.segment is not None for s in whole.slots] == [False, True, True, False]
    whole.run()
    history = IndexedHistory(tmp_path)
    ask(history, view, [START, START + 3 * DAY, START + 9 * DAY, START + 40 * DAY])
    assert sum(len(g.times) for g in history.grouped(view)) == 2000
    compact([IndexedHistory(tmp_path).build(view)], Budget(), 2, whole=True)
    one = IndexedHistory(tmp_path).build(view)
    assert len(one.slots) == 1
    assert one.is_complete
    ask(IndexedHistory(tmp_path), view, [START + 3 * DAY, START + 9 * DAY])


@pytest.mark.parametrize("at", [START + DAY, START + 5 * DAY + 1, START + 3 * DAY])
def test_a_lookup_outside_of_what_is_built_says_what_to_run(tmp_path, at):
    view = account_view(days(10), WINDOWED)
    IndexedHistory(tmp_path).build(view, Span(START + 2 * DAY, START + 5 * DAY)).run()
    history = IndexedHistory(tmp_path)
    with pytest.raises(StoreError) as error:
        history.read(view, list(view.features), np.zeros((2, 1), np.int64), np.array([START + 4 * DAY, at]))
    assert "holds events from 2" in error.value.message
    assert "1 of 2 rows need events from" in error.value.message
    assert error.value.hint is not None
    assert error.value.hint.startswith("run: bedplate backfill v --from 2")


def test_values_over_all_history_need_all_of_it(tmp_path):
    view = account_view(days(10))
    IndexedHistory(tmp_path).build(view, Span(START + 2 * DAY, None)).run()
    history = IndexedHistory(tmp_path)
    got = history.read(view, ["v.n_2d"], np.array([[1]]), np.array([START + 40 * DAY]))
    assert got["v.n_2d"].values.tolist() == [0]
    with pytest.raises(StoreError, match="all history") as error:
        history.read(view, ["v.s"], np.array([[1]]), np.array([START + 5 * DAY]))
    assert error.value.hint == "run: bedplate apply"
    with pytest.raises(StoreError, match="all are needed"):
        next(history.grouped(view))
    IndexedHistory(tmp_path).build(view, Span(None, START + 2 * DAY)).run()
    assert IndexedHistory(tmp_path).read(view, ["v.s"], np.array([[1]]), np.array([START + 5 * DAY]))["v.s"].values[0]


def test_the_end_of_a_range_is_the_end_of_what_is_known(tmp_path):
    view = account_view(days(10))
    IndexedHistory(tmp_path).build(view, Span(None, START + 5 * DAY)).run()
    assert IndexedHistory(tmp_path).end(view) == START + 5 * DAY - 1
    plain = account_view(days(10), {"n": Count()})
    IndexedHistory(tmp_path).build(plain, Span(None, START + 5 * DAY)).run()
    history = IndexedHistory(tmp_path)
    with pytest.raises(StoreError, match="need events from"):
        history.ahead(plain, ["v.n"], np.array([[1]]), np.array([START + 5 * DAY]), DAY)


def test_a_range_is_extended_by_new_pieces(tmp_path):
    span = Span(START + 2 * DAY, START + 5 * DAY)
    built_first = IndexedHistory(tmp_path).build(account_view(days(4), WINDOWED), span)
    built_first.run()
    again = IndexedHistory(tmp_path).build(account_view(days(5), WINDOWED), span)
    assert [s.segment is not None for s in again.slots] == [True, False]
    assert again.rows(1) == 200
    again.run()
    ask(IndexedHistory(tmp_path), account_view(days(5), WINDOWED), [START + 4 * DAY, START + 5 * DAY])
