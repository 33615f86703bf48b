"""A pipeline where there is little to choose from: no candidates, none left, sources that fail at once, scores that are
equal or no numbers, and fewer items than were asked for."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import shop
from hypothesis import given
from hypothesis import strategies as st

from bedplate.batch import Dense, Embedding
from bedplate.errors import StoreError
from bedplate.features.graph import FeatureGraph
from bedplate.http.message import Request
from bedplate.inference.artifact import Artifact
from bedplate.registry.registry import Registry
from bedplate.serving.diversity import codes_of, cosine, same, similarity
from bedplate.serving.exploration import policy
from bedplate.serving.finders import RetrievalFinder
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.popular import Ranking
from bedplate.serving.selection import Rules, choose
from bedplate.serving.service_app import App
from bedplate.serving.steps import Diversity, Epsilon, Given, Popular, Quota, Recent, Retrieval, Softmax, Thompson
from bedplate.serving.wire import Answer

SOURCES = [Given(6), Recent("customers.bought", 3), Popular("products.sold", 6), Retrieval("towers@champion", 8)]
BARE = {"retrieval": None, "exclude": [], "filters": []}
POLICIES = [Epsilon(0.3), Epsilon(1.0, best=1), Softmax(0.7), Softmax(1e-6), Thompson(0.5), Thompson(1e-6, best=2)]


def recommend(pipeline: Pipeline, **request: Any) -> Answer:
    return pipeline.recommend(pipeline.wire.recommend(msgspec.json.encode(request)))


@pytest.fixture(scope="module")
def several(registry: Registry, features: FeatureGraph) -> Pipeline:
    return shop.pipeline(registry, features, **BARE, candidates=SOURCES)


@pytest.fixture(scope="module")
def choosing(registry: Registry, features: FeatureGraph) -> Pipeline:
    """Only what the request gives, and every way to choose."""
    return shop.pipeline(
        registry,
        features,
        **BARE,
        candidates=[Given(9)],
        diversity=Diversity(0.5, by="pairs.times"),
        quotas=[Quota("pairs.times", 2)],
        exploration=Softmax(1.0),
    )


def test_no_candidates_are_an_answer_that_says_so(choosing: Pipeline, several: Pipeline) -> None:
    for given_ in ({}, {"candidates": []}, {"candidates": ["P01", "P02"], "exclude": ["P02", "P01"]}):
        answer = recommend(choosing, customer=3, **given_)
        assert (answer.ids, answer.scores, list(answer.propensities)) == ([], [], [])
        assert answer.reason == "no source brings a candidate that is not excluded"
        assert answer.degraded == {}
        assert answer.seed is not None
    answer = recommend(several, customer=3, exclude=[*shop.PRODUCTS, shop.FREE])
    assert (answer.ids, answer.reason) == ([], "no source brings a candidate that is not excluded")
    assert answer.degraded == {}


def test_filters_that_let_nothing_through_are_the_reason(registry: Registry, features: FeatureGraph) -> None:
    strict = shop.pipeline(
        registry,
        features,
        retrieval=None,
        exclude=[],
        candidates=SOURCES,
        filters=[pl.col("products.price") < 0],
        diversity=Diversity(0.3),
        quotas=[Quota("pairs.times", 1)],
        exploration=Thompson(1.0),
        budgets={"filter": "1s", "select": "1s", "score": "1s", "candidates": "1s"},
    )
    well = recommend(strict, customer=3, candidates=["P01"], trace=True)
    assert well.ids == []
    assert well.reason is not None
    assert well.reason.startswith("the filters let none of ")
    assert well.degraded == {}
    assert list(well.trace or ()) == ["request_features", "candidates", "hydrate", "filter", "score", "select"]


def test_what_filters_say_nothing_about_is_left_out(registry: Registry, features: FeatureGraph) -> None:
    cheap = shop.pipeline(
        registry, features, retrieval=None, exclude=[], candidates=[Given(9)], filters=[pl.col("products.price") < 99]
    )
    answer = recommend(cheap, customer=3, candidates=[shop.FREE, "P01", "NOWHERE"])
    assert answer.ids == ["P01"]  # the others have no price


def test_one_source_that_fails_and_one_that_is_late_leave_the_others(
    registry: Registry, features: FeatureGraph, several: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets = {"candidates": "30ms"}
    service = shop.pipeline(registry, features, **BARE, candidates=SOURCES, budgets=budgets)
    alone = shop.pipeline(registry, features, **BARE, candidates=SOURCES[2:], budgets=budgets)
    well = recommend(several, customer=3, candidates=["P07", "P01"], count=23)
    released = threading.Event()

    def late(self: Any, *given: Any) -> Any:
        released.wait(30)
        raise RuntimeError("too late to be told")

    def broken(self: Any, *given: Any) -> Any:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(RetrievalFinder, "find", late)
    monkeypatch.setattr(Ranking, "items", broken)
    try:
        answer = recommend(service, customer=3, candidates=["P07", "P01"], count=23)
        expected = {i: s for i, s in zip(well.ids, well.sources, strict=True) if s not in ("popular", "retrieval")}
        assert dict(zip(answer.ids, answer.sources, strict=True)) == expected
        assert {"P07", "P01"} < set(answer.ids)
        flag = answer.degraded["step.candidates"]
        assert set(flag.why.split(", ")) == {"popular: failed", "retrieval: late"}
        with pytest.raises(StoreError, match="no source of candidates answered"):
            recommend(alone, customer=3)
    finally:
        released.set()


def test_an_item_of_several_sources_counts_once_for_a_quota(registry: Registry, features: FeatureGraph) -> None:
    quotas = [Quota("pairs.times", 2)]
    limited = shop.pipeline(registry, features, **BARE, candidates=SOURCES, quotas=quotas)
    every = shop.pipeline(registry, features, **BARE, candidates=SOURCES)
    for customer in (1, 3, 5):
        past = shop.events().filter(pl.col("time").dt.epoch("us") < shop.NOW, customer_id=customer)
        bought = past.sort("time")["product_id"].to_list()[::-1]
        given_ = list(dict.fromkeys(bought))[:3]  # by the request, by Recent, and some of them by Popular too
        answer = recommend(limited, customer=customer, candidates=given_, count=23)
        whole = recommend(every, customer=customer, candidates=given_, count=23)
        assert len(set(answer.ids)) == len(answer.ids)
        assert len(set(whole.ids)) == len(whole.ids)
        assert {whole.sources[whole.ids.index(item)] for item in given_} == {"given"}
        times = {item: past.filter(product_id=item).height for item in map(str, whole.ids)}
        taken: Counter[int] = Counter()
        expected = []
        for item in map(str, whole.ids):  # in the order of the scores
            taken[times[item]] += 1
            if taken[times[item]] <= 2:
                expected.append(item)
        assert answer.ids == expected


def test_fewer_candidates_than_asked_for_are_all_of_them(choosing: Pipeline) -> None:
    answer = recommend(choosing, customer=99, candidates=["P01", "P02"], count=9, seed=5)
    # A customer who is unknown has bought none: both are of the one value of the quota, which allows two.
    assert sorted(map(str, answer.ids)) == ["P01", "P02"]
    assert answer.propensities[1] == 1.0
    assert 0 < answer.propensities[0] < 1
    assert answer.seed == 5
    assert len(recommend(choosing, customer=99, candidates=["P01", "P02", "P03"], count=9).ids) == 2


def test_scores_that_are_no_numbers_come_last_and_are_null(
    registry: Registry, features: FeatureGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = shop.pipeline(registry, features, **BARE, candidates=[Given(9)], diversity=Diversity(0.2, "pairs.times"))
    plain = shop.pipeline(registry, features, **BARE, candidates=[Given(9)])
    scores = np.array([np.nan, 0.5, -np.inf, np.inf, np.nan], np.float32)
    monkeypatch.setattr(Artifact, "run", lambda *_: scores)
    asked = {"customer": 3, "candidates": ["P01", "P02", "P03", "P04", "P05"], "count": 5}
    for pipeline in (service, plain):
        app = App()
        app.open(pipeline)
        response = app.handle(Request("POST", "/recommend", {}, json.dumps(asked).encode()))
        shown = msgspec.json.decode(response.body)  # type: ignore[union-attr]
        assert shown["ids"] == ["P02", "P01", "P03", "P04", "P05"]
        assert shown["scores"] == [0.5, None, None, None, None]
        flag = {"why": "not finite", "instead": "null, after all others", "items": 4}
        assert shown["degraded"] == {"step.score": flag}
        assert 'step="score",why="not finite"} 1' in app.metrics.text()
    monkeypatch.setattr(Artifact, "run", lambda *_: np.full(5, np.nan, np.float32))
    assert recommend(service, **asked).ids == asked["candidates"]


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_an_infinite_score_does_not_make_the_others_equal(wrong: float) -> None:
    """What diversity weighs is where a score lies between the least and the largest of those that are numbers."""
    codes = np.array([0, 0, 1, 2])
    alone = choose(np.array([1.0, 0.9, 0.1]), 3, Rules(same(codes[:3]), 0.3)).order.tolist()
    got = choose(np.array([1.0, 0.9, 0.1, wrong]), 4, Rules(same(codes), 0.3)).order.tolist()
    assert alone == [0, 1, 2]
    assert got == [*alone, 3]


@pytest.mark.parametrize("definition", POLICIES, ids=repr)
@given(st.data())
def test_a_policy_gives_as_many_as_there_are_and_says_their_chances(definition: Any, data: Any) -> None:
    scores = data.draw(st.lists(st.one_of(st.floats(-3, 3), st.just(math.nan), st.just(1.0)), max_size=7))
    take, best = policy(definition)
    codes = np.array(data.draw(st.lists(st.integers(-1, 1), min_size=len(scores), max_size=len(scores))), np.int64)
    rules = Rules(same(codes), 0.5, [(codes, 2)], take, best)
    got = choose(np.array(scores), 20, rules, np.random.default_rng(data.draw(st.integers(0, 2**63))))
    allowed = [min(2, int((codes == code).sum())) for code in (0, 1)]
    assert len(got.order) == sum(allowed) + int((codes == -1).sum())
    assert len(set(got.order.tolist())) == len(got.order) == len(got.propensities)
    assert ((got.propensities > 0) & (got.propensities <= 1 + 1e-12)).all()
    numbers = [not math.isnan(scores[i]) for i in got.order.tolist()]
    assert numbers == sorted(numbers, reverse=True)


def test_equal_scores_keep_their_order_until_what_is_above_tells_them_apart() -> None:
    codes = np.array([0, 0, 1, 1, -1])
    scores = np.full(5, 0.25)
    assert choose(scores, 5, Rules()).order.tolist() == [0, 1, 2, 3, 4]
    assert choose(scores, 5, Rules(same(codes), 0.5)).order.tolist() == [0, 2, 4, 1, 3]
    assert choose(scores, 5, Rules(same(codes), 0.0)).order.tolist() == [0, 1, 2, 3, 4]
    assert choose(scores, 3, Rules(same(codes), 0.5, [(codes, 1)])).order.tolist() == [0, 2, 4]
    for definition in (Softmax(1.0), Thompson(0.3)):
        take, _ = policy(definition)
        assert take(scores) == pytest.approx([0.2] * 5)
    assert policy(Epsilon(0.5))[0](scores) == pytest.approx([0.6, 0.1, 0.1, 0.1, 0.1])  # the first is the best


def test_nothing_is_chosen_of_nothing_or_when_nothing_is_asked_for() -> None:
    nothing = np.zeros(0)
    for rules in (
        Rules(),
        Rules(same(np.zeros(0, np.int64)), 0.5, [(np.zeros(0, np.int64), 1)], policy(Softmax(1))[0]),
    ):
        got = choose(nothing, 5, rules, np.random.default_rng(0))
        assert (got.order.tolist(), got.propensities.tolist(), got.is_late) == ([], [], False)
    assert choose(np.ones(3), 0, Rules()).order.tolist() == []
    codes = codes_of(Dense(np.zeros(3, np.int64), np.zeros(3, np.bool_)))
    assert codes.tolist() == [-1, -1, -1]
    assert len(choose(np.ones(3), 3, Rules(quotas=[(codes, 1)])).order) == 3  # no value, no quota


def test_vectors_that_are_missing_or_no_direction_are_similar_to_nothing() -> None:
    vectors = np.array([[1, 0], [0, 0], [np.nan, 1], [np.inf, 0], [1e30, 1e30], [1e-30, 0], [2, 2], [0, 5]], np.float32)
    there = np.ones(8, np.bool_)
    there[7] = False
    like = similarity(Embedding(vectors, there))
    half = math.sqrt(0.5)
    assert like(0).tolist() == pytest.approx([1, 0, 0, 0, half, 1, half, 0], abs=1e-6)
    assert like(4).tolist() == pytest.approx([half, 0, 0, 0, 1, half, 1, 0], abs=1e-6)
    for position in (1, 2, 3, 7):
        assert like(position).tolist() == [0.0] * 8
    order = choose(np.array([0.9, 0.1, 0.2, 0.3, 0.8, 0.85, 0.7, 0.0]), 8, Rules(like, 1.0)).order.tolist()
    assert order == [0, 1, 2, 3, 7, 4, 6, 5]
    assert vectors[1:3].tolist()[0] == [0.0, 0.0]
    assert np.isnan(vectors[2, 0])  # the feature's own values stay
    assert similarity(Embedding(np.zeros((3, 2), np.float32)))(0).tolist() == [0.0] * 3


def test_items_that_the_index_does_not_have_are_chosen_by_their_scores(
    registry: Registry, features: FeatureGraph
) -> None:
    sources = [Given(9), Retrieval("towers@champion", 4)]
    service = shop.pipeline(registry, features, **BARE, candidates=sources, diversity=Diversity(0.9))
    answer = recommend(service, customer=3, candidates=["NEW-1", "NEW-2"], count=9)
    assert {"NEW-1", "NEW-2"} < set(answer.ids)
    assert len(answer.ids) == 6
    assert answer.degraded == {}
    # The two are alike in all their features but similar to nothing, as they have no vectors.
    scores = dict(zip(answer.ids, answer.scores, strict=True))
    assert scores["NEW-1"] == pytest.approx(scores["NEW-2"])
    assert abs(answer.ids.index("NEW-1") - answer.ids.index("NEW-2")) == 1


DRAWS = """
import sys, json
import numpy as np
from bedplate.serving.diversity import same
from bedplate.serving.exploration import policy
from bedplate.serving.selection import Rules, choose
from bedplate.serving.steps import Epsilon, Softmax, Thompson

