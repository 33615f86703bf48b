"""Feature views: ids that change with the definition and only with it, and mistakes found when a view is compiled."""

from __future__ import annotations

import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.counts import TopK
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.extremes import Max
from bedplate.aggregations.ordered import Last, LastN, TimeSince
from bedplate.aggregations.ratio import Ratio
from bedplate.aggregations.sketches import Quantile
from bedplate.aggregations.window import Window
from bedplate.datasets.labels import Label
from bedplate.errors import DefinitionError
from bedplate.features.entity import Entity
from bedplate.features.vectors import vector
from bedplate.features.view import FeatureView
from bedplate.sources.base import Source
from bedplate.types import Type

SCHEMA = {
    "user": pl.Int64,
    "time": pl.Datetime("us"),
    "x": pl.Int64,
    "y": pl.Float64,
    "s": pl.String,
    "c": pl.Categorical,
    "b": pl.Boolean,
    "d": pl.Date,
    "l": pl.List(pl.Int64),
    "big": pl.UInt64,
    "money": pl.Decimal(10, 2),
}
FRAME = pl.DataFrame(schema=SCHEMA)
USER = Entity("user", key="user")
X, Y, S, T, L, B = (pl.col(c) for c in ("x", "y", "s", "time", "l", "b"))


def view(features=None, *, name="v", entities=USER, frame=FRAME, source=None, where=None, ttl=None, **options):
    made = source or Source("e", frame, time="time", **options)
    return FeatureView(name, entities, made, features or {"n": Count()}, where=where, ttl=ttl)


BASE = {
    "n": Count(windows=["1d", "7d"]),
    "spend": Sum(X * 2, windows=["1d", "7d"], where=Y > 0),
    "mean": Mean("y"),
    "last": Last("s"),
    "recent": LastN(["s", "x"], 5, age="age"),
    "since": TimeSince(),
    "since_1d": TimeSince(windows="1d"),
}
CARRIED = {"v.last", "v.recent_s", "v.recent_x", "v.recent_age", "v.since"}


def ids(made: FeatureView) -> dict[str, str]:
    return {f.name: f.id for f in made.compile().features.values()}


def changed(**options) -> set[str]:
    """The features of `BASE` whose ids differ from those without these options."""
    old, new = ids(view(BASE)), ids(view(**({"features": BASE} | options)))
    return {n for n in old if new.get(n) != old[n]}


