"""The pipeline's answers, computed again from the definitions: features by the oracle, scores by the weights."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import shop

from bedplate.canonical import string_ids
from bedplate.errors import (
    AheadError,
    ArtifactError,
    DataError,
    DefinitionError,
    NotFoundError,
    RequestError,
    StoreError,
)
from bedplate.features.assemble import Candidates, Join
from bedplate.features.derived import DerivedFeature
from bedplate.features.graph import FeatureGraph
from bedplate.features.reader import Reader
from bedplate.registry.registry import Registry
from bedplate.serving.arrow import answer_stream
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.service import Retrieval, Service
from bedplate.serving.steps import Given, Recent
from bedplate.serving.wire import Answer
from bedplate.types import Type

ALL = [*shop.PRODUCTS, shop.FREE]


def recommend(pipeline: Pipeline, **request: Any) -> Answer:
    return pipeline.recommend(pipeline.wire.recommend(msgspec.json.encode(request)))


def rank(pipeline: Pipeline, **request: Any) -> Answer:
    return pipeline.rank(pipeline.wire.rank(msgspec.json.encode(request)))


def definition(features: FeatureGraph, customer: int, products: list[str], time: int = shop.NOW) -> pl.DataFrame:
    """What the features are, row by row."""
    rows = Candidates(
        {"customer": np.array([customer])},
        "product",
        np.array(string_ids(products), np.int64),
        np.array([0, len(products)]),
        np.array([time]),
        np.zeros(1, np.int64),
    )
    batch = Join(features.select(["products.price", "customers.bought"]), "product").batch(shop.Oracle(features), rows)
    price = batch.item["products.price"]
    bought = batch.request["customers.bought"].values  # type: ignore[union-attr]
    shown = price.present if price.present is not None else np.ones(len(products), np.bool_)  # type: ignore[union-attr]
    return pl.DataFrame({"product": products, "priced": shown}).with_columns(
        bought=pl.col("product").is_in([bought.texts[v] for v in bought.values.tolist()])
    )


def expected_scores(pipeline: Pipeline, features: FeatureGraph, customer: int, products: list[str]) -> Any:
    artifact = pipeline.models["ranking"]
    names = artifact.signature.features()
    rows = Candidates(
        {"customer": np.array([customer])},
        "product",
        np.array(string_ids(products), np.int64),
        np.array([0, len(products)]),
        np.array([shop.NOW]),
        np.zeros(1, np.int64),
    )
    batch = Join(features.select(names), "product").batch(shop.Oracle(features), rows)
    return artifact.run(batch, "score")


def test_rank_gives_the_models_scores_in_the_candidates_order(pipeline: Pipeline, features: FeatureGraph) -> None:
    products = ["P07", "P01", "FREE", "P07", "P29"]
    answer = rank(pipeline, customer=3, candidates=products)
    assert answer.ids == products
    assert answer.scores == expected_scores(pipeline, features, 3, products).tolist()
    assert answer.scores[0] == answer.scores[3]
    assert answer.models == {"ranking": "ranker:1"}
    assert answer.time == shop.NOW


@pytest.mark.parametrize("customer", [1, 5, 8, 99])
def test_recommend_gives_the_best_of_the_nearest_that_may_be_shown(
    pipeline: Pipeline, features: FeatureGraph, customer: int
) -> None:
    catalogue = pipeline.catalogue
    assert catalogue is not None
    shown = definition(features, customer, ALL)
    tower = pipeline.models["retrieval"]
    rows = Candidates(
        {"customer": np.array([customer])}, "product", np.zeros(0, np.int64), np.zeros(2, np.int64),
        np.array([shop.NOW]), np.zeros(1, np.int64),
    )  # fmt: skip
    batch = Join(features.select(tower.signature.features()), "product").batch(shop.Oracle(features), rows)
    near = catalogue.vectors @ tower.run(batch, "query")[0]
    order = [catalogue.wire[i] for i in np.argsort(-near)]
    bought = set(shown.filter("bought")["product"])
    nearest = [p for p in order if p not in bought][:20]
    kept = [p for p in nearest if p != shop.FREE]
    scores = dict(zip(kept, expected_scores(pipeline, features, customer, kept).tolist(), strict=True))
    best = sorted(kept, key=lambda p: -scores[p])[:7]

    answer = recommend(pipeline, customer=customer, count=7)
    assert answer.ids == best
    assert answer.scores == [scores[p] for p in best]
    assert answer.models == {"ranking": "ranker:1", "retrieval": "towers:1"}
    assert answer.unknown == ({"customer": [99]} if customer == 99 else {})


def test_the_request_may_exclude_items_and_the_default_count_is_top(pipeline: Pipeline) -> None:
    first = recommend(pipeline, customer=3)
    assert len(first.ids) == 5
    second = recommend(pipeline, customer=3, exclude=[*first.ids, "NOWHERE"])
    assert not set(first.ids) & set(second.ids)


def test_an_empty_list_is_an_answer(registry: Registry, features: FeatureGraph, pipeline: Pipeline) -> None:
    excluded = recommend(pipeline, customer=3, exclude=ALL)
    assert (excluded.ids, excluded.reason) == ([], f"all {len(ALL)} items of the catalogue are excluded")
    assert recommend(pipeline, customer=3).reason is None
    nothing = shop.pipeline(registry, features, filters=[pl.col("products.price") < -1])
    assert recommend(nothing, customer=3) == Answer(
        ids=[],
        scores=[],
        models={"ranking": "ranker:1", "retrieval": "towers:1"},
        time=shop.NOW,
        reason="the filters let none of 20 candidates through",
    )
    assert rank(pipeline, customer=3, candidates=[]).scores == []


def test_an_unknown_field_gets_a_suggestion_and_the_expected_ones(pipeline: Pipeline) -> None:
    with pytest.raises(RequestError) as caught:
        recommend(pipeline, customer=3, exlude=[])
    expected = "expected fields: customer, count, exclude, time, trace"
    assert caught.value.hint == f"did you mean 'exclude'? {expected}"
    with pytest.raises(RequestError) as caught:
        recommend(pipeline, customer=3, zzzz=1)
    assert caught.value.hint == expected


def test_a_model_that_was_never_trained_says_how(registry: Registry, features: FeatureGraph) -> None:
    with pytest.raises(NotFoundError) as caught:
        shop.pipeline(registry, features, ranking="fresh@champion")
    assert str(caught.value.hint).endswith("; or train it: bedplate train fresh --promote")
    with pytest.raises(NotFoundError) as caught:
        shop.pipeline(registry, features, ranking="ranker:9")
    assert "bedplate train" not in str(caught.value.hint)


def test_filters_read_features_of_the_request_and_its_time_and_all_must_hold(
    registry: Registry, features: FeatureGraph
) -> None:
    filters = [
        pl.col("products.price") < pl.col("customers.all"),
        pl.col("request.time").dt.year() == 2026,
        pl.col("products.price") > 3,
    ]
    some = shop.pipeline(registry, features, filters=filters, exclude=[])
    orders = shop.events().filter(customer_id=3).filter(pl.col("time").dt.epoch("us") < shop.NOW).height
    ids = recommend(some, customer=3, count=20).ids
    assert ids
    assert all(3 < int(str(i)[1:]) + 0.5 < orders for i in ids)


def test_unknown_keys_are_flagged_and_answered(pipeline: Pipeline) -> None:
    answer = rank(pipeline, customer=-1, candidates=["P01", "nobody", "nobody", ""])
    assert answer.unknown == {"customer": [-1], "product": ["nobody", ""]}
    assert all(isinstance(s, float) for s in answer.scores)


def test_unknown_candidates_that_a_client_brings_are_told_whether_they_are_shown_or_not(
    registry: Registry, features: FeatureGraph
) -> None:
    given: dict[str, Any] = {"retrieval": None, "candidates": [Given(9), Recent("customers.bought", 3)], "exclude": []}
    asked: dict[str, Any] = {"customer": 3, "candidates": ["P01", "nobody", "", "nobody"]}
    for filters, shown in (([], True), (shop.service().filters, False)):
        service = shop.pipeline(registry, features, **given, filters=filters)
        answer = recommend(service, **asked, count=9)
        assert answer.unknown == {"product": ["nobody", ""]}
        assert ("nobody" in answer.ids) is shown
        assert recommend(service, customer=3, candidates=["P01"]).unknown == {}
        assert recommend(service, customer=3).unknown == {}
        headers = dict(answer_stream(answer, service.service, Type.STRING).headers)
        rest = msgspec.json.decode(headers[b"Bedplate-Answer"])
        assert rest.get("unknown") == (None if shown else {"product": ["nobody", ""]})


def test_the_time_asked_for_is_the_time_of_the_features(pipeline: Pipeline, features: FeatureGraph) -> None:
    early = rank(pipeline, customer=3, candidates=["P01"], time="2026-01-03T00:00:00")
    late = rank(pipeline, customer=3, candidates=["P01"], time=shop.NOW)
    assert early.time == shop.START + 2 * 86_400_000_000
    assert early.scores != late.scores
    assert rank(pipeline, customer=3, candidates=["P01"]) == late


def test_a_trace_names_every_step(pipeline: Pipeline) -> None:
    steps = recommend(pipeline, customer=3, trace=True).trace
    assert steps is not None
    assert list(steps) == ["request_features", "candidates", "hydrate", "filter", "score", "select"]
    assert all(ms >= 0 for ms in steps.values())
    assert recommend(pipeline, customer=3).trace is None


def test_a_filter_that_fails_on_a_value_says_so(registry: Registry, features: FeatureGraph) -> None:
    fails = [pl.col("products.price").cast(pl.String).cast(pl.Int64) > 0]
    with pytest.raises(DataError, match=r"(?s)service 'shop'.*a filter fails"):
        shop.pipeline(registry, features, filters=fails)


class Watched(shop.Oracle):
    def __init__(self, features: FeatureGraph) -> None:
        super().__init__(features)
        self.reads: list[tuple[str, tuple[str, ...], int]] = []

    def read(self, view: Any, names: Any, keys: Any, times: Any) -> Any:
        self.reads.append((view.name, tuple(names), len(keys)))
        return super().read(view, names, keys, times)


def test_each_view_is_read_once_and_only_the_features_that_are_needed(
    registry: Registry, features: FeatureGraph
) -> None:
    from bedplate.serving.load import load_pipeline

    reader = Watched(features)
    opened = load_pipeline(shop.service(), features, reader, registry, clock=lambda: shop.NOW)
    reader.reads.clear()
    recommend(opened, customer=3)
    assert reader.reads == [
        ("customers", ("customers.orders_7d", "customers.bought", "customers.all"), 1),
        ("products", ("products.price", "products.sold"), 20),
        ("pairs", ("pairs.times",), 20),
    ]


def test_a_service_without_retrieval_ranks_only(registry: Registry, features: FeatureGraph) -> None:
    ranks = shop.pipeline(registry, features, retrieval=None, filters=[], exclude=[])
    assert len(rank(ranks, customer=3, candidates=["P01"]).scores) == 1
    with pytest.raises(RequestError, match="no retrieval"):
        recommend(ranks, customer=3)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"ranking": "rankr@champion"}, NotFoundError, "rankr"),
        ({"ranking": "ranker:9"}, NotFoundError, "9"),
        ({"ranking": "towers"}, ArtifactError, "no output 'score'"),
        ({"retrieval": Retrieval("ranker", count=20)}, DefinitionError, "no retrieval index"),
        ({"item": "customer"}, DefinitionError, "entity of the candidates"),
        ({"item": "prodct"}, DefinitionError, "no view is about the item 'prodct'"),
        ({"filters": [pl.col("products.prize") > 0]}, DefinitionError, "unknown feature 'products.prize'"),
        ({"filters": [pl.col("products.price") + 1]}, DefinitionError, "Float64, expected a boolean"),
        ({"filters": [pl.col("products.price").str.len_chars() > 1]}, DefinitionError, "fails"),
        ({"filters": [pl.col("products.price").rank() <= 3]}, DefinitionError, "depends on other rows than its own"),
        ({"filters": [pl.lit(value=True)]}, DefinitionError, "reads no feature"),
        ({"exclude": ["customers.baught"]}, DefinitionError, "did you mean 'customers.bought'"),
        ({"exclude": ["products.price"]}, DefinitionError, "expected keys"),
        ({"exclude": ["products.sold"]}, DefinitionError, "of the candidate, expected one of the request"),
    ],
)
def test_a_wrong_service_is_found_before_it_serves(
    registry: Registry, features: FeatureGraph, changes: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=r"(?s).*" + message):
        shop.pipeline(registry, features, **changes)


def test_a_definition_that_changed_since_training_is_refused(registry: Registry, features: FeatureGraph) -> None:
    changed = FeatureGraph(
        [v.view for v in features.views.values()],
        [DerivedFeature("hour", pl.col("request.time").dt.minute()), features.derived["ratio"]],
    )
    with pytest.raises(DefinitionError, match=r"(?s)'hour'.*train again"):
        shop.pipeline(registry, changed)


class Broken(Reader):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, view: Any, names: Any, keys: Any, times: Any) -> Any:
        raise self.error


def test_a_store_that_can_not_be_read_is_found_before_it_serves(registry: Registry, features: FeatureGraph) -> None:
    from bedplate.serving.load import load_pipeline

    reader = Broken(StoreError("the view is not loaded", where="view 'customers'"))
    with pytest.raises(StoreError, match="service 'shop', first request: view 'customers'"):
        load_pipeline(shop.service(), features, reader, registry)
    assert AheadError("x").http_status == 409


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "got the name '', expected a text"),
        ({"name": 3}, "got the name 3, expected a text"),
        ({"item": None}, "got the item None, expected a text"),
        ({"ranking": 3}, "got 3, expected the name of a model"),
        ({"ranking": "a b"}, "got 'a b', expected a model"),
        ({"retrieval": "towers"}, "got the retrieval 'towers', expected a Retrieval"),
        ({"top": 0}, "top is 0"),
        ({"top": 2.5}, "top is 2.5, expected 1 to 10000"),
        ({"top": True}, "top is True"),
        ({"top": 30}, "top is 30"),
        ({"most_candidates": 10**6}, "most_candidates"),
        ({"filters": [3]}, "filter 0 is a int"),
        ({"filters": pl.col("x")}, "filters is a list"),
        ({"filters": "x"}, "filters is a list"),
        ({"exclude": "customers.bought"}, "exclude is a list"),
        ({"exclude": [3]}, r"exclude is \[3\], expected a list of the names"),
        ({"retrieval": None}, "need a retrieval"),
    ],
)
def test_a_definition_that_can_not_be_is_refused(changes: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        shop.service(**changes)
    with pytest.raises(DefinitionError, match="count is 0"):
        Retrieval("m", count=0)
    with pytest.raises(DefinitionError, match=r"always is a list\n  write always=\['a.b'\]"):
        Retrieval("m", always="a.b")
    with pytest.raises(DefinitionError, match="got 'm@', expected a model"):
        Retrieval("m@")


def test_the_form_of_a_service_is_canonical() -> None:
    from bedplate.canonical import digest

    assert digest(shop.service().form()) == digest(shop.service().form())
    assert digest(shop.service(top=6).form()) != digest(shop.service().form())


def test_an_entity_must_not_have_the_name_of_a_request_field() -> None:
    from bedplate.serving.wire import Wire
    from bedplate.types import Type

    with pytest.raises(DefinitionError, match="entity 'time'"):
        Wire(Service("s", ranking="m", item="i"), {"time": Type.INT}, Type.INT, lambda: 0)
