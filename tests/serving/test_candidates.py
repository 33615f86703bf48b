"""Candidates of several sources: what each brings, each item once, and what happens when a source is late or fails."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
import numpy as np
import pytest
import shop
from hypothesis import given
from hypothesis import strategies as st

from bedplate.errors import DefinitionError, RequestError, StoreError
from bedplate.features.graph import FeatureGraph
from bedplate.inference.retrieval import Catalogue
from bedplate.registry.registry import Registry
from bedplate.serving import candidates
from bedplate.serving.candidates import Found, _Asking, merge
from bedplate.serving.finders import RetrievalFinder
from bedplate.serving.load import load_pipeline
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.popular import Ranking
from bedplate.serving.steps import Given, Popular, Recent, Retrieval
from bedplate.serving.wire import Answer

ALL = [*shop.PRODUCTS, shop.FREE]
SOURCES = [
    Given(4),
    Recent("customers.bought", count=3),
    Popular("products.sold", count=6),
    Retrieval("towers@champion", count=8),
]


def recommend(pipeline: Pipeline, **request: Any) -> Answer:
    return pipeline.recommend(pipeline.wire.recommend(msgspec.json.encode(request)))


@pytest.fixture(scope="module")
def several(registry: Registry, features: FeatureGraph) -> Pipeline:
    return shop.pipeline(registry, features, retrieval=None, candidates=SOURCES, exclude=[], filters=[])


def ranked(features: FeatureGraph, customer: int) -> tuple[list[str], list[str]]:
    """All products by how many were sold, and those that a customer bought last, newest first; by the events."""
    import polars as pl

    past = shop.events().filter(pl.col("time").dt.epoch("us") < shop.NOW)
    sold = past.group_by("product_id").agg(pl.col("quantity").sum())
    bought = past.filter(customer_id=customer).sort("time")["product_id"].to_list()
    return sold.sort("quantity", descending=True)["product_id"].to_list(), bought[::-1][:3]


@given(st.lists(st.lists(st.integers(-5, 5), unique=True, max_size=6), min_size=1, max_size=4))
def test_each_item_is_a_candidate_once_and_counts_for_the_first_source(lists: list[list[int]]) -> None:
    keys, source = merge([np.array(found, np.int64) for found in lists])
    expected: dict[int, int] = {}
    for position, found in enumerate(lists):
        for key in found:
            expected.setdefault(key, position)
    assert dict(zip(keys.tolist(), source.tolist(), strict=True)) == expected
    assert keys.tolist() == list(expected)


def test_sources_bring_what_they_are_for_and_every_item_says_whose_it_is(
    several: Pipeline, features: FeatureGraph
) -> None:
    _, bought = ranked(features, 3)
    answer = recommend(several, customer=3, count=21, candidates=["P07", "NEW"])
    by = {name: [i for i, s in zip(answer.ids, answer.sources, strict=True) if s == name] for name in answer.sources}
    assert set(by["given"]) == {"P07", "NEW"}
    assert set(by["recent"]) == set(bought) - {"P07"}
    assert len(answer.ids) == len(set(answer.ids))
    assert len(by["popular"]) <= 6
    assert len(by["retrieval"]) <= 8
    assert list(answer.scores) == sorted(answer.scores, reverse=True)  # type: ignore[type-var]


def test_a_request_reads_each_view_once_however_many_sources_there_are(
    registry: Registry, features: FeatureGraph
) -> None:
    class Watched(shop.Oracle):
        def read(self, view: Any, names: Any, keys: Any, times: Any) -> Any:
            reads.append((view.name, len(keys)))
            return super().read(view, names, keys, times)

    reads: list[tuple[str, int]] = []
    service = shop.service(retrieval=None, candidates=SOURCES, exclude=[], filters=[])
    opened = load_pipeline(service, features, Watched(features), registry, clock=lambda: shop.NOW)
    reads.clear()
    found = recommend(opened, customer=3, count=21)
    assert reads == [("customers", 1), ("products", len(found.ids)), ("pairs", len(found.ids))]


def test_items_of_several_indexes_are_named_by_whichever_has_them() -> None:
    first = Catalogue(np.array([1, 2]), np.zeros((2, 1), np.float32), ["a", "b"])
    second = Catalogue(np.array([2, 3]), np.zeros((2, 1), np.float32), ["b", "c"])
    found = Found(np.array([3, 1, 9, 2]), np.zeros(4, np.int64), {9: "given"})
    assert found.ids([first, second]) == ["c", "a", "given", "b"]
    numbers = Catalogue(np.array([1]), np.zeros((1, 1), np.float32))
    assert found.ids([numbers]) == [3, 1, 9, 2]


def test_popular_is_the_largest_of_a_feature_and_exclusion_makes_room(
    registry: Registry, features: FeatureGraph
) -> None:
    popular = [Popular("products.sold", count=5, catalogue="towers@champion")]
    of_popular = shop.pipeline(registry, features, retrieval=None, candidates=popular, exclude=[], filters=[], top=5)
    order, _ = ranked(features, 3)
    sold = dict.fromkeys(order)
    assert set(recommend(of_popular, customer=3).ids) <= set(order[:8])  # ties in how many were sold
    first = recommend(of_popular, customer=3).ids
    then = recommend(of_popular, customer=3, exclude=list(first)).ids
    assert len(then) == 5
    assert not set(first) & set(then)
    assert set(then) <= set(sold)


def test_without_an_index_items_are_known_by_the_texts_of_the_request(
    registry: Registry, features: FeatureGraph
) -> None:
    own = [Given(5), Recent("customers.bought", count=3)]
    service = shop.pipeline(registry, features, retrieval=None, candidates=own, exclude=[], filters=[], top=5)
    _, bought = ranked(features, 5)
    answer = recommend(service, customer=5, candidates=["P01", "P02", "P01"])
    assert set(answer.ids) == {"P01", "P02", *bought}
    assert recommend(service, customer=99).reason == "no source brings a candidate that is not excluded"
    with pytest.raises(RequestError, match=r"\$.candidates"):
        recommend(service, customer=5, candidates=["P01"] * 6)
    with pytest.raises(RequestError, match="no vectors"):
        service._indexed()


def test_what_a_client_names_twice_is_one_candidate(registry: Registry, features: FeatureGraph) -> None:
    """Where it is the only source too, with nobody else's to compare with."""
    only = shop.pipeline(registry, features, retrieval=None, candidates=[Given(6)], exclude=[], filters=[], top=5)
    once = recommend(only, customer=5, candidates=["P02", "P01", "P03"])
    answer = recommend(only, customer=5, candidates=["P02", "P01", "P02", "P03", "P01", "P02"])
    assert (answer.ids, answer.scores) == (once.ids, once.scores)
    assert sorted(answer.ids) == ["P01", "P02", "P03"]


