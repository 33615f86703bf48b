"""The charts of a run: the loss and the metrics by step, and the calibration on the test split.

RUN/plots/loss.svg, RUN/plots/METRIC.svg, RUN/plots/calibration.svg
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bedplate.errors import BedplateError, StoreError
from bedplate.files import write_atomic
from bedplate.metrics.calibration import reliability
from bedplate.metrics.chart import Chart, Line
from bedplate.metrics.svg import svg
from bedplate.models.prediction import Prediction
from bedplate.registry.run import Point, RunRecord, StoredRun
from bedplate.training.predictions import TEST, judged_label, read_predictions

PLOTS = "plots"
_LOSSES = {"train_loss": "training", "loss": "validation"}
_BINS = 12
_Z = 1.96


def charts(run: StoredRun) -> dict[str, Chart]:
    """The charts of a run that has logged something, by file name without its ending.

    Raises:
        StoreError: the run's metrics or predictions are damaged.
    """
    found = metric_charts(run.metrics())
    try:
        prediction = read_predictions(run.folder)
        curve = calibration_chart(run.record, prediction)
    except StoreError:
        raise
    except BedplateError:  # no predictions, or labels that are not 0 or 1
        curve = None
    return found if curve is None else found | {"calibration": curve}


def metric_charts(metrics: Mapping[str, Sequence[Point]]) -> dict[str, Chart]:
    """A chart of the losses, and one of each metric of the validations that was logged at least twice."""
    lines = [_line(name, metrics[key]) for key, name in _LOSSES.items() if key in metrics]
    found = {"loss": Chart("Loss by step", "step", "loss", lines)} if lines else {}
    for name, points in metrics.items():
        if name not in _LOSSES and not name.startswith(TEST) and len(points) > 1:
            line = _line(name, points)
            if line.points():
                title = f"Validation {name.replace('_', ' ')} by step"
                found[re.sub(r"[^\w.-]", "_", name)] = Chart(title, "step", name, [line])
    if "calibration" in found:  # the curve has this name
        found["calibration_by_step"] = found.pop("calibration")
    return found


def calibration_chart(record: RunRecord, prediction: Prediction) -> Chart | None:
    """Observed against predicted rates, in bins of equal mass with Wilson's intervals (1927).

    None where the scores are no probabilities, or it is not known of which label.

    Raises:
        DataError: labels are not 0 or 1.
    """
    label = judged_label(record, prediction)
    if label is None or prediction.scores.min() < 0 or prediction.scores.max() > 1:
        return None
    scores, labels, weights, _ = prediction.of(label)
    bins = reliability(scores, labels, weights, bins=_BINS)
    rows = len(scores) / float(weights.sum())
    ends = [_wilson(b.observed, b.weight * rows) for b in bins]
    line = Line(
        "observed",
        [b.predicted for b in bins],
        [b.observed for b in bins],
        [low for low, _ in ends],
        [high for _, high in ends],
    )
    return Chart(f"Calibration of '{label}' on the test split", "predicted", "observed", [line], diagonal=True)


def write_plots(run: StoredRun) -> list[Path]:
    """Writes the charts of a run into its folder; the files.

    Raises:
        StoreError: a file of the run is damaged, or they can't be written.
    """
    folder = run.folder / PLOTS
    files: list[Path] = []
    try:
        for name, chart in charts(run).items():
            folder.mkdir(exist_ok=True)
            write_atomic(folder / f"{name}.svg", svg(chart).encode())
            files.append(folder / f"{name}.svg")
    except OSError as error:
        raise StoreError(f"can't write the plots: {error.strerror or error}", where=str(folder)) from error
    return files


def _line(name: str, points: Sequence[Point]) -> Line:
    return Line(name, [float(point.step) for point in points], [point.value for point in points])


def _wilson(rate: float, count: float) -> tuple[float, float]:
    """The 95 % interval of a rate that was observed so many times."""
    middle = (rate + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    reach = _Z / (1 + _Z**2 / count) * (rate * (1 - rate) / count + _Z**2 / (4 * count**2)) ** 0.5
    return max(0.0, middle - reach), min(1.0, middle + reach)
