"""Traps that feature stores fell into, each through what a user calls: none of them may come back."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate import Project
from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.base import Aggregation
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.extremes import Max, Min
from bedplate.aggregations.ordered import Last, LastN, TimeSince
from bedplate.aggregations.window import Window
from bedplate.cli.main import run
from bedplate.errors import ConfigError, DataError, DefinitionError
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline import flight, kernels, seek
from bedplate.offline.history import IndexedHistory
from bedplate.offline.instructions import AHEAD
from bedplate.offline.reference import Reference
from bedplate.online.fetch import OnlineReader
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.serving.service import Retrieval, Service
from bedplate.serving.wire import Wire
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches, plain
from bedplate.testing.simulator import ITEM, START, USER, simulate
from bedplate.types import DAY, HOUR, MINUTE, Type

BIG = 2**53

DEFINITIONS = """\
import polars as pl
from bedplate import *

events = Source("events", "events.parquet", time="time"{more})
user = Entity("user", key="user")
view = FeatureView("v", user, events, {{{features}}}{options})
"""


def make(
    folder: Path, rows: pl.DataFrame, features: str = '"n": Count(), "last": Last("value")', more: str = "",
    options: str = "",
) -> Project:  # fmt: skip
    """A project with a view `v` of users over these events, applied."""
    folder.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(folder / "events.parquet")
    (folder / "bedplate.toml").write_text("")
    text = DEFINITIONS.format(features=features, more=more and f", {more}", options=options and f", {options}")
    (folder / "features.py").write_text(text)
    project = Project(folder)
    project.apply()
    return project


def events(*rows: tuple[int, int, int]) -> pl.DataFrame:
    """Rows of (user, minutes after START, value)."""
    frame = pl.DataFrame(rows, schema={"user": pl.Int64, "minute": pl.Int64, "value": pl.Int64}, orient="row")
    return frame.select("user", "value", time=START + pl.col("minute") * MINUTE)


def online(project: Project) -> OnlineReader:
    store = MemoryStore()
    project.materialize(store)
    return OnlineReader(store)


def test_labels_that_share_key_and_time_are_all_kept_in_order(tmp_path):
    project = make(tmp_path, events((1, 0, 10), (1, 5, 20), (2, 0, 30)))
    keys, minutes = [2, 1, 1, 3, 1, 1, 1], [9, 3, 3, 3, 9, 9, 3]
    got = project.lookup("v.*", keys, [START + m * MINUTE for m in minutes])
    assert got["user"].to_list() == keys
    assert got["v.n"].to_list() == [1, 1, 1, 0, 2, 2, 1]
    assert got["v.last"].to_list() == [30, 10, 10, None, 20, 20, 10]
    many = np.tile(np.array(keys), 5000)
    whole = project.lookup("v.*", many, np.tile(START + np.array(minutes) * MINUTE, 5000))
    assert whole["v.n"].to_list() == [1, 1, 1, 0, 2, 2, 1] * 5000


@pytest.mark.parametrize(
    ("more", "first"), [("", 1), ('delay="10m"', 11), ('available="known"', 31), ('available="time"', 1)]
)
def test_a_value_that_is_not_known_yet_at_the_labels_time_is_never_used(tmp_path, more, first):
    rows = events((1, 0, 10)).with_columns(known=pl.col("time") + 30 * MINUTE)
    project = make(tmp_path, rows, more=more)
    times = [START + m * MINUTE for m in range(first + 3)]
    got = project.lookup("v.*", [1] * len(times), times)
    assert got["v.n"].to_list() == [0] * first + [1] * 3
    assert got["v.last"].to_list() == [None] * first + [10] * 3


class Counting:
    """An array that counts how often a value of it is read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.reads = values, 0

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, at: int) -> int:
        self.reads += 1
        return int(self.values[int(at)])


