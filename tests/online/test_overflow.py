"""Sums of whole numbers beyond 64 bits are refused on both paths, never wrapped around."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Mean, Sum
from bedplate.errors import DataError
from bedplate.features.entity import Entity
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.sources.base import Source
from bedplate.types import DAY, HOUR

START = 20_000 * DAY
BIG = 2**62
USER = Entity("user", key="user")


def events(values: list[int]) -> pl.DataFrame:
    times = [START + i * 2 * HOUR for i in range(len(values))]
    return pl.DataFrame({"user": [7] * len(values), "time": times, "x": values})


def view_of(frame: pl.DataFrame, windows: str | None, kind: type[Sum] | type[Mean]) -> CompiledView:
    return FeatureView("v", USER, Source("e", frame, time="time"), {"x": kind("x", windows=windows)}).compile()


@pytest.mark.parametrize("kind", [Sum, Mean])
@pytest.mark.parametrize("values", [[BIG, BIG], [-BIG, -BIG, -1], [2**63 - 1, 1]])
def test_history_refuses_the_build(tmp_path: Path, values: list[int], kind: type[Sum]) -> None:
    frame = pl.concat([events(values), events([1]).with_columns(user=pl.lit(3, pl.Int64))])
    with pytest.raises(DataError, match=r"(?s)beyond 64 bits, for the key \[7\].*view 'v'|view 'v'.*for the key \[7\]"):
        IndexedHistory(tmp_path).build(view_of(frame, None, kind)).run()


@pytest.mark.parametrize("values", [[BIG, BIG - 1], [-BIG, -BIG], [2**63 - 1, -1, 1]])
def test_what_fits_is_exact(tmp_path: Path, values: list[int]) -> None:
    view = view_of(events(values), None, Sum)
    history = IndexedHistory(tmp_path)
    history.build(view).run()
    keys, times = np.array([[7]]), np.array([START + DAY])
    assert history.read(view, ["v.x"], keys, times)["v.x"].values.tolist() == [sum(values)]
    store = MemoryStore()
    bulk_load(store, view, history.grouped(view), START + DAY)
    assert OnlineReader(store).read(view, ["v.x"], keys, times)["v.x"].values.tolist() == [sum(values)]


@pytest.mark.parametrize("windows", [None, "1d"])
def test_a_stream_beyond_is_refused_and_changes_nothing_that_is_read(tmp_path: Path, windows: str | None) -> None:
    view, store = view_of(events([1]), windows, Sum), MemoryStore()
    bulk_load(store, view, [], START)
    # The last event stays pending; those before it are folded.
    events([BIG, BIG, 0] if windows is None else [BIG, BIG]).write_parquet(tmp_path / "1.parquet")
    keys, times = np.array([[7]]), np.array([START + 9 * HOUR])
    reader, [name] = OnlineReader(store), view.features
    if windows is None:  # one total, which the second event does not fit into
        with pytest.raises(DataError, match="beyond 64 bits"):
            Ingest(store, [view], tmp_path).run()
        assert reader.read(view, [name], keys, times)[name].values.tolist() == [0]
    else:  # two tiles, each of which holds its event
        Ingest(store, [view], tmp_path).run()
        with pytest.raises(DataError, match=r"(?s)view 'v'.*beyond 64 bits"):
            reader.read(view, [name], keys, times)
        later = np.array([START + 26 * HOUR])  # the first has left the window
        assert reader.read(view, [name], keys, later)[name].values.tolist() == [BIG]
