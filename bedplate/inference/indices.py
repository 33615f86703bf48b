"""Indices that clients send: into the embedding table and into the requests.

A graph takes -1 for the last row, as Python does, and so would score with the features of something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import numpy as np

from bedplate.errors import RequestError
from bedplate.features.encoding import OF_ITEM, Layout, TensorSpec
from bedplate.inference.joining import REQUESTS
from bedplate.types import Array


@final
class Indices:
    """The ranges of the tensors of an encoder that hold indices. Our own encoder keeps to them; clients may not.

    Args:
        layout: the encoder's.
        inputs: what the model takes, by name.

    >>> indices = Indices(Layout(rows=9, item_ids=1), {"item_ids": TensorSpec("item_ids", "int64", ("items", 1))})
    >>> indices.check({"item_ids": np.array([[8], [0]])})
    >>> indices.check({"item_ids": np.array([[8], [-1]])})
    Traceback (most recent call last):
    bedplate.errors.RequestError: input 'item_ids': got -1 in row 1, expected 0 to 8
    """

    __slots__ = ("_of_item", "_of_requests", "_rows", "_tensors")

    def __init__(self, layout: Layout, inputs: Mapping[str, TensorSpec]) -> None:
        tensors = [t for t in layout.tensors() if t.name in inputs and t.dtype == inputs[t.name].dtype]
        self._rows = layout.rows
        self._tensors = tuple(t.name for t in tensors if t.dtype == "int64" and t.name != OF_ITEM)
        self._of_item = any(t.name == OF_ITEM for t in tensors)
        self._of_requests = next((t.name for t in tensors if t.shape[0] == REQUESTS), None)

    def check(self, tensors: Mapping[str, Array]) -> None:
        """Checks the tensors of a request, as decoded: all are there, and of their dtypes.

        Raises:
            RequestError: an index is negative or too large; says which tensor and row.
        """
        for name in self._tensors:
            _check(name, tensors[name], self._rows)
        if self._of_item:
            most = 2**63 if self._of_requests is None else len(tensors[self._of_requests])
            _check(OF_ITEM, tensors[OF_ITEM], most)


def _check(name: str, array: Array, end: int) -> None:
    # Without its sign a negative number is larger than any index: one pass looks for both.
    unsigned = array.view(np.uint64)
    if not array.size or int(unsigned.max()) < end:
        return
    first = int((unsigned >= end).argmax())
    row, got = np.unravel_index(first, array.shape)[0], array.flat[first]
    expected = f"0 to {end - 1}" if end else "none, for there are no requests"
    raise RequestError(f"got {got} in row {row}, expected {expected}", where=f"input '{name}'")
