"""All items of a catalogue ranked by a feature, and ranked again in the background when that was long ago."""

from __future__ import annotations

import logging
import threading
import time
from time import monotonic
from typing import final

import numpy as np

from bedplate.batch import Dense, Ids
from bedplate.clock import Clock
from bedplate.errors import StoreError
from bedplate.features.assemble import Candidates, Join
from bedplate.features.graph import FeatureGraph
from bedplate.features.model import Scorers
from bedplate.features.reader import Reader
from bedplate.types import Float64s, Int64s

log = logging.getLogger("bedplate.serving")

_ROWS = 2_000
"""Items that are read at once."""
_PAUSE_SECONDS = 0.005
"""Between two reads in the background, so that requests come first."""


@final
class Ranking:
    """Items by the values of a feature, the largest first; those without a value are not in it.

    Args:
        feature: its name.
        keys: [M] int64, the items.
        graph: the project's features.
        item: the items' entity.
        reader: the online store.
        scorers: the models behind features.
        seconds: how old the ranking may be.
        clock: gives the time as of which the values are.
    """

    __slots__ = (
        "_clock",
        "_failed",
        "_item",
        "_join",
        "_keys",
        "_lock",
        "_order",
        "_reader",
        "_seconds",
        "_since",
        "feature",
    )

    def __init__(
        self,
        feature: str,
        keys: Int64s,
        graph: FeatureGraph,
        item: str,
        reader: Reader,
        scorers: Scorers,
        seconds: float,
        clock: Clock,
    ) -> None:
        self.feature, self._keys, self._item = feature, keys, item
        self._join = Join(graph.select([feature]), item, scorers)
        self._reader, self._seconds, self._clock = reader, seconds, clock
        self._lock = threading.Lock()
        self._order: Int64s = np.zeros(0, np.int64)
        self._since: float | None = None
        self._failed = False

    @property
    def age(self) -> float | None:
        """The seconds since the ranking was made, where it should be younger and can't be made again; else None."""
        return monotonic() - self._since if self._failed and self._since is not None else None

    def items(self) -> Int64s:
        """The keys, the most popular first, as ranked last; begins to rank them again where that is too long ago.

        Raises:
            StoreError: they could never be ranked.
        """
        if self._since is None:
            self.refresh()
        elif monotonic() - self._since > self._seconds and self._lock.acquire(blocking=False):
            threading.Thread(target=self._again, name="popular", daemon=True).start()
        return self._order

    def refresh(self, pause: float = 0.0) -> None:
        """Ranks the items as of now.

        Raises:
            StoreError: the store can't be read.
        """
        values = np.full(len(self._keys), np.nan)
        now = self._clock()
        for first in range(0, len(self._keys), _ROWS):
            values[first : first + _ROWS] = self._values(self._keys[first : first + _ROWS], now)
            if pause:
                time.sleep(pause)
        there = np.flatnonzero(~np.isnan(values))
        self._order = self._keys[there[np.argsort(-values[there], kind="stable")]]
        self._since, self._failed = monotonic(), False

    def _again(self) -> None:
        try:
            self.refresh(_PAUSE_SECONDS)
        except Exception as error:  # noqa: BLE001  (the ranking of before is kept, and answers say how old it is)
            if not self._failed:
                log.warning("the items can't be ranked by '%s' now: %s", self.feature, error)
            self._failed = True
            time.sleep(min(self._seconds, 1.0))  # before the next request may try
        finally:
            self._lock.release()

    def _values(self, keys: Int64s, now: int) -> Float64s:
        rows = Candidates({}, self._item, keys, np.array([0, len(keys)]), np.array([now]), np.zeros(1, np.int64))
        column = self._join.batch(self._reader, rows).item[self.feature]
        if not isinstance(column, Dense | Ids):
            raise StoreError(f"'{self.feature}' is not a number")
        values = column.values.astype(np.float64)
        return values if column.present is None else np.where(column.present, values, np.nan)
