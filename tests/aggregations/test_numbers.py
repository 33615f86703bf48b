"""First values, variances, decayed sums, ratios and rates: what they say of arguments, and values at the edges."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.decay import DecayedCount, DecayedMean, DecayedSum
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.moments import StdDev, Variance
from bedplate.aggregations.ordered import First, LastN, TimeSince
from bedplate.aggregations.ratio import Rate, Ratio
from bedplate.aggregations.window import Window
from bedplate.batch import column_to_series
from bedplate.datasets.labels import Label
from bedplate.errors import DefinitionError
from bedplate.features.view import FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.online.codec import Layout
from bedplate.sources.base import Source
from bedplate.testing.aggregation import filled, from_store
from bedplate.testing.simulator import START, USER, simulate, simulated_view
from bedplate.types import DAY, HOUR, MINUTE, Type


def values(folder, aggregation, frame, times, window=None):
    """The values of user 1 in history, checked against the online store at the last of the times."""
    view = FeatureView("v", USER, Source("e", frame, time="time"), {"x": aggregation}).compile()
    name = next(iter(view.features))
    history = IndexedHistory(folder)
    history.build(view).run()
    keys = np.ones((len(times), 1), np.int64)
    got = column_to_series(history.read(view, [name], keys, np.array(times))[name]).to_list()
    store, watermark = filled(view, [frame[:1], frame[1:]])
    last = from_store(view, store, np.array([1]), np.array([max(watermark, times[-1])]))[name]
    if watermark <= times[-1]:
        assert column_to_series(last).to_list() == pytest.approx(got[-1:], rel=1e-12)
    return got


def events(times, numbers):
    return pl.DataFrame({"user": 1, "time": times, "x": numbers})


def test_the_variance_of_small_deviations_from_a_large_mean(tmp_path):
    """Of three values that differ by one around 1e9, over windows with and without what comes before them."""
    times = START + np.arange(6) * HOUR
    frame = events(times, [1e15, -1e15, 1e9 - 1, 1e9, 1e9 + 1, 1e9])
    got = values(tmp_path, StdDev("x", windows=Window.of("3h", hop="1h")), frame, [START + 5 * HOUR, START + 6 * HOUR])
    assert got == pytest.approx([1.0, math.sqrt(1 / 3)], rel=1e-15)


def test_the_variance_of_few_events(tmp_path):
    frame = events([START, START + 1], [3.0, 5.0])
    asked = [START, START + 1, START + 2]
    assert values(tmp_path, Variance("x"), frame, asked) == [None, None, 2.0]
    assert values(tmp_path, Variance("x", sample=False), frame, asked) == [None, 0.0, 1.0]


def test_what_decays_for_years_neither_overflows_nor_vanishes(tmp_path):
    """An event an hour for three years, with a half-life of one hour."""
    count = 3 * 365 * 24
    frame = events(START + HOUR * np.arange(count), np.arange(count) % 2 + 1.0)
    end = START + HOUR * count
    asked = [end, end + 2000 * HOUR]
    assert values(tmp_path / "count", DecayedCount(half_life="1h"), frame, asked) == pytest.approx([1.0, 0.0])
    # The last event is a 2: half of it, and a quarter of the 1 before it, and so on.
    assert values(tmp_path / "sum", DecayedSum("x", half_life="1h"), frame, asked) == pytest.approx([5 / 3, 0.0])
    assert values(tmp_path / "mean", DecayedMean("x", half_life="1h"), frame, asked) == pytest.approx([5 / 3, 5 / 3])


def test_a_window_of_what_decays_keeps_the_digits_of_small_values(tmp_path):
    frame = events([START, START + DAY, START + DAY + MINUTE], [1e18, 1.0, 2.0])
    at = START + DAY + 2 * MINUTE
    expected = 2 ** (-2 / (7 * 24 * 60)) + 2 * 2 ** (-1 / (7 * 24 * 60))
    got = values(tmp_path, DecayedSum("x", half_life="7d", windows="1h"), frame, [at])
    assert got == pytest.approx([expected], rel=1e-14)


def test_the_first_event_stays_the_first_whatever_the_ttl(tmp_path):
    frame = events([START, START, START + DAY], [1.0, 2.0, 3.0])
    view = FeatureView("v", USER, Source("e", frame, time="time"), {"x": First("x")}, ttl="1h").compile()
    history = IndexedHistory(tmp_path)
    history.build(view).run()
    got = history.read(view, ["v.x"], np.array([[1], [2]]), np.array([START + 9 * DAY] * 2))["v.x"]
    assert column_to_series(got).to_list() == [1.0, None]


def test_a_rate_divides_by_what_its_window_covers(tmp_path):
    frame = events([START + HOUR, START + 2 * HOUR, START + 30 * HOUR], [1.0, 1.0, None])
    asked = [START + DAY, START + 36 * HOUR]
    rate = Rate("x", windows=Window.of("1d", hop="1d"), per="1h")
    # At noon of the second day the window goes back to the midnight before the first.
    assert values(tmp_path, rate, frame, asked) == [2 / 24, 2 / 36]


def test_a_ratio_over_nothing(tmp_path):
    frame = events([START, START + 1], [0.0, 2.0])
    asked = [START, START + 1, START + 2]
    two = Sum("x"), Count(where=pl.col("x") > 1)
    assert values(tmp_path, Ratio(*two), frame, asked) == [None, None, 2.0]
    assert values(tmp_path, Ratio(*two, smoothing=(1, 4)), frame, asked) == [0.25, 0.25, 0.6]
    assert values(tmp_path, Ratio(Mean("x"), Count(), smoothing=(1, 4)), frame, asked) == [None, 0.2, 2 / 6]


WORDS = {"Variance": 4, "StdDev": 4, "DecayedCount": 2, "DecayedSum": 2, "DecayedMean": 4, "First": 3, "Rate": 1}


@pytest.mark.parametrize(
    "aggregation",
    [
        lambda **k: Variance("price", **k),
        lambda **k: StdDev("price", **k),
        lambda **k: DecayedCount(half_life="1d", **k),
        lambda **k: DecayedSum("price", half_life="1d", **k),
        lambda **k: DecayedMean("price", half_life="1d", **k),
        lambda **k: First("kind", **k),
        Rate,
    ],
)
def test_the_state_is_as_large_as_it_is_said_to_be(aggregation):
    made = aggregation(windows="1d")
    words = WORDS[type(made).__name__]
    simulation = simulate(1)
    ((_, group),) = Layout(simulated_view(simulation, features={"x": made})).tiles.values()
    assert group.width == words
    if not isinstance(made, Rate):
        assert Layout(simulated_view(simulation, features={"x": aggregation()})).totals.width == words


def test_what_two_aggregations_need_is_kept_once():
    both = {"x": Variance("price", windows="1d"), "y": StdDev("price", windows="1d"), "z": Mean("price", windows="1d")}
    ((_, group),) = Layout(simulated_view(simulate(1), features=both)).tiles.values()
    assert group.width == 5  # mean (2), squares, count, sum


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (DecayedCount, "half_life"),
        (lambda: DecayedCount(half_life=7), "no unit"),
        (lambda: DecayedSum("x", half_life="-1d"), "expected a whole number and a unit"),
        (lambda: DecayedMean("x", half_life="0d"), "more than zero"),
        (lambda: Variance("x", sample="yes"), "expected True or False"),
        (Rate, "all history has no length"),
        (lambda: Rate(windows="1d", per=1), "no unit"),
        (lambda: Ratio("clicks", Count()), "expected an aggregation"),
        (lambda: Ratio(Count(windows="1d"), Count()), "windows of its own"),
        (lambda: Ratio(Count(), Count(), smoothing=1), "what is added to"),
        (lambda: Ratio(Count(), Count(), smoothing=(1, math.inf)), "what is added to"),
        (lambda: Ratio(Count(), Count(), smoothing=(1, 2, 3)), "what is added to"),
    ],
)
def test_arguments_that_do_not_fit(make, message):
    with pytest.raises((DefinitionError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    ("aggregation", "message"),
    [
        (Variance("kind"), "Variance takes"),
        (DecayedSum("kind", half_life="1d"), "DecayedSum takes"),
        (Ratio(Sum("kind"), Count()), "Sum takes"),
        (Ratio(First("kind"), Count()), "gives str.*, expected one number"),
        (Ratio(Count(), LastN("price", 2)), "gives list of float64, expected one number"),
    ],
)
def test_types_that_do_not_fit(aggregation, message):
    with pytest.raises(DefinitionError, match=message):
        simulated_view(simulate(1), features={"x": aggregation})


@pytest.mark.parametrize(
    "aggregation",
    [
        TimeSince(),
        DecayedCount(half_life="1d"),
        DecayedMean("price", half_life="1d"),
        Ratio(DecayedSum("price", half_life="1d"), Count()),
    ],
)
def test_a_label_of_what_looks_back_is_refused(aggregation):
    source = Source("e", simulate(1).events, time="time")
    with pytest.raises(DefinitionError, match="looks back"):
        Label("y", USER, source, aggregation, within="1d", empty=0.0)


@pytest.mark.parametrize(
    "aggregation",
    [First("price"), Variance("price"), StdDev("price"), Ratio(Count(where=pl.col("flag")), CountDistinct("item"))],
)
def test_a_label_of_the_others_looks_forward(aggregation, tmp_path):
    simulation = simulate(1)
    label = Label("y", USER, Source("e", simulation.events, time="time"), aggregation, within="1d", empty=0.0)
    compiled = label.compile()
    assert compiled.view.features[compiled.feature].type is Type.FLOAT


def test_texts_for_people():
    rate = Ratio(Count(where=pl.col("a") > 1), Count(), smoothing=(1, 2))
    assert rate.text == 'Ratio(Count() where col("a") > 1 / Count(); smoothing=(1, 2))'
    assert DecayedSum("x", half_life="36h").text == 'DecayedSum(col("x"); half_life=36h)'
    assert Rate(windows="1d", per="1h").text == "Rate(per=1h)"
