"""Which segments an index is made of: as little to build as there can be, few segments, no event twice or left out."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.errors import StoreError
from bedplate.features.view import FeatureView
from bedplate.offline.cover import WHOLE, Slot, cover
from bedplate.offline.coverage import Coverage
from bedplate.offline.index import FORMAT
from bedplate.offline.segment import Lock, Read, Segment, SegmentManifest, Span, read_manifest, segment_id, segments_of
from bedplate.sources.base import Piece, Source
from bedplate.testing.simulator import START, USER
from bedplate.types import DAY, HOUR


def pieces(names: str, rows: int = 10) -> list[Piece]:
    return [Piece(name, rows, pl.LazyFrame) for name in names]


def manifest(names: str, span: Span = WHOLE, **changed: Any) -> SegmentManifest:
    facts: dict[str, Any] = {
        "format": FORMAT,
        "source": "events",
        "snapshot": "s",
        "entities": ["user"],
        "pieces": list(names),
        "span": span,
        "reads": [Read(list(names), span)],
        "buckets": 1,
        "rows": 10 * len(names),
        "keys": 3,
        "first": START,
        "end": START + 9 * DAY,
        "known": START,
        "low": START,
        "high": START + 9 * DAY,
        "seconds": 0.1,
    }
    return SegmentManifest(**facts | changed)


def segment(names: str, span: Span = WHOLE) -> Segment:
    return Segment(Path(segment_id(list(names), span)), manifest(names, span))


def cost(slot: Slot) -> float:
    return 0.0 if slot.segment else float(slot.rows)


def covered(
    table: str, there: list[str] | list[Segment], target: Span = WHOLE, bounds: dict[str, tuple[int, int]] | None = None
) -> list[str]:
    """The slots as text: the pieces, in capital letters where they are to be built."""
    segments = [segment(s) if isinstance(s, str) else s for s in there]

    def times(slot: Slot) -> tuple[int, int] | None:
        known = [cast("dict[str, tuple[int, int]]", bounds)[p.id] for p in slot.pieces]
        return min(k[0] for k in known), max(k[1] for k in known)

    slots = cover(pieces(table), segments, target, cost, None if bounds is None else times)
    return ["".join(p.id for p in s.pieces) if s.segment else "".join(p.id for p in s.pieces).upper() for s in slots]


@pytest.mark.parametrize(
    ("table", "there", "expected"),
    [
        ("abc", [], ["ABC"]),
        ("abc", ["abc"], ["abc"]),
        ("abcde", ["abc"], ["abc", "DE"]),
        ("abc", ["a", "b", "c", "ab"], ["ab", "c"]),
        ("abcd", ["a", "b", "c", "d", "abc"], ["abc", "d"]),
        ("axc", ["abc", "a", "c"], ["a", "X", "c"]),
        ("bcd", ["abcd", "bc"], ["bc", "D"]),
        ("ba", ["ab"], ["BA"]),
        ("xab", ["ab"], ["X", "ab"]),
        ("abcdef", ["bc", "de", "cd"], ["A", "bc", "de", "F"]),
    ],
)
def test_what_is_there_is_taken_and_what_is_missing_is_built(table, there, expected):
    assert covered(table, there) == expected


def test_an_empty_piece_is_a_piece():
    slots = cover([Piece("a", 0, pl.LazyFrame)], [], WHOLE, cost, None)
    assert [len(s.pieces) for s in slots] == [1]


@given(
    table=st.permutations("abcdef").map("".join),
    runs=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), max_size=8),
    others=st.lists(st.text("abcxyz", min_size=1, max_size=3), max_size=4),
)
def test_every_piece_is_in_one_slot_and_nothing_that_is_there_is_built_for_nothing(table, runs, others):
    there = [table[a : a + n] for a, n in runs] + [o for o in others if len(set(o)) == len(o)]
    found = covered(table, there)
    assert "".join(found).lower() == table
    least = [0] * 7
    for i in range(5, -1, -1):
        least[i] = min([1 + least[i + 1], *(least[i + len(r)] for r in there if table.startswith(r, i))])
    assert sum(len(f) for f in found if f.isupper()) == least[0]
    assert all(not (a.isupper() and b.isupper()) for a, b in pairwise(found))


@pytest.mark.parametrize(
    ("there", "bounds", "expected"),
    [
        (["a"], {"a": (0, 5), "b": (6, 9)}, ["a", "B"]),
        (["a"], {"a": (0, 6), "b": (6, 9)}, ["AB"]),
        (["a"], {"a": (10, 20), "b": (0, 9)}, ["a", "B"]),
        (["a", "b"], {"a": (0, 5), "b": (6, 9), "c": (4, 4)}, ["ABC"]),
        (["a", "b"], {"a": (0, 5), "b": (6, 9), "c": (7, 12)}, ["a", "BC"]),
        (["a", "b", "bc"], {"a": (0, 5), "b": (6, 9), "c": (7, 12)}, ["a", "bc"]),
    ],
)
def test_rows_of_a_time_are_kept_together_where_they_must_be(there, bounds, expected):
    assert covered("".join(bounds), there, bounds=bounds) == expected


def test_ranges_of_times_fill_up_to_what_is_asked_for():
    early, late = segment("ab", Span(10, 20)), segment("ab", Span(30, 40))
    spans = [(s.span, s.segment is not None) for s in cover(pieces("ab"), [late, early], Span(15, 50), cost, None)]
    assert spans == [(Span(10, 20), True), (Span(20, 30), False), (Span(30, 40), True), (Span(40, 50), False)]
    every = [(s.span, s.segment is not None) for s in cover(pieces("ab"), [early, late], WHOLE, cost, None)]
    assert [s for s, there in every if not there] == [Span(None, 10), Span(20, 30), Span(40, None)]
    inside = cover(pieces("ab"), [early], Span(12, 15), cost, None)
    assert [s.segment for s in inside] == [early]


def test_an_index_of_all_times_is_preferred_to_ranges():
    ranged = segment("ab", Span(10, 20))
    assert [s.span for s in cover(pieces("ab"), [ranged, segment("ab")], Span(10, 30), cost, None)] == [WHOLE]
    extended = cover(pieces("abc"), [segment("ab")], Span(10, 30), cost, None)
    assert [(s.span, s.segment is not None) for s in extended] == [(WHOLE, True), (WHOLE, False)]


def test_ranges_that_overlap_are_not_read_twice():
    slots = cover(pieces("a"), [segment("a", Span(10, 20)), segment("a", Span(15, 30))], Span(10, 30), cost, None)
    assert [(s.span, s.segment is not None) for s in slots] == [(Span(10, 20), True), (Span(20, 30), False)]


@given(
    one=st.tuples(st.none() | st.integers(0, 9), st.none() | st.integers(0, 9)),
    other=st.tuples(st.none() | st.integers(0, 9), st.none() | st.integers(0, 9)),
)
def test_spans_as_sets_of_times(one, other):
    def times(span: tuple[int | None, int | None]) -> set[int]:
        low, high = (-5 if span[0] is None else span[0]), (15 if span[1] is None else span[1])
        return set(range(low, high))

    if not times(one) or not times(other):
        return
    assert Span(*one).meets(Span(*other)) == bool(times(one) & times(other))
    assert Span(*one).holds(Span(*other)) == (times(other) <= times(one))


def test_a_damaged_manifest_says_what_to_do(tmp_path):
    folder = tmp_path / "segments" / "s"
    folder.mkdir(parents=True)
    (folder / "segment.json").write_text("{")
    with pytest.raises(StoreError, match="can't read the manifest") as error:
        read_manifest(folder)
    assert error.value.hint == "delete its folder and run: bedplate apply"
    with pytest.raises(StoreError):
        segments_of(tmp_path)
    assert segments_of(tmp_path / "none") == []


def test_locks_keep_others_out_and_a_folder_that_was_moved_away_is_gone(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    one, other = Lock.shared(folder), Lock.shared(folder)
    assert one is not None
    assert other is not None
    assert Lock.alone(folder) is None
    one.release()
    other.release()
    alone = Lock.alone(folder)
    assert alone is not None
    folder.rename(tmp_path / "b")
    assert Lock.shared(folder) is None
    folder.mkdir()
    assert Lock.shared(folder) is not None
    alone.release()


# What an index of ranges holds


def coverage(*spans: Span, low: int = START, high: int = START + 9 * DAY) -> Coverage:
    features = {"n": Count(windows="1d"), "s": Sum("x")}
    frame = pl.DataFrame({"user": [1], "time": [START], "x": [1]})
    view = FeatureView("v", USER, Source("events", frame, time="time"), features).compile()
    return Coverage.of(view, [manifest("a", span, low=low, high=high) for span in spans])


DAY_WINDOW = np.array([[DAY, HOUR, -1, -1]], np.int64)
ALL_HISTORY = np.array([[-1, 0, -1, -1]], np.int64)
CARRIED = np.array([[-1, 0, -1, 2 * DAY]], np.int64)
AHEAD = np.array([[0, 0, -1, -1]], np.int64)


@pytest.mark.parametrize(
    ("limits", "first", "last"),
    [(DAY_WINDOW, START + 3 * DAY, START + 5 * DAY), (CARRIED, START + 4 * DAY, START + 5 * DAY)],
)
def test_times_whose_events_are_all_held(limits, first, last):
    held = coverage(Span(START + 2 * DAY, START + 4 * DAY), Span(START + 4 * DAY, START + 5 * DAY))
    held.check(limits, np.array([first, last]), 0, ahead=False)
    for time in (first - 1, last + 1):
        with pytest.raises(StoreError, match="1 of 2 rows need events"):
            held.check(limits, np.array([first, time]), 0, ahead=False)
    held.check(limits, np.array([last + HOUR]), -HOUR, ahead=False)  # known an hour later


def test_forward_windows_need_what_comes():
    held = coverage(Span(START + 2 * DAY, START + 5 * DAY))
    held.check(AHEAD, np.array([START + 2 * DAY, START + 4 * DAY]), DAY, ahead=True)
    for time in (START + 2 * DAY - 1, START + 4 * DAY + 1):
        with pytest.raises(StoreError):
            held.check(AHEAD, np.array([time]), DAY, ahead=True)


def test_beyond_the_first_and_the_last_event_nothing_is_missing():
    held = coverage(Span(START, START + 5 * DAY))
    held.check(ALL_HISTORY, np.array([START + 5 * DAY]), 0, ahead=False)
    assert held.end(START + 4 * DAY) == START + 5 * DAY - 1
    whole = coverage(Span(START - DAY, START + 9 * DAY + 1))
    assert whole.is_whole
    whole.check(ALL_HISTORY, np.array([START + 90 * DAY]), 0, ahead=False)
    assert whole.end(START + 9 * DAY) == START + 9 * DAY
    assert whole.text == "of all times"


def test_a_gap_is_a_gap():
    held = coverage(Span(START, START + 2 * DAY), Span(START + 4 * DAY, None))
    assert held.text.count("to") == 1
    held.check(DAY_WINDOW, np.array([START + 2 * DAY, START + 5 * DAY, START + 50 * DAY]), 0, ahead=False)
    with pytest.raises(StoreError, match="2 of 2 rows"):
        held.check(DAY_WINDOW, np.array([START + 3 * DAY, START + 4 * DAY]), 0, ahead=False)
    assert not held.is_whole
