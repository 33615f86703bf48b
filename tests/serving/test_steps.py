"""Filter, score and select: what each does when it is late or fails, and what a service may not ask of them."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import shop

from bedplate.errors import DefinitionError
from bedplate.features.graph import FeatureGraph
from bedplate.inference.artifact import Artifact
from bedplate.registry.registry import Registry
from bedplate.serving import select
from bedplate.serving.filters import Filters
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.service_app import App
from bedplate.serving.steps import Diversity, Epsilon, Quota, Retrieval, Softmax, Thompson
from bedplate.serving.wire import Answer

WIDE = {"retrieval": Retrieval("towers@champion", count=31), "exclude": [], "filters": []}


def recommend(pipeline: Pipeline, **request: Any) -> Answer:
    return pipeline.recommend(pipeline.wire.recommend(msgspec.json.encode(request)))


def test_exploration_is_logged_and_comes_again_with_its_seed(registry: Registry, features: FeatureGraph) -> None:
    explores = shop.pipeline(registry, features, **WIDE, exploration=Softmax(2.0), top=6)
    answers = [recommend(explores, customer=3) for _ in range(12)]
    assert len({tuple(a.ids) for a in answers}) > 1
    for answer in answers:
        assert len(answer.propensities) == 6
        again = recommend(explores, customer=3, seed=answer.seed)
        assert (again.ids, again.propensities, again.seed) == (answer.ids, answer.propensities, answer.seed)
    every = recommend(explores, customer=3, count=31)
    scores = dict(zip(every.ids, every.scores, strict=True))
    weights = {i: np.exp(s / 2.0) for i, s in scores.items()}  # type: ignore[operator]
    left = sum(weights.values())
    for item, propensity in zip(answers[0].ids, answers[0].propensities, strict=True):
        assert propensity == pytest.approx(weights[item] / left, rel=1e-4)
        left -= weights[item]
    plain = recommend(shop.pipeline(registry, features, **WIDE), customer=3)
    assert (plain.seed, plain.propensities) == (None, ())


def test_diversity_and_quotas_are_those_of_the_definition(registry: Registry, features: FeatureGraph) -> None:
    diverse = shop.pipeline(registry, features, **WIDE, diversity=Diversity(0.6), quotas=[Quota("pairs.times", 3)])
    answer, catalogue = recommend(diverse, customer=3, count=8), diverse.catalogue
    assert catalogue is not None
    every = recommend(shop.pipeline(registry, features, **WIDE), customer=3, count=31)
    scores = {str(i): float(s) for i, s in zip(every.ids, every.scores, strict=True) if s is not None}
    unit = {str(i): v / np.linalg.norm(v) for i, v in zip(catalogue.wire, catalogue.vectors, strict=True)}
    past = shop.events().filter(pl.col("time").dt.epoch("us") < shop.NOW, customer_id=3)
    times = {p: past.filter(product_id=p).height for p in scores}
    low, high = min(scores.values()), max(scores.values())
    chosen: list[str] = []
    while len(chosen) < 8:
        left = [p for p in scores if p not in chosen and sum(times[c] == times[p] for c in chosen) < 3]
        if not left:
            break
        near = {p: max((float(unit[p] @ unit[c]) for c in chosen), default=0.0) for p in left}
        chosen.append(max(left, key=lambda p: 0.4 * (scores[p] - low) / (high - low) - 0.6 * near[p]))
    assert answer.ids == chosen
    assert answer.scores == pytest.approx([scores[p] for p in chosen])


def test_quotas_hold_where_choosing_fails(
    registry: Registry, features: FeatureGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = Quota("pairs.times", 2)
    limited = recommend(shop.pipeline(registry, features, **WIDE, quotas=[quota]), customer=3, count=8)
    every = recommend(shop.pipeline(registry, features, **WIDE), customer=3, count=8)
    assert limited.ids != every.ids
    diverse = shop.pipeline(registry, features, **WIDE, diversity=Diversity(0.6), quotas=[quota])

    def broken(*_: Any) -> Any:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(select, "cosine", broken)
    answer = recommend(diverse, customer=3, count=8)
    assert answer.ids == limited.ids  # the order of the scores, and no more of a kind than the quota says
    assert answer.degraded["step.select"].why == "failed"


def test_a_model_that_is_late_gives_way_to_the_stated_ranking(
    registry: Registry, features: FeatureGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = {**WIDE, "budgets": {"score": "20ms"}, "quotas": [Quota("pairs.times", 2)], "exploration": Epsilon(0.5)}
    by_source = shop.pipeline(registry, features, **service)
    by_sold = shop.pipeline(registry, features, **service, fallback="products.sold")
    usual, released = Artifact.run, threading.Event()

    def slow(self: Any, batch: Any, output: str) -> Any:
        if output == "score":
            released.wait(30)
        return usual(self, batch, output)

    monkeypatch.setattr(Artifact, "run", slow)
    answer = recommend(by_source, customer=3)
    flag = answer.degraded["step.score"]
    assert (flag.why, flag.instead) == ("late", "the order of the candidates")
    assert answer.scores == [None] * len(answer.ids)
    assert answer.propensities == [1.0] * len(answer.ids)
    past = shop.events().filter(pl.col("time").dt.epoch("us") < shop.NOW)
    answer = recommend(by_sold, customer=3, count=4)
    sold = [past.filter(product_id=str(p))["quantity"].sum() for p in answer.ids]
    assert sold == sorted(sold, reverse=True)
    app = App()
    app.open(by_source)
    from bedplate.http.message import Request

    body = b'{"customer": 3, "candidates": ["P02", "P01"]}'
    found = msgspec.json.decode(app.handle(Request("POST", "/rank", {}, body)).body)
    assert (found["ids"], found["scores"]) == (["P02", "P01"], [None, None])
    text = app.handle(Request("GET", "/metrics", {}, b"")).body
    assert b'bedplate_degraded_steps_total{step="score",why="late"} 1' in text
    released.set()


def test_a_model_that_fails_gives_way_too(
    registry: Registry, features: FeatureGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = shop.pipeline(registry, features, **WIDE)

    def fails(self: Any, batch: Any, output: str) -> Any:
        raise RuntimeError("out of memory")

    near = recommend(service, customer=3).ids
    usual = Artifact.run
    monkeypatch.setattr(Artifact, "run", lambda s, b, o: fails(s, b, o) if o == "score" else usual(s, b, o))
    answer = recommend(service, customer=3)
    assert answer.degraded["step.score"].why == "failed"
    assert len(answer.ids) == len(near)


def test_candidates_that_filters_fail_on_are_left_out(registry: Registry, features: FeatureGraph) -> None:
    """A number that is a whole one until the event is new enough: so it is fine when the service starts."""
    price = pl.col("products.price")
    fails = (
        pl.when(pl.col("customers.all") > 0).then(price.cast(pl.String).str.replace(r"\.5", "")).otherwise(pl.lit("1"))
    )
    broken = pl.when(price > 20).then(pl.lit("x")).otherwise(fails)
    rule = pl.when(pl.col("customers.all") > 0).then(broken).otherwise(pl.lit("1")).cast(pl.Int64) >= 3
    service = shop.pipeline(registry, features, **WIDE | {"filters": [rule]})
    answer = recommend(service, customer=3, count=31)
    flag = answer.degraded["step.filter"]
    assert flag.why == "failed"
    assert flag.items == sum(float(p[1:]) + 0.5 > 20 for p in shop.PRODUCTS)
    assert {str(i) for i in answer.ids} == {p for p in shop.PRODUCTS if 3 <= int(p[1:]) < 20}


def test_candidates_that_are_not_looked_at_in_time_are_left_out(features: FeatureGraph) -> None:
    batch = shop.sample_batch(features, 1)
    rows = np.arange(batch.items).repeat(20)
    from bedplate.serving.hydrate import take_candidates

    many = take_candidates(batch, rows)
    filters = Filters([pl.col("products.price") > 5], features, "service")
    every = filters.rows(many)
    assert every is not None
    kept = filters.rows_in_time(many, 0.0)
    assert (kept.late, kept.failed) == (many.items - 128, 0)
    assert kept.rows is not None
    assert kept.rows.tolist() == [i for i in every.tolist() if i < 128]
    whole = filters.rows_in_time(many, 60.0)
    assert whole.rows is not None
    assert (whole.rows.tolist(), whole.late) == (every.tolist(), 0)


def test_choosing_that_is_late_or_fails_ends_in_the_order_of_the_scores(
    registry: Registry, features: FeatureGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = recommend(shop.pipeline(registry, features, **WIDE), customer=3)
    service = shop.pipeline(registry, features, **WIDE, diversity=Diversity(0.9), budgets={"select": "1ms"})
    monkeypatch.setattr(select, "monotonic", lambda: -1.0)
    answer = recommend(service, customer=3)
    assert answer.ids == plain.ids
    assert answer.degraded["step.select"].why == "late"
    monkeypatch.undo()
    monkeypatch.setattr(select, "cosine", lambda vectors: 1 / 0)
    answer = recommend(service, customer=3)
    assert (answer.ids, answer.degraded["step.select"].why) == (plain.ids, "failed")


def test_rules_may_compare_features_of_the_item_with_lists_of_the_request(
    registry: Registry, features: FeatureGraph
) -> None:
    blocked = ~pl.col("products.sold").is_in([0]) & (pl.col("customers.bought").list.len() > 0)
    some = shop.pipeline(registry, features, **WIDE | {"filters": [blocked]})
    assert recommend(some, customer=3).ids
    assert recommend(some, customer=99).ids == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diversity": 0.3}, "expected a Diversity"),
        ({"diversity": Diversity(by="products.price")}, "expected a category or a vector"),
        ({"diversity": Diversity(by="customers.all")}, "expected one of the candidate"),
        ({"quotas": Quota("products.sold", 2)}, "quotas is a list"),
        ({"quotas": [Quota("products.price", 2)]}, "expected a key, a text"),
        ({"quotas": [Quota("customers.bought", 2)]}, "is a list"),
        ({"quotas": [Quota("customers.all", 2)]}, "expected one of the candidate"),
        ({"exploration": 0.1}, "expected a Epsilon or Softmax or Thompson"),
        ({"fallback": "customers.all"}, "expected one of the candidate"),
        ({"fallback": "customers.bought"}, "is a list"),
        ({"retrieval": None, "quotas": [Quota("products.sold", 1)]}, "need candidates"),
    ],
)
def test_a_choice_that_can_not_be_is_refused(
    registry: Registry, features: FeatureGraph, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DefinitionError, match=message):
        shop.pipeline(registry, features, **(WIDE | changes))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Diversity(1.5), "from 0 to 1"),
        (lambda: Diversity(by=""), "expected a text"),
        (lambda: Quota("a.b", 0), "most is 0"),
        (lambda: Epsilon(-0.1), "from 0 to 1"),
        (lambda: Epsilon(0.1, best=0), "best is 0"),
        (lambda: Softmax(0), "temperature is 0"),
        (lambda: Thompson(True), "deviation is True"),
        (lambda: Thompson(1.0, best=None), "best is None"),  # type: ignore[arg-type]
        (Softmax, "the argument 'temperature' is missing"),  # type: ignore[call-arg]
    ],
)
def test_numbers_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        make()
