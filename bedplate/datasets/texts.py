"""The texts behind the ids of a spine's requests and keys, read when they are first asked for: training needs none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import final

import numpy as np
import polars as pl

from bedplate.batch import ManyTexts
from bedplate.canonical import string_ids
from bedplate.types import Int64s


@final
class ReadTexts(ManyTexts):
    """Texts that are read at the first question, and then held with 8 bytes each beside their own.

    Args:
        read: gives the texts; one may come several times.

    >>> texts = ReadTexts(lambda: pl.Series(["mug", "cup", "mug"]))
    >>> len(texts), [texts[i] for i in string_ids(["cup"])]
    (2, ['cup'])
    """

    __slots__ = ("_known", "_read", "_recent")

    def __init__(self, read: Callable[[], pl.Series]) -> None:
        self._read = read
        self._known: tuple[Int64s, pl.Series] | None = None
        self._recent: dict[int, str] = {}

    def _all(self) -> tuple[Int64s, pl.Series]:
        """The ids in ascending order, and the text of each."""
        if self._known is None:
            texts = self._read().cast(pl.String).unique()
            ids = np.array(string_ids(texts.to_list()), np.int64)
            order = np.argsort(ids)
            self._known = ids[order], texts[order]
        return self._known

    def load(self, ids: Sequence[int]) -> None:
        """Finds the texts of these ids at once; those of the ids before are given up."""
        known, texts = self._all()
        wanted = np.unique(np.array(ids, np.int64))
        at = np.searchsorted(known, wanted)
        at[at == len(known)] = 0
        there = known[at] == wanted if len(known) else np.zeros(len(wanted), np.bool_)
        self._recent = dict(zip(wanted[there].tolist(), texts[at[there]].to_list(), strict=True))

    def __getitem__(self, key: int) -> str:
        """The text of an id."""
        recent = self._recent
        if key not in recent:
            self.load([key])
            recent = self._recent
        return recent[key]

    def __iter__(self) -> Iterator[int]:
        """The ids."""
        return iter(self._all()[0].tolist())

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self._all()[0])
