"""An index is built once, only where something is missing, and never half."""

from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.extremes import Max
from bedplate.errors import DataError, StoreError
from bedplate.features.entity import Entity
from bedplate.features.view import FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.sources.base import Source
from bedplate.testing.simulator import START

USER = Entity("user", key="user")
FRAME = pl.DataFrame({"user": [1, 2, 1], "time": [START, START + 1, START + 2], "x": [1.0, 2.0, None]})


def view(features, frame=FRAME, **options):
    source = Source("events", frame, time="time", **options)
    return FeatureView("v", USER, source, features).compile()


def built(history, compiled):
    steps: list[str] = []
    history.build(compiled).run(steps.append)
    return steps


def test_the_same_definition_on_the_same_data_is_never_built_twice(tmp_path):
    history = IndexedHistory(tmp_path)
    assert built(history, view({"s": Sum("x")}))
    assert built(history, view({"s": Sum("x")})) == []


def test_a_new_window_delay_or_name_builds_nothing(tmp_path):
    history = IndexedHistory(tmp_path)
    built(history, view({"s": Sum("x", windows="1d")}))
    assert built(history, view({"t": Sum("x", windows=["2h", "30d"]), "n": Count(windows="1h")}, delay="5m"))[1:] == [
        "v: column events"
    ]
    assert built(history, view({"m": Mean("x", windows="1d")})) == []


def test_a_new_feature_builds_its_own_column_only(tmp_path):
    history = IndexedHistory(tmp_path)
    built(history, view({"s": Sum("x")}))
    steps = built(history, view({"s": Sum("x"), "m": Max(pl.col("x") * 2)}))
    assert [s for s in steps if "sort" in s] == []
    assert len([s for s in steps if "column" in s]) == 1


def test_a_new_snapshot_is_a_new_index(tmp_path):
    history = IndexedHistory(tmp_path)
    built(history, view({"s": Sum("x")}))
    assert any("sort" in s for s in built(history, view({"s": Sum("x")}, pl.concat([FRAME, FRAME]))))


def test_an_interrupted_build_leaves_nothing_and_goes_on(tmp_path, monkeypatch):
    history, compiled = IndexedHistory(tmp_path), view({"a": Sum("x"), "b": Max("x")})

    def stop(step: str) -> None:
        if step.startswith("v: max"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        history.build(compiled).run(stop)
    assert not history.build(compiled).is_complete
    steps = built(history, compiled)
    assert steps[0] == 'v: max of col("x")'
    assert not any("read" in step or "column" in step for step in steps)


def test_an_index_whose_files_are_gone_says_so(tmp_path):
    history, compiled = IndexedHistory(tmp_path), view({"s": Sum("x")})
    built(history, compiled)
    (history.build(compiled).segments[0].parts[0].folder / "times.npy").unlink()
    with pytest.raises(StoreError, match="bedplate apply"):
        IndexedHistory(tmp_path).read(compiled, ["v.s"], np.array([[1]]), np.array([START]))


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't write"):
        IndexedHistory(tmp_path / "file" / "store").build(view({"s": Sum("x")})).run()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME.with_columns(user=pl.Series([1, None, 2])), "1 of 3 rows have no key, the first is row 1"),
        (FRAME.with_columns(time=pl.Series([START, None, START])), "1 of 3 rows have no time, the first is row 1"),
        (FRAME.with_columns(time=pl.Series([START, START, START * 1000])), "row 2 has time"),
        (FRAME.with_columns(time=pl.Series([START, -1, START])), "row 1 has time -1"),
        (FRAME.with_columns(x=pl.Series([1.0, float("inf"), 2.0])), "infinite"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_left(tmp_path, frame, message):
    with pytest.raises(DataError, match=message):
        built(IndexedHistory(tmp_path), view({"s": Sum("x")}, frame))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_source_gives_empty_answers(tmp_path):
    history, compiled = IndexedHistory(tmp_path), view({"s": Sum("x"), "m": Max("x")}, FRAME.clear())
    built(history, compiled)
    got = history.read(compiled, ["v.s", "v.m"], np.array([[1]]), np.array([START]))
    assert got["v.s"].values.tolist() == [0.0]
    assert got["v.m"].present.tolist() == [False]
    assert history.end(compiled) == -1


def test_a_deleted_index_is_built_again(tmp_path):
    history, compiled = IndexedHistory(tmp_path), view({"s": Sum("x")})
    built(history, compiled)
    shutil.rmtree(tmp_path)
    assert built(history, compiled)
