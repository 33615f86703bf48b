"""What differs between two runs: what they are made of, the data that they saw, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast, final

import msgspec

from bedplate.errors import BedplateError, NotFoundError
from bedplate.metrics.directions import DIRECTIONS, Direction
from bedplate.metrics.intervals import Estimate
from bedplate.models.prediction import Prediction
from bedplate.registry.diff import Change, CodeDiff, changes, code_changes, environment_changes
from bedplate.registry.environment import read_environment
from bedplate.registry.run import RunRecord, StoredRun
from bedplate.training.comparison import compare, measure, rows_differ
from bedplate.training.evidence import SETTINGS
from bedplate.training.inputs import DataSummary, SplitRows, drift_between, read_summary
from bedplate.training.job import OWN_DIRECTIONS
from bedplate.training.predictions import TEST, has_binary_values, judged_label, read_predictions
from bedplate.training.resampling import Metrics

Own: TypeAlias = Callable[[StoredRun], Metrics]
"""Gives the metrics of a run's own model; raises a `BedplateError` where they can't be had."""


@final
class Drifted(msgspec.Struct, frozen=True):
    """How an input's training data moved: the population stability index, the share of absent values, the mean."""

    name: str
    index: float
    absent: tuple[float, float]
    mean: tuple[float | None, float | None]


@final
class DataDiff(msgspec.Struct, frozen=True):
    """How the data of two runs differ.

    Attributes:
        snapshots: of each source that was read in two states.
        splits: the splits of both, where they differ in anything.
        labels: the mean of each label over training rows, where it differs.
        drift: of the inputs that both have, the most drifted first; None where a run kept no summary.
    """

    snapshots: list[Change]
    splits: dict[str, tuple[SplitRows | None, SplitRows | None]]
    labels: list[Change]
    drift: list[Drifted] | None


@final
class MetricDiff(msgspec.Struct, frozen=True):
    """A metric of the test split in both runs.

    Attributes:
        name: the metric.
        a: of the first, with its interval over requests.
        b: of the second.
        difference: b minus a over the same requests; None where they are not the same.
        better: "a" or "b" where the interval of the difference says so.
    """

    name: str
    a: Estimate
    b: Estimate
    difference: Estimate | None = None
    better: str | None = None


@final
class RunDiff(msgspec.Struct, frozen=True):
    """What differs between two runs.

    Attributes:
        a: the id of the first.
        b: of the second.
        config: choices by path.
        code: commits and files.
        definitions: the ids of definitions, a model's code among them.
        data: what was read.
        environment: Python, platform and libraries; None where it is not known.
        metrics: of the test split, with intervals.
        paired: whether these are of the same rows.
        note: why they are not, or why there are none.
        reported: metrics without an interval, as the runs reported them.
    """

    a: str
    b: str
    config: list[Change]
    code: CodeDiff
    definitions: list[Change]
    data: DataDiff
    environment: list[Change] | None
    metrics: list[MetricDiff]
    paired: bool
    note: str
    reported: list[Change]


def diff_runs(a: StoredRun, b: StoredRun, root: Path, confidence: float = 0.95, own: Own | None = None) -> RunDiff:
    """What differs between two runs.

    Args:
        a: the first.
        b: the second, to which everything is said to have changed.
        root: the project's folder, whose repository knows the commits.
        confidence: of the intervals.
        own: asked for the metrics where a label is not 0 or 1, once for each run, or for B alone where both predicted
            the same rows; None: there are no intervals of such a label.

    Raises:
        StoreError: a file of a run is damaged.
    """
    one, other = a.record, b.record
    metrics, paired, note = _metrics(a, b, confidence, own)
    known = {TEST + metric.name for metric in metrics}
    return RunDiff(
        a=a.id,
        b=b.id,
        config=changes(one.config, other.config, without=(SETTINGS,)),
        code=code_changes(root, one.git, other.git),
        definitions=_flat(one.definitions, other.definitions),
        data=_data(a, b),
        environment=environment_changes(read_environment(a.folder), read_environment(b.folder)),
        metrics=metrics,
        paired=paired,
        note=note,
        reported=_flat(*({k: v for k, v in r.metrics.items() if k not in known} for r in (one, other)), equal=True),
    )


