"""Intervals of few values hold as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from bedplate.errors import DataError
from bedplate.metrics.intervals import two_apart


@pytest.mark.parametrize("known", [2, 3, 4, 11, 12, 40])
def test_two_more_values_lie_apart_no_further_95_times_of_100(known: int) -> None:
    drawn = np.random.default_rng(known).normal(5.0, 0.3, (20_000, known + 2))
    held = [abs(row[0] - row[1]) <= two_apart(row[2:]) for row in drawn]
    assert np.mean(held) == pytest.approx(0.95, abs=0.006)


def test_one_value_tells_nothing() -> None:
    with pytest.raises(DataError, match="expected at least two finite numbers"):
        two_apart(np.array([1.0]))
