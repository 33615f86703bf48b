"""Array files that are mapped into memory, once each, and letting go of their pages.

An index in many parts has thousands of files. Python's `mmap` keeps a descriptor open for each, of which a process has
few; the system call needs it only while it maps.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, final
from weakref import WeakValueDictionary

import numpy as np

from bedplate.errors import StoreError
from bedplate.types import Array

_LOADING = Lock()
"""Held while the head of an array file is read: Python 3.11 at times fails where two threads parse at once."""

_open: WeakValueDictionary[tuple[int, int], Array] = WeakValueDictionary()
"""The arrays that are mapped, by device and inode: their files never change, and a mapped inode stays taken."""

_system: Any = ctypes.CDLL(None, use_errno=True)
_system.mmap.restype = ctypes.c_void_p
_system.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_system.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_system.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_unmap, _FAILED = _system.munmap, ctypes.c_void_p(-1).value


@final
class _Pages:
    """A file's pages, mapped for reading as long as this object, or an array of it, lives.

    Args:
        file: the file.
        at: where the array begins.
        shape: of the array.
        dtype: of the array.
    """

    __slots__ = ("__array_interface__", "_address", "_size")

    def __init__(self, file: BinaryIO, at: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._size, self._address = os.fstat(file.fileno()).st_size, None
        address = _system.mmap(None, self._size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        if address == _FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._address = address
        self.__array_interface__ = {"data": (address + at, True), "shape": shape, "typestr": dtype.str, "version": 3}

    def __del__(self, unmap: Any = _unmap) -> None:
        """Unmaps them; when the interpreter ends, the module's own names may be gone before its arrays."""
        if self._address is not None:
            unmap(self._address, self._size)

    def release(self) -> None:
        """Lets go of them: they stay in the system's cache, and come back when they are read."""
        _system.madvise(self._address, self._size, mmap.MADV_DONTNEED)


def open_array(path: Path) -> Array:
    """An array file, memory-mapped and read-only; a file that is open already is not mapped again."""
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            identity = state.st_dev, state.st_ino
            array = _open.get(identity)
            if array is None:
                array = _map(file)
                if array.size:  # nothing of an empty one is mapped: its inode may soon be that of another file
                    _open[identity] = array
    except (OSError, ValueError) as error:
        raise StoreError(
            f"can't read a column file: {error}",
            where=str(path),
            hint="delete the folder of the timeline that it is in, and run: bedplate apply",
        ) from error
    return array


def _map(file: BinaryIO) -> Array:
    with _LOADING:
        version = np.lib.format.read_magic(file)
        read_head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read_head(file)
    at = file.tell()
    if is_fortran or os.fstat(file.fileno()).st_size < at + dtype.itemsize * int(np.prod(shape)):
        raise ValueError("it is not wholly there")
    array = np.asarray(_Pages(file, at, shape, dtype)) if 0 not in shape else np.empty(shape, dtype)
    array.flags.writeable = False
    return array


def release(arrays: Iterable[Array]) -> None:
    """Lets go of the pages of mapped arrays: they stay in the system's cache, and come back when they are read."""
    for array in arrays:
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, _Pages):
            base.release()