def direction_in(record: RunRecord, metric: str) -> Direction | None:
    """Whether a lower or a higher value of a run's metric is better; None where that is not known.

    Args:
        record: of the run.
        metric: of validation, or with the prefix `test_` of test.
    """
    own = cast("Mapping[str, Direction]", record.config.get(OWN_DIRECTIONS) or {})
    name = metric.removeprefix(TEST)
    return DIRECTIONS[name] if name in DIRECTIONS else own.get(name)


def _flat(a: Mapping[str, Any], b: Mapping[str, Any], *, equal: bool = False) -> list[Change]:
    return [Change(n, a.get(n), b.get(n)) for n in dict.fromkeys((*a, *b)) if equal or a.get(n) != b.get(n)]


def _data(a: StoredRun, b: StoredRun) -> DataDiff:
    one, other = read_summary(a.folder), read_summary(b.folder)
    snapshots = _flat(a.record.sources, b.record.sources)
    if one is None or other is None:
        return DataDiff(snapshots, {}, [], None)
    names = dict.fromkeys((*one.splits, *other.splits))
    splits = {n: (one.splits.get(n), other.splits.get(n)) for n in names if one.splits.get(n) != other.splits.get(n)}
    return DataDiff(snapshots, splits, _flat(one.labels, other.labels), _drift(one, other))


def _drift(a: DataSummary, b: DataSummary) -> list[Drifted]:
    found: list[Drifted] = []
    for name in a.inputs:
        if name in b.inputs:
            one, other = a.inputs[name], b.inputs[name]
            index = drift_between(one, other)
            if index is not None:
                found.append(Drifted(name, index, (one.absent, other.absent), (one.mean, other.mean)))
    return sorted(found, key=lambda d: -d.index)


def _metrics(a: StoredRun, b: StoredRun, confidence: float, own: Own | None) -> tuple[list[MetricDiff], bool, str]:
    """The metrics that both reported, whether they are paired, and why not."""
    try:
        one, other = read_predictions(a.folder), read_predictions(b.folder)
    except NotFoundError as error:
        return [], False, f"no intervals: {error.message} ({error.where})"
    labels = judged_label(a.record, one), judged_label(b.record, other)
    if labels[0] is None or labels[1] is None:
        return [], False, "no intervals: which label the scores are of is not known"
    both = [n.removeprefix(TEST) for n in a.record.metrics if n.startswith(TEST) and n in b.record.metrics]
    if labels[0] != labels[1]:
        problem = f"A predicts '{labels[0]}' and B '{labels[1]}'"
    else:
        problem = rows_differ(one, other, labels[0])
    try:
        if problem is None:
            metrics = _metrics_for(b, other, labels[0], own)
            found = compare(one, other, labels[0], confidence, metrics=metrics)
            rows = [
                MetricDiff(n, c.a, c.b, c.difference, c.better(n, direction_in(b.record, n)))
                for n, c in found.items()
                if n in both
            ]
            return rows, True, ""
        first = measure(one, labels[0], confidence, metrics=_metrics_for(a, one, labels[0], own))
        second = measure(other, labels[1], confidence, metrics=_metrics_for(b, other, labels[1], own))
    except BedplateError as error:
        return [], False, f"no intervals: {error.message}"
    rows = [MetricDiff(name, first[name], second[name]) for name in first if name in second and name in both]
    return rows, False, f"each has its own interval, for the two can't be paired: {problem}"


def _metrics_for(run: StoredRun, prediction: Prediction, label: str, own: Own | None) -> Metrics | None:
    """What a run is measured by; None: by the metrics of labels that are 0 or 1."""
    return None if own is None or has_binary_values(prediction, label) else own(run)
