"""How similar the candidates of a request are to those that were taken: by their vectors, or by a feature."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from bedplate.batch import Column, Dense, Embedding, Ids
from bedplate.errors import DefinitionError
from bedplate.types import Bools, Float32s, Float64s, Int64s

Similarity: TypeAlias = Callable[[int], Float64s]
"""Of a candidate's position its similarity [n] to all."""


def cosine(vectors: Float32s) -> Similarity:
    """By vectors [n, d] of length 1, or 0 where there is none: then it is similar to nothing.

    >>> cosine(np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 0.0]], np.float32))(0).round(6).tolist()
    [1.0, 0.6, 0.0]
    """
    return lambda position: (vectors @ vectors[position]).astype(np.float64)


def same(codes: Int64s) -> Similarity:
    """By a number [n] for each value of a feature, -1 where there is none: then it is similar to nothing.

    >>> same(np.array([4, 7, 4, -1]))(0).tolist()
    [1.0, 0.0, 1.0, 0.0]
    """
    return lambda position: ((codes == codes[position]) & (codes >= 0)).astype(np.float64)


def similarity(column: Column) -> Similarity:
    """By a feature of n candidates.

    Raises:
        DefinitionError: it is a list.
    """
    if not isinstance(column, Embedding):
        return same(codes_of(column))
    return cosine(_unit(column.values, column.present))


def _unit(values: Float32s, present: Bools | None) -> Float32s:
    """Vectors [n, d] made 1 long; 0 where there is none, or one that has no direction: 0, or not finite."""
    vectors = values.astype(np.float64)  # the square of a large float32 is none
    has_direction = np.isfinite(vectors).all(1) & vectors.any(1)
    if present is not None:
        has_direction &= present
    vectors[~has_direction] = 0.0
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


def codes_of(column: Column) -> Int64s:
    """[n] a number from 0 for each different value of a feature; -1 where there is none.

    Raises:
        DefinitionError: it is a list or a vector.

    >>> codes_of(Dense(np.array([5.0, 2.0, 5.0, 0.0]), np.array([True, True, True, False]))).tolist()
    [1, 0, 1, -1]
    """
    if not isinstance(column, Ids | Dense):
        raise DefinitionError(f"got a {type(column).__name__}, expected one value of each candidate")
    there: Bools = np.ones(len(column), np.bool_) if column.present is None else column.present
    codes = np.full(len(column), -1, np.int64)
    codes[there] = np.unique(column.values[there], return_inverse=True)[1]
    return codes
