"""Features of numbers as one matrix, without an encoding: what a caller gets who wants the values and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from bedplate.batch import Columns
from bedplate.features.block import Takes, numbers_of
from bedplate.types import Bools, Float32s


@final
class Matrix:
    """Puts features of given names into one matrix. What is read in the same way again is put there by the same plan.

    Args:
        names: of the features, in the order of the matrix's columns.

    >>> from bedplate.batch import Dense
    >>> columns = Columns.of({"a": Dense(np.array([1.0, 2.0])), "b": Dense(np.array([3, 4]), np.array([True, False]))})
    >>> Matrix(["b", "a"]).of(columns)
    (array([[3., 1.],
           [0., 2.]], dtype=float32), array([[ True,  True],
           [False,  True]]))
    """

    __slots__ = ("_count", "_takes")

    def __init__(self, names: Sequence[str]) -> None:
        self._count, self._takes = len(names), Takes(tuple(names), numbers_of)

    def of(self, columns: Columns) -> tuple[Float32s, Bools]:
        """The values [n, names] float32, 0 where there is none, and which are present [n, names]; both C-contiguous.

        Raises:
            DataError: a feature holds no numbers.
        """
        n = len(columns.parts[0]) if columns.parts else 0
        wide = np.empty((self._count, n), np.float32)
        present = self._takes.fill(columns, wide)
        if present is None:
            return np.ascontiguousarray(wide.T), np.ones((n, self._count), np.bool_)
        if not present.all():
            np.copyto(wide, 0.0, where=~present)
        return np.ascontiguousarray(wide.T), np.ascontiguousarray(present.T)