def shift(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.with_columns(x=X + 1)


ALL = set(ids(view(BASE)))


@pytest.mark.parametrize(
    "options",
    [
        {"where": X > 1},
        {"delay": "5m"},
        {"prepare": shift},
        {"source": Source("f", FRAME, time="time")},
        {"source": Source("e", FRAME, time="d")},
        {"entities": [USER, Entity("item", key="x")]},
        {"entities": Entity("customer", key="user")},
    ],
    ids=["where", "delay", "prepare", "source", "time", "entities", "entity"],
)
def test_what_belongs_to_the_view_changes_every_id(options):
    assert changed(**options) == ALL
    assert view(BASE, **options).compile().id != view(BASE).compile().id


def test_a_ttl_changes_what_is_carried_forward_only():
    assert changed(ttl="30d") == CARRIED
    assert view(BASE, ttl="30d").compile().id != view(BASE).compile().id


@pytest.mark.parametrize(
    ("features", "names"),
    [
        (BASE | {"new": Max("y", windows="1d")}, set()),
        (BASE | {"n": Count(windows=["1d", "7d", "30d"])}, set()),
        (BASE | {"n": Count(windows=["7d", "1d"])}, set()),
        (dict(reversed(BASE.items())), set()),
        (BASE | {"n": Count(windows=["1d", Window.of("7d", hop="1d")])}, {"v.n_7d"}),
        (BASE | {"n": Count(windows=["1d"])}, {"v.n_7d"}),
        (BASE | {"n": Count("y", windows=["1d", "7d"])}, {"v.n_1d", "v.n_7d"}),
        (BASE | {"spend": Sum(X * 3, windows=["1d", "7d"], where=Y > 0)}, {"v.spend_1d", "v.spend_7d"}),
        (BASE | {"spend": Sum(X * 2, windows=["1d", "7d"], where=Y > 1)}, {"v.spend_1d", "v.spend_7d"}),
        (BASE | {"spend": Mean(X * 2, windows=["1d", "7d"], where=Y > 0)}, {"v.spend_1d", "v.spend_7d"}),
        (BASE | {"recent": LastN(["s", "x"], 6, age="age")}, {"v.recent_s", "v.recent_x", "v.recent_age"}),
        (BASE | {"recent": LastN({"s": "s", "x": "y"}, 5, age="age")}, {"v.recent_s", "v.recent_x", "v.recent_age"}),
    ],
)
def test_a_feature_changes_its_own_ids_only(features, names):
    assert changed(features=features) == names
    forms = {n: a.form() for n, a in features.items()}
    is_same = forms == {n: a.form() for n, a in BASE.items()}
    assert (view(features).compile().id == view(BASE).compile().id) == is_same


def test_equal_definitions_have_equal_ids():
    again = {
        "n": Count(windows=("1d", "1w")),
        "spend": Sum(where=Y > 0, windows=["24h", "7d"], expression=X * 2),
        "mean": Mean(Y),
        "last": Last(expression=S),
        "recent": LastN(age="age", n=5, columns={"s": S, "x": X}),
        "since": TimeSince(),
        "since_1d": TimeSince(windows=["1d"]),
    }
    assert ids(view(again)) == ids(view(BASE))
    assert view(again, ttl="1w").compile().id == view(BASE, ttl="7d").compile().id


def test_the_order_of_definition_is_no_difference_to_a_store():
    features = {"a": Sum("x"), "b": Sum(X + 1), "c": Last("x"), "d": Last("user")}
    first, second = view(features).compile(), view(dict(reversed(features.items()))).compile()
    assert first.id == second.id
    assert [s.form for s in first.selections] == [s.form for s in second.selections]
    assert [c.names for c in first.calls] == [c.names for c in second.calls]
    assert list(second.features) == ["v.d", "v.c", "v.b", "v.a"]


def test_every_feature_has_an_id_of_its_own():
    assert len(set(ids(view(BASE)).values())) == len(ALL) == 11


def test_ids_of_features_do_not_depend_on_rows_and_those_of_views_know_their_name():
    row = pl.DataFrame({c: [None] for c in SCHEMA}, schema=SCHEMA)
    assert ids(view(BASE, frame=row)) == ids(view(BASE))
    assert view(BASE, frame=row).compile().id == view(BASE).compile().id
    assert view(BASE, name="w").compile().id != view(BASE).compile().id


def test_types_and_names():
    made = view({"a": Sum("x"), "b": Sum("y"), "c": Last("c"), "d": Last("d"), "e": Last("b")} | BASE).compile()
    kinds = {made.short(f.name): (f.type, f.is_list) for f in made.features.values()}
    assert [kinds[n] for n in "abcde"] == [
        (Type.INT, False),
        (Type.FLOAT, False),
        (Type.STRING, False),
        (Type.TIME, False),
        (Type.BOOL, False),
    ]
    assert kinds["recent_s"] == (Type.STRING, True)
    assert kinds["recent_age"] == (Type.FLOAT, True)


def test_the_text_says_all_that_a_person_asks_about():
    made = view(
        {"spend": Sum("x", windows="7d", where=B), "tail": LastN("s", 3), "n": Count(windows=Window(10, 0, 5))},
        where=Y > 0,
        ttl="30d",
        delay="5m",
    ).compile()
    assert [f.text for f in made.features.values()] == [
        'Sum(col("x")) over 7d (hop 1h) where col("y") > 0 and col("b"), delay 5m',
        'LastN(col("s"); n=3) over all history where col("y") > 0, ttl 30d, delay 5m',
        'Count() over 10us (exact, last 5 events) where col("y") > 0, delay 5m',
    ]


CONSTRUCTED = [
    (
        lambda: view({"a": Label("a", USER, Source("e", FRAME, time="time"), Count(), within="1d")}),
        "is a Label",
        "forward",
    ),
    (lambda: view({"a": "x"}), "feature 'a' is a str, expected an aggregation", "Count()"),
    (lambda: view({"a.b": Count()}), "got the feature name 'a.b'", "full name"),
    (lambda: view({"": Count()}), "got the feature name ''", "full name"),
    (lambda: FeatureView("v", USER, Source("e", FRAME, time="time"), {}), "no features", ""),
    (lambda: view(entities=[]), "no entity", ""),
    (lambda: view(entities=[USER, USER]), "an entity is named twice", ""),
    (lambda: view(entities="user"), "expected an Entity", ""),
    (lambda: view(source="e"), "got 'e', expected a Source", ""),
    (lambda: view(name=""), "got '', expected a str", ""),
    (lambda: view(ttl="a week"), "got 'a week', expected a whole number and a unit", "7d"),
    (lambda: view(ttl="0d"), "got '0d', expected more than zero", "7d"),
    (lambda: view(ttl=7), "got 7, which has no unit", "7d"),
    (lambda: view(where=True), "got True, expected the name of a column", "pl.col"),
    (lambda: Entity("", key="user"), "got the name '', expected a text", ""),
    (lambda: Entity("user", key=None), "got the key None, expected a text", ""),
]


@pytest.mark.parametrize(("make", "message", "hint"), CONSTRUCTED)
def test_mistakes_found_where_the_view_is_defined(make, message, hint):
    with pytest.raises(DefinitionError) as caught:
        make()
    assert message in caught.value.message
    assert (caught.value.where or "").startswith(("view '", "entity '"))
    assert hint in (caught.value.hint or "")


FEATURE = "view 'v', feature 'a'"
COMPILED = [
    ({"features": {"a": Sum("xx")}}, FEATURE, "unknown column 'xx' in an aggregation", "did you mean 'x'?"),
    ({"features": {"a": Sum(X + pl.col("price"))}}, FEATURE, "unknown column 'price'", "columns: "),
    ({"features": {"a": Count(where=pl.col("bb"))}}, FEATURE, "unknown column 'bb' in where", "did you mean 'b'?"),
    ({"where": pl.col("tme") > 1}, "view 'v'", "unknown column 'tme' in where", "did you mean 'time'?"),
    ({"where": "s"}, "view 'v'", 'where col("s") is String, expected a boolean', "compare"),
    ({"features": {"a": Count(where=X + 1)}}, FEATURE, "is Int64, expected a boolean", "compare"),
    ({"entities": Entity("u", key="usr")}, "view 'v'", "the key column 'usr' of entity 'u'", "did you mean 'user'?"),
    ({"entities": Entity("u", key="y")}, "view 'v'", "'y' is Float64, expected integers or strings", "prepare"),
    (
        {"entities": Entity("u", key="big")},
        "view 'v'",
        "'big' is UInt64, expected integers or strings",
        'cast it in the source\'s prepare step: pl.col("big").cast(pl.Int64)',
    ),
    ({"entities": Entity("u", key="b")}, "view 'v'", "'b' is Boolean, expected integers or strings", "prepare"),
    ({"features": {"a": Sum("s")}}, FEATURE, "Sum takes int64, float64, bool; got string from 's'", ""),
    ({"features": {"a": Mean("d")}}, FEATURE, "Mean takes int64, float64, bool; got timestamp from 'd'", ""),
    ({"features": {"a": Max("b")}}, FEATURE, "Max takes int64, float64, timestamp; got bool from 'b'", ""),
    ({"features": {"a": CountDistinct("y")}}, FEATURE, "CountDistinct takes int64, string, bool, timestamp; got", ""),
    ({"features": {"a": Last("l")}}, FEATURE, 'the expression col("l") is List(Int64), expected', ""),
    ({"features": {"a": Sum("big")}}, FEATURE, 'the expression col("big") is UInt64, expected', "cast it to pl.Int64"),
    ({"features": {"a": Quantile("d", 0.5)}}, FEATURE, 'the expression col("d") is Date, expected a number', ""),
    ({"features": {"a": Quantile("s", 0.5)}}, FEATURE, 'the expression col("s") is String, expected a number', ""),
    ({"features": {"a": Quantile(T - T, 0.5)}}, FEATURE, "is Duration(time_unit='us'), expected a number", ""),
    ({"features": {"a": Ratio(Count(), Quantile("d", 0.5))}}, FEATURE, 'the expression col("d") is Date', ""),
    ({"features": {"a": Mean(vector("l", 2))}}, FEATURE, "float64, bool; got vector[2] from an expression of 'l'", ""),
    (
        {"features": {"a": TopK("money", 3)}},
        FEATURE,
        "got float64 from 'money'",
        "is Decimal(precision=10, scale=2), which",
    ),
    ({"features": {"a": CountDistinct(pl.col("money") * 2)}}, FEATURE, "got float64", "Decimal(precision="),
    ({"features": {"a": Last(X.str.to_lowercase())}}, FEATURE, "fails", ""),
    ({"features": {"a": Last(S + X)}}, FEATURE, "fails", ""),
    ({"features": {"a": Sum(pl.col("x", "y"))}}, FEATURE, "selects several columns", "pl.col"),
    ({"features": {"a": Sum(pl.all())}}, FEATURE, "selects several columns", "pl.col"),
    ({"features": {"n_1d": Count(), "n": Count(windows="1d")}}, "view 'v'", "two features are named 'n_1d'", "window"),
    ({"features": {"l": LastN(["s", "x"], 3), "l_s": Count()}}, "view 'v'", "two features are named 'l_s'", ""),
    ({"source": Source("e", FRAME, time="tyme")}, "source 'e'", "no time column 'tyme'", "did you mean 'time'?"),
    ({"source": Source("e", FRAME, time="s")}, "source 'e'", "the time column 's' is String", "prepare"),
]


@pytest.mark.parametrize(("options", "where", "message", "hint"), COMPILED)
def test_mistakes_found_before_anything_runs(options, where, message, hint):
    made = view(**options)
    with pytest.raises(DefinitionError) as caught:
        made.compile()
    assert message in caught.value.message
    assert caught.value.where == where
    assert hint in (caught.value.hint or "")


def test_several_sources_are_named():
    sources = [Source(name, FRAME, time="time") for name in ("clicks", "orders")]
    with pytest.raises(DefinitionError) as caught:
        view(source=sources)
    assert str(caught.value).startswith(
        "view 'v': got a list of 2 sources (clicks, orders), expected one Source\n  make a"
    )
