"""Which requests have a label: those that are complete, and do not look into the next split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self, final

import numpy as np

from bedplate.datasets.labels import CompiledLabel
from bedplate.datasets.split import TimeSplit
from bedplate.offline.base import History
from bedplate.types import Int64s


@final
@dataclass(frozen=True, slots=True)
class Labelled:
    """The requests of each split that have a label, by position in order of time.

    Attributes:
        horizon: the label's, microseconds.
        apart: for each split the requests `[first, last)` whose label does not look into the next split.
        complete: the first request of which it is not known yet.
    """

    horizon: int
    apart: Mapping[str, tuple[int, int]]
    complete: int

    @classmethod
    def of(cls, compiled: CompiledLabel, split: TimeSplit, times: Int64s, history: History) -> Self:
        """Those that have a label, of requests at these times [R], ascending."""
        label = compiled.label
        complete = int(np.searchsorted(times, compiled.last_time(history), side="right"))
        return cls(label.horizon, split.ranges(times, label.complete_after), complete)

    def without(self, split: str, first: int) -> Self:
        """The same without the split's requests before `first`."""
        begins, last = self.apart[split]
        return replace(self, apart={**self.apart, split: (max(begins, min(first, last)), last)})

    def positions(self, split: str) -> tuple[int, int]:
        """The requests `[first, last)` of a split that have the label."""
        first, last = self.apart[split]
        return first, max(first, min(last, self.complete))

    def crossing(self, split: str, last: int) -> int:
        """Of how many of the split's requests before `last` it would look into the next split."""
        return max(0, last - self.apart[split][1])

    def censored(self, split: str, last: int) -> int:
        """Of how many of the split's requests before `last` it is not known yet, the others aside."""
        return min(last, self.apart[split][1]) - min(last, self.positions(split)[1])
