"""Exact search over the catalogue's vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.errors import ArtifactError
from bedplate.serving.retrieval import Catalogue


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
