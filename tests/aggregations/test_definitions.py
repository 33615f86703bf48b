"""Aggregations and windows: names, forms, the types that they take, and what is refused."""

from __future__ import annotations

import copy

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.base import Output
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.extremes import Max, Min
from bedplate.aggregations.ordered import Last, LastN, TimeSince
from bedplate.aggregations.window import Window
from bedplate.errors import DefinitionError
from bedplate.types import DAY, HOUR, MINUTE, Type

X = pl.col("x")

GIVEN = {
    Sum: {Type.INT: Type.INT, Type.FLOAT: Type.FLOAT, Type.BOOL: Type.INT},
    Mean: {Type.INT: Type.FLOAT, Type.FLOAT: Type.FLOAT, Type.BOOL: Type.FLOAT},
    Min: {Type.INT: Type.INT, Type.FLOAT: Type.FLOAT, Type.TIME: Type.TIME},
    Max: {Type.INT: Type.INT, Type.FLOAT: Type.FLOAT, Type.TIME: Type.TIME},
    CountDistinct: dict.fromkeys((Type.INT, Type.STRING, Type.BOOL, Type.TIME), Type.INT),
    Count: dict.fromkeys(Type, Type.INT),
    Last: {t: t for t in Type},
}


@pytest.mark.parametrize("kind", Type)
@pytest.mark.parametrize("aggregation", GIVEN)
def test_the_type_of_the_value(aggregation, kind):
    if kind in GIVEN[aggregation]:
        assert aggregation("x").outputs([kind]) == (Output("", GIVEN[aggregation][kind]),)
    else:
        with pytest.raises(DefinitionError, match=f"{aggregation.__name__} takes .*; got {kind} from 'x'"):
            aggregation("x").outputs([kind])


def test_outputs_of_ordered_aggregations():
    assert TimeSince().outputs([]) == (Output("", Type.FLOAT),)
    assert LastN("x", 3).outputs([Type.INT]) == (Output("", Type.INT, is_list=True),)
    assert LastN({"a": X * 2, "b": "s"}, 3, age="age").outputs([Type.FLOAT, Type.STRING]) == (
        Output("a", Type.FLOAT, is_list=True),
        Output("b", Type.STRING, is_list=True),
        Output("age", Type.FLOAT, is_list=True),
    )


def test_equal_definitions_have_equal_forms():
    assert Sum("x", windows=["1d", "7d"], where=X > 1).form() == Sum(X, where=X > 1, windows=("1d", "1w")).form()
    assert LastN("x", 3).form() == LastN(["x"], 3).form() == LastN({"x": X}, 3).form()
    assert Count(windows="7d").form() == Count(windows=[Window.of("7d", hop="60m")]).form()


def test_every_change_is_another_form():
    made = [
        *(a("x") for a in GIVEN),
        Sum("y"),
        Sum(X + 1),
        Sum("x", where=X > 1),
        Sum("x", where=X > 2),
        Sum("x", windows="1d"),
        Sum("x", windows="2d"),
        Sum("x", windows=Window.of("1d", hop="5m")),
        Sum("x", windows=Window.of("1d", hop="exact", bound=5)),
        Sum("x", windows=Window.of("1d", hop="exact", bound=6)),
        Count(),
        TimeSince(),
        LastN("x", 2),
        LastN("x", 3),
        LastN({"z": "x"}, 3),
        LastN("x", 3, age="age"),
    ]
    forms = [repr(a.form()) for a in made]
    assert len(set(forms)) == len(forms)


