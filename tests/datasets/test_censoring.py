"""A label that is not known yet is left out, for its own task alone, and counted."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from dataset_world import built

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.datasets.dataset import Dataset
from bedplate.datasets.labels import Label
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.loader import Loader
from bedplate.datasets.spine import Spine
from bedplate.datasets.split import TimeSplit
from bedplate.errors import DefinitionError
from bedplate.features.derived import DerivedFeature
from bedplate.features.graph import FeatureGraph
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, START, USER
from bedplate.types import DAY, HOUR


def shown() -> Source:
    """One request a day, of one item, for 20 days."""
    frame = pl.DataFrame({"request": range(20), "user": [1] * 20, "item": ["a"] * 20})
    return Source("shown", frame.with_columns(time=START + pl.col("request") * DAY), time="time")


def orders(late: int = 0) -> Source:
    """An order each day at noon, for 20 days, which becomes known so many hours later."""
    frame = pl.DataFrame({"user": [1] * 20, "time": [START + i * DAY + 12 * HOUR for i in range(20)]})
    frame = frame.with_columns(known=pl.col("time") + late * HOUR)
    return Source("orders", frame, time="time", available="known" if late else None)


def load(folder, *labels: Label) -> LoadedDataset:
    dataset = Dataset(
        "d",
        spine=Spine(shown(), request="request", entities=USER, item=ITEM),
        labels=labels,
        features=["hour"],
        split=TimeSplit(START + 4 * DAY, START + 12 * DAY, gap="6d"),
        batch_requests=100,
    ).compile(FeatureGraph([], [DerivedFeature("hour", pl.col("request.time").dt.hour())]))
    return LoadedDataset(dataset, built(folder, dataset.views))


def test_maturity_waits_for_the_events_of_a_horizon(tmp_path):
    plain = Label("n", USER, orders(), Count(), within="2d")
    waiting = Label("n", USER, orders(), Count(), within="2d", maturity="3d")
    # The last order is of day 19.5: day 17 is the last with two days after it, day 14 with five.
    assert [load(tmp_path, x).positions("test") for x in (plain, waiting)] == [(12, 18), (12, 15)]
    assert load(tmp_path, waiting).summary().splits[2].censored == 5


def test_rows_that_become_known_late_end_the_data_when_the_last_of_them_is_known(tmp_path):
    label = Label("n", USER, orders(late=36), Count(), within="2d", maturity="36h")
    # What is known lasts until day 21: of orders up to day 19.5 all are there, and none of the horizon is open.
    dataset = load(tmp_path, label)
    assert dataset.positions("test") == (12, 18)
    assert set(dataset.sample(np.arange(12, 18), 0, 0).labels["n"].tolist()) == {2.0}


def test_a_source_of_late_rows_needs_a_maturity():
    with pytest.raises(DefinitionError, match="does not say how long to wait for them") as caught:
        Label("n", USER, orders(late=1), Count(), within="2d")
    assert 'maturity="3d"' in caught.value.hint


@pytest.mark.parametrize(("gap", "fits"), [("5d", True), ("4d", False)])
def test_a_gap_shorter_than_horizon_and_maturity_is_refused(gap, fits):
    label = Label("n", USER, orders(), Count(), within="2d", maturity="3d")
    spine = Spine(shown(), request="request", entities=USER, item=ITEM)
    split = TimeSplit(START + 4 * DAY, START + 12 * DAY, gap=gap)
    if fits:
        assert Dataset("d", spine=spine, labels=label, features=["hour"], split=split).labels == (label,)
        return
    with pytest.raises(DefinitionError, match="shorter than the horizon 2d and the maturity 3d of label 'n'"):
        Dataset("d", spine=spine, labels=label, features=["hour"], split=split)


def test_each_task_has_a_mask_of_its_own(tmp_path):
    soon = Label("soon", USER, orders(), Count(), within="1d")
    late = Label("late", USER, orders(), Sum("user"), within="1d", maturity="4d")
    dataset = load(tmp_path, soon, late)
    (batch,) = Loader(dataset, "test").epoch(0, 0)
    assert batch.request_ids.tolist() == list(range(12, 19))
    assert batch.labels["soon"].tolist() == [1.0] * 7
    np.testing.assert_array_equal(batch.labels["late"], [1.0] * 3 + [np.nan] * 4)
    numbers = dataset.summary().splits[2]
    assert (numbers.requests, numbers.censored, numbers.censored_labels) == (7, 1, {"soon": 0, "late": 4})
    assert "no 'late' yet               0           0           4" in str(dataset.summary())


def test_a_maturity_is_part_of_the_id_and_the_ids_of_others_stay():
    plain, waiting = (Label("n", USER, orders(), Count(), maturity=m) for m in (None, "3d"))
    assert "maturity" not in plain.form()
    assert plain.compile().id != waiting.compile().id
    with pytest.raises(DefinitionError, match="whole number and a unit"):
        Label("n", USER, orders(), Count(), maturity="soon")
