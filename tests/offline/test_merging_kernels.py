"""The loops that read several segments as one, each against what it says in plain code."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from split_table import SplitTable

from bedplate.aggregations.arithmetic import Count
from bedplate.aggregations.ordered import Last
from bedplate.features.view import FeatureView
from bedplate.offline import kernels, memory, seek
from bedplate.offline.history import IndexedHistory
from bedplate.offline.ties import follows
from bedplate.sources.base import Source
from bedplate.testing.simulator import START, USER

TIMES = st.lists(st.integers(0, 6), max_size=6).map(sorted)


# The last rows of all segments


def last_rows(timelines: list[list[int]], known: list[list[int]], asked: int, bound: int) -> list[int]:
    """The first row of each timeline among the last `bound` that could be known; all of them where they are no more."""
    rows = [(t, s, i) for s, times in enumerate(timelines) for i, t in enumerate(times)]
    if len(rows) <= bound:
        return [0 for _ in timelines]
    counted = [r for r in sorted(rows) if known[r[1]][r[2]] < asked][-bound:]
    if len(counted) < bound:
        return [0 for _ in timelines]
    kept = [[i for _, s, i in counted if s == number] for number in range(len(timelines))]
    return [min(of_one, default=len(timelines[number])) for number, of_one in enumerate(kept)]


@given(timelines=st.lists(TIMES, min_size=1, max_size=4), bound=st.integers(1, 8), late=st.booleans(), data=st.data())
def test_a_bound_is_over_all_segments(timelines, bound, late, data):
    asked = 7
    delays = st.integers(0, 3) if late else st.just(0)
    known = [[t + data.draw(delays) for t in times] for times in timelines]
    arrays = [np.array(times, np.int64) for times in timelines]
    knowns = [np.array(k, np.int64) for k in known]
    places = np.array([a.ctypes.data for a in arrays], np.uint64)
    lates = np.array([k.ctypes.data if late else 0 for k in knowns], np.uint64)
    first = np.zeros((len(arrays), 1), np.int64)
    stop = np.array([[len(a)] for a in arrays], np.int64)
    seek.bound_rows(places, lates, np.array([asked]), bound, first, stop)
    rows = [(t, s, i) for s, times in enumerate(timelines) for i, t in enumerate(times)]
    visible = sorted(r for r in rows if known[r[1]][r[2]] < asked)
    got = sorted(r for r in visible if r[2] >= first[r[1], 0])
    if len(rows) > bound:
        assert got == visible[-bound:]
    else:
        assert got == visible
    if not late:
        assert first[:, 0].tolist() == last_rows(timelines, known, asked, bound)


# The values behind a distinct count


@given(
    keys=st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=4),
    repeat=st.sampled_from([1, 90]),
    data=st.data(),
)
def test_the_different_values_of_any_range(keys, repeat, data):
    """Long keys too, whose blocks are passed over where they have nothing new."""
    longer = [values * repeat for values in keys]
    starts = np.cumsum([0, *map(len, longer)])
    values = np.array([v for of_key in longer for v in of_key], np.int64)
    previous, blocks = np.empty(len(values), np.int64), np.empty(len(values), np.int64)
    kernels.previous_same(values, starts, np.empty(1 << 12, np.int64), previous)
    kernels.sort_blocks(previous, kernels.DISTINCT_BLOCK, blocks)
    chosen = [data.draw(st.integers(0, len(keys) - 1)) for _ in range(4)]
    a = np.array([data.draw(st.integers(starts[k], starts[k + 1])) for k in chosen])
    b = np.array([data.draw(st.integers(low, starts[k + 1])) for low, k in zip(a.tolist(), chosen, strict=True)])
    counts = np.empty(4, np.int64)
    kernels.range_distinct(previous, blocks, a, b, counts)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    out = np.full(int(offsets[-1]), -1, np.int64)
    kernels.distinct_values(values, previous, blocks, a, b, offsets, out)
    for i in range(4):
        found = out[offsets[i] : offsets[i + 1]].tolist()
        assert len(set(found)) == len(found)
        assert set(found) == set(values[a[i] : b[i]].tolist())


# What orders events of one key and time


ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), max_size=8)
"""Users, times, places in the sequence, and how late the rows could be known."""


def frame_of(rows: list[tuple[int, int, int, int]]) -> pl.DataFrame:
    columns = {
        "user": [r[0] for r in rows],
        "time": [START + r[1] for r in rows],
        "rank": [r[2] for r in rows],
        "known": [START + r[1] + r[3] for r in rows],
    }
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.Int64))


def segment_of(folder: Path, rows: list[tuple[int, int, int, int]], columns: dict[str, str]):
    source = Source("events", frame_of(rows), time="time", **columns)
    view = FeatureView("v", USER, source, {"n": Count(), "last": Last("rank")}).compile()
    (segment,) = IndexedHistory(folder).build(view).run()
    return segment


@settings(max_examples=40)
@given(
    one=ROWS,
    other=ROWS,
    columns=st.sampled_from([{"sequence": "rank"}, {"available": "known"}, {"sequence": "rank", "available": "known"}]),
    buckets=st.sampled_from([1, 4]),
)
def test_segments_follow_each_other_where_no_pair_of_events_contradicts_it(one, other, columns, buckets):
    def ties(row: tuple[int, int, int, int]) -> tuple[int, ...]:
        return (*([row[2]] if "sequence" in columns else []), *([row[3]] if "available" in columns else []))

    pairs = [(a, b) for a in one for b in other if a[:2] == b[:2]]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        later = segment_of(Path(folder) / "b", other, columns)
        patch.setattr(memory.Budget, "buckets", lambda self, view, rows, threads: buckets)
        earlier = segment_of(Path(folder) / "a", one, columns)
        assert follows(earlier, later) == all(ties(a) <= ties(b) for a, b in pairs)


@settings(max_examples=15)
@given(
    rows=ROWS,
    cut=st.integers(0, 8),
    columns=st.sampled_from([{}, {"sequence": "rank"}, {"sequence": "rank", "available": "known"}]),
    at_once=st.sampled_from([1, 2, 10]),
    buckets=st.sampled_from([1, 4]),
)
def test_grouped_events_of_segments_are_those_of_the_table_in_order(rows, cut, columns, at_once, buckets):
    frame = frame_of(rows)
    cut = min(cut, len(rows))

    def view_of(table: SplitTable):
        source = Source("events", table, time="time", **columns)
        return FeatureView("v", USER, source, {"last": Last("rank")}).compile()

    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory.Budget, "buckets", lambda self, view, rows, threads: buckets)
        history = IndexedHistory(Path(folder))
        history.build(view_of(SplitTable(frame[:cut]))).run()
        history.build(view_of(SplitTable(frame, [cut]))).run()
        got: list[tuple[int, int, int]] = []
        for group in IndexedHistory(Path(folder)).grouped(view_of(SplitTable(frame, [cut])), at_once):
            assert len(group.keys) <= at_once
            assert (group.known is None) == ("available" not in columns)
            assert (group.sequence is None) == ("sequence" not in columns)
            (ranks,) = group.selections[0].inputs
            for k, user in enumerate(group.keys[:, 0].tolist()):
                own = slice(int(group.offsets[k]), int(group.offsets[k + 1]))
                got += [
                    (user, t - START, r) for t, r in zip(group.times[own].tolist(), ranks[own].tolist(), strict=True)
                ]

    def order(row: tuple[int, int, int, int]) -> tuple[int, ...]:
        return (row[0], row[1], *([row[2]] if columns else []), *([row[3]] if "available" in columns else []))

    assert sorted(got, key=lambda r: r[0]) == [r[:3] for r in sorted(rows, key=order)]