def test_a_source_that_is_late_is_left_out_and_not_asked_for_a_while(
    registry: Registry, features: FeatureGraph, several: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {"retrieval": None, "candidates": SOURCES, "exclude": [], "filters": []}
    service = shop.pipeline(registry, features, **steps, budgets={"candidates": "30ms"})
    well = recommend(several, customer=3, count=21)
    assert well.degraded == {}
    released = threading.Event()
    usual = RetrievalFinder.find

    def late(self: Any, *given: Any) -> Any:
        released.wait(30)
        return usual(self, *given)

    monkeypatch.setattr(RetrievalFinder, "find", late)
    try:
        answer = recommend(service, customer=3, count=21)
        assert set(answer.ids) == {i for i, s in zip(well.ids, well.sources, strict=True) if s != "retrieval"}
        assert "retrieval" not in answer.sources
        flag = answer.degraded["step.candidates"]
        assert (flag.why, flag.instead) == ("retrieval: late", "the other sources")
        said = {recommend(service, customer=3).degraded["step.candidates"].why for _ in range(20)}
        assert said == {"retrieval: late", "retrieval: skipped"}
    finally:
        released.set()


@pytest.mark.parametrize("held", [False, True])
def test_sources_that_take_no_time_answer_though_the_thread_has_not_come_to_them(
    registry: Registry, features: FeatureGraph, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is begun late, or stopped, as on a busy machine, is no reason to have no candidates."""
    budgets = {"candidates": "20ms"}
    pipeline = shop.pipeline(
        registry, features, retrieval=None, candidates=SOURCES, exclude=[], filters=[], budgets=budgets
    )
    here, go_on, asked = threading.current_thread(), threading.Event(), _Asking.all

    def late(self: Any) -> bool:
        if threading.current_thread() is not here and held:
            assert go_on.wait(20)
        return asked(self)

    def clock() -> float:
        return time.monotonic() + (0.0 if threading.current_thread() is here else 100.0)

    monkeypatch.setattr(_Asking, "all", late)
    monkeypatch.setattr(candidates, "monotonic", clock)
    try:
        answer = recommend(pipeline, customer=3, count=21, candidates=["P07"])
    finally:
        go_on.set()
    assert set(answer.sources) == {"given", "recent", "popular"}
    assert answer.degraded["step.candidates"].why == "retrieval: late"


def test_sources_that_fail_are_left_out_unless_all_do(
    registry: Registry, features: FeatureGraph, several: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = shop.pipeline(registry, features)

    def broken(self: Any, *given: Any) -> Any:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(Ranking, "items", broken)
    monkeypatch.setattr(RetrievalFinder, "find", broken)
    answer = recommend(several, customer=3, candidates=["P07"])
    assert set(answer.sources) == {"given", "recent"}
    assert answer.degraded["step.candidates"].why == "popular: failed, retrieval: failed"
    with pytest.raises(StoreError, match="no source of candidates answered") as caught:
        recommend(alone, customer=3)
    assert caught.value.http_status == 503


def test_a_ranking_is_made_again_in_the_background_and_says_when_it_can_not(
    features: FeatureGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bedplate.canonical import string_ids

    class Counting(shop.Oracle):
        fails = False
        reads = 0

        def read(self, view: Any, names: Any, keys: Any, times: Any) -> Any:
            Counting.reads += 1
            if Counting.fails:
                raise StoreError("down")
            return super().read(view, names, keys, times)

    keys = np.array(string_ids(ALL), np.int64)
    ranking = Ranking("products.sold", keys, features, "product", Counting(features), {}, 0.0, lambda: shop.NOW)
    first = ranking.items()
    assert Counting.reads == 1

    def settled(reads: int) -> None:
        end = time.monotonic() + 5
        while Counting.reads < reads and time.monotonic() < end:
            ranking.items()
            time.sleep(0.005)
        assert Counting.reads >= reads

    settled(2)
    assert ranking.age is None
    Counting.fails = True
    settled(Counting.reads + 2)
    end = time.monotonic() + 5
    while ranking.age is None and time.monotonic() < end:
        time.sleep(0.005)
    assert ranking.age is not None
    assert ranking.items().tolist() == first.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": [Given(), Given(name="more")]}, "two Given"),
        ({"candidates": [Given(), Recent("customers.bought", name="given")]}, "two parts are called 'given'"),
        ({"candidates": [Given(name="ranking")]}, "two parts are called 'ranking'"),
        ({"candidates": ["given"]}, "expected a Retrieval or Popular"),
        ({"candidates": Given()}, "candidates is a list"),
        ({"candidates": [Given(2)]}, "top is 5, expected at most the 2 candidates"),
        ({"candidates": [Given(9000), Recent("customers.bought", 9000)]}, "bring 18000 candidates"),
        ({"candidates": [Popular("products.sold")]}, "no index says which items there are"),
        ({"candidates": [Popular("customers.all")]}, "expected a feature of 'product' alone"),
        ({"candidates": [Popular("pairs.times")]}, "expected a feature of 'product' alone"),
        ({"candidates": [Popular("products.solt")]}, "did you mean"),
        ({"candidates": [Recent("products.price")]}, "expected keys"),
        ({"candidates": [Recent("products.sold")]}, "expected one of the request"),
        ({"retrieval": Retrieval("towers"), "candidates": [Given()]}, "a retrieval and candidates"),
        ({"candidates": [Given(50)], "budgets": {"scroe": "5ms"}}, "did you mean 'score'"),
        ({"candidates": [Given(50)], "budgets": {"score": "soon"}}, "budgets"),
        ({"candidates": [Given(50)], "budgets": ["score"]}, "expected a dictionary"),
        ({"candidates": [Given(50)], "budgets": {"hydrate": "5ms"}, "deadline": "5ms"}, "which are the same"),
    ],
)
def test_sources_that_can_not_be_are_refused(
    registry: Registry, features: FeatureGraph, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DefinitionError, match=message):
        shop.pipeline(registry, features, **({"retrieval": None, "filters": [], "exclude": []} | changes))
