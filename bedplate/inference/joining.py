"""Joining the tensors of several requests into one call of a model, and giving each request its own outputs back.

What a model takes is of requests [R, ...], of items [N, ...] or says the request of each item [N]; see
`features.encoding`. Joined, the items stand one after another, and requests whose tensors are equal byte for byte share
one row, such as those of one user at one time: their side is computed once. A padded length becomes the longest one's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import numpy as np

from bedplate.features.encoding import OF_ITEM, TensorSpec
from bedplate.types import Array, Int64s

ITEMS, REQUESTS = "items", "requests"
"""The names of the sizes N and R in the signature of a model."""

_PADDED = ("sequence_ids.", "sequence_numbers.", "bag_ids.")
"""Tensors of the encoder that 0 pads: their second size may differ from request to request."""


@final
class Part(NamedTuple):
    """Where a request's rows lie: of the items from `begin` to `end`, and those of its requests."""

    begin: int
    end: int
    requests: Int64s


@final
class Joiner:
    """How the tensors of one model are joined.

    Args:
        inputs: what the model takes; the first size of each is free and named.
        outputs: what it gives.

    Attributes:
        reason: why requests can't be joined; empty: they can.

    >>> spec = TensorSpec("x", "float32", ("rows", 2)), TensorSpec("y", "float32", ("rows",))
    >>> joiner = Joiner([spec[0]], [spec[1]])
    >>> joined, parts = joiner.join([{"x": np.ones((1, 2), np.float32)}, {"x": np.zeros((3, 2), np.float32)}])
    >>> joined["x"].shape, [y.shape for y in joiner.part({"y": joined["x"][:, 0]}, parts[1]).values()]
    ((4, 2), [(3,)])
    """

    __slots__ = ("_inputs", "_items", "_outputs", "_requests", "_shares", "reason")

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self._inputs = tuple(inputs)
        of_item = next((t for t in inputs if t.name == OF_ITEM), None)
        self._items: int | str = of_item.shape[0] if of_item is not None else ""
        others = {_first(t) for t in (*inputs, *outputs)} - {self._items}
        self._requests = next(iter(others), "")
        self._outputs = {t.name: _first(t) == self._requests for t in outputs}
        self._shares = of_item is not None or self._requests == REQUESTS
        self.reason = self._unfit(others)

    def _unfit(self, others: set[int | str]) -> str:
        if not self._inputs:
            return "the model takes no tensor"
        if len(others) > 1 or not all(isinstance(size, str) for size in others):
            shown = ", ".join(sorted(str(size) for size in others))
            return f"its tensors begin with different sizes: {shown}"
        for tensor in self._inputs:
            if any(isinstance(size, str) for size in tensor.shape[1:]) and not _is_padded(tensor):
                return f"'{tensor.name}' has a free size beside the first"
        return ""

    def fits(self, tensors: Mapping[str, Array]) -> bool:
        """Whether a request may be joined with others: its items are of its own requests.

        An index beyond them would reach another request's row, and must fail in a call of its own.
        """
        sizes = self._sizes(tensors)
        if sizes is None:
            return False
        of_item = tensors.get(OF_ITEM)
        if of_item is None or not len(of_item):
            return True
        return int(of_item.min()) >= 0 and int(of_item.max()) < sizes[0]

    def join(
        self, requests: Sequence[Mapping[str, Array]], *, share: bool = True
    ) -> tuple[dict[str, Array], list[Part]]:
        """The tensors of one call for all requests, and where each one's rows are.

        Args:
            requests: the tensors of each, which `fits` has let through.
            share: equal requests have one row.
        """
        parts: list[Part] = []
        rows: dict[tuple[bytes, ...] | int, int] = {}
        taken: list[tuple[int, int]] = []  # of the rows: which request of the list, which row of it
        begin = count = 0
        of_requests = [t.name for t in self._inputs if _first(t) == self._requests]
        for i, tensors in enumerate(requests):
            size, items = self._sizes(tensors) or (0, 0)
            places: list[int] = []
            for row in range(size):
                key = self._key(tensors, of_requests, row) if share and self._shares else count
                if key not in rows:
                    rows[key] = len(taken)
                    taken.append((i, row))
                places.append(rows[key])
                count += 1
            parts.append(Part(begin, begin + items, np.array(places, np.int64)))
            begin += items
        joined: dict[str, Array] = {}
        for tensor in self._inputs:
            arrays = [tensors[tensor.name] for tensors in requests]
            if tensor.name == OF_ITEM:
                joined[OF_ITEM] = np.concatenate([p.requests[a] for p, a in zip(parts, arrays, strict=True)])
                continue
            arrays = _padded(arrays) if _is_padded(tensor) else arrays
            if _first(tensor) == self._requests and len(taken) < count:
                joined[tensor.name] = np.stack([arrays[i][row] for i, row in taken])
            else:
                joined[tensor.name] = np.concatenate(arrays)
        return joined, parts

    def split(self, tensors: Mapping[str, Array]) -> list[dict[str, Array]]:
        """The tensors of each request of a call, one request each; a call that has no requests of its own is one.

        A request without items is left out.
        """
        of_item, (size, _) = tensors.get(OF_ITEM), self._sizes(tensors) or (0, 0)
        if of_item is None and self._requests != REQUESTS:
            return [dict(tensors)]
        found: list[dict[str, Array]] = []
        for request in range(size):
            rows = np.zeros(0, np.int64) if of_item is None else np.flatnonzero(of_item == request)
            if of_item is not None and not len(rows):
                continue
            one = {OF_ITEM: np.zeros(len(rows), np.int64)} if of_item is not None else {}
            for tensor in self._inputs:
                is_request = _first(tensor) == self._requests
                array = tensors[tensor.name]
                one.setdefault(tensor.name, array[request : request + 1] if is_request else array[rows])
            found.append(one)
        return found

    def part(self, outputs: Mapping[str, Array], part: Part) -> dict[str, Array]:
        """The outputs of one request, copied out of those of the call."""
        return {
            name: array[part.requests] if self._outputs[name] else array[part.begin : part.end].copy()
            for name, array in outputs.items()
        }

    def _sizes(self, tensors: Mapping[str, Array]) -> tuple[int, int] | None:
        """How many requests and items there are; None: the tensors don't agree, or one is missing."""
        found: dict[int | str, int] = {}
        lengths: dict[str, int] = {}
        for tensor in self._inputs:
            array = tensors.get(tensor.name)
            if array is None or array.dtype != tensor.dtype or array.ndim != len(tensor.shape):
                return None
            if found.setdefault(_first(tensor), len(array)) != len(array):
                return None
            for got, size in zip(array.shape[1:], tensor.shape[1:], strict=True):
                if got != (lengths.setdefault(size, got) if isinstance(size, str) else size):
                    return None
        # Without requests of their own, items say how many rows there are.
        return found.get(self._requests, 1 if OF_ITEM in tensors else 0), found.get(self._items, 0)

    def _key(self, tensors: Mapping[str, Array], names: Sequence[str], row: int) -> tuple[bytes, ...]:
        return tuple(tensors[name][row].tobytes() for name in names)


def _first(tensor: TensorSpec) -> int | str:
    return tensor.shape[0] if tensor.shape else 1


def _is_padded(tensor: TensorSpec) -> bool:
    return tensor.name.startswith(_PADDED) and not any(isinstance(size, str) for size in tensor.shape[2:])


def _padded(arrays: Sequence[Array]) -> list[Array]:
    """Of one length along the second axis, zeros at the end."""
    longest = max(a.shape[1] for a in arrays)
    return [_extended(a, longest) for a in arrays]


def _extended(array: Array, length: int) -> Array:
    if array.shape[1] == length:
        return array
    wide = np.zeros((len(array), length, *array.shape[2:]), array.dtype)
    wide[:, : array.shape[1]] = array
    return wide
