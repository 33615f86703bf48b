"""The graph of features: names, cycles and inputs are checked together; differences are readable."""

from __future__ import annotations

import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.ordered import Last, LastN
from bedplate.datasets.labels import Label
from bedplate.errors import DefinitionError
from bedplate.features.derived import DerivedFeature
from bedplate.features.diff import diff
from bedplate.features.entity import Entity
from bedplate.features.graph import FeatureGraph
from bedplate.features.view import FeatureView
from bedplate.sources.base import Source
from bedplate.types import Type

FRAME = pl.DataFrame(
    schema={"user": pl.Int64, "item": pl.String, "time": pl.Int64, "x": pl.Float64, "flag": pl.Boolean}
)
SOURCE = Source("e", FRAME, time="time")
USER, ITEM = Entity("user", key="user"), Entity("item", key="item")


def view(name="u", features=None, entities=USER, source=SOURCE, **options):
    return FeatureView(name, entities, source, features or {"n": Count(windows="1d")}, **options)


def derived(name, expression):
    return DerivedFeature(name, expression if isinstance(expression, pl.Expr) else pl.col(expression) + 1)


USERS = view("u", {"n": Count(windows=["1d", "7d"]), "last": Last("item"), "recent": LastN("x", 3), "at": Last("time")})
ITEMS = view("i", {"sum": Sum("x")}, ITEM)
RATE = derived("rate", pl.col("i.sum") / pl.col("u.n_7d"))
TWICE = derived("twice", pl.col("rate") * 2)
GRAPH = FeatureGraph([USERS, ITEMS], [TWICE, RATE, derived("hour", pl.col("request.time").dt.hour())])


def graph(*derived_features, views=(USERS, ITEMS)):
    return FeatureGraph(views, derived_features)


MISTAKES = [
    (lambda: graph(views=[USERS, view("u")]), "view 'u'", "two definitions have this name"),
    (lambda: graph(RATE, derived("rate", "u.n_1d")), "derived feature 'rate'", "two definitions have this name"),
    (lambda: graph(derived("u.last", "u.n_1d")), "derived feature 'u.last'", "a view has a feature of this name"),
    (
        lambda: graph(views=[view("a", {"b": Count()}), view("a", {"c": Count()})]),
        "view 'a'",
        "two definitions have this name",
    ),
    (lambda: graph(derived("a", "a")), "derived feature 'a'", "the definitions form a cycle: a -> a"),
    (
        lambda: graph(derived("x", "a"), derived("a", "b"), derived("b", "c"), derived("c", "a")),
        "derived feature 'a'",
        "the definitions form a cycle: a -> b -> c -> a",
    ),
    (lambda: graph(derived("a", "u.n_1")), "derived feature 'a'", "unknown feature 'u.n_1'\n  did you mean 'u.n_1d'?"),
    (lambda: graph(derived("a", "request.tim")), "derived feature 'a'", "did you mean 'request.time'?"),
    (lambda: derived("a", pl.lit(1)), "derived feature 'a'", "uses no feature"),
    (lambda: derived("request.time", "u.n_1d"), "derived feature 'request.time'", "is for the request's own inputs"),
    (lambda: derived("", "u.n_1d"), "derived feature ''", "got the name ''"),
    (lambda: DerivedFeature("a", 3), "derived feature 'a'", "got 3, expected the name of a column"),
    (lambda: graph(derived("a", pl.col("u.n_1d").sum())), "derived feature 'a'", "depends on other rows than its own"),
    (
        lambda: graph(derived("a", pl.col("u.n_1d").shift(1))),
        "derived feature 'a'",
        "depends on other rows than its own",
    ),
    (lambda: graph(derived("a", pl.col("u.n_1d").rank())), "derived feature 'a'", "depends on other rows than its own"),
    (
        lambda: graph(derived("a", pl.col("u.n_1d").map_elements(hash, return_dtype=pl.Int64))),
        "derived feature 'a'",
        "calls a Python function",
    ),
    (lambda: graph(derived("a", pl.col("u.n_1d").str.to_lowercase())), "derived feature 'a'", "fails"),
    (
        lambda: graph(derived("a", pl.struct("u.n_1d", "i.sum"))),
        "derived feature 'a'",
        "expected numbers, strings, vectors or",
    ),
    (
        lambda: graph(derived("a", pl.concat_list(pl.concat_arr("i.sum", "i.sum")))),
        "derived feature 'a'",
        "expected numbers, strings, vectors or",
    ),
    (
        lambda: graph(
            views=[view("a"), view("b", source=Source("f", FRAME.cast({"user": pl.String}), time="time"))],
        ),
        "view 'b'",
        "entity 'user' has string keys here and int64 keys in view 'a'",
    ),
    (
        lambda: graph(views=[view("a"), view("b", entities=Entity("user", key="time"))]),
        "view 'b'",
        "entity 'user' has the key 'time' here and 'user' in view 'a'",
    ),
    (
        lambda: graph(views=[view("a"), view("b", source=Source("e", FRAME, time="time", delay="1d"))]),
        "view 'b'",
        "the source 'e' is not the source of this name that view 'a' reads",
    ),
]


@pytest.mark.parametrize(("make", "where", "message"), MISTAKES)
def test_mistakes_found_before_anything_runs(make, where, message):
    with pytest.raises(DefinitionError) as caught:
        make()
    assert caught.value.where == where
    assert message in str(caught.value).removeprefix(f"{where}: ")