def memory_of_a_lookup(folder: Path, rows: int, available: str | None) -> int:
    """The most bytes held while 20,000 labels of one key with all rows are looked up; checks the values."""
    labels = 20_000
    frame = pl.DataFrame({"user": np.ones(rows, np.int64), "time": START + np.arange(rows) * 1_000_000})
    frame = frame.with_columns(known=pl.col("time") + (pl.col("time") % 97 == 0) * HOUR, value=pl.col("time") % 1000)
    times = START + np.linspace(0, rows * 1_000_000, labels).astype(np.int64)
    features = {"n": Count(windows=["1h", "7d"]), "sum": Sum("value"), "last": Last("value"), "high": Max("value")}
    view = FeatureView("v", USER, Source("s", frame, time="time", available=available), features).compile()
    # One thread: of two, both hold their blocks at once or one after the other, as the machine pleases.
    history = IndexedHistory(folder / f"{available} {rows}", threads=1)
    history.build(view).run()
    names, keys = list(view.features), np.ones((labels, 1), np.int64)
    history.read(view, names, keys, times)  # what is compiled, loaded or imported once
    tracemalloc.start()
    found = history.read(view, names, keys, times)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    at, known = frame["time"].to_numpy(), frame["known" if available else "time"].to_numpy()
    for i in range(0, labels, 1999):
        first = (times[i] - 7 * DAY) // HOUR * HOUR
        assert found["v.n_7d"].values[i] == np.sum((at >= first) & (at < times[i]) & (known < times[i]))
    return peak


@pytest.mark.parametrize("available", [None, "known"])
def test_no_memory_grows_with_labels_times_rows_of_a_key(tmp_path, available):
    """What a lookup holds depends on the labels alone: ten times the rows of their key, and it holds as much."""
    one, ten = (memory_of_a_lookup(tmp_path, rows, available) for rows in (100_000, 1_000_000))
    assert ten < 1.25 * one


def smaller_ahead(times: Counting, at: np.uint64, bound: int) -> np.uint64:
    """What `count_smaller` does, in Python; it always reads as many values."""
    times.reads += AHEAD
    return np.uint64(np.searchsorted(times.values[int(at) : int(at) + AHEAD], bound))


