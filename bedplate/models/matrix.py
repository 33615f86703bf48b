"""The matrix that an estimator reads: the encoder's tensors side by side, a row a candidate, its columns named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import numpy as np

from bedplate.errors import DataError
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import OF_ITEM, Level, TensorSpec
from bedplate.types import Array, Float32s, Int64s

_EXACT = 1 << 24
"""Float32 holds each whole number up to this one."""


class MatrixColumn(NamedTuple):
    """A column: the feature's name (with `[i]`: of a vector; with `?`: what is present), and its number of categories.

    A category is a number: 0 null, 1 out of vocabulary, then the known keys in ascending order. A number has 0
    categories.
    """

    name: str
    categories: int = 0


class Piece(NamedTuple):
    """A tensor of the encoder as columns of the matrix; ids are counted from the first row of their vocabulary."""

    tensor: TensorSpec
    level: Level
    columns: tuple[MatrixColumn, ...]
    first_rows: Int64s | None


@final
class MatrixLayout:
    """Which columns the matrix of an encoder has.

    Args:
        encoder: fitted; without sequences and bags.

    Attributes:
        pieces: the tensors, in the order of their columns.
        columns: of the matrix.

    Raises:
        DataError: a vocabulary has more keys than float32 can tell apart.
    """

    __slots__ = ("columns", "pieces")

    def __init__(self, encoder: Encoder) -> None:
        vocabularies = encoder.vocabularies
        named = {f.feature: f.vocabulary for f in encoder.fields if f.vocabulary is not None}
        pieces: list[Piece] = []
        for tensor in encoder.layout.tensors():
            if tensor.name == OF_ITEM:
                continue
            features = encoder.columns_of(tensor.name)
            level: Level = "request" if tensor.name.startswith("request") else "item"
            if tensor.dtype != "int64":
                pieces.append(Piece(tensor, level, tuple(map(MatrixColumn, features)), None))
                continue
            used = [named[name] for name in features]
            sizes = [len(vocabularies[name]) for name in used]
            columns = tuple(MatrixColumn(name, size) for name, size in zip(features, sizes, strict=True))
            first = np.array([vocabularies.first_rows[name] for name in used], np.int64)
            pieces.append(Piece(tensor, level, columns, first))
        self.pieces = tuple(pieces)
        self.columns = tuple(c for piece in pieces for c in piece.columns)
        for column in self.columns:
            if column.categories > _EXACT:
                raise DataError(
                    f"it has {column.categories:,} categories, expected at most {_EXACT:,}: float32 has no more",
                    where=f"estimator: '{column.name}'",
                    hint="raise min_count of its encoding",
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    def matrix(self, tensors: Mapping[str, Array]) -> Float32s:
        """The matrix [N, columns] float32, C-contiguous, of a batch's tensors.

        >>> from bedplate.features.encoding import Field, Number
        >>> layout = MatrixLayout(Encoder([Field("a", "request", Number()), Field("b", "item", Number())], {}))
        >>> tensors = {"request_dense": np.array([[1, 1], [2, 1]]), "item_dense": np.array([[3, 1], [4, 1], [5, 0]])}
        >>> layout.matrix(tensors | {"request_of_item": np.array([0, 0, 1])}).tolist()
        [[1.0, 1.0, 3.0, 1.0], [1.0, 1.0, 4.0, 1.0], [2.0, 1.0, 5.0, 0.0]]
        """
        of_item = tensors.get(OF_ITEM)
        parts: list[Array] = []
        for piece in self.pieces:
            values = tensors[piece.tensor.name]
            if piece.first_rows is not None:
                values = values - piece.first_rows
            parts.append(values[of_item] if piece.level == "request" else values)
        return np.concatenate(parts, axis=1, dtype=np.float32, casting="unsafe")


def named(values: Sequence[float] | Array, columns: Sequence[MatrixColumn]) -> dict[str, float]:
    """The values of the columns by name, largest first.

    >>> named([1.0, 3.0], [MatrixColumn("a"), MatrixColumn("b")])
    {'b': 3.0, 'a': 1.0}
    """
    pairs = [(column.name, float(value)) for column, value in zip(columns, values, strict=True)]
    return dict(sorted(pairs, key=lambda pair: -pair[1]))
