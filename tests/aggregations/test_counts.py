"""Top values, histograms, quantiles and approximate counts: what they give of partials, and what they refuse."""

from __future__ import annotations

import copy
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.aggregations.base import Counts, Hashes, Output, Scalar
from bedplate.aggregations.counts import Histogram, TopK
from bedplate.aggregations.ordered import LastN
from bedplate.aggregations.sketches import ApproxCountDistinct, Quantile
from bedplate.aggregations.window import Window
from bedplate.canonical import string_ids
from bedplate.datasets.labels import Label
from bedplate.errors import DefinitionError
from bedplate.features.entity import Entity
from bedplate.features.view import FeatureView
from bedplate.hashing import hash_word
from bedplate.sources.base import Source
from bedplate.testing.columns import plain
from bedplate.types import Type

TIMES = np.zeros(0, np.int64)


def counts_of(keys, texts=None):
    """A partial from, for each key, `{value: (count, time)}`."""
    flat = [(v, *seen) for key in keys for v, seen in sorted(key.items())]
    values, counts, times = (np.array([e[i] for e in flat], np.int64) for i in range(3))
    return Counts(np.cumsum([0, *map(len, keys)]), values, counts, times, texts)


@given(
    keys=st.lists(
        st.dictionaries(st.integers(-9, 9), st.tuples(st.integers(1, 3), st.integers(0, 3)), max_size=12), max_size=6
    ),
    k=st.integers(1, 12),
    scale=st.sampled_from([1, 2**40]),
)
def test_the_top_values_by_count_time_and_value(keys, k, scale):
    keys = [{v: (n * scale, t * scale) for v, (n, t) in key.items()} for key in keys]
    values, counts = TopK("x", k, counts=True).finalize([counts_of(keys)], TIMES)
    best = [sorted(key, key=lambda v, key=key: (-key[v][0], -key[v][1], v))[:k] for key in keys]
    assert plain(values) == best
    assert plain(counts) == [[key[v][0] for v in top] for key, top in zip(keys, best, strict=True)]


def test_a_histogram_of_strings_and_its_shares():
    phone, web, tv = string_ids(["phone", "web", "tv"])
    partial = counts_of([{phone: (3, 0), tv: (1, 0)}, {}, {web: (2, 0)}], {phone: "phone", web: "web", tv: "tv"})
    numbers = Histogram("device", ["web", "phone"]).finalize([partial], TIMES)
    assert [plain(c) for c in numbers] == [[0, 0, 2], [3, 0, 0], [1, 0, 0]]
    shares = Histogram("device", ["web", "phone"], share=True).finalize([partial], TIMES)
    assert [plain(c) for c in shares] == [[0.0, None, 1.0], [0.75, None, 0.0], [0.25, None, 0.0]]


def test_the_names_and_types_of_what_they_give():
    assert TopK("x", 2).outputs([Type.TIME]) == (Output("", Type.TIME, is_list=True),)
    assert [o.suffix for o in Histogram("x", [3, -1]).outputs([Type.INT])] == ["3", "-1", "other"]
    assert [o.suffix for o in Histogram("x", {"a": "b.c"}).outputs([Type.STRING])] == ["a", "other"]
    assert Quantile("x", 0.5).outputs([Type.INT]) == (Output("", Type.FLOAT),)
    assert [o.suffix for o in Quantile("x", (0, 0.29, 1)).outputs([Type.INT])] == ["p0", "p29", "p100"]
    assert ApproxCountDistinct("x").outputs([Type.STRING]) == (Output("", Type.INT),)
    both = LastN(["a", "b", "c"], 2, distinct="b")
    assert [(o.suffix, o.type) for o in both.outputs([Type.INT, Type.FLOAT, Type.STRING])] == [
        ("a", Type.INT),
        ("b", Type.STRING),
        ("c", Type.FLOAT),
    ]
    assert LastN("a", 2, distinct=pl.col("b") * 2).outputs([Type.INT, Type.INT]) == (Output("", Type.INT, True),)


def test_their_text_says_what_they_are():
    assert TopK("x", 3).text == 'TopK(col("x"); k=3, counts=False)'
    assert Quantile("x", 0.5).text == 'Quantile(buckets of col("x"); q=0.5, error=0.01)'
    assert ApproxCountDistinct("x").text == 'ApproxCountDistinct(col("x"); error=0.02)'
    assert LastN("x", 3, distinct="y").text == 'LastN(col("x"), col("y"); n=3, distinct=col("y"))'