def reads_of_a_lookup(monkeypatch: pytest.MonkeyPatch, rows: int) -> dict[str, int]:
    """How many values of a key with all rows the compiled steps of a lookup read, counted by running them as Python.

    Eight labels, each with a window of an eighth of the rows, and all history.
    """
    monkeypatch.setattr(seek, "count_smaller", smaller_ahead)
    monkeypatch.setattr(seek, "first_from", getattr(seek.first_from, "py_func", seek.first_from))
    monkeypatch.setattr(kernels, "_scan_extreme", getattr(kernels._scan_extreme, "py_func", kernels._scan_extreme))
    monkeypatch.setattr(flight, "_next", getattr(flight._next, "py_func", flight._next))
    asked = np.arange(1, 9) * (rows // 8) - 1
    times, ranges = Counting(np.arange(rows)), np.array([[rows // 8, 0, -1, -1], [-1, 0, -1, -1]])
    first, stop, zeros = np.zeros((2, 8), np.int64), np.zeros(8, np.int64), np.zeros(8, np.int32)
    seek.find_rows.py_func(times, np.array([0, rows], np.uint64), zeros, asked, 0, ranges, (0, rows), first, stop)
    assert stop.tolist() == asked.tolist()
    assert (stop - first).tolist() == [[min(rows // 8, a) for a in asked], asked.tolist()]

    values = np.arange(rows) * 7919 % 10_007
    levels = [values]
    for _ in range(2):
        levels.append(np.zeros(-(-len(levels[-1]) // kernels.BLOCK), np.int64))
        kernels.block_extremes(levels[-2], kernels.BLOCK, True, levels[-1])
    counted, out = [Counting(level) for level in levels], np.zeros(8, np.int64)
    kernels.range_extremes.py_func(*counted, True, np.zeros(8, np.int64), stop, out, np.zeros(8, np.bool_))
    assert out.tolist() == [values[:s].max() for s in stop]

    known = np.arange(rows)
    known[[rows // 2000, rows * 4 // 10]] += 2 * rows  # two late rows
    known[rows * 6 // 10 : rows * 9 // 10] += 2 * rows  # and a long run of them
    blocks, late = flight.Known.of(known), np.zeros(1, np.int64)
    arrays = [Counting(a) for a in (blocks.rows, *blocks.greatest, *blocks.least)]
    last = [np.array([n]) for n in (rows, 3, rows - 1)]
    flight._count_pieces.py_func(*arrays, *last, -1, late)
    assert late.tolist() == [4]
    return {
        "rows": times.reads,
        "extremes": sum(a.reads for a in counted),
        "late rows": sum(a.reads for a in arrays),
    }


def test_no_step_of_a_lookup_walks_through_the_rows_of_a_key(monkeypatch):
    """Ten times the rows of a key: a search reads four values more, and what is found by blocks a few blocks."""
    one, ten = (reads_of_a_lookup(monkeypatch, rows) for rows in (100_000, 1_000_000))
    assert ten["rows"] - one["rows"] <= 8 * 2 * 2 * 4  # of 8 labels 2 ranges, each to be found from both sides
    assert one["rows"] <= 8 * 2 * (AHEAD + 2 * 17)
    top = kernels.BLOCK**2  # rows under one value of the highest level
    for found, rows in ((one, 100_000), (ten, 1_000_000)):
        assert found["extremes"] <= 8 * (4 * kernels.BLOCK + rows // top + 2)
        assert found["late rows"] < 8 * (2 * 2 * kernels.BLOCK)  # a few blocks for each run, not each row
    assert ten["late rows"] < 2 * one["late rows"]


def test_a_future_end_is_answered_as_of_what_is_known(tmp_path):
    project = make(tmp_path, events((1, 0, 10), (1, 5, 20)), '"n": Count(), "in": Count(windows="1h")')
    far = datetime(2199, 12, 31, tzinfo=UTC)
    got = project.lookup("v.*", [1, 2], far)
    assert got["v.n"].to_list() == [2, 0]
    assert got["v.in_1h"].to_list() == [0, 0]
    with pytest.raises(ConfigError, match="which is later than now"):
        project.materialize(MemoryStore(), until=far)
    with pytest.raises(DataError, match="expected a time from 1970 to 2199"):
        project.lookup("v.*", [1], "2200-01-01")


@pytest.mark.parametrize("options", ["", 'where=pl.col("value") > 99'])
@pytest.mark.parametrize("more", ["", 'available="time", sequence="value"'])
def test_a_source_or_view_without_rows_gives_what_no_event_gives(tmp_path, options, more):
    """An empty table; a view whose condition lets no row through."""
    rows = events((1, 0, 10)) if options else events()
    features = '"n": Count(), "sum": Sum("value", windows="1h"), "last": Last("value"), "all": LastN("value", 3)'
    features += (
        ', "high": Max("value"), "different": CountDistinct("value"), "mean": Mean("value"), "since": TimeSince()'
    )
    project = make(tmp_path, rows, features, more, options)
    expected = {
        "n": [0], "sum_1h": [0], "last": [None], "all": [[]], "high": [None], "different": [0], "mean": [None],
        "since": [None],
    }  # fmt: skip
    for reader in (project.history, online(project)):
        got = project.lookup("v.*", [1], START + DAY, reader)
        assert {n.removeprefix("v."): got[n].to_list() for n in got.columns[2:]} == expected
    assert len(project.lookup("v.*", [], [])) == 0


def test_a_key_that_never_occurs_gives_what_no_event_gives(tmp_path):
    project = make(tmp_path, events((1, 0, 10), (3, 0, 20)))
    asked = [0, 2, 4, -(2**63), 2**63 - 1, 3]
    for reader in (project.history, online(project)):
        got = project.lookup("v.*", asked, START + DAY, reader)
        assert got["v.n"].to_list() == [0] * 5 + [1]
        assert got["v.last"].to_list() == [None] * 5 + [20]


def test_unsorted_input_is_read_as_sorted_input_is(tmp_path):
    draw = np.random.default_rng(1)
    rows = events(*((int(u), m, m) for m, u in enumerate(draw.integers(0, 3, 300))))
    shuffled = rows[draw.permutation(300)]
    features = '"n": Count(windows="1h"), "last": Last("value"), "all": LastN("value", 4), "sum": Sum("value")'
    keys, times = draw.integers(0, 4, 100), START + draw.integers(-5, 310, 100) * MINUTE
    first, second = (
        make(tmp_path / n, r, features).lookup("v.*", keys, times) for n, r in (("a", rows), ("b", shuffled))
    )
    assert first.equals(second)
    back = np.argsort(-times)
    turned = make(tmp_path / "c", rows, features).lookup("v.*", keys[back], times[back])
    assert turned.equals(first[back])


BERLIN = ZoneInfo("Europe/Berlin")
REPEATED = datetime(2024, 10, 27, 2, 30)
"""Half past two on the night when clocks go back: it comes twice, an hour apart."""


def test_times_of_a_zone_are_moments_also_in_the_hour_that_comes_twice(tmp_path):
    utc = [datetime(2024, 10, 27, 0, 30), datetime(2024, 10, 27, 1, 30), datetime(2024, 3, 31, 1, 0)]
    rows = pl.DataFrame({"user": [1, 1, 1], "value": [1, 2, 3], "time": utc})
    zoned = rows.with_columns(pl.col("time").dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin"))
    assert zoned["time"].dt.hour().to_list() == [2, 2, 3]
    features = '"n": Count(), "last": Last("value"), "hour": Count(windows=Window.of("1h", hop="5m"))'
    for name, frame in (("naive", rows), ("zoned", zoned)):
        project = make(tmp_path / name, frame, features.replace("Window.of", "Window.of"))
        summer = REPEATED.replace(tzinfo=BERLIN, fold=0) + timedelta(microseconds=1)
        asked = [
            summer,
            REPEATED.replace(tzinfo=BERLIN, fold=1),
            (REPEATED + timedelta(minutes=1)).replace(tzinfo=BERLIN, fold=1),
        ]
        for reader in (project.history,):
            got = project.lookup("v.*", [1, 1, 1], asked, reader)
            assert got["v.n"].to_list() == [2, 2, 3]
            assert got["v.last"].to_list() == [1, 1, 2]
            assert got["v.hour_1h"].to_list() == [1, 1, 2]
        same = project.lookup("v.*", [1, 1, 1], pl.Series(asked).dt.convert_time_zone("Asia/Tokyo"))
        assert same.equals(got)
        naive = project.lookup("v.*", [1], [datetime(2024, 10, 27, 0, 30, 0, 1)])  # without a zone: UTC
        assert naive["v.last"].to_list() == [1]
        assert project.lookup("v.*", [1], "2024-10-27T02:31:00+01:00")["v.last"].to_list() == [2]
        assert project.lookup("v.*", [1], "2024-10-27T02:31:00+02:00")["v.last"].to_list() == [1]


def test_integers_beyond_the_exact_floats_stay_what_they_are(tmp_path, capsys):
    """As keys and values: in Polars, NumPy and Python, in history, online, JSON, and requests to a server."""
    keys = [BIG, BIG + 1, 2**63 - 1, -(2**63), -BIG - 1]
    rows = [(k, m, k) for k in keys for m in (0, 1)]
    features = (
        '"last": Last("value"), "high": Max("value"), "low": Min("value", windows="1h"), "all": LastN("value", 2)'
    )
    features += ', "different": CountDistinct("value"), "sum": Sum(pl.col("value") // 2), "n": Count()'
    project = make(tmp_path, events(*rows), features)
    (tmp_path / "bedplate.toml").write_text("")
    for reader in (project.history, online(project)):
        for asked in (keys, np.array(keys), pl.Series(keys, dtype=pl.Int64)):
            got = project.lookup("v.*", asked, START + 30 * MINUTE, reader)
            assert got["user"].to_list() == keys
            for name in ("last", "high", "low_1h"):
                assert got[f"v.{name}"].to_list() == keys, name
            assert got["v.all"].to_list() == [[k, k] for k in keys]
            assert got["v.sum"].to_list() == [k // 2 * 2 for k in keys]
            assert got["v.different"].to_list() == [1] * 5
        assert project.lookup("v.n", [BIG + 2, BIG - 1], START + DAY, reader)["v.n"].to_list() == [0, 0]
    command = ["lookup", "v.last", "--key", f"user={BIG + 1}", "--time", "2024-03-02", "--json"]
    assert run([*command, "--project", str(tmp_path)]) == 0
    shown = json.loads(capsys.readouterr().out)[0]
    assert (shown["keys"], shown["values"]) == ({"user": BIG + 1}, {"v.last": BIG + 1})
    service = Service("shop", ranking="r", item="item", retrieval=Retrieval("t", count=50), top=7, most_candidates=9)
    wire = Wire(service, {"user": Type.INT}, Type.INT, lambda: START)
    request = wire.rank(json.dumps({"user": BIG + 1, "candidates": keys}).encode())
    assert request.keys["user"].tolist() == [BIG + 1]
    assert request.item_keys.tolist() == request.items == keys


def test_integers_that_no_key_can_hold_are_refused_not_rounded(tmp_path):
    rows = pl.DataFrame({"user": [2**63], "value": [1], "time": [START]}, schema_overrides={"user": pl.UInt64})
    with pytest.raises(DefinitionError, match="cast it in the source's prepare step"):
        make(tmp_path / "a", rows)
    project = make(tmp_path / "b", events((1, 0, 1)))
    for asked in ([2**63], [1.0], np.array([1.5])):
        with pytest.raises(DataError, match="keys"):
            project.lookup("v.n", asked, START + DAY)


COLUMNS = ["quantity", "price", "kind", "flag", "seen", "item", "user", "nothing"]
CONDITIONS = [
    *[None] * 6, pl.col("kind") == "buy", pl.col("flag"), pl.col("price") > 20, pl.col("kind").is_in(["view", "click"]),
    pl.col("quantity"), pl.col("nothing") > 1,
]  # fmt: skip
"""Of these the last two are refused."""

WINDOWS = [
    None, "1h", "15m", ["1h", "1d"], Window.of("1h", hop="exact", bound=3), Window.of("1d", hop="1h"), "36h",
]  # fmt: skip


def expressions() -> st.SearchStrategy[object]:
    column = st.sampled_from(COLUMNS)
    return st.one_of(
        column,
        st.sampled_from(["quantity", "price", "flag", "user"]).map(lambda c: pl.col(c).cast(pl.Float64)),
        st.sampled_from(
            [pl.col("price") * pl.col("quantity"), pl.col("kind").str.len_chars(), pl.col("seen").dt.hour()]
        ),
        st.sampled_from([pl.lit(1), pl.col("price").sum(), pl.col("kind") + "x", pl.col("flag").not_()]),
    )


@st.composite
def aggregations(draw: st.DrawFn) -> Aggregation:
    kind = draw(st.sampled_from([Count, Sum, Mean, Min, Max, CountDistinct, Last, LastN, TimeSince]))
    options = {"windows": draw(st.sampled_from(WINDOWS)), "where": draw(st.sampled_from(CONDITIONS))}
    if kind is TimeSince:
        return TimeSince(**options)
    if kind is LastN:
        fields = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=3, unique=True))
        return LastN(fields, draw(st.integers(0, 4)), age=draw(st.sampled_from([None, "age"])), **options)
    if kind is Count and draw(st.booleans()):
        return Count(**options)
    return kind(draw(expressions()), **options)


@st.composite
def features(draw: st.DrawFn, source: Source) -> dict[str, Aggregation]:
    """Several features; most of those that are refused are left out, or nearly every view would have one."""
    found: dict[str, Aggregation] = {}
    for number in range(draw(st.integers(1, 5))):
        aggregation = draw(aggregations())
        try:
            FeatureView("v", USER, source, {"f": aggregation}).compile()
        except DefinitionError:
            if number:
                continue
        found[f"f{number}"] = aggregation
    return found


@st.composite
def definitions(draw: st.DrawFn) -> CompiledView:
    frame = simulate(draw(st.integers(0, 50)), events=draw(st.sampled_from([0, 1, 60]))).events
    order = draw(
        st.sampled_from([{}, {"delay": "1h"}, {"available": "known"}, {"sequence": "rank"}, {"delay": "soon"}])
    )
    source = Source("events", frame, time="time", **order)
    entities = draw(st.sampled_from([(USER,), (ITEM,), (USER, ITEM)]))
    options = {"where": draw(st.sampled_from(CONDITIONS)), "ttl": draw(st.sampled_from([None, "2h"]))}
    return FeatureView("v", entities, source, draw(features(source)), **options).compile()


@settings(max_examples=120)
@given(data=st.data())
def test_a_definition_that_is_accepted_is_a_definition_that_works(tmp_path_factory, data):
    """Random definitions are refused when they are made or compiled, or give the oracle's values wherever read."""
    try:
        view = data.draw(definitions())
    except DefinitionError as error:
        assert error.message  # noqa: PT017 - most drawn definitions are right
        return
    history, store = IndexedHistory(tmp_path_factory.mktemp("history")), MemoryStore()
    history.build(view).run()
    asked, names = simulate(7, events=60, questions=20), list(view.features)
    keys, times = asked.keys(view.view.entities), asked.times
    expected = Reference(view).read(view, names, keys, times)
    assert mismatches(history.read(view, names, keys, times), expected) == []
    until = max(START, history.known(view) + 1)
    bulk_load(store, view, history.grouped(view), until)
    later = np.maximum(times, until)
    got = OnlineReader(store).read(view, names, keys, later)
    assert mismatches(got, Reference(view).read(view, names, keys, later)) == []
    assert [len(plain(c)) for c in got.values()] == [len(times)] * len(names)