scores, codes = np.sin(np.arange(30.0)), np.arange(30) % 4
found = []
for definition in (Epsilon(0.4), Softmax(0.5, best=9), Thompson(0.4)):
    take, best = policy(definition)
    for seed in (0, 7, 2**63 - 1):
        got = choose(scores, 8, Rules(same(codes), 0.3, [(codes, 3)], take, best), np.random.default_rng(seed))
        found.append([got.order.tolist(), got.propensities.tolist()])
print(json.dumps(found))
"""


def test_a_seed_gives_the_same_answer_in_every_process() -> None:
    found = []
    for hashes in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hashes, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-c", DRAWS]
        found.append(json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout))
    assert found[0] == found[1]
    orders = [tuple(order) for order, _ in found[0]]
    assert len(set(orders)) == 9
    here = choose(
        np.sin(np.arange(30.0)),
        8,
        Rules(same(np.arange(30) % 4), 0.3, [(np.arange(30) % 4, 3)], policy(Epsilon(0.4))[0]),
        np.random.default_rng(7),
    )
    assert [here.order.tolist(), here.propensities.tolist()] == found[0][1]


@pytest.fixture
def crowd() -> Any:
    """Vectors of length 1 that all point nearly the same way."""
    rng = np.random.default_rng(2)
    vectors = 1.0 + 1e-4 * rng.normal(size=(12, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_a_crowd_of_nearly_equal_items_is_chosen_whole(crowd: Any) -> None:
    scores = np.linspace(1.0, 0.0, 12)
    whole = choose(scores, 12, Rules(cosine(crowd), 0.5)).order.tolist()
    assert sorted(whole) == list(range(12))
    assert whole[:3] == [0, 1, 2]  # where all are as similar, the scores decide
