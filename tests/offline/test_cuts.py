"""Buckets that are cut into parts by time: what is read from them is what the oracle says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from split_table import SplitTable

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.ordered import Last
from bedplate.batch import column_to_series
from bedplate.features.rows import Rows, prepare_batches
from bedplate.features.view import FeatureView
from bedplate.offline import memory
from bedplate.offline.cuts import Cut, find_cuts, part_counts, part_numbers
from bedplate.offline.history import IndexedHistory
from bedplate.offline.reference import Reference
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches
from bedplate.testing.simulator import START, USER, every_aggregation, simulate
from bedplate.types import DAY

TIES = [{}, {"sequence": "rank"}, {"available": "known"}, {"sequence": "rank", "available": "known"}]


def cut_up(patch: pytest.MonkeyPatch, buckets: int, rows_of_a_part: int) -> None:
    """Makes builds use so many buckets, and cut those of more rows."""
    patch.setattr(memory.Budget, "buckets", lambda self, view, rows, threads: buckets)
    patch.setattr(memory.Budget, "parts", lambda self, view, rows, threads: -(-rows // rows_of_a_part))


@settings(max_examples=5)
@given(
    seed=st.integers(0, 10_000),
    events=st.integers(1, 120),
    columns=st.sampled_from(TIES),
    where=st.lists(st.integers(0, 160), max_size=2),
    buckets=st.sampled_from([2, 4]),
    size=st.sampled_from([10, 30]),
)
def test_an_index_of_parts_equals_the_oracle(seed, events, columns, where, buckets, size):
    simulation = simulate(seed, events=events, questions=25)
    cuts = sorted(min(w, events) for w in where)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        cut_up(patch, buckets, size)
        source = Source("events", SplitTable(simulation.events, cuts), time="time", **columns)
        chosen = {n: a for k, (n, a) in enumerate(every_aggregation().items()) if k % 3 == seed % 3}
        view = FeatureView("v", USER, source, chosen).compile()
        IndexedHistory(Path(folder)).build(view).run()
        names, keys = list(view.features), simulation.keys((USER,))
        expected = Reference(view).read(view, names, keys, simulation.times)
        for limit in (None, 1):  # with memory, and where it is used up
            got = IndexedHistory(Path(folder), memory=limit).read(view, names, keys, simulation.times)
            assert mismatches(got, expected) == []


@settings(max_examples=30)
@given(
    seed=st.integers(0, 100),
    span=st.sampled_from([1, 5, 1000]),
    columns=st.sampled_from(TIES),
    parts=st.sampled_from([2, 5]),
    at_once=st.sampled_from([1, 7, 100]),
)
def test_no_event_of_a_later_part_comes_before_one_of_an_earlier_part(seed, span, columns, parts, at_once):
    draw = np.random.default_rng(seed)
    times = START + draw.integers(0, span, 60)
    frame = pl.DataFrame({"user": 1, "time": times, "rank": draw.integers(0, 9, 60), "known": times, "x": range(60)})
    view = FeatureView("v", USER, Source("events", frame, time="time", **columns), {"s": Sum("x")}).compile()

    def batches():
        for batch in prepare_batches(view, frame.lazy()):
            for start in range(0, len(batch), at_once):
                yield _slice(batch, slice(start, start + at_once))

    cuts = find_cuts(view, 0, batches(), 60, parts)
    assert cuts == sorted(set(cuts))
    numbers = np.concatenate([n for _, n in part_numbers(batches(), cuts)])
    order = np.lexsort((np.arange(60), times))
    assert (np.diff(numbers[order]) >= 0).all() or bool(columns)
    for time in np.unique(times) if columns else []:
        assert len(set(numbers[times == time].tolist())) == 1
    if not columns:
        assert np.bincount(numbers, minlength=len(cuts) + 1).max() <= 2 * 60 // parts
    assert part_counts(1, cuts) == [len(cuts) + 1]


def _slice(rows: Rows, part: slice) -> Rows:
    selections = tuple(
        dataclasses.replace(
            s, valid=None if s.valid is None else s.valid[part], inputs=tuple(i[part] for i in s.inputs)
        )
        for s in rows.selections
    )
    optional = {n: None if (v := getattr(rows, n)) is None else v[part] for n in ("known", "sequence")}
    return dataclasses.replace(rows, times=rows.times[part], keys=rows.keys[part], selections=selections, **optional)


def table(rows: int) -> pl.DataFrame:
    draw = np.random.default_rng(3)
    return pl.DataFrame(
        {
            "user": np.where(draw.random(rows) < 0.8, 7, draw.integers(0, 40, rows)),
            "time": START + draw.integers(0, 5 * DAY, rows),
            "x": draw.integers(-9, 9, rows),
            "name": [f"name {n}" for n in draw.integers(0, 900, rows)],
        }
    )


def view_of(frame: pl.DataFrame, where: list[int], **more: object):
    features = {"n": Count(windows="1d"), "s": Sum("x"), "last": Last("name"), **more}
    return FeatureView("v", USER, Source("events", SplitTable(frame, where), time="time"), features).compile()  # type: ignore[arg-type]


def test_a_column_is_added_to_parts_and_they_are_not_merged(tmp_path, monkeypatch):
    cut_up(monkeypatch, 4, 300)
    frame = table(3000)
    history = IndexedHistory(tmp_path)
    (segment,) = history.build(view_of(frame[:2000], [])).run()
    assert len(segment.parts) == segment.manifest.buckets + len(segment.manifest.cuts) > 8
    assert max(len(part.times) for part in segment.parts) < 450
    view = view_of(frame, [2000], high=Last("x"))
    build = history.build(view)
    build.run()
    assert history.compact([build], whole=True) == []
    keys, times = np.arange(0, 41).reshape(-1, 1), np.full(41, START + 4 * DAY)
    names = list(view.features)
    got = IndexedHistory(tmp_path).read(view, names, keys, times)
    assert mismatches(got, Reference(view).read(view, names, keys, times)) == []
    assert column_to_series(got["v.last"])[7] is not None
    assert sum(len(g.times) for g in IndexedHistory(tmp_path).grouped(view)) == len(frame)


def test_a_build_that_was_interrupted_goes_on_from_the_parts_that_are_finished(tmp_path, monkeypatch):
    cut_up(monkeypatch, 2, 300)
    view, said = view_of(table(2000), []), list[str]()

    def stop(step: str) -> None:
        said.append(step)
        if sum("sort" in s for s in said) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        IndexedHistory(tmp_path, threads=1).build(view).run(stop)
    monkeypatch.setattr(memory.Budget, "parts", lambda self, view, rows, threads: 1)  # where to cut stays as it is
    again: list[str] = []
    (segment,) = IndexedHistory(tmp_path, threads=1).build(view).run(again.append)
    assert len(segment.manifest.cuts) > 3
    assert 0 < sum("sort" in s for s in again) <= len(segment.parts) - 3
    assert segment.manifest.cuts == sorted(segment.manifest.cuts)
    assert all(isinstance(cut, Cut) for cut in segment.manifest.cuts)