WRONG = [
    (lambda: Count(windows="7 days"), "got '7 days', expected a whole number and a unit"),
    (lambda: Count(windows="0d"), "got '0d', expected more than zero"),
    (lambda: Count(windows=-5), "got -5, which has no unit"),
    (lambda: Count(windows=7), "got 7, which has no unit"),
    (lambda: Count(windows=["1d", 604_800_000_000]), "got 604800000000, which has no unit"),
    (lambda: Count(windows=True), "got True, which has no unit"),
    (lambda: Window.of("7d", hop=3600), "got 3600, which has no unit"),
    (lambda: Count(windows="-7d"), "got '-7d', expected a length above zero"),
    (lambda: Window.of("7d", hop=" - 1h"), "got ' - 1h', expected a length above zero"),
    (lambda: Window.of("1h", hop="7d"), "the hop 7d is longer than the window 1h"),
    (lambda: Window.of("1m", hop="2m"), "the hop 2m is longer than the window 1m"),
    (lambda: Window("7d", 3), "got the length '7d', expected a whole number"),
    (lambda: Window(5, 1.0), "got the hop 1.0, expected a whole number"),
    (lambda: Window(5, 0, "3"), "got the bound '3', expected a whole number"),
    (lambda: Count(within="7d"), "got within, and an aggregation looks back"),
    (lambda: Sum("x", within="7d"), "got within, and an aggregation looks back"),
    (lambda: LastN("x", 3, within="7d"), "got within, and an aggregation looks back"),
    (lambda: TimeSince(within=7), "got within, and an aggregation looks back"),
    (lambda: Count(window="7d"), "unknown argument 'window'"),
    (lambda: Max("x", wheer=X > 1), "unknown argument 'wheer'"),
    (lambda: Count(windows=1.5), "got 1.5, expected a whole number and a unit"),
    (lambda: Count(windows="99999999w"), "less than 230 years"),
    (lambda: Count(windows=["7d", "1w"]), "got windows ['7d', '7d'], expected one or more of different lengths"),
    (lambda: Count(windows=["1d", Window.of("1d", hop="5m")]), "expected one or more of different lengths"),
    (lambda: Count(windows=[]), "got windows [], expected one or more of different lengths"),
    (lambda: Window.of("7d", hop="soon"), "got 'soon', expected a whole number and a unit"),
    (lambda: Window.of("7d", hop="0m"), "got '0m', expected more than zero"),
    (lambda: Window.of("1h", hop="exact"), "an exact window, and only an exact one, declares how many events"),
    (lambda: Window.of("1h", bound=5), "an exact window, and only an exact one, declares how many events"),
    (lambda: Window.of("1h", hop="exact", bound=0), "an exact window, and only an exact one, declares how many events"),
    (lambda: Window(length=5, hop=-1), "got length 5 and hop -1"),
    (lambda: Window(length=0, hop=1), "got length 0 and hop 1"),
    (lambda: LastN("x", 0), "got n=0 and fields ['x'], expected a whole n above zero"),
    (lambda: LastN("x", 2.5), "got n=2.5"),
    (lambda: LastN([], 3), "fields []"),
    (lambda: LastN(["x", "x"], 3), "different names"),
    (lambda: LastN("x", 3, age="x"), "different names"),
    (lambda: Sum(3), "got 3, expected the name of a column or a Polars expression"),
    (lambda: Sum(None), "got None, expected the name of a column or a Polars expression"),
    (lambda: Count(where=True), "got True, expected the name of a column or a Polars expression"),
    (lambda: Sum(X.map_elements(lambda v: hash(str(v)), return_dtype=pl.Int64)), "calls a Python function"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_a_wrong_aggregation_is_refused_where_it_is_made(make, message):
    with pytest.raises(DefinitionError) as caught:
        make()
    assert message in caught.value.message
    assert caught.value.where


def test_default_hops():
    got = {w: Window.of(w).hop for w in ("5m", "719m", "12h", "287h", "12d", "365d")}
    assert got == {"5m": 5 * MINUTE, "719m": 5 * MINUTE, "12h": HOUR, "287h": HOUR, "12d": DAY, "365d": DAY}


@given(st.integers(1, 10**9), st.integers(0, 10**6), st.integers(0, 10**12))
def test_where_a_window_starts(length, hop, time):
    window = Window(length, hop, None if hop else 5)
    start = window.start(time)
    if hop:
        assert start % hop == 0
        assert 0 <= time - length - start < hop
    else:
        assert start == time - length


def test_the_text_of_an_aggregation_says_what_it_is():
    assert Sum(X * 2).text == 'Sum(col("x") * 2)'
    assert LastN({"a": "x", "b": "s"}, 5, age="age").text == 'LastN(col("x"), col("s"); n=5, age=age)'
    assert (Count().text, TimeSince().text) == ("Count()", "TimeSince()")


HINTS = [
    (lambda: Count(windows=7), "write a text with a unit, for example 5ms, 90s, 5m, 12h, 7d, 2w"),
    (lambda: Count(windows="-7d"), 'a window looks back already: write "7d"; a Label looks forward'),
    (lambda: Window.of("1h", hop="7d"), 'for example Window.of("1h", hop="5m")'),
    (lambda: Window.of("1m", hop="2m"), 'for example Window.of("1m", hop="1m")'),
    (lambda: Count(window="7d"), "did you mean 'windows'?"),
    (lambda: Sum("x", within="7d"), 'a Label looks forward: Label("name", entity, source, Sum(...), within="7d")'),
]


@pytest.mark.parametrize(("make", "hint"), HINTS)
def test_what_to_write_instead(make, hint):
    with pytest.raises(DefinitionError) as caught:
        make()
    assert hint in (caught.value.hint or "")


def test_a_hop_may_be_as_long_as_the_window_and_a_default_one_longer():
    assert Window.of("1h", hop="1h").hop == HOUR
    assert Window.of("1m").hop == 5 * MINUTE


def test_aggregations_are_copied_as_other_objects_are():
    first = LastN({"a": X * 2}, 3, age="age", windows="1d")
    assert copy.copy(first).form() == copy.deepcopy(first).form() == first.form()
