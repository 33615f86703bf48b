"""Splits by time: what a model learns from lies before what it is judged on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, final

import numpy as np

from bedplate.arguments import checks_arguments
from bedplate.datasets.checks import duration_of, time_of
from bedplate.errors import DefinitionError
from bedplate.types import EARLIEST_TIME, LATEST_TIME, Bools, Int64s, format_duration, format_time

SPLITS = ("train", "validation", "test")
"""The names of the splits, in order of time."""


@checks_arguments
@final
class TimeSplit:
    """Three splits by the time of the request, in microseconds.

    Training has the requests before `validation - gap`, validation those in `[validation, test - gap)`, test those from
    `test` on. A request within a gap belongs to no split. Each label has a gap of its own too, as long as it takes
    until it is complete: a request so near to the next split has no value of it, whatever `gap` is, so that no label of
    one split looks into the next. A slow label costs the requests of faster ones nothing.

    Args:
        validation: the first time of validation.
        test: the first time of test.
        gap: what is left out before each of the two, whatever the labels.

    Raises:
        DefinitionError: a time or duration that can't be read, or no time left for validation.

    >>> TimeSplit("2011-10-01", "2011-11-10", gap="7d").form()
    {'validation': '2011-10-01T00:00:00Z', 'test': '2011-11-10T00:00:00Z', 'gap': '7d'}
    """

    __slots__ = ("gap", "test", "validation")

    def __init__(
        self, validation: datetime | date | str | int, test: datetime | date | str | int, gap: str = "1d"
    ) -> None:
        self.validation = time_of(validation, "split: validation")
        self.test = time_of(test, "split: test")
        self.gap = duration_of(gap, "split: gap")
        if self.validation >= self.test - self.gap:
            raise DefinitionError(
                f"validation begins at {format_time(self.validation)} and must end {format_duration(self.gap)} before "
                f"{format_time(self.test)}: no time is left for it",
                where="split",
                hint="move test later, or validation earlier",
            )

    @property
    def validation_length(self) -> int:
        """Microseconds between the beginnings of validation and test."""
        return self.test - self.validation

    def at(self, end: int) -> TimeSplit:
        """The split itself, wherever the data ends; see `rolling.RollingSplit`."""
        return self

    def bounds(self, wait: int = 0) -> Mapping[str, tuple[int, int]]:
        """For each split its first time and the first time after it.

        Args:
            wait: how long after a request a label is complete, microseconds: the requests that have it.

        >>> TimeSplit(10**15, 2 * 10**15, gap="10us").bounds()["validation"]
        (1000000000000000, 1999999999999990)
        >>> TimeSplit(10**15, 2 * 10**15, gap="10us").bounds(wait=30)["validation"]
        (1000000000000000, 1999999999999970)
        """
        gap = max(self.gap, wait)
        return {
            "train": (EARLIEST_TIME, self.validation - gap),
            "validation": (self.validation, max(self.validation, self.test - gap)),
            "test": (self.test, LATEST_TIME),
        }

    def looks_ahead(self, times: Int64s, wait: int) -> Bools:
        """[n]: whether a label that is complete so long after a time would look into the next split.

        >>> split = TimeSplit(10**15 + 100, 10**15 + 200, gap="10us")
        >>> split.looks_ahead(10**15 + np.array([89, 90, 100, 180]), 10).tolist()
        [False, True, False, False]
        """
        return ((times < self.validation) & (times >= self.validation - wait)) | (
            (times < self.test) & (times >= self.test - wait)
        )

    def ranges(self, times: Int64s, wait: int = 0) -> Mapping[str, tuple[int, int]]:
        """For each split the positions `[first, last)` of its requests.

        Args:
            times: [R] int64, ascending.
            wait: as for `bounds`.

        >>> split = TimeSplit(10**15 + 100, 10**15 + 200, gap="10us")
        >>> split.ranges(10**15 + np.array([5, 95, 100, 189, 190, 200]))
        {'train': (0, 1), 'validation': (2, 4), 'test': (5, 6)}
        """
        return {
            name: (int(np.searchsorted(times, first)), int(np.searchsorted(times, last)))
            for name, (first, last) in self.bounds(wait).items()
        }

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {
            "validation": format_time(self.validation),
            "test": format_time(self.test),
            "gap": format_duration(self.gap),
        }
