"""What a dataset holds, in numbers: everything that was left out is counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isnan
from typing import Any, final

from bedplate.datasets.ends import LabelEnd
from bedplate.datasets.feedback import FeedbackSummary
from bedplate.datasets.unknown import UnknownValues


@final
@dataclass(frozen=True, slots=True)
class SplitSummary:
    """One split.

    Attributes:
        name: train, validation or test.
        requests: those used.
        rows: candidates of these, listed and drawn.
        listed: candidates that the spine has, each once a request, whatever their labels are.
        drawn: candidates that were drawn as negatives.
        censored: requests left out because every label's horizon, with its maturity, runs past the end of the data, or
            else into the next split.
        without_negatives: requests with no event in the window that negatives are drawn from.
        missing_negatives: negatives given up after too many draws of what the request had already.
        repeated_draws: draws of what the request had already.
        duplicates: listed candidates left out because their request has them already.
        censored_labels: for each label, of how many of the requests used it is not known yet.
        crossing_labels: for each label, of how many of the requests used it is left out because its horizon, with its
            maturity, runs into the next split.
        labels: for each label, of how many listed candidates it is known, and its mean over these (NaN of none).
    """

    name: str
    requests: int
    rows: int
    listed: int
    drawn: int
    censored: int
    without_negatives: int
    missing_negatives: int
    repeated_draws: int
    duplicates: int
    censored_labels: Mapping[str, int] = field(default_factory=dict[str, int])
    crossing_labels: Mapping[str, int] = field(default_factory=dict[str, int])
    labels: Mapping[str, tuple[int, float]] = field(default_factory=dict[str, "tuple[int, float]"])


@final
@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """All splits, the requests in the gaps between them, which belong to none, and what there is of each label.

    >>> split = SplitSummary("train", 2, 6, 3, 3, 0, 0, 0, 1, 0)
    >>> print(DatasetSummary("baskets", (split,), gap=4))
    dataset 'baskets': 2 requests, 4 more in the gaps between splits
                              train
      requests                    2
      rows                        6
      listed                      3
      drawn                       3
      censored                    0
      without negatives           0
      missing negatives           0
      repeated draws              1
      duplicates                  0
    """

    name: str
    splits: tuple[SplitSummary, ...]
    gap: int
    feedback: tuple[FeedbackSummary, ...] = ()
    ends: tuple[LabelEnd, ...] = ()
    unknown: tuple[UnknownValues, ...] = ()

    def form(self) -> dict[str, Any]:
        """The numbers for programs."""
        return asdict(self)

    def __str__(self) -> str:
        """A table for a person to read."""
        total = sum(s.requests for s in self.splits)
        lines = [f"dataset '{self.name}': {total:,} requests, {self.gap:,} more in the gaps between splits"]
        lines.append(f"  {'':17}" + "".join(f"{s.name:>12}" for s in self.splits))
        names = [n for n in asdict(self.splits[0]) if not n.endswith(("name", "labels"))]
        for name in names:
            lines.append(_line(name.replace("_", " "), [getattr(s, name) for s in self.splits]))
        for label in self.splits[0].censored_labels:
            numbers = [s.censored_labels[label] for s in self.splits]
            crossing = [s.crossing_labels.get(label, 0) for s in self.splits]
            lines += [_line(f"no '{label}' yet", numbers)] if any(numbers) else []
            lines += [_line(f"gap of '{label}'", crossing)] if any(crossing) else []
        for label in self.splits[0].labels:
            lines.append(_line(f"known '{label}'", [s.labels[label][0] for s in self.splits]))
            means = (s.labels[label][1] for s in self.splits)
            lines.append(f"  {_mean(label):17}" + "".join(f"{'-' if isnan(m) else f'{m:.6g}':>12}" for m in means))
        unknown = [one for one in self.unknown if one.null or one.nan]
        return "\n".join([*lines, *map(str, self.ends), *map(str, self.feedback), *map(str, unknown)])


def _mean(label: str) -> str:
    return f"mean '{label}'"


def _line(text: str, numbers: Sequence[int]) -> str:
    return f"  {text:17}" + "".join(f"{n:>12,}" for n in numbers)
