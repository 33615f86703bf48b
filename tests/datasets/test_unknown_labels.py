"""Events whose value is null or NaN: what became of a candidate is not known then, and no label says that it is 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from dataset_world import OracleHistory, built
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.ordered import Last
from bedplate.aggregations.ratio import Ratio
from bedplate.datasets.audit import audit
from bedplate.datasets.dataset import Dataset
from bedplate.datasets.labels import Label
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.spine import Spine
from bedplate.datasets.split import TimeSplit
from bedplate.datasets.unknown import UnknownValues
from bedplate.errors import DataError, DefinitionError
from bedplate.features.derived import DerivedFeature
from bedplate.features.graph import FeatureGraph
from bedplate.offline.base import History
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, START, USER
from bedplate.types import HOUR, MINUTE

NAN = math.nan
HOURS = 12


def shown() -> pl.DataFrame:
    hours = pl.Series(range(HOURS))
    return pl.DataFrame({"request": hours, "user": [1] * HOURS, "item": ["a"] * HOURS, "time": START + hours * HOUR})


def log(values: list[tuple[int, float | None]], **columns: Any) -> Source:
    """Events of the one user and item at minutes, and one long after that ends the data."""
    rows = [*values, (100 * 60, 1.0)]
    frame = {"user": [1] * len(rows), "item": ["a"] * len(rows), "time": [START + m * MINUTE for m, _ in rows]}
    numbers = pl.Series("liked", [v for _, v in rows], pl.Float64)
    return Source("log", pl.DataFrame({**frame, "liked": numbers, **columns}), time="time")


def dataset(label: Label, history: History | None = None, folder: Any = None) -> LoadedDataset:
    compiled = Dataset(
        "d",
        spine=Spine(Source("shown", shown(), time="time"), request="request", entities=USER, item=ITEM),
        labels=label,
        features=["hour"],
        split=TimeSplit(START + 6 * HOUR, START + 9 * HOUR, gap="1h"),
    ).compile(FeatureGraph([], [DerivedFeature("hour", pl.col("request.time").dt.hour())]))
    return LoadedDataset(compiled, OracleHistory() if folder is None else built(folder, compiled.views))


def read(loaded: LoadedDataset) -> list[float]:
    return loaded.assemble(loaded.spine.rows).labels["liked"].tolist()


def liked(source: Source, aggregation: Any = None, **options: Any) -> Label:
    return Label("liked", [USER, ITEM], source, aggregation or Sum("liked"), within="59m", **options)


EVENTS = st.lists(
    st.tuples(
        st.integers(0, HOURS * 60 - 1), st.one_of(st.none(), st.just(NAN), st.sampled_from([-1.0, 0.0, 1.0, 2.0]))
    ),
    max_size=20,
)


@settings(max_examples=20)
@given(values=EVENTS)
def test_a_masked_sum_equals_a_loop_over_the_events(
    tmp_path_factory: Any, values: list[tuple[int, float | None]]
) -> None:
    source = log(values)
    for options in ({}, {"at_least": 1}):
        label = liked(source, empty="masked", **options)
        wanted: list[float] = []
        for hour in range(HOURS):
            known = [v for m, v in values if hour * 60 <= m < hour * 60 + 59 and v is not None and v == v]
            total = float(sum(known) >= 1) if options else sum(known)
            wanted.append(total if known else NAN)
        for loaded in (dataset(label), dataset(label, folder=tmp_path_factory.mktemp("h"))):
            np.testing.assert_array_equal(read(loaded), wanted)


def test_a_masked_sum_counts_the_events_of_its_own_condition() -> None:
    source = log([(0, 1.0), (60, 1.0), (120, None)], kind=["like", "view", "like", "like"])
    label = liked(source, Sum("liked", where=pl.col("kind") == "like"), empty="masked")
    assert [str(value) for value in read(dataset(label))[:3]] == ["1.0", "nan", "nan"]
    assert dataset(label).unknown() == (UnknownValues("liked", "log", 2, 1, 0),)


UNKNOWN = [(0, 1.0), (5, None), (70, None), (130, NAN), (140, 0.0), (-5, NAN), (HOURS * 60 + 1, None)]
"""Of these the last two are before all requests, and after the horizon of all."""


@pytest.mark.parametrize(
    ("aggregation", "options", "said"),
    [
        (Sum("liked"), {}, ("1 of 5 events of source 'log' have NaN", "2 of 5 events of source 'log' have null")),
        (Sum("liked"), {"empty": 0}, ("1 of 5 events of source 'log' have NaN",)),
        (Sum("liked"), {"empty": "masked"}, ()),
        (Mean("liked"), {}, ("have NaN", "have null")),
        (Last("liked"), {"empty": 0.0}, ("have NaN",)),
        (Last("liked"), {"empty": "masked"}, ()),
        (CountDistinct(pl.col("liked") > 0), {}, ("have null",)),
        (Ratio(Sum("liked"), Count()), {}, ("have NaN", "have null")),
        (Count("liked"), {}, ()),
        (Count(), {}, ()),
        (Sum("liked", where=pl.col("liked").is_finite()), {}, ()),
    ],
)
def test_what_is_not_known_is_refused_unless_the_label_says_what_it_is(
    aggregation: Any, options: dict[str, Any], said: tuple[str, ...]
) -> None:
    loaded = dataset(liked(log(UNKNOWN), aggregation, at_least=1, **options))
    found = audit(loaded)
    for part in said:
        assert part in found.unsaid["liked"]
    assert ("have NaN" in found.unsaid.get("liked", "")) == any("have NaN" in part for part in said)
    assert ("have null" in found.unsaid.get("liked", "")) == any("have null" in part for part in said)
    if said:
        with pytest.raises(
            DataError, match=r"what happened is not known, and would be taken for nothing:\n  label 'liked'"
        ):
            found.require()
    else:
        found.require()


def test_the_summary_says_how_many_there_are() -> None:
    line = "values of 'liked': 3 of 5 events have none (2 null, 1 NaN), in source 'log'"
    assert line in str(dataset(liked(log(UNKNOWN), empty="masked")).summary())
    assert "values of" not in str(dataset(liked(log([(0, 1.0)]))).summary())


def test_integers_and_no_events_have_nothing_unknown_but_null() -> None:
    source = log([(0, 1.0), (5, 0.0)], clicks=pl.Series([1, None, 0], dtype=pl.Int64))
    (found,) = dataset(liked(source, Sum("clicks"))).unknown()
    assert (found.events, found.null, found.nan) == (2, 1, 0)
    (found,) = dataset(liked(log([]))).unknown()
    assert (found.events, found.null, found.nan) == (0, 0, 0)


def test_only_a_sum_of_what_counts_may_be_masked() -> None:
    for aggregation in (Count(), CountDistinct("liked")):
        with pytest.raises(DefinitionError, match="got 'masked', and Count"):
            liked(log([]), aggregation, empty="masked")
    with pytest.raises(DefinitionError, match="a sum may be 'masked'"):
        liked(log([]), empty=3)
