"""What is remembered of texts that others send: bounded by its bytes, not by how many texts there are."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import TypeVar, final

_V = TypeVar("_V")

_ENTRY_BYTES = 104
"""Of a dict, for each of its entries, where it has just grown."""
_TEXT_BYTES = 73
"""Of a text, beside its letters."""
_WIDE_LETTER_BYTES = 8
"""Of a letter, where some are not ASCII: four, and as many where the text is kept as UTF-8 too."""


@final
class Remembered(dict[str, _V]):
    """Values of texts, computed where they are not known: `remembered[text]`. For any number of threads.

    Where they would take more memory than allowed, the oldest are forgotten. A text that takes more than a single one
    may is computed each time, so that long ones cannot displace many.

    Args:
        compute: gives the value of a text.
        size_of: the bytes that a value takes.
        most_bytes: that texts and values take together, about.
        most_of_one: bytes that one text and its value may take.

    Attributes:
        held_bytes: what is taken, as estimated.

    >>> lengths = Remembered(len, lambda length: 28, most_bytes=1000, most_of_one=500)
    >>> lengths["four"], "four" in lengths, lengths["long" * 1000], len(lengths)
    (4, True, 4000, 1)
    """

    __slots__ = ("__wrapped__", "_lock", "_most_bytes", "_most_of_one", "_size_of", "held_bytes")

    def __init__(
        self, compute: Callable[[str], _V], size_of: Callable[[_V], int], *, most_bytes: int, most_of_one: int
    ) -> None:
        super().__init__()
        self.__wrapped__ = compute  # by this name an identity finds what values depend on
        self._size_of = size_of
        self._most_bytes, self._most_of_one = most_bytes, most_of_one
        self._lock = threading.Lock()
        self.held_bytes = 0

    def __missing__(self, text: str) -> _V:
        """Computes a value; a lookup of what is known costs what one in a dict does."""
        value = self.__wrapped__(text)
        size = self._bytes_of(text, value)
        if size <= self._most_of_one:
            with self._lock:
                if text not in self:
                    self[text] = value
                    self.held_bytes += size
                if self.held_bytes > self._most_bytes:
                    self._forget()
        return value

    def _bytes_of(self, text: str, value: _V) -> int:
        letter = 1 if text.isascii() else _WIDE_LETTER_BYTES
        return _TEXT_BYTES + letter * len(text) + self._size_of(value) + _ENTRY_BYTES

    def _forget(self) -> None:
        """Drops many at once: a dict skips what was dropped at its front each time it is asked for its first."""
        for text in list(itertools.islice(self, 1 + len(self) // 16)):
            self.held_bytes -= self._bytes_of(text, self.pop(text))
