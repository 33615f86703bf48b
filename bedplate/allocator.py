"""The memory that the C library keeps of what was freed."""

from __future__ import annotations

import ctypes
from typing import Any

_trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Returns memory that is not needed any more to the system: the C library keeps it for what comes next.

    Takes milliseconds for each 100 MB; other threads go on meanwhile, unless they allocate. Does nothing where the C
    library has no such call.
    """
    if _trim is not None:
        _trim(0)
