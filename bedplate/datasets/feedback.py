"""Feedback: what became of the rows of a label that is joined by the request's id, so that nothing is lost unseen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import polars as pl

from bedplate.datasets.labels import CompiledLabel
from bedplate.datasets.listed import positions
from bedplate.datasets.reading import read_rows
from bedplate.errors import DataError
from bedplate.features.assemble import Candidates
from bedplate.features.entity import encode
from bedplate.sources.base import TIME
from bedplate.types import Int64s


@final
@dataclass(frozen=True, slots=True)
class FeedbackSummary:
    """The rows of the source of a label that is joined by the request's id; each is in one of the groups.

    Attributes:
        label: the label's name.
        rows: all that the label's condition lets through.
        used: those that count for a request's label.
        duplicates: those that count too, for a request and candidate that has an earlier one.
        unknown: of a request that the spine does not have.
        unlisted: of a request, but of a candidate that it does not have.
        early: from before their request: an error of the data, see `leaks`.
        late: from after the horizon.
        unnamed: without the id of a request: of none, such as a click that no request led to.
    """

    label: str
    rows: int
    used: int
    duplicates: int
    unknown: int
    unlisted: int
    early: int
    late: int
    unnamed: int = 0

    def __str__(self) -> str:
        """A line for a person to read.

        >>> print(FeedbackSummary("clicked", 13, 4, 1, 2, 0, 1, 2, 3))
          feedback of 'clicked': 13 rows: 4 used, 1 duplicates, 2 of unknown requests, 0 of unlisted candidates, \
1 from before their request, 2 after the horizon, 3 without a request
        """
        return (
            f"  feedback of '{self.label}': {self.rows:,} rows: {self.used:,} used, {self.duplicates:,} duplicates, "
            f"{self.unknown:,} of unknown requests, {self.unlisted:,} of unlisted candidates, {self.early:,} from "
            f"before their request, {self.late:,} after the horizon, {self.unnamed:,} without a request"
        )


def read_feedback(
    compiled: CompiledLabel, requests: Candidates, root: Path | None, snapshots: Mapping[str, str]
) -> FeedbackSummary:
    """Reads the source of a label that is joined by the request's id, and counts.

    Args:
        compiled: the label.
        requests: of the spine, all of them, with their candidates.
        root: the project's folder, where relative paths start.
        snapshots: the snapshot of each source that the dataset was read from, by name.

    Raises:
        DataError: rows that can't be read, or the source was changed since.
    """
    label = compiled.label
    columns = {f"key {i}": e.key for i, e in enumerate(compiled.view.view.entities)}
    # A row without a request is of none, whatever else it lacks; of the others the index has refused those without key.
    others = [pl.col(column).alias(name) for name, column in columns.items()]
    frame, snapshot = read_rows(label.source, root, label.aggregation.selection.where, {}, label.place, others)
    if snapshots.get(label.source.name, snapshot) != snapshot:
        raise DataError(
            "the source was changed since the dataset was loaded",
            where=f"{label.place}, source '{label.source.name}'",
            hint="run: bedplate apply; then open the project anew",
        )
    named = frame.filter(pl.col("key 0").is_not_null())
    keys = [encode(named[name]) for name in columns]
    found = _groups(keys, named[TIME].to_numpy(), requests, label.horizon)
    counts = np.bincount(found, minlength=6).tolist()
    return FeedbackSummary(label.name, len(frame), *counts, unnamed=len(frame) - len(named))


_USED, _DUPLICATE, _UNKNOWN, _UNLISTED, _EARLY, _LATE = range(6)


def _groups(keys: list[Int64s], times: Int64s, requests: Candidates, horizon: int) -> Int64s:
    """[n] the group of each row."""
    order = np.argsort(requests.request_ids, kind="stable")
    ids = requests.request_ids[order]
    at = np.searchsorted(ids, keys[0])
    known = at < len(ids)
    known[known] = ids[at[known]] == keys[0][known]
    result = np.full(len(times), _UNKNOWN, np.int64)
    rows = np.flatnonzero(known)
    request = order[at[rows]]
    since = times[rows] - requests.times[request]
    result[rows] = np.where(since < 0, _EARLY, np.where(since >= horizon, _LATE, _USED))
    place = np.full(len(times), -1, np.int64)
    place[rows] = request
    if len(keys) > 1:
        place[rows] = positions(requests.candidates, requests.offsets, request, keys[1][rows])
        result[rows[place[rows] < 0]] = _UNLISTED
    used = np.flatnonzero(result == _USED)
    used = used[np.argsort(times[used], kind="stable")]
    first = np.empty(place.max(initial=-1) + 1, np.int64)
    first[place[used[::-1]]] = used[::-1]  # of equal places the last that is written, the earliest, stays
    result[used[first[place[used]] != used]] = _DUPLICATE
    return result
