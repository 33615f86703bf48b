"""Splits that move with the data: for models that are trained again and again by one definition."""

from __future__ import annotations

from typing import Any, final

from bedplate.arguments import checks_arguments
from bedplate.datasets.checks import duration_of
from bedplate.datasets.split import TimeSplit
from bedplate.errors import DefinitionError
from bedplate.types import format_duration


@checks_arguments
@final
class RollingSplit:
    """A `TimeSplit` whose times are counted back from the end of the data.

    The end is just after the last time at which the labels of a request are all known. Test has the requests of the
    last `test` before it, and those after it that have a label; validation those of the `validation` before test, up
    to the gap. The same snapshots give the same splits.

    Args:
        validation: how long before test validation begins; longer than the gap.
        test: how long before the end test begins.
        gap: what is left out before each of the two, as in `TimeSplit`.

    Raises:
        DefinitionError: a duration that can't be read, or no time left for validation.

    >>> RollingSplit(validation="3d", test="2d", gap="1d").at(10**15).form()["test"]
    '2001-09-07T01:46:40Z'
    """

    __slots__ = ("gap", "test", "validation")

    def __init__(self, validation: str, test: str, gap: str = "1d") -> None:
        self.validation = duration_of(validation, "split: validation")
        self.test = duration_of(test, "split: test")
        self.gap = duration_of(gap, "split: gap")
        if self.validation <= self.gap:
            raise DefinitionError(
                f"validation is {format_duration(self.validation)}, of which the gap leaves out "
                f"{format_duration(self.gap)}: no time is left for it",
                where="split",
                hint="give a longer validation, or a shorter gap",
            )

    @property
    def validation_length(self) -> int:
        """Microseconds between the beginnings of validation and test."""
        return self.validation

    def at(self, end: int) -> TimeSplit:
        """The split of data that ends so.

        Args:
            end: just after the last time at which the labels of a request are all known, microseconds.

        Raises:
            DefinitionError: it would begin before 1970.
        """
        test = end - self.test
        return TimeSplit(test - self.validation, test, gap=format_duration(self.gap))

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        parts = {"validation": self.validation, "test": self.test, "gap": self.gap}
        return {"before the end": {name: format_duration(value) for name, value in parts.items()}}
