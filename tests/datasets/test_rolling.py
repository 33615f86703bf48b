"""A split that moves with the end of the data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate import TimeSplit
from bedplate.datasets.rolling import RollingSplit
from bedplate.errors import DefinitionError

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
