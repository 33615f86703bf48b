"""The audit of a dataset: leaks that only its data show (see `leaks`), looked for before a model is trained on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np
import polars as pl

from bedplate.batch import Batch, Column, Dense, Ids
from bedplate.clock import Clock, system_clock
from bedplate.datasets.leaks import Leak
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.unknown import unsaid
from bedplate.errors import DataError
from bedplate.metrics.classification import auc
from bedplate.sources.base import TIME
from bedplate.types import DAY, Bools, Float64s, Int64s, Type, format_time

SAMPLE = 4096
"""Requests of the training split whose features and labels are looked at, by default."""

_LEAST = 50
"""Rows with a label that it takes to say that a feature equals it."""
_LEAST_OF_CLASS = 10
"""Positives, and negatives, that it takes to say that a feature separates them."""
_SURE = 0.999
"""The AUC of a feature from which on it tells a binary label."""
_LINEAR = 0.9999
"""The correlation of a feature with another label from which on it tells the label."""
_FAR = 0.05
"""The share of rows whose labels are farthest from the median; without them there must be that correlation too."""
_COARSE = 10
"""Rows that it takes to say that a source has whole days only."""


@final
@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found.

    Attributes:
        place: what a message calls the dataset.
        requests: how many requests were looked at.
        found: what was found, by the name of the leak.
        allowed: the reasons of what the dataset allows, by name.
        unsaid: of labels, what is wrong with events that have no value.
    """

    place: str
    requests: int
    found: Mapping[str, str]
    allowed: Mapping[str, str]
    unsaid: Mapping[str, str] = field(default_factory=dict[str, str])

    def require(self) -> None:
        """Raises `DataError` if there is a leak that is not allowed, or a label of unknown values, naming all."""
        leaks = {name: said for name, said in self.found.items() if name not in self.allowed}
        if leaks:
            lines = "".join(f"\n  {name}: {said}" for name, said in leaks.items())
            raise DataError(
                f"{len(leaks)} leak{'s' if len(leaks) > 1 else ''} into the training rows:{lines}",
                where=self.place,
                hint="mend the definition or the data; or allow it with a reason: "
                f'allow={{"{next(iter(leaks))}": "..."}}',
            )
        if self.unsaid:
            lines = "".join(f"\n  label '{name}': {said}" for name, said in self.unsaid.items())
            raise DataError(
                f"what happened is not known, and would be taken for nothing:{lines}",
                where=self.place,
                hint="null in a log where only some rows are of the label is empty=0; where it came too late or was "
                'lost, empty="masked"',
            )


def audit(dataset: LoadedDataset, *, sample: int = SAMPLE, clock: Clock = system_clock) -> Audit:
    """Looks for leaks: in the sources of labels, and in features and labels of some training requests.

    Args:
        dataset: the dataset over its data.
        sample: how many requests to look at, evenly spread over the training split.
        clock: says what is the future.

    Raises:
        DataError: rows that can't be read.
    """
    first, last = dataset.positions("train")
    chosen = np.unique(np.linspace(first, last - 1, min(sample, last - first)).astype(np.int64))
    found = dict(_coarse(dataset)) | dict(_early(dataset)) | dict(_future_events(dataset, clock()))
    found |= dict(_stray_ends(dataset))
    if len(chosen):
        batch = dataset.sample(chosen, 0, 0)
        found |= dict(_future_values(dataset, batch)) | dict(_equal(dataset, batch))
    return Audit(
        dataset.compiled.dataset.place, len(chosen), found, dataset.compiled.dataset.allow, dict(_unsaid(dataset))
    )


def _unsaid(dataset: LoadedDataset) -> Iterator[tuple[str, str]]:
    labels = {label.label.name: label for label in dataset.compiled.labels}
    for found in dataset.unknown():
        said = "; ".join(unsaid(labels[found.label], found))
        if said:
            yield found.label, said


def _coarse(dataset: LoadedDataset) -> Iterator[tuple[str, str]]:
    compiled = dataset.compiled
    told = {label.source.name for label in compiled.dataset.labels} | {compiled.dataset.spine.source.name}
    if not (dataset.spine.rows.times % DAY).any():
        return
    whole: dict[str, bool] = {}
    for view in compiled.selected.every_view:
        source = view.view.source
        if source.name not in told or source.available is not None or source.delay >= DAY:
            continue
        if source.name not in whole:
            rows = source.scan(compiled.root).select(pl.len().alias("rows"), fine=(pl.col(TIME) % DAY != 0).sum())
            counted = rows.collect().row(0, named=True)
            whole[source.name] = counted["rows"] >= _COARSE and counted["fine"] == 0
        if whole[source.name]:
            yield (
                Leak.COARSE.of(view.name),
                f"every time of source '{source.name}' is the beginning of a day, requests are made within days: what "
                'happened later on the day counts already; declare delay="1d" or available= at the source',
            )


def _early(dataset: LoadedDataset) -> Iterator[tuple[str, str]]:
    for feedback in dataset.feedback():
        if feedback.early:
            yield (
                Leak.EARLY.of(feedback.label),
                f"{feedback.early:,} of {feedback.rows:,} rows are from before their request; they count for no label",
            )


