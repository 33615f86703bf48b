"""Training rows that know what the served model can't are refused, each by its name."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from dataset_world import OracleHistory

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.ordered import Last
from bedplate.datasets.audit import audit
from bedplate.datasets.dataset import Dataset
from bedplate.datasets.labels import Label
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.negatives import Negatives
from bedplate.datasets.spine import Spine
from bedplate.datasets.split import TimeSplit
from bedplate.errors import DataError, DefinitionError
from bedplate.features.derived import DerivedFeature
from bedplate.features.graph import FeatureGraph
from bedplate.features.links import Link
from bedplate.features.view import FeatureView
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, START, USER
from bedplate.types import DAY, HOUR, MINUTE

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


def wide(**options: object) -> Source:
    """Impressions with what became of each, filled in later, and rows of another kind."""
    frame = pl.DataFrame({"request": range(DAYS), "user": [i % 3 for i in range(DAYS)], "item": ["a"] * DAYS})
    at, clicked = START + pl.col("request") * DAY, (pl.col("request") % 2).alias("clicked")
    frame = frame.with_columns(clicked, time=at, known=at + HOUR, kind=pl.lit("shown"), seconds=1.0)
    return Source("log", frame, time="time", **options)


def impressions(
    source: Source, *, entities: object = (USER, ITEM), where=None, given=None, allow=None, **label: object
):
    views = [
        FeatureView("u", USER, source, {"ctr": Mean("clicked", windows=["1d", "7d"]), "seconds": Mean("seconds")}),
        FeatureView("clicks", ITEM, source, {"n": Count()}, where=pl.col("clicked") == 1),
        FeatureView("all", USER, source, {"n": Count(windows="1d")}),
    ]
    return Dataset(
        "d",
        spine=Spine(source, request="request", entities=USER, item=ITEM, where=where),
        labels=Label("clicked", entities, source, given or Sum("clicked"), **({"within": "1h"} | label)),
        features=["u.*", "clicks.n", "all.n_1d"],
        split=TimeSplit(START + 54 * DAY, START + 58 * DAY, gap="1d"),
        allow=allow,
    ).compile(FeatureGraph(views))


@pytest.mark.parametrize("label", [{}, {"entities": (), "request": "request"}])
def test_a_column_that_tells_what_became_of_a_row_is_no_feature_at_once(label):
    said = (
        r"outcome column 'u\.ctr', outcome column 'clicks\.n': read the column 'clicked' of source 'log' as known with"
    )
    with pytest.raises(DefinitionError, match=said) as caught:
        impressions(wide(), **label)
    assert "what becomes of the row within 1h" in str(caught.value)
    assert 'delay="1h" at the source' in str(caught.value.hint)
    with pytest.raises(DefinitionError, match=r"outcome column 'u\.ctr', "):
        impressions(wide(delay="59m"), **label)
    with pytest.raises(DefinitionError, match=r"outcome column .* what becomes of the row within 2h"):
        impressions(wide(delay="1h"), **label, maturity="1h")
    assert impressions(wide(delay="1h"), **label).dataset.allow == {}
    assert impressions(wide(available="known"), **({"maturity": "1h"} | label)).dataset.allow == {}


def test_an_outcome_column_is_allowed_by_the_name_of_its_feature():
    allow = {f"outcome column '{name}'": "clicks are written at once" for name in ("u.ctr", "clicks.n")}
    assert impressions(wide(), allow=allow).dataset.allow == allow
    first, second = allow
    with pytest.raises(DefinitionError, match=r"outcome column 'clicks\.n': read"):
        impressions(wide(), allow={first: allow[first]})
    with pytest.raises(DefinitionError, match=r"did you mean 'outcome column 'u\.ctr''"):
        impressions(wide(), allow={"outcome column 'u.ctr_7d'": "why", second: "why"})


@pytest.mark.parametrize(
    "changed",
    [
        {"given": Count()},
        {"entities": USER},  # of all that the user does, not of the row
        {"given": Count(where=pl.col("clicked") == 1), "where": pl.col("clicked") == 0},  # rows of two kinds
        {"given": Sum("clicked"), "where": pl.col("clicked").is_not_null()},  # chosen by it, so known
        {"given": Count(where=pl.col("kind") == "shown")},
    ],
)
def test_a_column_that_rows_are_told_apart_by_is_no_outcome(changed):
    assert len(impressions(wide(), **changed).views) == 4


def spoken(paid: np.ndarray, feature: np.ndarray, there: np.ndarray | None = None, **label: object) -> dict[str, str]:
    """The leaks of a feature `told.x`, known a minute before each request, and a label paid a minute after it."""
    at = pl.col("request") * HOUR + START
    frame = pl.DataFrame(
        {"request": range(HOURS), "user": range(HOURS), "item": ["a"] * HOURS, "p": paid, "x": feature}
    )
    frame = frame.with_columns(x=pl.when(pl.Series(np.ones(HOURS, bool) if there is None else there)).then("x"))
    shown = Source("shown", frame.with_columns(time=at), time="time")
    told = Source("told", frame.with_columns(time=at - MINUTE), time="time")
    after = Source("paid", frame.with_columns(time=at + MINUTE), time="time")
    dataset = Dataset(
        "d",
        spine=Spine(shown, request="request", entities=USER, item=ITEM),
        labels=Label("paid", USER, after, Sum("p"), within="1h", **label),
        features=["told.x"],
        split=TimeSplit(START + (HOURS - 3) * HOUR, START + (HOURS - 1) * HOUR, gap="1h"),
    ).compile(FeatureGraph([FeatureView("told", USER, told, {"x": Last("x")})]))
    return found(LoadedDataset(dataset, OracleHistory()))


HOURS = 300
DRAW = np.random.default_rng(5)
PAID = np.where(DRAW.random(HOURS) < 0.3, 1 + DRAW.exponential(1, HOURS), 0.0)
NOISE = DRAW.normal(size=HOURS)
BOUGHT = PAID >= 1


@pytest.mark.parametrize(
    ("at_least", "feature", "there", "said"),
    [
        (1.0, BOUGHT + 0.01 * NOISE, None, "nearly (AUC 1.00000)"),
        (1.0, -3.0 * BOUGHT + 0.01 * NOISE, None, "nearly (AUC 1.00000)"),
        (1.0, np.exp(9 * BOUGHT + NOISE), None, "nearly (AUC 1.00000)"),
        (1.0, NOISE, BOUGHT, "nearly (AUC 1.00000)"),
        (1.0, NOISE, ~BOUGHT, "nearly (AUC 1.00000)"),
        (1.0, np.where(BOUGHT & (NOISE > -2.0), 9.0, NOISE), None, None),
        (1.0, BOUGHT + 0.5 * NOISE, None, None),
        (1.0, NOISE, None, None),
        (None, PAID * 2 + 1, None, "exactly"),
        (None, PAID + 0.001 * NOISE, None, "nearly (correlation above 0.9999)"),
        (None, PAID + 0.1 * NOISE, None, None),
        # One row of a thousand makes a correlation, and tells nothing of the others.
        (None, np.where(PAID.max() == PAID, 1e5, NOISE), None, None),
    ],
)  # fmt: skip
def test_a_feature_that_tells_the_label_apart_is_told(at_least, feature, there, said):
    leaks = spoken(PAID, feature, there, at_least=at_least)
    if said is None:
        assert leaks == {}
    else:
        assert leaks["equals label 'told.x'"].startswith(f"it tells label 'paid' {said}, in ")


def test_few_of_a_class_say_nothing():
    for count, leaks in ((9, {}), (10, {"equals label 'told.x'"})):
        few = np.arange(HOURS) < count
        assert set(spoken(few * 1.0, few + 0.01 * NOISE, at_least=1.0)) == set(leaks)


def test_what_the_negatives_add_is_no_feature():
    """Every row of the spine is bought and no drawn one is: what says which were drawn is not asked of the model."""
    rows = [(i, i % 9, f"i{i % 7}", START + i * HOUR) for i in range(HOURS)]
    frame = pl.DataFrame(rows, schema=["request", "user", "item", "time"], orient="row")
    source = Source("orders", frame, time="time")
    dataset = Dataset(
        "d",
        spine=Spine(source, request="request", entities=USER, item=ITEM),
        labels=Label("bought", (USER, ITEM), source, Count(), within="1us", at_least=1),
        negatives=Negatives(source, ITEM, window="1d", per_request=1),
        features=["u.n"],
        split=TimeSplit(START + (HOURS - 3) * HOUR, START + (HOURS - 1) * HOUR, gap="1h"),
    ).compile(FeatureGraph([FeatureView("u", USER, source, {"n": Count()})]))
    assert found(LoadedDataset(dataset, OracleHistory())) == {}
