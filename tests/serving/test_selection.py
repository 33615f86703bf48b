"""Choosing an answer, against code that is slow and obvious; and the probabilities of what is explored, counted out."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.serving.diversity import codes_of, cosine, same, similarity
from bedplate.serving.exploration import policy, thompson
from bedplate.serving.selection import Rules, choose
from bedplate.serving.steps import Epsilon, Softmax, Thompson

scored = st.lists(st.one_of(st.floats(-5, 5, width=32), st.just(math.nan)), min_size=1, max_size=12)


def slow(
    scores: list[float], count: int, similar: Any, weight: float, quotas: list[tuple[list[int], int]]
) -> list[int]:
    """Maximal marginal relevance with quotas, by the words of `Diversity` and `Quota`."""
    known = [s for s in scores if not math.isnan(s)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    chosen: list[int] = []

    def allowed(i: int) -> bool:
        if i in chosen:
            return False
        return all(codes[i] < 0 or sum(codes[c] == codes[i] for c in chosen) < most for codes, most in quotas)

    def value(i: int) -> float:
        if similar is None:
            return scores[i]
        relevance = (scores[i] - low) / (high - low) if high > low else 0.0
        nearest = max((similar(i, c) for c in chosen), default=None)
        return (1 - weight) * relevance - (0.0 if nearest is None else weight * nearest)

    while len(chosen) < count:
        left = [i for i in range(len(scores)) if allowed(i) and not math.isnan(scores[i])]
        if not left:
            break
        chosen.append(max(left, key=value))  # the first of those that are equal
    for i in range(len(scores)):
        if len(chosen) < count and math.isnan(scores[i]) and allowed(i):
            chosen.append(i)
    return chosen


@given(scored, st.data())
def test_an_answer_is_the_one_of_the_definition(scores: list[float], data: st.DataObject) -> None:
    n = len(scores)
    count = data.draw(st.integers(0, n + 2))
    weight = data.draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    quotas = [
        (data.draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n)), data.draw(st.integers(1, 3)))
        for _ in range(data.draw(st.integers(0, 2)))
    ]
    kinds = data.draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n))
    is_diverse = data.draw(st.booleans())
    rules = Rules(
        same(np.array(kinds)) if is_diverse else None, weight, [(np.array(codes), most) for codes, most in quotas]
    )
    got = choose(np.array(scores, np.float32), count, rules)
    similar = (lambda a, b: float(kinds[a] == kinds[b] >= 0)) if is_diverse else None
    exact = [float(np.float32(s)) for s in scores]
    assert got.order.tolist() == slow(exact, count, similar, weight, quotas)
    assert got.propensities.tolist() == [1.0] * len(got.order)


def test_vectors_that_point_the_same_way_are_similar_whatever_their_length() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(20, 4)).astype(np.float32)
    scores = rng.normal(size=20)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    got = choose(scores, 8, Rules(cosine(unit), 0.5)).order.tolist()
    assert got == slow(scores.tolist(), 8, lambda a, b: float(unit[a] @ unit[b]), 0.5, [])
    from bedplate.batch import Embedding

    there = np.ones(20, np.bool_)
    there[3] = False
    of_column = similarity(Embedding(vectors * 7, there))
    assert of_column(1)[2] == pytest.approx(float(unit[1] @ unit[2]), abs=1e-6)
    assert (of_column(1)[3], of_column(3).tolist()) == (0.0, [0.0] * 20)
    with pytest.raises(Exception, match="expected one value"):
        codes_of(Embedding(vectors))


def enumerated(values: list[float], count: int, chance: Any) -> dict[tuple[int, ...], float]:
    """The probability of each order, multiplied out position by position."""
    found: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(len(values)), count):
        probability, left = 1.0, list(range(len(values)))
        for i in order:
            probability *= chance([values[j] for j in left], left.index(i))
            left.remove(i)
        found[order] = probability
    return found


def epsilon_chance(values: list[float], i: int) -> float:
    return 0.3 / len(values) + (0.7 if i == values.index(max(values)) else 0.0)


def softmax_chance(values: list[float], i: int) -> float:
    return math.exp(values[i] / 0.5) / sum(math.exp(v / 0.5) for v in values)


@pytest.mark.parametrize(
    ("definition", "chance"),
    [(Epsilon(0.3), epsilon_chance), (Softmax(0.5), softmax_chance)],
    ids=["epsilon", "softmax"],
)
def test_the_probability_of_every_order_is_the_one_counted_out_and_drawn(definition: Any, chance: Any) -> None:
    values = [0.1, 0.9, 0.5, 0.4]
    expected = enumerated(values, 3, chance)
    assert sum(expected.values()) == pytest.approx(1.0)
    take, best = policy(definition)
    rules = Rules(policy=take, best=best)
    drawn: Counter[tuple[int, ...]] = Counter()
    for seed in range(4000):
        got = choose(np.array(values), 3, rules, np.random.default_rng(seed))
        order = tuple(got.order.tolist())
        assert float(np.prod(got.propensities)) == pytest.approx(expected[order])
        drawn[order] += 1
    for order, probability in expected.items():
        deviation = math.sqrt(probability * (1 - probability) / 4000)
        assert drawn[order] / 4000 == pytest.approx(probability, abs=5 * deviation + 1e-4)


def test_weights_by_the_logged_probabilities_give_the_value_of_another_policy() -> None:
    """The mean of reward / propensity over explored answers is the reward of always showing an item."""
    scores, reward = np.array([1.0, 0.6, 0.2, 0.1]), np.array([0.3, 0.8, 0.1, 0.5])
    take, best = policy(Softmax(0.5))
    estimates = np.zeros(4)
    for seed in range(6000):
        got = choose(scores, 1, Rules(policy=take, best=best), np.random.default_rng(seed))
        estimates[got.order[0]] += reward[got.order[0]] / got.propensities[0]
    assert estimates / 6000 == pytest.approx(reward, abs=0.06)


def test_thompson_is_the_chance_to_be_best_after_noise() -> None:
    values = np.array([0.0, 0.3, -0.2, 1.0, 0.9, -3.0])
    noise = np.random.default_rng(5).normal(0.0, 0.7, (200_000, 6))
    best = np.bincount(np.argmax(values + noise, axis=1), minlength=6) / 200_000
    assert thompson(values, 0.7) == pytest.approx(best, abs=0.005)
    # Of two, the chance is the normal distribution of their difference over sqrt(2) deviations.
    exact = 0.5 * math.erfc(-(0.4 / (0.7 * math.sqrt(2))) / math.sqrt(2))
    assert thompson(np.array([0.4, 0.0]), 0.7)[0] == pytest.approx(exact, abs=1e-6)
    assert thompson(np.array([2.0]), 0.1).tolist() == [1.0]


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=60), st.sampled_from([1e-3, 0.1, 1.0, 30.0]), st.integers(0, 99)
)
def test_every_policy_gives_probabilities_and_takes_what_they_allow(
    values: list[float], width: float, seed: int
) -> None:
    for definition in (Epsilon(0.2, best=7), Softmax(width, best=5), Thompson(width, best=9)):
        take, best = policy(definition)
        chances = take(np.array(values))
        assert chances.sum() == pytest.approx(1.0)
        assert (chances >= 0).all()
        got = choose(np.array(values), 5, Rules(policy=take, best=best), np.random.default_rng(seed))
        assert len(set(got.order.tolist())) == min(5, len(values))
        assert (got.propensities > 0).all()
        first = sorted(range(len(values)), key=lambda i: -values[i])[: best or len(values)]
        assert got.order[0] in first


def test_quotas_hold_for_what_is_explored() -> None:
    codes = np.array([0, 0, 0, 1, 1, -1, -1])
    take, best = policy(Epsilon(1.0))
    for seed in range(50):
        got = choose(np.arange(7.0), 7, Rules(quotas=[(codes, 1)], policy=take, best=best), np.random.default_rng(seed))
        kinds = Counter(codes[got.order].tolist())
        assert (kinds[0], kinds[1], kinds[-1], len(got.order)) == (1, 1, 2, 4)
        left = [7, 7, 7, 7]
        assert got.propensities[0] == pytest.approx(1 / left[0])


def test_when_the_time_is_over_the_rest_is_in_the_order_of_the_scores() -> None:
    scores = np.array([0.2, 0.9, 0.8, 0.1])
    got = choose(scores, 3, Rules(same(np.array([0, 1, 1, 2])), 1.0, [(np.array([0, 1, 1, 2]), 1)]), until=-1.0)
    assert (got.order.tolist(), got.is_late) == ([1, 0, 3], True)
