"""What the runtimes of trees share: one matrix in, a row a candidate, and scores out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bedplate.errors import ArtifactError, DataError
from bedplate.features.artifact import MATRIX, SCORE
from bedplate.features.encoding import TensorSpec
from bedplate.runtimes.base import Opening, Runtime, check_tensors
from bedplate.types import Array


class TreeRuntime(Runtime, ABC):
    """Trees in their own library.

    Args:
        columns: of the matrix.
        width: numbers of a row's score; 1: the score is [rows], else [rows, width].
        dtype: of the score.
        opening: what was opened.
    """

    def __init__(self, columns: int, width: int, dtype: str, opening: Opening) -> None:
        self._place = opening.place
        self._inputs = {MATRIX: TensorSpec(MATRIX, "float32", ("rows", columns))}
        shape = () if width == 1 else (width,)
        self._outputs = {SCORE: TensorSpec(SCORE, dtype, ("rows", *shape))}
        self._nothing: Array = np.zeros((0, *shape), dtype)

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """The matrix."""
        return self._inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """The score."""
        return self._outputs

    def run(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """The outputs of these names; see `Runtime.run`.

        Raises:
            RequestError: the matrix is of another form.
            DataError: the library fails.
        """
        check_tensors(self._inputs, tensors, self._place)
        matrix = tensors[MATRIX]
        if not len(matrix):
            return [self._nothing for _ in outputs]  # the libraries refuse no rows
        try:
            score = self.score(matrix)
        except Exception as error:  # its form was checked: this is no mistake of the client's
            message = f"the trees fail: {type(error).__name__}: {error}"
            raise DataError(message, where=self._place, told="the trees fail; the server's log says more") from error
        return [score for _ in outputs]

    @abstractmethod
    def score(self, matrix: Array) -> Array:
        """The scores of at least one row."""


def read(path: Path) -> bytes:
    """The content of a model's file.

    Raises:
        ArtifactError: it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"the model can't be read: {error.strerror}", where=str(path)) from error


def option(opening: Opening, name: str, default: Any, known: Sequence[str]) -> Any:
    """An option of the runtime.

    Raises:
        ArtifactError: there is one that is not known, or it is of another type than its default.
    """
    unknown = sorted(set(opening.options) - set(known))
    if unknown:
        raise ArtifactError(f"unknown option '{unknown[0]}', expected {', '.join(known)}", where=opening.place)
    value = opening.options.get(name, default)
    if type(value) is not type(default):
        raise ArtifactError(
            f"got {name} = {value!r}, expected a {type(default).__name__}", where=opening.place, hint="in runtime.json"
        )
    return value
