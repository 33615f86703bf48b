"""Splits by time: disjoint, in order, and never closer than the gap."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.datasets.split import SPLITS, TimeSplit
from bedplate.errors import DefinitionError
from bedplate.testing.simulator import START


@given(
    times=st.lists(st.integers(START, START + 300), max_size=60).map(sorted),
    validation=st.integers(START + 30, START + 150),
    length=st.integers(1, 100),
    gap=st.integers(1, 30),
)
def test_splits_are_disjoint_and_apart(times, validation, length, gap):
    split = TimeSplit(validation, validation + length + gap, gap=f"{gap}us")
    found = {name: times[a:b] for name, (a, b) in split.ranges(np.array(times, np.int64)).items()}
    assert list(found) == list(SPLITS)
    assert found["train"] == [t for t in times if t < validation - gap]
    assert found["validation"] == [t for t in times if validation <= t < validation + length]
    assert found["test"] == [t for t in times if t >= validation + length + gap]
    filled = [found[name] for name in SPLITS if found[name]]
    for earlier, later in pairwise(filled):
        assert later[0] - earlier[-1] > gap


@pytest.mark.parametrize(
    ("validation", "test", "gap", "says"),
    [
        ("2011-10-01", "2011-09-01", "1d", "no time is left"),
        ("2011-10-01", "2011-10-08", "7d", "no time is left"),
        ("yesterday", "2011-10-08", "7d", "ISO 8601"),
        ("2011-10-01", "2011-11-01", "soon", "whole number and a unit"),
    ],
)
def test_mistakes_are_found_when_defined(validation, test, gap, says):
    with pytest.raises(DefinitionError, match=says) as caught:
        TimeSplit(validation, test, gap=gap)
    assert "split" in str(caught.value.where)
