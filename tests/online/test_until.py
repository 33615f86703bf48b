"""A load ends at one time for all views of a source, so that no event lies between it and the stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bedplate.errors import StoreError
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.memory import MemoryStore
from bedplate.project import Project
from bedplate.testing.simulator import START
from bedplate.types import HOUR

DEFINITIONS = """
import polars as pl

from bedplate import Count, Entity, FeatureView, Source

events = Source("events", "events.parquet", time="time"{more})
user = Entity("user", key="user")
bought = FeatureView("bought", user, events, {{"n": Count()}}, where=pl.col("kind") == "buy")
"""
LATER = 'every = FeatureView("every", user, events, {"n": Count()})\n'


def rows(count: int) -> pl.DataFrame:
    """Row i is at START + i hours, and only the first three are purchases."""
    return pl.DataFrame(
        {
            "user": [1] * count,
            "time": [START + i * HOUR for i in range(count)],
            "known": [START + (i + i % 2) * HOUR for i in range(count)],
            "kind": ["buy" if i < 3 else "view" for i in range(count)],
        }
    )


def define(folder: Path, text: str) -> Project:
    (folder / "features.py").write_text(text)
    project = Project(folder)
    project.apply()
    return project


@pytest.mark.parametrize(("more", "until"), [("", START + 9 * HOUR), (', available="known"', START + 10 * HOUR)])
def test_a_view_that_comes_later_misses_nothing_between_load_and_stream(tmp_path, more, until):
    store, folder = MemoryStore(), tmp_path / "project"
    (folder / "stream").mkdir(parents=True)
    (folder / "bedplate.toml").touch()
    rows(10).write_parquet(folder / "events.parquet")
    project = define(folder, DEFINITIONS.format(more=more))
    assert [m.until for m in project.materialize(store)] == [until + 1]
    rows(15)[11:].write_parquet(folder / "stream" / "1.parquet")
    Ingest(store, list(project.views.values()), folder / "stream").run()
    project = define(folder, DEFINITIONS.format(more=more) + LATER)
    assert [m.until for m in project.materialize(store)] == [until + 1] * 2
    Ingest(store, list(project.views.values()), folder / "stream").run()
    for name, number in (("bought", 3), ("every", 14)):
        view = project.views[name]
        found = OnlineReader(store).read(view, list(view.features), np.array([[1]]), np.array([START + 99 * HOUR]))
        assert found[f"{name}.n"].values.tolist() == [number]


def test_a_table_that_changes_during_the_load_is_refused(tmp_path):
    (tmp_path / "bedplate.toml").touch()
    rows(10).write_parquet(tmp_path / "events.parquet")
    project = define(tmp_path, DEFINITIONS.format(more=""))
    project.history.reader(project.views["bought"])
    rows(12).write_parquet(tmp_path / "events.parquet")
    with pytest.raises(StoreError, match="the table has changed since its index was read"):
        project.materialize(MemoryStore())
