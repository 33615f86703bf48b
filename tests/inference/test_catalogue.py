"""Exact search over the catalogue's vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.errors import ArtifactError
from bedplate.inference.retrieval import Catalogue


@given(st.integers(0, 60), st.integers(0, 70), st.integers(0, 2**32 - 1))
def test_the_best_allowed_items_come_best_first(size: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys = rng.permutation(np.arange(100, 100 + 3 * size, 3))
    catalogue = Catalogue(keys, rng.normal(size=(size, 5)).astype(np.float32))
    query = rng.normal(size=5).astype(np.float32)
    without = rng.integers(95, 120 + 3 * size, rng.integers(0, 40))
    found = catalogue.search(query, count, without)
    scores = {int(k): float(v @ query) for k, v in zip(keys, catalogue.vectors, strict=True) if k not in set(without)}
    expected = sorted(scores, key=lambda k: -scores[k])[:count]
    assert keys[found].tolist() == expected


def test_positions_are_of_known_keys_and_each_once() -> None:
    catalogue = Catalogue(np.array([9, 2, 5]), np.zeros((3, 1), np.float32))
    assert catalogue.positions(np.array([5, 5, 7, 9, -1, 100])).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("keys", "vectors", "texts", "message"),
    [
        ([1, 2], [[1.0]], None, "2 keys"),
        ([1, 1], [[1.0], [2.0]], None, "twice"),
        ([1, 2], [[1.0], [np.nan]], None, "NaN"),
        ([1, 2], [[1.0], [2.0]], ["a"], "1 texts"),
        ([1, 2], [1.0, 2.0], None, "vectors of shape"),
    ],
)
def test_a_damaged_catalogue_is_refused(keys: list[int], vectors: list[float], texts: object, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Catalogue(np.array(keys), np.array(vectors, np.float32), texts)  # type: ignore[arg-type]


def slow(scores: dict[int, float], count: int, without: set[int], always: set[int]) -> list[int]:
    """Keys by their scores, those that come always first; of equal ones the first in the catalogue."""
    order = {key: position for position, key in enumerate(scores)}
    left = [key for key in scores if key not in without]
    return sorted(left, key=lambda key: (key not in always, -scores[key], order[key]))[:count]


def test_what_comes_always_comes_first_however_long_vectors_are() -> None:
    vectors = np.array([[6000.0, 0.0], [-6000.0, 0.0], [5000.0, 0.0], [-0.001, 0.0], [-0.002, 0.0]], np.float32)
    catalogue, query = Catalogue(np.arange(5), vectors), np.array([1.0, 0.0], np.float32)
    assert catalogue.search(query, 5, always=np.array([4, 1, 3, 99])).tolist() == [3, 4, 1, 0, 2]
    assert catalogue.search(query, 2, np.array([3]), np.array([4, 1, 3])).tolist() == [4, 1]
    assert catalogue.search(query, 3, np.array([3, 0]), np.array([3])).tolist() == [2, 4, 1]


keys_of_all = st.lists(st.integers(-4, 12), unique=True, max_size=9)


@given(keys_of_all, st.sampled_from([1.0, 2.0**20, 2.0**60]), st.data())
def test_a_search_is_what_sorting_gives(keys: list[int], size: float, data: st.DataObject) -> None:
    small = st.integers(-2, 2).map(lambda n: n * size)  # sums of such products are exact, and often equal
    vectors = data.draw(st.lists(st.tuples(small, small), min_size=len(keys), max_size=len(keys)))
    query = data.draw(st.tuples(small, small))
    some = st.lists(st.integers(-5, 13), max_size=6)
    without, always, count = data.draw(some), data.draw(some), data.draw(st.integers(0, 11))
    catalogue = Catalogue(np.array(keys, np.int64), np.array(vectors, np.float32).reshape(-1, 2))
    found = catalogue.search(
        np.array(query, np.float32), count, np.array(without, np.int64), np.array(always, np.int64)
    )
    scores = {key: v[0] * query[0] + v[1] * query[1] for key, v in zip(keys, vectors, strict=True)}
    assert catalogue.keys[found].tolist() == slow(scores, count, set(without), set(always))
    plain = catalogue.search(np.array(query, np.float32), count)
    assert catalogue.keys[plain].tolist() == slow(scores, count, set(), set())


@given(keys_of_all.filter(bool), st.data())
def test_places_are_those_of_the_keys_asked_for(keys: list[int], data: st.DataObject) -> None:
    catalogue = Catalogue(np.array(keys, np.int64), np.zeros((len(keys), 1), np.float32))
    asked = data.draw(st.lists(st.integers(-6, 14), max_size=8))
    expected = [keys.index(key) if key in keys else -1 for key in asked]
    assert catalogue.places(np.array(asked, np.int64)).tolist() == expected
    assert catalogue.positions(np.array(asked, np.int64)).tolist() == sorted({p for p in expected if p >= 0})


def test_near_leaves_out_and_knows_no_direction_of_a_zero() -> None:
    vectors = np.array([[2, 0], [0, 0], [1, 1], [-3, 0], [5, 0]], np.float32)
    catalogue = Catalogue(np.arange(10, 15), vectors)
    found, scores = catalogue.near(0, 9, np.array([10, 99]))
    assert catalogue.keys[found].tolist() == [14, 12, 11, 13]
    assert scores == pytest.approx([1.0, 0.5**0.5, 0.0, -1.0])
    assert catalogue.near(1, 2, np.array([11]))[1].tolist() == [0.0, 0.0]
    assert catalogue.near(0, 9, np.arange(10, 15))[0].tolist() == []
    assert catalogue.vectors.tolist() == vectors.tolist()


def test_an_empty_catalogue_finds_nothing() -> None:
    empty = Catalogue(np.zeros(0, np.int64), np.zeros((0, 3), np.float32), [])
    some = np.array([1, 2])
    assert empty.search(np.ones(3, np.float32), 5, some, some).tolist() == []
    assert empty.places(some).tolist() == [-1, -1]
    assert empty.positions(some).tolist() == []
    assert (len(empty), empty.has_texts, list(empty.wire)) == (0, True, [])


def test_the_nearest_to_a_vector_of_large_numbers_are_those_of_its_direction() -> None:
    rng = np.random.default_rng(3)
    catalogue = Catalogue(np.arange(50), rng.normal(size=(50, 4)).astype(np.float32))
    query = rng.normal(size=4).astype(np.float32)
    large = np.ldexp(query, 126)
    assert np.isfinite(large).all()
    with np.errstate(over="ignore", invalid="ignore"):
        assert not np.isfinite(catalogue.vectors @ large).all()
    assert catalogue.search(large, 50).tolist() == catalogue.search(query, 50).tolist()
