"""Writing an array file piece by piece, so that no second copy of the array is ever in memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np

from bedplate.offline import kernels
from bedplate.types import Array

PIECE = 1 << 16
"""Rows of a piece: what is read and written for it stays in the cache of a core."""
_WRITE = 2
"""The flag of `sync_file_range` that says to begin, and not to wait."""

_VECTORS = 64
"""Pieces of bytes that are given to one write."""

Make: TypeAlias = Callable[[int, int], Array]
"""Makes the rows of an array from the first number to before the second."""

_system: Any = ctypes.CDLL(None)
_begin_flush: Any = getattr(_system, "sync_file_range", None)
if _begin_flush is not None:
    _begin_flush.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


@final
class ArrayWriter:
    """An array file that is being written; the disk begins to take each piece at once, so that a flush is short.

    Args:
        path: the file.
        dtype: of the values.
        shape: of the array.
    """

    __slots__ = ("_begin", "_descriptor", "_flushes", "_row")

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, head)  # type: ignore[arg-type]
            self._begin = file.tell()
        self._row = dtype.itemsize * int(np.prod(shape[1:]))
        self._descriptor = os.open(path, os.O_WRONLY)
        self._flushes = ThreadPoolExecutor(1)  # beginning to flush waits for a disk that has much to do

    def write(self, first: int, rows: Array) -> None:
        """Writes the rows from a number on; several threads may write at once."""
        left, at = np.ascontiguousarray(rows).data.cast("B"), self._begin + first * self._row
        begin, size = at, len(left)
        while len(left):  # one write may take less than it is given
            written = os.pwrite(self._descriptor, left, at)
            left, at = left[written:], at + written
        if _begin_flush is not None and size:
            self._flushes.submit(_begin_flush, self._descriptor, begin, size, _WRITE)

    def close(self) -> None:
        """Closes the file; what the disk does not have yet is flushed by whoever puts the file in place."""
        self._flushes.shutdown(wait=False, cancel_futures=True)
        os.close(self._descriptor)


def write_all(file: FileIO, parts: Sequence[bytes | memoryview]) -> None:
    """Writes some pieces of bytes to a file without a buffer, one after the other."""
    left = [memoryview(part) for part in parts if len(part)]
    while left:
        written = os.writev(file.fileno(), left[:_VECTORS])
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:  # one write may take less than it is given
            left[0] = left[0][written:]


def write_pieces(
    path: Path,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    bounds: Iterable[tuple[int, int]],
    make: Make,
    threads: int,
) -> None:
    """Writes an array file of pieces, some made at once.

    Args:
        path: the file.
        dtype: of the values.
        shape: of the array.
        bounds: the first row of each piece, and the row after its last.
        make: makes a piece.
        threads: how many threads make pieces.
    """
    writer = ArrayWriter(path, dtype, shape)

    def write(piece: tuple[int, int]) -> None:
        writer.write(piece[0], make(*piece))

    try:
        if threads == 1 or shape[0] <= PIECE:
            for piece in bounds:
                write(piece)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(write, bounds))
    finally:
        writer.close()


def gathered(values: Array, order: Array) -> Array:
    """A new array of values[order]."""
    result = np.empty((len(order), *values.shape[1:]), values.dtype)
    if values.ndim == 1:
        kernels.gather(values, order, result)
    elif values.shape[1] == 1:
        kernels.gather(values.reshape(-1), order, result.reshape(-1))
    else:
        np.take(values, order, axis=0, out=result, mode="clip")
    return result


def write_gathered(path: Path, values: Array, order: Array, threads: int) -> None:
    """Writes values[order]."""
    bounds = [(first, min(first + PIECE, len(order))) for first in range(0, len(order), PIECE)]
    shape = len(order), *values.shape[1:]
    write_pieces(path, values.dtype, shape, bounds, lambda a, b: gathered(values, order[a:b]), threads)