def _future_events(dataset: LoadedDataset, now: int) -> Iterator[tuple[str, str]]:
    for label in dataset.compiled.labels:
        end = dataset.history.known(label.view)
        if end > now:
            yield (
                Leak.FUTURE_EVENTS.of(label.label.name),
                f"source '{label.label.source.name}' has an event of {format_time(end)}, which is later than now: the "
                "end of the data can't be told from it, and no request is censored; drop such rows in the prepare step",
            )


def _stray_ends(dataset: LoadedDataset) -> Iterator[tuple[str, str]]:
    for end in dataset.ends():
        if end.stray is not None and end.stray.uncensored:
            yield (
                Leak.STRAY_END.of(end.label),
                f"{end.stray}: the end of the data of source '{end.source}' is taken from there, and "
                f"{end.stray.uncensored:,} requests count as complete that would be censored without; drop such rows "
                "in the prepare step",
            )


def _future_values(dataset: LoadedDataset, batch: Batch) -> Iterator[tuple[str, str]]:
    times = {f.name for f in dataset.compiled.selected.features if f.type is Type.TIME and not f.is_list}
    for name, column, requests in _columns(batch):
        if name not in times or not isinstance(column, Dense):
            continue
        later: Bools = column.values > batch.times[requests]
        if column.present is not None:
            later &= column.present
        if later.any():
            at = int(later.argmax())
            yield (
                Leak.FUTURE_VALUE.of(name),
                f"it is {format_time(int(column.values[at]))} for a request of "
                f"{format_time(int(batch.times[requests[at]]))}, and later than the request in "
                f"{np.count_nonzero(later):,} of {len(later):,} rows: was the row written later than its time says?",
            )


def _equal(dataset: LoadedDataset, batch: Batch) -> Iterator[tuple[str, str]]:
    of_item, asked = batch.request_of_item(), set(dataset.compiled.selected.names)
    for name, column, _ in _columns(batch):
        if name not in asked or not isinstance(column, Dense | Ids) or column.values.dtype.kind not in "bif":
            continue
        whole = column if name in batch.item else column.take(of_item)
        values, there = whole.values.astype(np.float64), whole.present
        values = values if there is None else np.where(there, values, 0.0)
        for label, wanted in batch.labels.items():
            known = np.isfinite(wanted)
            present = None if there is None else there[known]
            told = _told(values[known], present, wanted[known].astype(np.float64))
            if told is not None:
                yield Leak.EQUAL.of(name), f"it tells label '{label}' {told}, in {np.count_nonzero(known):,} rows"
                break


def _told(values: Float64s, there: Bools | None, label: Float64s) -> str | None:
    """How well a feature tells a label, where it is too well to be true.

    Args:
        values: [n] the feature where the label is known.
        there: [n] where it is not null; None: everywhere.
        label: [n].
    """
    if len(label) < _LEAST or np.ptp(label) == 0 or not np.isfinite(values).all():
        return None
    if _is_linear(values, there, label, 1 - 1e-12):
        return "exactly"
    if set(np.unique(label)) == {0.0, 1.0}:
        return _separated(values, there, label)
    # Few large values alone can make a correlation.
    order = np.argsort(np.abs(label - np.median(label)), kind="stable")[: int(len(label) * (1 - _FAR))]
    near = _is_linear(values, there, label, _LINEAR) and _is_linear(values[order], None, label[order], _LINEAR)
    return f"nearly (correlation above {_LINEAR})" if near else None


def _is_linear(values: Float64s, there: Bools | None, label: Float64s, least: float) -> bool:
    """Whether the feature is always there and its correlation with the label is at least so much, of either sign."""
    if (there is not None and not there.all()) or np.ptp(values) == 0 or np.ptp(label) == 0:
        return False
    x, y = (values - values.mean()) / np.ptp(values), (label - label.mean()) / np.ptp(label)
    return bool(abs(x @ y) >= least * np.sqrt((x @ x) * (y @ y)))


def _separated(values: Float64s, there: Bools | None, label: Float64s) -> str | None:
    """How well one threshold tells positives from negatives, nulls lying below all values or above them."""
    if min(np.count_nonzero(label), np.count_nonzero(label == 0)) < _LEAST_OF_CLASS:
        return None
    # Ranks: distances do not matter, and a null is one step beyond the least or the greatest value.
    ranks = np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.float64)
    placed = [ranks] if there is None else [np.where(there, ranks, -1.0), np.where(there, ranks, len(ranks))]
    area = max(abs(auc(scores, label) - 0.5) + 0.5 for scores in placed)
    return f"nearly (AUC {area:.5f})" if area >= _SURE else None


def _columns(batch: Batch) -> Iterator[tuple[str, Column, Int64s]]:
    """Every column with its name and the request of each of its rows."""
    for name, column in batch.request.items():
        yield name, column, np.arange(batch.requests)
    of_item = batch.request_of_item()
    for name, column in batch.item.items():
        yield name, column, of_item
