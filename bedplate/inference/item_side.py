"""The candidates' side of a ranking model, computed once for equal rows of features and kept for later requests.

Its key is the whole of an encoded row: what is kept is right for as long as anybody asks for it, whatever happens to
the store, and a row is computed again as soon as a feature of it has another value. Rows are computed in blocks of one
size, so that a row's numbers are the same bits whichever others it is computed with.
"""

from __future__ import annotations

import importlib
import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from bedplate.errors import ArtifactError, RequestError
from bedplate.features import artifact as files
from bedplate.features.encoding import OF_ITEM, TensorSpec
from bedplate.inference.artifact import Artifact
from bedplate.inference.joining import ITEMS
from bedplate.inference.model import Model
from bedplate.inference.row_cache import RowCache, as_words
from bedplate.runtimes.base import Opening, Runtime
from bedplate.runtimes.graph_sides import ELEMENTS
from bedplate.types import Array

MOST_BYTES = 64 << 20
"""What the kept rows of a model may take, unless it is said."""
LEAST_GAIN = 0.15
"""Rows are kept where a call whose rows are all known saves at least this share of its time."""

_BLOCK = 32
_WINDOW, _LEAST_AWAY, _MOST_AWAY = 64, 32, 2048
"""Calls over which known rows are counted; calls that are made whole where they were fewer than a quarter, and where
they have been all the time."""
_REPEATS = 15
_ALONE = 16
"""Golden rows that are computed beside other rows, for proof."""


