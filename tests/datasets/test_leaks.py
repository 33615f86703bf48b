"""Training rows that know what the served model can't are refused, each by its name."""

from __future__ import annotations

import polars as pl
import pytest
from dataset_world import OracleHistory

from bedplate.aggregations.arithmetic import Count
from bedplate.aggregations.ordered import Last
from bedplate.datasets.audit import audit
from bedplate.datasets.dataset import Dataset
from bedplate.datasets.labels import Label
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.spine import Spine
from bedplate.datasets.split import TimeSplit
from bedplate.errors import DataError, DefinitionError
from bedplate.features.derived import DerivedFeature
from bedplate.features.graph import FeatureGraph
from bedplate.features.links import Link
from bedplate.features.view import FeatureView
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, START, USER
from bedplate.types import DAY, HOUR

NOW = START + 99 * DAY
DAYS = 60


def shown(at: int = 10 * HOUR) -> Source:
    frame = pl.DataFrame({"request": range(DAYS), "user": [i % 3 for i in range(DAYS)], "item": ["a"] * DAYS})
    return Source("shown", frame.with_columns(time=START + pl.col("request") * DAY + at), time="time")


def orders(**options: object) -> Source:
    """An order of every third user every day; what the column `later` says is from after the order."""
    rows = [
        (u, START + i * DAY + 12 * HOUR, START + i * DAY + 2 * DAY)
        for i in range(DAYS)
        for u in range(3)
        if i % (u + 2)
    ]
    frame = pl.DataFrame(rows, schema=["user", "time", "later"], orient="row")
    frame = frame.with_columns(pl.col("later").cast(pl.Datetime("us")), known="time", day=pl.col("time") // DAY * DAY)
    return Source("orders", frame, **({"time": "time"} | options))


def make(source: Source, *, label: dict | None = None, past=None, spine: Source | None = None, **options: object):
    views = [FeatureView("past", USER, source, past or {"n": Count(windows="3d")})]
    # A feature that is the label: what the user will order is read off its time.
    fraud = DerivedFeature("told", pl.col("past.n_3d") * 0 + pl.col("request.time").dt.day() % 2 * 3 - 1)
    graph = FeatureGraph(views, [fraud] if past is None else [])
    arguments = {"within": "1d"} | (label or {})
    dataset = Dataset(
        "d",
        spine=Spine(spine or shown(), request="request", entities=USER, item=ITEM),
        labels=Label("again", USER, options.pop("label_source", source), Count(), **arguments),
        split=TimeSplit(START + 54 * DAY, START + 58 * DAY, gap="3d"),
        **({"features": ["past.*"]} | options),
    )
    return LoadedDataset(dataset.compile(graph), OracleHistory())


def found(dataset: LoadedDataset, now: int = NOW) -> dict[str, str]:
    return dict(audit(dataset, clock=lambda: now).found)


def test_nothing_is_found_where_nothing_leaks():
    report = audit(make(orders()), clock=lambda: NOW)
    report.require()
    assert (report.found, report.requests) == ({}, 51)


def test_a_view_that_knows_the_labels_events_sooner_than_the_label_says_is_refused():
    late = {"maturity": "2d"}
    with pytest.raises(DefinitionError, match=r"fresh feature 'past': view 'past' takes events .* known at once"):
        make(orders(), label=late)
    with pytest.raises(DefinitionError, match="known after 1d, and label 'again' says that it takes up to 2d"):
        make(orders(delay="1d"), label=late)
    for source in (orders(delay="2d"), orders(available="known")):
        assert make(source, label=late).compiled.dataset.allow == {}
    other = Source("others", orders().table().scan().collect(), time="time")
    assert found(make(orders(), label=late, label_source=other)) == {}


def test_an_exception_is_allowed_with_a_reason_and_recorded():
    allow = {"fresh feature 'past'": "orders are known at once, their cancellations are not"}
    allowed = make(orders(), label={"maturity": "2d"}, allow=allow).compiled
    assert allowed.definitions()["allowed fresh feature 'past'"].startswith("orders are known at once")
    assert allowed.dataset.form()["allow"] == allow
    plain = make(orders(), label={"maturity": "2d"}, allow=allow | {"equals label 'past.n_3d'": "no"}).compiled
    assert plain.id != allowed.id


@pytest.mark.parametrize(
    ("allow", "said"),
    [
        ({"fresh feature 'pst'": "why"}, "did you mean 'fresh feature 'past''"),
        ({"early feedback 'again'": " "}, "for the reason ' ', expected a text"),
        (["fresh feature 'past'"], "got a list, expected Mapping"),
    ],
)
def test_what_is_allowed_must_be_a_leak_and_have_a_reason(allow, said):
    with pytest.raises(DefinitionError, match=said):
        make(orders(), allow=allow)


def test_times_that_are_whole_days_tell_of_the_evening_in_the_morning():
    leak = "coarse times 'past'"
    assert leak in found(make(orders(time="day")))
    assert "declare delay" in found(make(orders(time="day")))[leak]
    assert leak not in found(make(orders(time="day", delay="1d")))
    assert leak not in found(make(orders(time="day"), spine=shown(at=0)))
    elsewhere = Source("others", orders().table().scan().collect(), time="time")
    assert leak not in found(make(orders(time="day"), label_source=elsewhere))


def behind_a_link(source: Source, **options: object) -> LoadedDataset:
    """The dataset's one feature is of the view `past`, which is read by the user whom a view of items holds."""
    views = [
        FeatureView("past", USER, source, {"n": Count(windows="3d")}),
        FeatureView("items", ITEM, shown(), {"user": Last("user")}),
    ]
    dataset = Dataset(
        "d",
        spine=Spine(shown(), request="request", entities=USER, item=ITEM),
        labels=Label("again", USER, source, Count(), within="1d", **options),
        split=TimeSplit(START + 54 * DAY, START + 58 * DAY, gap="3d"),
        features=["owner.past.n_3d"],
    )
    return LoadedDataset(
        dataset.compile(FeatureGraph(views, links=[Link("owner", "items.user", USER)])), OracleHistory()
    )


def test_a_view_that_links_reach_leaks_as_any_other():
    with pytest.raises(DefinitionError, match=r"fresh feature 'past': view 'past' takes events .* known at once"):
        behind_a_link(orders(), maturity="2d")
    assert "coarse times 'past'" in found(behind_a_link(orders(time="day")))
    assert "coarse times 'past'" not in found(behind_a_link(orders(time="day", delay="1d")))


def test_events_of_the_future_are_told():
    dataset = make(orders())
    end = dataset.history.known(dataset.compiled.labels[0].view)
    assert list(found(dataset, now=end)) == []
    assert list(found(dataset, now=end - 1)) == ["future events 'again'"]


def test_a_time_after_the_request_is_told():
    leaks = found(make(orders(), past={"later": Last("later"), "time": Last(pl.col("time").cast(pl.Datetime))}))
    assert list(leaks) == ["future value 'past.later'"]
    assert "was the row written later than its time says?" in leaks["future value 'past.later'"]


def test_a_feature_that_is_the_label_is_told():
    days = [START + i * DAY for i in range(DAYS)]
    odd = [d for d in days if pl.Series([d]).cast(pl.Datetime).dt.day()[0] % 2]
    frame = pl.DataFrame([(u, d + 12 * HOUR) for d in odd for u in range(3)], schema=["user", "time"], orient="row")
    dataset = make(Source("orders", frame, time="time"), features=["past.*", "told"])
    with pytest.raises(
        DataError, match=r"1 leak into the training rows:\n  equals label 'told': it tells label 'again'"
    ):
        audit(dataset, clock=lambda: NOW).require()
