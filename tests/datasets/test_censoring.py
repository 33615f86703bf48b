"""A label that is not known yet is left out, for its own task alone, and counted."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from dataset_world import OracleHistory, built
from hypothesis import given
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.datasets.dataset import Dataset
from bedplate.datasets.labels import Label
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.loader import Loader
from bedplate.datasets.spine import Spine
from bedplate.datasets.split import SPLITS, TimeSplit
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


def load(folder, *labels: Label, gap: str = "6d") -> LoadedDataset:
    dataset = Dataset(
        "d",
        spine=Spine(shown(), request="request", entities=USER, item=ITEM),
        labels=labels,
        features=["hour"],
        split=TimeSplit(START + 4 * DAY, START + 12 * DAY, gap=gap),
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


@pytest.mark.parametrize(("maturity", "fits"), [("5d", True), ("6d", False)])
def test_a_label_that_no_request_of_validation_could_have_is_refused(maturity, fits):
    label = Label("n", USER, orders(), Count(), within="2d", maturity=maturity)
    spine = Spine(shown(), request="request", entities=USER, item=ITEM)
    split = TimeSplit(START + 4 * DAY, START + 12 * DAY, gap="1d")
    if fits:
        assert Dataset("d", spine=spine, labels=label, features=["hour"], split=split).labels == (label,)
        return
    with pytest.raises(
        DefinitionError, match="is 8d long, no more than the horizon 2d and the maturity 6d, and no label"
    ):
        Dataset("d", spine=spine, labels=label, features=["hour"], split=split)


def test_a_slow_label_costs_the_rows_of_a_faster_one_nothing(tmp_path):
    fast, slow = (Label(f"{n}d", USER, orders(), Count(), within=f"{n}d") for n in (1, 3))
    dataset = load(tmp_path, fast, slow, gap="1h")
    # Validation begins with day 4 and test with day 12, the last order is of day 19.5.
    assert [dataset.positions(split) for split in SPLITS] == [(0, 3), (4, 11), (12, 19)]
    labels = dataset.assemble(dataset.spine.rows).labels
    nothing = {n: np.flatnonzero(np.isnan(values)).tolist() for n, values in labels.items()}
    assert nothing == {"1d": [3, 11, 19], "3d": [1, 2, 3, 9, 10, 11, 17, 18, 19]}
    summary = dataset.summary()
    assert [s.crossing_labels for s in summary.splits] == [{"1d": 0, "3d": 2}, {"1d": 0, "3d": 2}, {"1d": 0, "3d": 0}]
    assert [s.censored_labels for s in summary.splits] == [{"1d": 0, "3d": 0}] * 2 + [{"1d": 0, "3d": 2}]
    assert (summary.gap, [s.censored for s in summary.splits]) == (2, [0, 0, 1])
    assert f"  gap of '3d'{2:18}{2:12}{0:12}" in str(summary)
    assert [dataset.labelled("3d", split) for split in SPLITS] == [1, 5, 5]
    # What was learnt of happened up to a day after day 10, and up to three days after day 8.
    assert dataset.trained_until == START + 11 * DAY


def test_a_gap_leaves_requests_out_whatever_the_labels(tmp_path):
    fast = Label("fast", USER, orders(), Count(), within="1h")
    assert load(tmp_path, fast, gap="2d").positions("validation") == (4, 10)
    assert load(tmp_path, gap="1h").positions("validation") == (4, 12)
    assert load(tmp_path, gap="1h").summary().splits[1].crossing_labels == {}


@given(
    times=st.lists(st.integers(0, 300), max_size=60).map(sorted),
    horizons=st.lists(st.integers(1, 39), min_size=1, max_size=3, unique=True),
    gap=st.integers(1, 50),
    end=st.integers(0, 400),
)
def test_no_label_of_a_split_looks_into_the_next_one(times, horizons, gap, end):
    """Against the rule, request by request."""
    count = len(times)
    frame = pl.DataFrame(
        {"request": range(count), "user": [1] * count, "item": ["a"] * count, "time": [START + t for t in times]},
        schema={"request": pl.Int64, "user": pl.Int64, "item": pl.String, "time": pl.Int64},
    )
    events = Source("events", pl.DataFrame({"user": [1] * 2, "time": [START, START + end]}), time="time")
    labels = [Label(f"{h}", USER, events, Count(), within=f"{h}us") for h in horizons]
    dataset = Dataset(
        "d",
        spine=Spine(Source("shown", frame, time="time"), request="request", entities=USER, item=ITEM),
        labels=labels,
        features=["hour"],
        split=TimeSplit(START + 100, START + 200, gap=f"{gap}us"),
    ).compile(FeatureGraph([], [DerivedFeature("hour", pl.col("request.time").dt.hour())]))
    loaded = LoadedDataset(dataset, OracleHistory())
    wanted: dict[str, list[int]] = {name: [] for name in SPLITS}
    for at, t in enumerate(times):
        following, split = next(x for x in ((100, "train"), (200, "validation"), (10**9, "test")) if t < x[0])
        known = {f"{h}": t + h <= end and t + h < following for h in horizons}
        got = {name: not np.isnan(v[at]) for name, v in loaded.assemble(loaded.spine.rows).labels.items()}
        assert got == known
        if t + gap < following and any(known.values()):
            wanted[split].append(at)
    for split, positions in wanted.items():
        first, last = loaded.positions(split)
        # None is left out between two that have a label.
        assert list(range(first, last)) == positions


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
