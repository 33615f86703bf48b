"""When the rate of a label has changed: by its factor, whichever class is called positive, and not by chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.metrics.rates import ENOUGH, LabelRate, changed

COUNTS = st.integers(0, 3000)
RATES = st.builds(lambda rows, share: LabelRate(rows, float(round(rows * share))), COUNTS, st.floats(0, 1))


@pytest.mark.parametrize(
    ("before", "after", "wanted"),
    [
        ((10_000, 2000), (1000, 0), True),  # a pipeline that gives only zeros
        ((10_000, 6000), (1000, 1000), True),  # only ones: no negative is left
        ((10_000, 2000), (1000, 101), False),
        ((10_000, 2000), (1000, 99), True),
        ((10_000, 2000), (1000, 399), False),
        ((10_000, 2000), (1000, 401), True),
        ((10_000, 0), (1000, ENOUGH - 1), False),
        ((10_000, 0), (1000, ENOUGH), True),
        ((10_000, 290), (1000, 0), False),  # 29 expected
        ((10_000, 310), (1000, 0), True),
        ((100, 31), (10_000, 0), True),
        ((0, 0), (1000, 0), False),
        ((1000, 500), (0, 0), False),
    ],
)
def test_a_rate_has_changed_by_more_than_a_factor(
    before: tuple[int, int], after: tuple[int, int], wanted: bool
) -> None:
    assert changed(LabelRate(*before), LabelRate(*after), 2.0) is wanted


@given(before=RATES, after=RATES, most=st.floats(1, 5))
def test_it_is_the_same_from_either_side_and_of_either_class(before: LabelRate, after: LabelRate, most: float) -> None:
    def turned(one: LabelRate) -> LabelRate:
        return LabelRate(one.rows, one.rows - one.positives)

    found = changed(before, after, most)
    assert changed(after, before, most) == found
    assert changed(turned(before), turned(after), most) == found
    assert not changed(before, before, most)
    assert not found or changed(before, after, 1.0)


def test_chance_alone_is_rarely_a_change() -> None:
    rng, base = np.random.default_rng(0), LabelRate(100_000, 3000.0)
    drawn = rng.binomial(1000, 0.03, 20_000)
    assert np.mean([changed(base, LabelRate(1000, float(n)), 2.0) for n in drawn]) < 0.005


def test_what_is_known_of_no_row_has_no_rate() -> None:
    assert math.isnan(LabelRate(0, 0.0).rate)
    assert not LabelRate(0, 0.0).has_both
    assert not LabelRate(5, 5.0).has_both
    assert not LabelRate(5, 0.0).has_both
    assert LabelRate(5, 1.0).has_both
