"""The rate of a label, and whether it has changed by more than models that learn from it can bear."""

from __future__ import annotations

from typing import final

import msgspec

ENOUGH = 30
"""So many rows of a class, found or expected, make a change of its rate more than chance: of 30 half as many come once
in 500 times."""


@final
class LabelRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often a label is positive.

    Attributes:
        rows: in which it is known.
        positives: the sum of the label over them.
    """

    rows: int
    positives: float

    @property
    def rate(self) -> float:
        """The mean label; NaN without rows."""
        return self.positives / self.rows if self.rows else float("nan")

    @property
    def has_both(self) -> bool:
        """Whether there are positives and negatives."""
        return 0 < self.positives < self.rows

    def __str__(self) -> str:
        """The rate and the rows.

        >>> str(LabelRate(4000, 50.0))
        '1.25% of 4,000'
        """
        return f"{self.rate * 100:.3g}% of {self.rows:,}"


def changed(before: LabelRate, after: LabelRate, most: float) -> bool:
    """Whether the share of positives, or that of negatives, has changed by more than a factor.

    Both count, so that nothing depends on which of the two is called positive: a label that is always 1 where it was so
    in 60 % of the rows has lost all its negatives. A class of which fewer than `ENOUGH` rows are found, and would be
    expected by the rate of the other side, is not judged, on either side: that may be chance.

    Args:
        before: of the rows that were learnt from.
        after: of those that are judged on.
        most: the factor, at least 1.

    >>> changed(LabelRate(9000, 1800.0), LabelRate(1000, 150.0), 2.0)
    False
    >>> changed(LabelRate(9000, 1800.0), LabelRate(1000, 90.0), 2.0)
    True
    >>> changed(LabelRate(9000, 90.0), LabelRate(1000, 0.0), 2.0)  # ten would be expected
    False
    """
    if not before.rows or not after.rows:
        return False
    classes = (
        (before.positives, after.positives),
        (before.rows - before.positives, after.rows - after.positives),
    )
    for was, now in classes:
        first, second = was / before.rows, now / after.rows
        sure = max(was, second * before.rows) >= ENOUGH and max(now, first * after.rows) >= ENOUGH
        if sure and max(first, second) > most * min(first, second):
            return True
    return False
