"""Dataset definitions: every mistake is found when they are compiled, and ids tell apart what differs."""

from __future__ import annotations

import polars as pl
import pytest
from dataset_world import FEATURES, SPLIT, drawing, shop_dataset, shop_graph, shop_labels, shop_source

from bedplate.aggregations.arithmetic import Count
from bedplate.canonical import to_json
from bedplate.datasets.dataset import Dataset
from bedplate.datasets.labels import Label
from bedplate.datasets.negatives import Negatives
from bedplate.datasets.spine import Spine
from bedplate.datasets.split import TimeSplit
from bedplate.errors import DefinitionError
from bedplate.features.entity import Entity
from bedplate.features.graph import FeatureGraph
from bedplate.features.view import FeatureView
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, START, USER
from bedplate.types import DAY

SOURCE = shop_source(1)
KIND = Entity("kind", key="kind")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"features": ["user.m_1d"]}, "did you mean 'user.n_1d'"),
        ({"features": ["usr.*"]}, "did you mean 'user'"),
        ({"features": []}, "no features"),
        ({"features": "user.*"}, "got one feature, expected a list"),
        ({"features": [Label("bought", USER, SOURCE, Count())]}, "a Label looks forward in time"),
        ({"features": ["kind.n"]}, "feature 'kind.n' is about the entity 'kind', which the spine does not have"),
        ({"labels": Label("kinds", KIND, SOURCE, Count(), within="1h")}, "about the entity 'kind'"),
        ({"labels": [*shop_labels(SOURCE), *shop_labels(SOURCE)]}, "two labels have the name 'again'"),
        ({"labels": ["again"]}, "got a str, expected Label"),
        (
            {"labels": Label("late", USER, SOURCE, Count(), within="14h")},
            "no request of validation would have label 'late'",
        ),
        ({"labels": Label("late", Entity("user", key="usr"), SOURCE, Count(), within="1h")}, "did you mean 'user'"),
        ({"negatives": "popular"}, "got a str, expected Negatives"),
        ({"negatives": Negatives(SOURCE, USER, per_request=1)}, "the negatives are of entity 'user'"),
        ({"split": "time"}, "got a str, expected TimeSplit"),
        ({"batch_items": 0}, "expected one whole number above zero"),
        ({"batch_requests": 10}, "expected one whole number above zero"),
        ({"batch_items": 2.5}, "got 2.5, expected a whole number"),
    ],
)
def test_mistakes_are_found_when_compiled(options, says):
    graph = shop_graph(SOURCE)
    views = [v.view for v in graph.views.values()]
    bigger = FeatureGraph([*views, FeatureView("kind", KIND, SOURCE, {"n": Count()})], graph.derived.values())
    with pytest.raises(DefinitionError) as caught:
        shop_dataset(SOURCE, **options).compile(bigger)
    assert says in str(caught.value)
    assert "dataset 'shop'" in str(caught.value.where) or "label 'late'" in str(caught.value.where)


def test_keys_of_another_type_are_found():
    frame = pl.DataFrame({"user": ["7"], "item": ["a"], "time": [START], "request": [1]})
    spine = Spine(Source("texts", frame, time="time"), request="request", entities=USER, item=ITEM)
    dataset = Dataset("shop", spine=spine, features=["user.*"], split=SPLIT)
    with pytest.raises(DefinitionError, match="'user' has string keys in the spine and int64 keys in features"):
        dataset.compile(shop_graph(SOURCE))
    labelled = Dataset("shop", spine=spine, features=["item.*"], split=SPLIT, labels=shop_labels(SOURCE)[1])
    with pytest.raises(DefinitionError, match="'user' has string keys in the spine"):
        labelled.compile(FeatureGraph([FeatureView("item", ITEM, SOURCE, {"n": Count()})]))


def test_negatives_with_keys_of_another_type_are_found():
    frame = pl.DataFrame({"item": [1], "time": [START]})
    negatives = Negatives(Source("numbers", frame, time="time"), ITEM, per_request=1)
    with pytest.raises(DefinitionError, match="of entity 'item' with int64 keys, the candidates of 'item' with string"):
        shop_dataset(SOURCE, negatives).compile(shop_graph(SOURCE))


def test_a_feature_can_not_have_the_name_of_a_column_of_the_negatives():
    view = FeatureView("negatives", ITEM, SOURCE, {"log_q": Count()})
    dataset = shop_dataset(SOURCE, drawing(SOURCE), features=["negatives.*"], labels=())
    with pytest.raises(DefinitionError, match=r"'negatives\.log_q' is that of a column of the negatives"):
        dataset.compile(FeatureGraph([view]))


def test_the_id_is_of_what_decides_rows_and_values():
    graph = shop_graph(SOURCE)

    def id_of(**options: object) -> str:
        return shop_dataset(SOURCE, **({"negatives": drawing(SOURCE)} | options)).compile(graph).id

    changes: list[dict[str, object]] = [
        {},
        {"negatives": None},
        {"negatives": drawing(SOURCE, window="2d")},
        {"negatives": drawing(SOURCE, per_positive=1.0)},
        {"labels": shop_labels(SOURCE)[:2]},
        {"labels": [Label("again", (USER, ITEM), SOURCE, Count(), within="5h", at_least=1)]},
        {"labels": [Label("again", (USER, ITEM), SOURCE, Count(), within="5h", at_least=2)]},
        {"features": FEATURES[:2]},
        {"split": TimeSplit(START + DAY, START + 2 * DAY, gap="7h")},
        {"batch_items": 26},
        {"batch_items": None, "batch_requests": 25},
    ]
    ids = [id_of(**change) for change in changes]
    assert len(set(ids)) == len(changes)
    assert ids == [id_of(**change) for change in changes]
    assert id_of(features=["user.*", *FEATURES]) == ids[0]


def test_views_and_sources_are_those_that_history_needs():
    compiled = shop_dataset(SOURCE, drawing(SOURCE)).compile(shop_graph(SOURCE))
    assert [v.name for v in compiled.views] == ["user", "item", "pair", *["label.events"] * 3]
    assert compiled.sources == (SOURCE,)


def test_the_form_is_canonical_json():
    form = shop_dataset(SOURCE, drawing(SOURCE)).form()
    assert to_json(form) == to_json(shop_dataset(SOURCE, drawing(SOURCE)).form())
    assert form["split"]["gap"] == "6h"
    assert form["labels"][0]["at_least"] == 1
    assert form["features"] == list(FEATURES)
