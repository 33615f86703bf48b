"""Labels equal a loop over the events after the request."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from dataset_world import OracleHistory, built, shop_source
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.extremes import Max
from bedplate.aggregations.ordered import Last, LastN, TimeSince
from bedplate.canonical import string_ids
from bedplate.datasets.labels import Label
from bedplate.errors import DataError, DefinitionError
from bedplate.features.assemble import Candidates
from bedplate.features.entity import Entity
from bedplate.features.graph import FeatureGraph
from bedplate.features.view import FeatureView
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, START, USER, simulate
from bedplate.types import DAY, HOUR, MINUTE, parse_duration


def asked(seed: int) -> Candidates:
    """A request for each question of the simulator, with one, two or three candidates."""
    questions = simulate(seed, events=120, questions=20, users=4, items=8)
    counts = np.arange(20) % 3 + 1
    offsets = np.concatenate(([0], np.cumsum(counts)))
    return Candidates(
        request_keys={"user": questions.users},
        item="item",
        candidates=np.resize(questions.items, int(offsets[-1])),
        offsets=offsets,
        times=questions.times,
        request_ids=np.arange(20),
    )


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    within=st.sampled_from(["1us", "1h", "6h", "1d"]),
    delay=st.sampled_from([None, "1h"]),
    entities=st.sampled_from([(USER,), (ITEM,), (USER, ITEM), (ITEM, USER)]),
)
def test_labels_equal_a_loop_over_the_events(seed, within, delay, entities):
    source = shop_source(seed, 120, delay)
    frame = source.scan().collect()
    all_events = list(enumerate(frame.iter_rows(named=True)))
    labels = [
        Label("count", entities, source, Count(), within=within),
        Label("some", entities, source, Sum("quantity"), within=within, at_least=5),
        Label("mean", entities, source, Mean("price"), within=within, empty=-2.0),
        Label("cheap", entities, source, Mean("price"), within=within, at_least=-1.0),
        Label("paid", entities, source, Mean("price"), within=within, empty="masked"),
        Label("dear", entities, source, Mean("price"), within=within, at_least=20.0, empty="masked"),
        Label("at_most", entities, source, Mean("price"), within=within, at_least=20.0, empty=99.0),
    ]
    rows, horizon = asked(seed), parse_duration(within)
    keys = {"user": frame["user"].to_list(), "item": string_ids(frame["item"].to_list())}
    expected: list[list[float]] = []
    for r in range(len(rows.times)):
        for candidate in rows.candidates[rows.offsets[r] : rows.offsets[r + 1]].tolist():
            wanted = {"user": int(rows.request_keys["user"][r]), "item": candidate}
            events = [
                event
                for i, event in all_events
                if all(keys[e.name][i] == wanted[e.name] for e in entities)
                and rows.times[r] <= event["time"] < rows.times[r] + horizon
            ]
            prices = [e["price"] for e in events if e["price"] is not None and not math.isnan(e["price"])]
            if rows.times[r] + horizon > frame["time"].max():
                expected.append([math.nan] * len(labels))
                continue
            quantity = sum(e["quantity"] for e in events if e["quantity"] is not None)
            mean = sum(prices) / len(prices) if prices else None
            if mean is None:
                expected.append([len(events), float(quantity >= 5), -2.0, 0.0, math.nan, math.nan, 1.0])
            else:
                dear = float(mean >= 20)
                expected.append([len(events), float(quantity >= 5), mean, 1.0, mean, dear, dear])
    compiled = [label.compile() for label in labels]
    with TemporaryDirectory() as folder:
        for history in (OracleHistory(), built(Path(folder), [c.view for c in compiled])):
            got = [c.read(history, rows) for c in compiled]
            assert all(column.dtype == np.float32 for column in got)
            np.testing.assert_allclose(np.stack(got, axis=1), expected, rtol=1e-6)


@pytest.mark.parametrize(("ahead", "counts"), [(-1, 0.0), (0, 1.0), (HOUR - 1, 1.0), (HOUR, 0.0)])
def test_the_horizon_begins_at_the_request_and_ends_before_its_end(ahead, counts):
    # Another user's event later ends the data, so that the label is known.
    source = Source("events", pl.DataFrame({"user": [1, 2], "time": [START + ahead, START + DAY]}), time="time")
    rows = Candidates(
        {"user": np.array([1])}, "item", np.array([5]), np.array([0, 1]), np.array([START]), np.array([9])
    )
    label = Label("n", USER, source, Count(), within="1h").compile()
    assert label.read(OracleHistory(), rows).tolist() == [counts]


def test_the_last_time_is_a_horizon_before_the_end():
    source = Source("events", pl.DataFrame({"user": [1, 1], "time": [START + DAY, START]}), time="time", delay="1h")
    label = Label("n", USER, source, Count(), within="5m").compile()
    assert label.last_time(OracleHistory()) == START + DAY - 5 * MINUTE


def test_a_value_beyond_float32_is_refused():
    source = Source("events", pl.DataFrame({"user": [1], "time": [START], "price": [1e300]}), time="time")
    rows = Candidates(
        {"user": np.array([1])}, "item", np.array([5]), np.array([0, 1]), np.array([START]), np.array([9])
    )
    with pytest.raises(DataError, match="too large for float32"):
        Label("n", USER, source, Sum("price"), within="1h").compile().read(OracleHistory(), rows)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"aggregation": Count(windows="7d")}, "expected none"),
        ({"aggregation": Sum("quantty")}, "did you mean 'quantity'"),
        ({"aggregation": Sum("kind")}, "Sum takes"),
        ({"aggregation": Mean("price")}, "for example empty=0.0, or leave such candidates out of its task: empty='ma"),
        ({"aggregation": Mean("price"), "empty": "drop"}, "empty: got 'drop', expected a number or 'masked'"),
        ({"aggregation": Mean("price"), "empty": 1e300}, "too large for float32"),
        ({"empty": "masked"}, "got 'masked', and Count is 0 where no event counts"),
        ({"aggregation": Sum("quantity"), "empty": 3, "at_least": 1}, "got 3, and Sum is 0 where no event counts"),
        ({"aggregation": Max("seen"), "empty": 0.0}, "expected one number"),
        ({"aggregation": Last("kind"), "empty": 0.0}, "expected one number"),
        ({"aggregation": LastN("price", 3), "empty": 0.0}, "list of float64, expected one number"),
        ({"aggregation": TimeSince(), "empty": 0.0}, "looks back"),
        ({"aggregation": "count"}, "got a str, expected Aggregation"),
        ({"within": "soon"}, "whole number and a unit"),
        ({"entities": Entity("user", key="usr")}, "did you mean 'user'"),
        ({"entities": (USER, USER)}, "named twice"),
        ({"name": ""}, "expected a text"),
    ],
)
def test_mistakes_are_found_when_defined(arguments, says):
    given = {"name": "bought", "entities": USER, "source": shop_source(1), "aggregation": Count(), "within": "7d"}
    with pytest.raises(DefinitionError) as caught:
        Label(**(given | arguments)).compile()
    assert says in str(caught.value)
    assert "label" in str(caught.value.where)


def test_a_label_is_no_feature():
    source = shop_source(1)
    label = Label("bought", USER, source, Count())
    with pytest.raises(DefinitionError, match="a Label looks forward in time and can't be a feature"):
        FeatureView("view", USER, source, {"bought": label})
    with pytest.raises(DefinitionError, match="a Label looks forward in time and can't be a feature"):
        FeatureGraph([]).select([label])