@final
class ItemSide:
    """A ranking model whose candidates' side is kept. Any thread may run it.

    Args:
        first: gives the candidates' side of rows of features.
        rest: takes that in place of the features.
        whole: the model that the two are.
        most_bytes: what the kept rows may take.

    Attributes:
        known: rows that were asked for and known.
        computed: rows that were computed.
    """

    __slots__ = (
        "_away", "_between", "_cache", "_calls", "_features", "_first", "_kept", "_lock", "_rest", "_rest_inputs",
        "_rooms", "_rows_asked", "_rows_known", "_whole", "_whole_calls", "computed", "known",
    )  # fmt: skip

    def __init__(self, first: Runtime, rest: Runtime, whole: Model, most_bytes: int = MOST_BYTES) -> None:
        self._first, self._rest, self._whole = first, rest, whole
        self._features, self._between = list(first.inputs), list(first.outputs)
        self._rest_inputs = [name for name in rest.inputs if name not in first.outputs]
        row, key = (sum(_bytes(spec) for spec in specs.values()) for specs in (first.outputs, first.inputs))
        self._cache = RowCache(key, most_bytes // (row + key + 32))
        # Pages of it are taken when rows come.
        self._kept: list[Array] = [np.empty((self._cache.size, *_sizes(s)), s.dtype) for s in first.outputs.values()]
        self._calls = self._rows_asked = self._rows_known = self._whole_calls = 0
        self._away = _LEAST_AWAY
        self._lock, self._rooms = threading.Lock(), threading.local()
        self.known = self.computed = 0

    def run(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """As `Runtime.run` of the whole model.

        Raises:
            RequestError: as that.
        """
        with self._lock:
            if self._whole_calls:
                self._whole_calls -= 1
                between = None
            else:
                between = self._rows(tensors)
        if between is None:
            return self._whole.run(tensors, outputs)
        given = {name: tensors[name] for name in self._rest_inputs}
        return self._rest.run(given | dict(zip(self._between, between, strict=True)), outputs)

    def _rows(self, tensors: Mapping[str, Array]) -> list[Array]:
        """The candidates' side of the rows of a request, in memory that the thread's next request takes."""
        rows = as_words([tensors[name] for name in self._features])
        places = self._cache.places(rows)
        new = np.flatnonzero(places < 0)
        self._count(len(rows), len(new))
        found = self._room(len(rows))
        for kept, values in zip(self._kept, found, strict=True):
            kept.take(places, axis=0, out=values, mode="clip")
        if len(new):
            self._compute(tensors, new, found)
            made, words = [values[new] for values in found], rows[new]  # no memory may be missing once rows are filed
            at = self._cache.add(words)
            for kept, values in zip(self._kept, made, strict=True):
                kept[at] = values  # of rows of one place the last, as in the cache
        return found

    def _room(self, rows: int) -> list[Array]:
        """Arrays for so many rows. New ones for each request would be given back and faulted in each time."""
        arrays: list[Array] | None = getattr(self._rooms, "arrays", None)
        if arrays is None or len(arrays[0]) < rows:
            arrays = self._rooms.arrays = [np.empty((rows, *kept.shape[1:]), kept.dtype) for kept in self._kept]
        return [array[:rows] for array in arrays]

    def _compute(self, tensors: Mapping[str, Array], rows: Any, found: list[Array]) -> None:
        """Fills in the candidates' side of some rows, in blocks of one size, the last one filled up."""
        for start in range(0, len(rows), _BLOCK):
            some = rows[np.minimum(np.arange(start, start + _BLOCK), len(rows) - 1)]
            made = self._first.run({name: tensors[name][some] for name in self._features}, self._between)
            for values, computed in zip(found, made, strict=True):
                values[some] = computed

    def _count(self, rows: int, new: int) -> None:
        self.known += rows - new
        self.computed += new
        self._calls += 1
        self._rows_asked += rows
        self._rows_known += rows - new
        if self._calls == _WINDOW:
            is_rare = 4 * self._rows_known < self._rows_asked
            self._whole_calls = self._away if is_rare else 0
            self._away = min(2 * self._away, _MOST_AWAY) if is_rare else _LEAST_AWAY
            self._calls = self._rows_asked = self._rows_known = 0


def open_item_side(artifact: Artifact, threads: int = 1, most_bytes: int = MOST_BYTES) -> ItemSide | None:
    """A model whose candidates' side is kept, proven on its golden requests; None: that can't be, or doesn't pay.

    It can't be where nothing that costs time is of the candidates alone, where rows of features have no fixed
    size, and where a row's numbers depend on the rows beside it, as in an int8 variant, or no two candidates of the
    golden requests differ, which would show that.

    Args:
        artifact: the model.
        threads: of a call.
        most_bytes: what the kept rows may take.

    Raises:
        ArtifactError: the model's file can't be read.
    """
    if artifact.folder is None or artifact.model.batcher is not None or not most_bytes:
        return None
    spec = files.RuntimeSpec.load(artifact.folder)
    if spec.runtime != "onnx" or spec.absolute != files.GOLDEN_ABSOLUTE:
        return None
    inputs = artifact.model.inputs
    tensors = [t for t in artifact.encoder.layout.tensors() if t.name in inputs]
    chosen = [t for t in tensors if t.shape[0] == ITEMS and t.name != OF_ITEM]
    if not chosen or any(isinstance(d, str) for t in chosen for d in t.shape[1:]):
        return None
    open_sides = importlib.import_module("bedplate.runtimes.onnx").open_sides
    opening = Opening(artifact.folder / spec.file, artifact.model.place, threads, spec.options)
    parts: tuple[Runtime, Runtime] | None = open_sides(opening, [t.name for t in chosen])
    if parts is None or not all(_is_rows(spec) for spec in (*parts[0].inputs.values(), *parts[0].outputs.values())):
        return None
    first, rest = parts
    side, golden = ItemSide(first, rest, artifact.model, most_bytes), artifact.golden()
    return side if golden and _is_proven(side, first, golden) and _pays(side, artifact.model, golden) else None


def _is_proven(side: ItemSide, first: Runtime, golden: Sequence[files.Golden]) -> bool:
    """Whether the golden scores are reproduced, of rows that are computed and then of rows that are known."""
    try:
        if not _stand_alone(first, golden):
            return False
        for one in golden:
            names = list(one.outputs)
            for _ in range(2):
                found = dict(zip(names, side.run(one.inputs, names), strict=True))
                files.compare(one.outputs, found, "golden requests")
    except (ArtifactError, RequestError):
        return False
    return True


def _stand_alone(first: Runtime, golden: Sequence[files.Golden]) -> bool:
    """Whether each row gives one row, and the same bits whichever rows are beside it.

    Often a golden request has a single candidate, so that rows of all of them are put together: what depends on the
    rows beside it is seen only where these differ.

    Raises:
        RequestError: the first part can't run.
    """
    rows = {name: np.concatenate([one.inputs[name] for one in golden]) for name in first.inputs}
    words, names = as_words(list(rows.values())), list(first.outputs)
    if not len(words):
        return False
    some = np.arange(_BLOCK) % len(words)
    together = first.run({name: array[some] for name, array in rows.items()}, names)
    if (words[some] == words[0]).all() or any(len(array) != _BLOCK for array in together):
        return False
    for at in range(min(len(words), _ALONE)):
        alone = first.run({name: array[np.full(_BLOCK, at)] for name, array in rows.items()}, names)
        if any(a[at].tobytes() != b[at].tobytes() for a, b in zip(alone, together, strict=True)):
            return False
    return True


def _pays(side: ItemSide, model: Model, golden: Sequence[files.Golden]) -> bool:
    tensors = max((one.inputs for one in golden), key=lambda inputs: sum(a.nbytes for a in inputs.values()))
    names, taken = list(model.outputs), dict[str, float]()
    for _ in range(_REPEATS):
        for name, run in (("whole", model.run), ("known", side.run)):
            begin = time.perf_counter()
            run(tensors, names)
            taken[name] = min(taken.get(name, np.inf), time.perf_counter() - begin)
    return taken["known"] <= (1 - LEAST_GAIN) * taken["whole"]


def _bytes(spec: TensorSpec) -> int:
    """Of a row."""
    return math.prod(_sizes(spec)) * np.dtype(spec.dtype).itemsize


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    """Of a row."""
    return tuple([d for d in spec.shape[1:] if isinstance(d, int)])


def _is_rows(spec: TensorSpec) -> bool:
    """Whether a tensor has a row for each candidate, of a fixed size."""
    return (
        spec.dtype in ELEMENTS
        and len(spec.shape) > 0
        and isinstance(spec.shape[0], str)
        and all(isinstance(d, int) for d in spec.shape[1:])
    )
