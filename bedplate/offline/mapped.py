"""Array files that are mapped into memory, once each, and letting go of their pages."""

from __future__ import annotations

from collections.abc import Iterable
from mmap import MADV_DONTNEED, mmap
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from bedplate.errors import StoreError
from bedplate.types import Array

_LOADING = Lock()
"""Held while the head of an array file is read: Python 3.11 at times fails where two threads parse at once."""

_open: WeakValueDictionary[tuple[int, int], Array] = WeakValueDictionary()
"""The arrays that are open, by device and inode: their files never change."""


def open_array(path: Path) -> Array:
    """An array file, memory-mapped and read-only; a file that is open already is not mapped again."""
    try:
        state = path.stat()
        identity = state.st_dev, state.st_ino
        array = _open.get(identity)
        if array is None:
            with _LOADING:
                array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            _open[identity] = array
    except ValueError:  # an empty file can't be mapped
        array = np.load(path, allow_pickle=False)
        array.flags.writeable = False
    except OSError as error:
        raise StoreError(
            f"can't read a column file: {error}",
            where=str(path),
            hint="delete the folder of the timeline that it is in, and run: bedplate apply",
        ) from error
    return array


def release(arrays: Iterable[Array]) -> None:
    """Lets go of the pages of mapped arrays: they stay in the system's cache, and come back when they are read."""
    for array in arrays:
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap):
            base.madvise(MADV_DONTNEED)