SELECTIONS = [
    (["u.lst"], "unknown feature 'u.lst'\n  did you mean 'u.last'?"),
    (["w.*"], "unknown view 'w'"),
    ([view("w")], "unknown view 'w'"),
    ([derived("other", "u.n_1d")], "unknown feature 'other'"),
    ([Label("y", USER, SOURCE, Count(), within="1d")], "got a Label, expected a feature"),
    ([pl.col("u.last")], "got a Expr, expected a feature"),
    ([view("u")], "'u' is not the one of this name that the project defines"),
    ([derived("rate", "u.n_1d")], "'rate' is not the one of this name that the project defines"),
]


@pytest.mark.parametrize(("features", "message"), SELECTIONS)
def test_a_wrong_selection_is_refused(features, message):
    with pytest.raises(DefinitionError) as caught:
        GRAPH.select(features, "dataset 'd': features")
    assert message in str(caught.value)
    assert caught.value.where == "dataset 'd': features"


def test_a_selection_reads_what_it_needs_and_no_more():
    selected = GRAPH.select([TWICE, "u.last", "u.last"])
    assert selected.names == ("twice", "u.last")
    assert [(v.name, names) for v, names in selected.views] == [("u", ("u.n_7d", "u.last")), ("i", ("i.sum",))]
    assert [d.name for d in selected.derived] == ["rate", "twice"]
    assert [e.name for e in selected.entities] == ["user", "item"]
    assert GRAPH.select(["hour"]).views == ()


def test_a_view_is_all_its_features():
    assert GRAPH.select([USERS]).names == GRAPH.select(["u.*"]).names == tuple(GRAPH.views["u"].features)


def test_types_of_derived_features():
    made = graph(
        derived("number", pl.col("i.sum") / 2),
        derived("whole", pl.col("u.n_1d") + 1),
        derived("flag", pl.col("i.sum") > 1),
        derived("text", pl.col("u.last").str.to_lowercase()),
        derived("words", pl.col("u.last").str.split(" ")),
        derived("numbers", pl.col("u.recent") * 2),
        derived("time", pl.col("request.time").dt.truncate("1d")),
    )
    kinds = {n: (made.features[n].type, made.features[n].is_list) for n in made.derived}
    assert kinds == {
        "number": (Type.FLOAT, False),
        "whole": (Type.INT, False),
        "flag": (Type.BOOL, False),
        "text": (Type.STRING, False),
        "words": (Type.STRING, True),
        "numbers": (Type.FLOAT, True),
        "time": (Type.TIME, False),
    }


def test_the_id_of_a_derived_feature_is_its_expression_and_its_inputs():
    def ids(*features, views=(USERS, ITEMS)):
        return {n: f.id for n, f in graph(*features, views=views).features.items()}

    old = ids(RATE, TWICE)
    assert ids(TWICE, RATE) == old
    assert ids(RATE, TWICE, derived("new", "rate")).items() >= old.items()
    other = ids(derived("rate", pl.col("i.sum") / (pl.col("u.n_7d") + 1)), TWICE)
    assert {n for n in old if other[n] != old[n]} == {"rate", "twice"}
    deeper = ids(RATE, TWICE, views=(USERS, view("i", {"sum": Sum("x", where="flag")}, ITEM)))
    assert {n for n in old if deeper[n] != old[n]} == {"i.sum", "rate", "twice"}
    elsewhere = ids(RATE, TWICE, views=(view("u", USERS.features | {"last": Last("x")}), ITEMS))
    assert {n for n in old if elsewhere[n] != old[n]} == {"u.last"}


def test_a_difference_is_readable():
    new = graph(
        derived("rate", pl.col("i.sum") / (pl.col("u.n_7d") + 1)),
        TWICE,
        views=(
            view("u", {"n": Count(windows=["1d", "7d", "30d"]), "last": Last("x"), "recent": LastN("x", 5)}),
            ITEMS,
        ),
    )
    made = diff(GRAPH.features, new.features)
    assert made.lines() == [
        '- hour: int64, col("request.time").dt.hour()',
        '~ rate: col("i.sum") / col("u.n_7d") -> col("i.sum") / (col("u.n_7d") + 1)',
        '~ twice: col("rate") * 2 '
        "(what it is computed from has changed: its source, the step prepare, its code, or its inputs)",
        '- u.at: int64, Last(col("time")) over all history',
        '~ u.last: string, Last(col("item")) over all history -> float64, Last(col("x")) over all history',
        "+ u.n_30d: int64, Count() over 30d (hop 1d)",
        '~ u.recent: LastN(col("x"); n=3) over all history -> LastN(col("x"); n=5) over all history',
    ]
    assert str(made) == "\n".join(made.lines())
    assert [f.name for f in made.added] == ["u.n_30d"]
    assert made


def test_equal_graphs_have_no_difference():
    again = FeatureGraph([ITEMS, USERS], [RATE, TWICE, derived("hour", pl.col("request.time").dt.hour())])
    made = diff(GRAPH.features, again.features)
    assert not made
    assert (str(made), made.lines()) == ("", [])


def test_a_renamed_feature_goes_and_comes():
    old, new = graph(views=[view("a", {"n": Count()})]), graph(views=[view("a", {"m": Count()})])
    assert diff(old.features, new.features).lines() == [
        "+ a.m: int64, Count() over all history",
        "- a.n: int64, Count() over all history",
    ]
