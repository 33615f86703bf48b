"""Labels joined by the request's id: what became of an impression, and of every row of feedback."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from dataset_world import OracleHistory, built
from hypothesis import given, settings
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.extremes import Max
from bedplate.datasets.audit import audit
from bedplate.datasets.dataset import Dataset
from bedplate.datasets.feedback import FeedbackSummary
from bedplate.datasets.labels import Label
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.spine import Spine
from bedplate.datasets.split import TimeSplit
from bedplate.errors import DataError, DefinitionError
from bedplate.features.derived import DerivedFeature
from bedplate.features.graph import FeatureGraph
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, START, USER
from bedplate.types import DAY, HOUR, MINUTE

GRAPH = FeatureGraph([], [DerivedFeature("hour", pl.col("request.time").dt.hour())])
ITEMS = ["a", "b", "c"]


def impressions(requests: int) -> pl.DataFrame:
    """Requests an hour apart, each with the items a and b; request 3 has c too."""
    rows = [(f"r{i}", i % 2, item, START + i * HOUR) for i in range(requests) for item in ITEMS[: 3 if i == 3 else 2]]
    return pl.DataFrame(rows, schema=["request", "user", "item", "time"], orient="row")


def clicks(*rows: tuple[str | None, str | None, int]) -> Source:
    """Clicks of (request, item, minutes after START), and one a month later that ends the data."""
    frame = pl.DataFrame([*rows, ("", "", 30 * 1440)], schema=["on", "item", "minute"], orient="row")
    frame = frame.with_columns(time=START + pl.col("minute") * MINUTE, paid=pl.col("minute") % 7)
    return Source("clicks", frame, time="time")


def make(labels, requests: int = 6, **options: object) -> Dataset:
    spine = Spine(Source("shown", impressions(requests), time="time"), request="request", entities=USER, item=ITEM)
    split = TimeSplit(START + DAY, START + 5 * DAY, gap="1d")
    return Dataset("d", spine=spine, labels=labels, features=["hour"], split=split, **options)


def load(dataset: Dataset, history=None) -> LoadedDataset:
    return LoadedDataset(dataset.compile(GRAPH), history or OracleHistory())


def everything(dataset: LoadedDataset):
    return dataset.assemble(dataset.spine.rows).labels


@settings(max_examples=25)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from([None, *(f"r{i}" for i in range(7))]), st.sampled_from(ITEMS), st.integers(-30, 7 * 60)
        ),
        max_size=30,
    ),
    within=st.sampled_from(["30m", "2h"]),
)
def test_labels_by_request_equal_a_loop(tmp_path_factory, rows, within):
    source, horizon = clicks(*rows), {"30m": 30 * MINUTE, "2h": 2 * HOUR}[within]
    labels = [
        Label("clicked", ITEM, source, Count(), within=within, request="on", at_least=1),
        Label("paid", (), source, Sum("paid"), within=within, request="on"),
        Label("dearest", ITEM, source, Max("paid"), within=within, request="on", empty="masked"),
        Label("dear", (), source, Max("paid"), within=within, request="on", at_least=3, empty="masked"),
    ]
    dataset = load(make(labels))
    expected: dict[str, list[float]] = {label.name: [] for label in labels}
    found = [(on, item, START + m * MINUTE, m % 7) for on, item, m in rows]
    for request, _, item, time in impressions(6).iter_rows():
        inside = [f for f in found if f[0] == request and time <= f[2] < time + horizon]
        expected["clicked"].append(float(any(f[1] == item for f in inside)))
        expected["paid"].append(float(sum(f[3] for f in inside)))
        expected["dearest"].append(max((f[3] for f in inside if f[1] == item), default=math.nan))
        expected["dear"].append(max((float(f[3] >= 3) for f in inside), default=math.nan))
    history = built(tmp_path_factory.mktemp("history"), dataset.compiled.views)
    for loaded in (dataset, load(make(labels), history)):
        for name, values in everything(loaded).items():
            np.testing.assert_array_equal(values, expected[name], name)
    groups = dataset.feedback()[0]
    shown = {(r, i): t for r, _, i, t in impressions(6).iter_rows()}
    times = {r: t for (r, _), t in shown.items()}
    assert groups.rows == len(rows) + 1
    assert groups.unnamed == sum(on is None for on, *_ in found)
    assert groups.unknown == 1 + sum(on is not None and on not in times for on, *_ in found)
    assert groups.unlisted == sum(on in times and (on, item) not in shown for on, item, *_ in found)
    listed = [(on, item, t - times[on]) for on, item, t, _ in found if (on, item) in shown]
    assert groups.early == sum(t < 0 for *_, t in listed)
    assert groups.late == sum(t >= horizon for *_, t in listed)
    used = [(on, item) for on, item, t in listed if 0 <= t < horizon]
    assert (groups.used, groups.duplicates) == (len(set(used)), len(used) - len(set(used)))


def test_every_row_of_feedback_is_counted():
    source = clicks(
        ("r1", "a", 65), ("r1", "a", 66), ("r9", "a", 70), ("r1", "c", 70), ("r2", "b", 100), ("r2", "b", 300),
        (None, "a", 70), (None, None, 71), (None, None, 60 * 1440),
    )  # fmt: skip
    label = Label("clicked", ITEM, source, Count(), within="1h", request="on", at_least=1)
    dataset = load(make(label))
    expected = FeedbackSummary("clicked", 10, used=1, duplicates=1, unknown=2, unlisted=1, early=1, late=1, unnamed=3)
    assert dataset.feedback() == (expected,)
    assert str(expected) in str(dataset.summary())


def test_rows_without_a_request_build_no_index_and_do_not_end_the_data(tmp_path):
    label = Label("clicked", ITEM, clicks((None, None, 60 * 1440)), Count(), within="1h", request="on")
    dataset = make(label).compile(GRAPH)
    history = built(tmp_path, dataset.views)
    assert LoadedDataset(dataset, history).ends()[0].end == START + 30 * DAY


@pytest.mark.parametrize("rows", [pl.col("item") == "none", pl.col("on").is_null()])
def test_without_a_row_of_any_request_nothing_is_known(tmp_path, rows):
    frame = clicks((None, "a", 65), ("r1", "a", 65)).table().scan().filter(rows).collect()
    label = Label("clicked", ITEM, Source("clicks", frame, time="time"), Count(), within="1h", request="on")
    dataset = make(label).compile(GRAPH)
    for history in (OracleHistory(), built(tmp_path, dataset.views)):
        loaded = LoadedDataset(dataset, history)
        assert np.isnan(everything(loaded)["clicked"]).all()
        assert "\n  no data of 'clicked', in source 'clicks'\n" in str(loaded.summary())
        assert loaded.feedback()[0].unnamed == len(frame)


def test_a_row_with_a_request_and_without_the_candidate_is_refused(tmp_path):
    label = Label("clicked", ITEM, clicks(("r1", None, 65)), Count(), within="1h", request="on")
    with pytest.raises(DataError, match=r"column 'item': 1 of 2 rows have no key"):
        built(tmp_path, make(label).compile(GRAPH).views)


def test_a_masked_label_is_counted_where_something_happened():
    source = clicks(("r30", "a", 1805), ("r32", "a", 1925), ("r32", "b", 1930))
    labels = [
        Label(n, ITEM, source, Max("paid"), within="1h", request="on", empty=e)
        for n, e in (("masked", "masked"), ("zero", 0))
    ]
    dataset = load(make(labels, requests=60))
    validation = dataset.summary().splits[1]
    assert (validation.requests, validation.listed) == (36, 72)
    total = 1805 % 7 + 1925 % 7 + 1930 % 7
    assert validation.labels == {"masked": (3, total / 3), "zero": (72, total / 72)}
    assert [dataset.labelled(name, "validation") for name in ("masked", "zero")] == [2, 36]


def test_a_condition_leaves_rows_out_of_the_counts():
    source = clicks(("r1", "a", 65), ("r1", "b", 66))
    label = Label("a", ITEM, source, Count(where=pl.col("item") == "a"), within="1h", request="on")
    (counted,) = load(make(label)).feedback()
    assert (counted.rows, counted.used) == (1, 1)


def test_feedback_before_its_request_is_an_error_unless_allowed():
    label = Label("clicked", ITEM, clicks(("r2", "a", 100)), Count(), within="1h", request="on")
    with pytest.raises(DataError, match=r"early feedback 'clicked': 1 of 2 rows are from before their request"):
        audit(load(make(label)), clock=lambda: START + 99 * DAY).require()
    allowed = load(make(label, allow={"early feedback 'clicked'": "clocks of the loggers differ"}))
    report = audit(allowed, clock=lambda: START + 99 * DAY)
    report.require()
    assert list(report.found) == ["early feedback 'clicked'"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"entities": USER}, "about 'user', expected the item 'item' or nothing"),
        ({"request": "minute", "entities": ()}, "holds int64, the spine's 'request' string"),
        ({"request": "onn", "entities": ()}, "did you mean 'on'"),
        ({"request": 3, "entities": ()}, "got a int, expected str"),
        ({"request": None, "entities": ()}, "no entity"),
    ],
)
def test_mistakes_are_found_when_defined(arguments, said):
    given = {"entities": ITEM, "request": "on", "within": "1h"} | arguments
    source = clicks().table().scan().collect().with_columns(user=pl.lit(1))
    with pytest.raises(DefinitionError, match=said):
        make(Label("l", given.pop("entities"), Source("clicks", source, time="time"), Count(), **given)).compile(GRAPH)


def test_feedback_of_another_state_of_the_source_is_refused(tmp_path):
    path = tmp_path / "clicks.parquet"
    clicks(("r1", "a", 65)).table().scan().collect().write_parquet(path)
    label = Label("l", ITEM, Source("clicks", str(path), time="time"), Count(), within="1h", request="on")
    compiled = make(label).compile(GRAPH)
    history = built(tmp_path / "history", compiled.views)
    snapshot = history.reader(compiled.views[-1]).snapshot
    dataset, asked = (LoadedDataset(compiled, history, {compiled.views[-1].id: snapshot}) for _ in range(2))
    assert asked.feedback()[0].used == 1
    clicks(("r1", "a", 65), ("r2", "a", 125)).table().scan().collect().write_parquet(path)
    with pytest.raises(DataError, match="changed since the dataset was loaded"):
        dataset.summary()
    # What was counted once is of the state that the dataset is of.
    assert asked.summary().feedback == asked.feedback()


def test_requests_of_the_same_id_type_meet():
    frame = impressions(6).with_columns(request=pl.col("request").str.slice(1).cast(pl.Int64) + 2**60)
    spine = Spine(Source("shown", frame, time="time"), request="request", entities=USER, item=ITEM)
    rows = pl.DataFrame({"on": [2**60 + 1, 2**60 + 2], "time": [START + HOUR, START + 30 * DAY]})
    label = Label("l", (), Source("clicks", rows, time="time"), Count(), within="1h", request="on")
    split = TimeSplit(START + DAY, START + 5 * DAY, gap="1d")
    dataset = load(Dataset("d", spine=spine, labels=label, features=["hour"], split=split))
    assert np.flatnonzero(everything(dataset)["l"]).tolist() == [2, 3]
