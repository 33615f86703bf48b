"""Where the data of a label end is said, and a stray late row does not switch censoring off unseen."""

from __future__ import annotations

import polars as pl
import pytest
from dataset_world import OracleHistory, built

from bedplate.aggregations.arithmetic import Count
from bedplate.datasets.audit import audit
from bedplate.datasets.dataset import Dataset
from bedplate.datasets.ends import LabelEnd
from bedplate.datasets.labels import Label
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.spine import Spine
from bedplate.datasets.split import TimeSplit
from bedplate.errors import DataError
from bedplate.features.derived import DerivedFeature
from bedplate.features.graph import FeatureGraph
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, START, USER
from bedplate.types import DAY, HOUR, MINUTE

NOW = START + 99 * DAY
NIGHTS = [START + d * DAY + h * HOUR for d in range(20) for h in range(9, 18)]
"""Events of each hour of 20 working days, the last at 17:00."""


def loaded(times: list[int], history=None, **options: object) -> LoadedDataset:
    """A request every hour for 24 days, and whether there is an order within an hour and within five days of it."""
    hours = range(24 * 24)
    frame = pl.DataFrame({"request": hours, "user": [1] * len(hours), "item": ["a"] * len(hours)})
    shown = Source("shown", frame.with_columns(time=START + pl.col("request") * HOUR), time="time")
    rows = pl.DataFrame({"user": [1] * len(times), "time": times}).sample(fraction=1, shuffle=True, seed=1)
    waits = {"maturity": "1h"} if "available" in options else {}
    orders = Source("orders", rows.with_columns(known=pl.col("time") + DAY), time="time", **options)
    dataset = Dataset(
        "d",
        spine=Spine(shown, request="request", entities=USER, item=ITEM),
        labels=[Label(n, USER, orders, Count(), within=w, **waits) for n, w in (("soon", "1h"), ("late", "5d"))],
        features=["hour"],
        split=TimeSplit(START + 6 * DAY, START + 13 * DAY, gap="1h"),
    ).compile(FeatureGraph([], [DerivedFeature("hour", pl.col("request.time").dt.hour())]))
    return LoadedDataset(dataset, OracleHistory() if history is None else built(history, dataset.views))


def test_the_summary_says_where_the_data_of_each_label_end():
    dataset = loaded(NIGHTS)
    end = START + 19 * DAY + 17 * HOUR
    assert dataset.ends() == (LabelEnd("soon", "orders", end), LabelEnd("late", "orders", end))
    assert "  data of 'late' end 2024-03-20T17:00:00Z, in source 'orders'\n" in f"{dataset.summary()}\n"
    assert audit(dataset, clock=lambda: NOW).found == {}


@pytest.mark.parametrize("late", [[11], [11, 11, 12], [11, 25]])
def test_a_few_rows_after_a_long_silence_are_told(late):
    times = NIGHTS * 3 + [START + (19 + d) * DAY + 17 * HOUR for d in late]
    dataset = loaded(times)
    found = audit(dataset, clock=lambda: NOW).found
    assert list(found) == ["stray end 'soon'", "stray end 'late'"]
    # Requests go on until the end of day 23, four days and seven hours after the last order but the stray ones.
    assert "and 103 requests count as complete" in found["stray end 'soon'"]
    assert f"the last {len(late)} of {len(times)} rows come 11 days after the row before" in found["stray end 'late'"]
    assert "of 2024-03-20T17:00:00Z" in found["stray end 'late'"]
    assert f"in source 'orders': the last {len(late)} of {len(times)} rows come 11 days" in str(dataset.summary())
    with pytest.raises(DataError, match="drop such rows in the prepare step"):
        audit(dataset, clock=lambda: NOW).require()


@pytest.mark.parametrize(
    "times",
    [
        NIGHTS * 3 + [START + 20 * DAY + 17 * HOUR],  # a night of 24 hours is not three times one of 16
        NIGHTS * 3 + [START + 24 * DAY + h * HOUR for h in range(9, 18)],  # more than a few
        NIGHTS[:4] * 100 + [START + 19 * DAY],  # four hours say nothing of how long silences are
        [t + d * MINUTE for t in NIGHTS for d in range(9)] + [START + 20 * DAY],
    ],
)
def test_what_may_well_be_the_end_is_not_told(times):
    assert audit(loaded(times), clock=lambda: NOW).found == {}


def test_a_stray_row_after_which_nothing_would_be_censored_is_not_told():
    """Orders go on for a month after the last request, and then there is one more."""
    times = [START + d * DAY + h * HOUR for d in range(55) for h in range(9, 18)] + [START + 70 * DAY]
    dataset = loaded(times)
    assert dataset.ends()[1].stray is not None
    assert audit(dataset, clock=lambda: NOW).found == {}
    assert "come 14 days" not in str(dataset.summary())


def test_a_source_of_late_rows_ends_with_the_last_that_is_known(tmp_path):
    dataset = loaded([*NIGHTS * 3, START + 31 * DAY], tmp_path, available="known")
    (end, _) = dataset.ends()
    assert end.end == START + 32 * DAY
    assert end.stray is not None
    assert (end.stray.before, end.stray.rows) == (START + 20 * DAY + 17 * HOUR, 1)