def test_every_change_is_another_form():
    made = [
        TopK("x", 3),
        TopK("x", 4),
        TopK("x", 3, counts=True),
        Histogram("x", [1, 2]),
        Histogram("x", [2, 1]),
        Histogram("x", {"one": 1, "2": 2}),
        Histogram("x", [1, 2], share=True),
        Quantile("x", 0.5),
        Quantile("x", [0.5]),
        Quantile("x", [0.5, 0.9]),
        Quantile("x", 0.5, error=0.02),
        ApproxCountDistinct("x"),
        ApproxCountDistinct("x", error=0.1),
        LastN(["x", "y"], 3),
        LastN(["x", "y"], 3, distinct="y"),
        LastN(["x", "y"], 3, distinct="x"),
        LastN(["x", "y"], 3, distinct="z"),
    ]
    forms = [repr(a.form()) for a in made]
    assert len(set(forms)) == len(forms)
    assert TopK("x", 3).form() == TopK(pl.col("x"), 3).form()
    assert Quantile("x", 0.5).form() == Quantile(pl.col("x"), 0.5).form()


def test_a_list_without_distinct_has_the_form_that_it_had():
    assert LastN("x", 3).form()["options"] == {"n": 3, "fields": ["x"], "age": None}


WRONG = [
    (lambda: TopK("x", 0), "got k=0"),
    (lambda: TopK("x", 2.0), "got k=2.0"),
    (lambda: TopK("x", True), "got k=True"),
    (lambda: TopK("x", 2, counts="n"), "counts='n'"),
    (lambda: TopK("x", 2, window="7d"), "unknown argument 'window'"),
    (lambda: TopK("x", 2, within="7d"), "an aggregation looks back"),
    (lambda: Histogram("x", []), "got the categories []"),
    (lambda: Histogram("x", "abc"), "got the categories 'abc'"),
    (lambda: Histogram("x", 3), "got the categories 3"),
    (lambda: Histogram("x", ["a", 1]), "expected strings or integers"),
    (lambda: Histogram("x", [True, False]), "expected strings or integers"),
    (lambda: Histogram("x", ["a", "a"]), "expected different values"),
    (lambda: Histogram("x", {"a": 1, "b": 1}), "expected different values"),
    (lambda: Histogram("x", ["a.b"]), "got the categories ['a.b'], expected different values with names without dots"),
    (lambda: Histogram("x", [""]), "names without dots"),
    (lambda: Histogram("x", ["other"]), "which is the feature for the rest"),
    (lambda: Histogram("x", [1], share=1), "got share=1"),
    (lambda: Quantile("x", 1.5), "got q=1.5"),
    (lambda: Quantile("x", []), "got q=[]"),
    (lambda: Quantile("x", [0.5, 0.5]), "several different ones"),
    (lambda: Quantile("x", "median"), "got q='median'"),
    (lambda: Quantile("x", float("nan")), "got q=nan"),
    (lambda: Quantile("x", 0.5, error=0), "got error=0"),
    (lambda: Quantile(3, 0.5), "got 3, expected the name of a column"),
    (lambda: ApproxCountDistinct("x", error=0.001), "got error=0.001"),
    (lambda: ApproxCountDistinct("x", error="1%"), "got error='1%'"),
    (lambda: LastN("x", 3, distinct=3), "got 3, expected the name of a column"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_a_wrong_aggregation_is_refused_where_it_is_made(make, message):
    with pytest.raises(DefinitionError) as caught:
        make()
    assert message in caught.value.message
    assert caught.value.where


FRAME = pl.DataFrame(
    {"user": [1], "time": [1_700_000_000_000_000], "s": ["a"], "f": [1.5], "n": [3], "b": [True]}
).with_columns(
    t=pl.from_epoch("time", time_unit="us"),
    e=pl.Series([[0.5, 1.0]], dtype=pl.Array(pl.Float32, 2)),
    d=pl.duration(days=1),
)
SOURCE, USER = Source("e", FRAME, time="time"), Entity("user", key="user")

UNFIT = [
    (TopK("f", 2), "TopK takes int64, string, bool, timestamp; got float64 from 'f'"),
    (Histogram("f", [1]), "Histogram takes int64, string; got float64 from 'f'"),
    (Histogram("b", [1]), "Histogram takes int64, string; got bool from 'b'"),
    (Histogram("s", [1]), "the categories are integers, the values string"),
    (Histogram("n", ["1"]), "the categories are strings, the values int64"),
    (Quantile("s", 0.5), "expected a number or boolean"),
    (Quantile("t", 0.5), "expected a number or boolean"),
    (ApproxCountDistinct("f"), "ApproxCountDistinct takes int64, string, bool, timestamp; got float64 from 'f'"),
    (TopK("e", 2), "TopK takes int64, string, bool, timestamp; got .* from 'e'"),
    (Histogram("e", [1]), "Histogram takes int64, string; got .* from 'e'"),
    (Quantile("e", 0.5), "expected a number or boolean"),
    (Quantile("d", 0.5), "expected a number or boolean"),
    (ApproxCountDistinct("e"), "ApproxCountDistinct takes int64, string, bool, timestamp; got .* from 'e'"),
    (LastN("n", 2, distinct="e"), "LastN takes numbers, strings, booleans and times"),
    (LastN("n", 2, distinct="f"), "distinct takes int64, string, bool, timestamp; got float64 from 'f'"),
    (LastN("n", 2, distinct="missing"), "unknown column 'missing'"),
]


@pytest.mark.parametrize(("aggregation", "message"), UNFIT, ids=lambda x: getattr(x, "text", None))
def test_a_column_that_does_not_fit_is_refused_when_the_view_is_made(aggregation, message):
    view = FeatureView("v", USER, SOURCE, {"x": aggregation})
    with pytest.raises(DefinitionError, match=message) as caught:
        view.compile()
    assert "view 'v'" in str(caught.value)


NO_LABEL = [
    (TopK("n", 2), "TopK gives list of int64, expected one number"),
    (Histogram("n", [1]), "Histogram gives int64, int64, expected one number"),
    (Quantile("n", [0.1, 0.9]), "Quantile gives float64, float64, expected one number"),
    (LastN("n", 2, distinct="n"), "LastN gives list of int64, expected one number"),
]


@pytest.mark.parametrize(("aggregation", "message"), NO_LABEL, ids=lambda x: getattr(x, "text", None))
def test_what_is_not_one_number_is_no_label(aggregation, message):
    with pytest.raises(DefinitionError, match=message):
        Label("label", USER, SOURCE, aggregation, within="1d", empty=0.0).compile()


def test_a_quantile_as_a_label_says_what_it_is_without_events():
    with pytest.raises(DefinitionError, match="has no value where no event counts"):
        Label("label", USER, SOURCE, Quantile("n", 0.5), within="1d")
    Label("label", USER, SOURCE, Quantile("n", 0.5), within="1d", empty=0.0).compile()
    Label("label", USER, SOURCE, ApproxCountDistinct("n"), within="1d").compile()


WANTED = [
    (TopK("n", 2), {"counts"}),
    (Quantile("n", [0.1, 0.9]), {"counts"}),
    (ApproxCountDistinct("n", error=0.05), {"smallest-402"}),
    (LastN(["n", "s"], 2, distinct="n"), {"latest-by"}),
]


@pytest.mark.parametrize(("aggregation", "stored"), WANTED, ids=lambda x: getattr(x, "text", None))
def test_a_new_window_adds_nothing_to_an_index(aggregation, stored):
    """Parts of an index are named by the values and the reduction alone; a sketch of another size is another part."""
    assert {r.stored for r in aggregation.reductions} == stored
    other = copy.copy(aggregation)
    other.windows = (Window.of("7d"),)
    assert [r.form() for r in other.reductions] == [r.form() for r in aggregation.reductions]


def test_several_features_share_what_history_keeps():
    """Top values and a histogram of one column, and quantiles at one error, are of one selection and reduction."""
    features = {"top": TopK("n", 2), "by": Histogram("n", [1]), "low": Quantile("f", 0.1), "high": Quantile("f", 0.9)}
    view = FeatureView("v", USER, SOURCE, features).compile()
    assert len(view.selections) == 2
    assert len(FeatureView("v", USER, SOURCE, features | {"rough": Quantile("f", 0.9, 0.05)}).compile().selections) == 3


def test_partials_of_another_kind_are_refused():
    for aggregation in (TopK("x", 1), Histogram("x", [1]), Quantile("x", 0.5), ApproxCountDistinct("x"), LastN("x", 2)):
        with pytest.raises(DefinitionError, match="got a Scalar partial"):
            aggregation.finalize([Scalar(np.zeros(1, np.int64))], TIMES)


def test_the_hash_is_splitmix64s():
    """Known answers: sketches that are stored hold hashes, which no version may change."""
    known = {0: 0xE220A8397B1DCDAF, 1: 0x910A2DEC89025CC1, -1: 0xE4D971771B652C20, 1234567: 6457827717110365317}
    assert {word: int(hash_word(np.int64(word))) + 2**63 for word in known} == known


def quantiles(values, q, error):
    aggregation = Quantile("x", q, error=error)
    buckets = (
        pl.DataFrame({"x": values}).select(aggregation.selection.inputs[0].alias("b"))["b"].drop_nulls().to_numpy()
    )
    found, counts = np.unique(buckets, return_counts=True)
    partial = Counts(np.array([0, len(found)]), found, counts, np.zeros(len(found), np.int64), None)
    return [plain(c)[0] for c in aggregation.finalize([partial], TIMES)]


@given(
    values=st.lists(
        st.floats(allow_nan=False, allow_infinity=False) | st.floats(-100, 100) | st.sampled_from([0.0, -0.0, 5e-324]),
        min_size=1,
        max_size=60,
    ),
    q=st.lists(st.floats(0, 1), min_size=1, max_size=4, unique=True),
    error=st.sampled_from([0.001, 0.01, 0.05, 0.5]),
)
def test_a_quantile_is_within_its_error(values, q, error):
    ordered = sorted(values)
    for each, got in zip(q, quantiles(values, q, error), strict=True):
        true = ordered[math.floor(each * (len(values) - 1))]
        assert abs(got - true) <= error * abs(true) * (1 + 1e-9) + 1e-12, each


@pytest.mark.parametrize("values", [np.array([3, -7, 2**62], np.int64), np.array([1.5, 3.25], np.float32)])
def test_quantiles_of_other_numbers_than_float64(values):
    low, high = quantiles(values, [0, 1], 0.01)
    assert low == pytest.approx(float(values.min()), rel=0.01)
    assert high == pytest.approx(float(values.max()), rel=0.01)


def test_quantiles_of_nothing_known_and_of_booleans():
    assert quantiles(pl.Series([None, float("nan")], dtype=pl.Float64), [0.5], 0.01) == [None]
    assert quantiles([True, False, False], [0, 1], 0.01) == [0.0, pytest.approx(1.0, rel=0.01)]


def estimates(error, different, draws):
    """Estimates of so many different values, of as many draws of them."""
    aggregation, draw = ApproxCountDistinct("x", error=error), np.random.default_rng(5)
    lists = []
    for _ in range(draws):
        words = draw.integers(-(2**63), 2**63 - 1, different)
        lists.append(np.sort([hash_word(w) for w in words])[: aggregation.k])
    partial = Hashes(np.cumsum([0, *map(len, lists)]), np.concatenate(lists))
    return np.array(plain(aggregation.finalize([partial], TIMES)[0]))


def test_fewer_than_k_different_values_are_counted_exactly():
    assert ApproxCountDistinct("x", error=0.1).k == 102
    assert estimates(0.1, 101, 3).tolist() == [101, 101, 101]
    assert estimates(0.1, 0, 1).tolist() == [0]


@pytest.mark.parametrize(("error", "different"), [(0.1, 102), (0.1, 1000), (0.05, 5000)])
def test_the_standard_error_of_more_is_what_is_stated(error, different):
    """Of 200 estimates the mean square error is known to 5 % (half of the square), their mean to a 14th of it."""
    relative = estimates(error, different, 200) / different - 1
    assert abs(relative.mean()) < 4 * error / math.sqrt(200)
    assert math.sqrt((relative**2).mean()) < error * 1.2
    assert (np.abs(relative) < 2 * error).mean() > 0.9


def test_consecutive_numbers_are_as_good_as_random_ones():
    aggregation = ApproxCountDistinct("x", error=0.05)
    hashes = np.sort([hash_word(np.int64(w)) for w in range(20_000)])[: aggregation.k]
    (column,) = aggregation.finalize([Hashes(np.array([0, len(hashes)]), hashes)], TIMES)
    assert plain(column)[0] == pytest.approx(20_000, rel=0.15)
