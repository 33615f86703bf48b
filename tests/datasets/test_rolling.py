"""A split that moves with the end of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from dataset_world import OracleHistory, built
from hypothesis import given
from hypothesis import strategies as st

from bedplate import Count, Dataset, DerivedFeature, Entity, Label, Source, Spine, TimeSplit
from bedplate.datasets.dataset import CompiledDataset
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.rolling import RollingSplit
from bedplate.errors import DataError, DefinitionError
from bedplate.features.graph import FeatureGraph

SECOND, END = 1_000_000, 10**15
LENGTHS = st.integers(1, 40)


@given(gap=LENGTHS, more=LENGTHS, test=LENGTHS, times=st.lists(st.integers(-120, 5), max_size=60), moved=LENGTHS)
def test_every_request_is_where_its_distance_from_the_end_says(
    gap: int, more: int, test: int, times: list[int], moved: int
) -> None:
    validation = gap + more
    split = RollingSplit(validation=f"{validation}s", test=f"{test}s", gap=f"{gap}s")
    before_end = np.sort(np.array(times, np.int64))
    ranges = split.at(END).ranges(END + before_end * SECOND)
    expected = {"train": [], "validation": [], "test": []}
    for position, distance in enumerate(before_end.tolist()):
        if distance < -test - validation - gap:
            expected["train"].append(position)
        elif -test - validation <= distance < -test - gap:
            expected["validation"].append(position)
        elif distance >= -test:
            expected["test"].append(position)
    assert {name: list(range(*found)) for name, found in ranges.items()} == expected
    later = END + moved * SECOND
    assert split.at(later).ranges(later + before_end * SECOND) == ranges, "all moves with the end"


def test_it_is_the_split_by_its_times_and_its_form_knows_no_end() -> None:
    split = RollingSplit(validation="3d", test="2d", gap="12h")
    day = 86_400 * SECOND
    assert split.at(END).form() == TimeSplit(END - 5 * day, END - 2 * day, gap="12h").form()
    assert split.form() == RollingSplit(validation="72h", test="48h", gap="12h").form()
    assert split.form() != RollingSplit(validation="3d", test="2d", gap="13h").form()
    assert split.validation_length == split.at(END).validation_length == 3 * day


def test_the_gap_is_a_day_unless_it_is_said() -> None:
    assert RollingSplit(validation="2d", test="1d").form() == RollingSplit(validation="2d", test="1d", gap="1d").form()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"validation": "1d", "test": "7d"}, "the gap leaves out 1d: no time is left"),
        ({"validation": "23h", "test": "7d", "gap": "1d"}, "validation is 23h"),
        ({"validation": "2x", "test": "7d"}, "split: validation"),
        ({"validation": "2d", "test": "soon"}, "split: test"),
        ({"validation": "2d", "test": "1d", "gap": "-1d"}, "split: gap"),
    ],
)
def test_what_leaves_no_time_or_is_no_time_is_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        RollingSplit(**options)


def test_data_that_end_too_early_for_it_are_refused() -> None:
    split = RollingSplit(validation="3d", test="2d")
    with pytest.raises(DefinitionError):
        split.at(4 * 86_400 * SECOND)


@pytest.mark.parametrize(
    ("shown", "liked", "said"),
    [
        (0, 9, "no rows are in source 'shown' of the spine: the split is counted back from their last"),
        (9, 0, "no rows are in source 'likes' of label 'liked': the split is counted"),
        (0, 0, "no rows are in source 'shown' of the spine and in source 'likes' of label 'liked'"),
    ],
)
def test_a_source_without_rows_is_named(shown: int, liked: int, said: str, tmp_path: Path) -> None:
    day, user, item = pl.Series(range(9)), Entity("user", key="user"), Entity("item", key="item")
    frame = pl.DataFrame({"request": day, "user": [1] * 9, "item": [1] * 9, "time": END + day * 86_400 * SECOND})
    requests = Source("shown", frame.head(shown), time="time")
    label = Label("liked", user, Source("likes", frame.head(liked), time="time"), Count(), within="1h", at_least=1)

    def dataset(split: TimeSplit | RollingSplit) -> CompiledDataset:
        spine = Spine(requests, request="request", entities=user, item=item)
        hour = DerivedFeature("hour", pl.col("request.time").dt.hour())
        made = Dataset("d", spine=spine, labels=label, features=["hour"], split=split)
        return made.compile(FeatureGraph([], [hour]))

    rolling = dataset(RollingSplit(validation="3d", test="2d", gap="1d"))
    for history in (OracleHistory(), built(tmp_path, rolling.views)):
        with pytest.raises(DataError, match=said) as got:
            LoadedDataset(rolling, history)
        assert got.value.where == "dataset 'd'"
    fixed = LoadedDataset(dataset(TimeSplit(END, END + 86_400 * SECOND * 3, gap="1h")), OracleHistory())
    assert len(fixed.spine.rows.times) == shown
