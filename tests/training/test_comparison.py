"""Predictions that a run keeps, and two models compared on them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from kept import predicted, times_of

from bedplate.errors import DataError, NotFoundError, StoreError
from bedplate.metrics.report import binary_report
from bedplate.models.prediction import Prediction
from bedplate.training.comparison import combine, compare, measure, rows_differ
from bedplate.training.predictions import PREDICTIONS, read_predictions, write_predictions


def same(a: Prediction, b: Prediction) -> bool:
    names = ("scores", "weights", "requests", "request_ids", "candidates")
    return (
        all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)
        and a.labels.keys() == b.labels.keys()
        and all(np.array_equal(a.labels[n], b.labels[n], equal_nan=True) for n in a.labels)
        and (a.loss == b.loss or (a.loss != a.loss and b.loss != b.loss))
    )


def test_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    one = predicted()
    path = write_predictions(tmp_path, one, times_of(one))
    assert same(read_predictions(tmp_path), one)
    frame = pl.read_parquet(path)
    assert frame.columns == [
        "request", "request_id", "candidate", "time", "score", "weight", "label.liked", "label.late",
    ]  # fmt: skip
    assert frame["label.late"].null_count() == int(np.isnan(one.labels["late"]).sum())
    assert str(frame["time"][0]) == "2026-01-01 00:00:00+00:00"
    other = replace(one, scores=one.scores / 2, loss=float("nan"))
    write_predictions(tmp_path, other, times_of(one))
    assert same(read_predictions(tmp_path), other)
    assert [p.name for p in tmp_path.iterdir()] == [PREDICTIONS]


def test_requests_without_candidates_leave_no_trace(tmp_path: Path) -> None:
    one = predicted(4)
    gaps = replace(one, requests=one.requests * 2, request_ids=np.repeat(one.request_ids, 2))
    write_predictions(tmp_path, gaps, np.arange(8))
    assert same(read_predictions(tmp_path), one)


def test_predictions_that_are_not_there_or_damaged_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="kept no predictions"):
        read_predictions(tmp_path)
    (tmp_path / PREDICTIONS).write_bytes(b"PAR1 and no more")
    with pytest.raises(StoreError, match="can't be read"):
        read_predictions(tmp_path)
    with pytest.raises(StoreError, match="can't keep the predictions"):
        write_predictions(tmp_path / "missing", predicted(), times_of(predicted()))


def test_a_better_model_is_found_by_each_metric_and_an_equal_one_by_none() -> None:
    good, bad = predicted(seed=1, noise=0.1), predicted(seed=2, noise=2.0)
    found = compare(bad, good, "liked")
    assert list(found) == ["auc", "request_auc", "log_loss", "normalised_entropy", "calibration"]
    exact = binary_report(*good.of("liked"))
    for name, one in found.items():
        assert one.b.mean == pytest.approx(exact[name]), name
        assert one.difference.mean == pytest.approx(one.b.mean - one.a.mean), name
        assert one.better(name) == (None if name == "calibration" else "b"), name
    assert compare(good, bad, "liked")["log_loss"].better("log_loss") == "a"
    again = compare(good, predicted(seed=5, noise=0.1), "liked")
    assert [name for name, one in again.items() if one.differs] == []
    assert compare(bad, good, "liked") == found, "the draws are those of the seed"


def test_only_rows_whose_label_is_known_count() -> None:
    one = predicted()
    known = ~np.isnan(one.labels["late"])
    assert measure(one, "late")["auc"].mean == pytest.approx(binary_report(*one.of("late"))["auc"])
    assert measure(one, "late")["auc"].count == len(np.unique(one.requests[known]))
    assert rows_differ(one, predicted(seed=5), "late") is None


def test_other_rows_are_refused_and_the_difference_is_named() -> None:
    one = predicted()
    cases = {
        r"300 and 280 requests, of which 280 are in both": predicted(280),
        "in another order": replace(one, request_ids=one.request_ids[::-1]),
        r"other candidates for the same requests \(request_id 3 is the first": replace(
            one, candidates=one.candidates + 1
        ),
        r"other labels in 1 of \d+ rows \(the first is row 5": replace(
            one, labels=one.labels | {"liked": changed(one.labels["liked"], 5)}
        ),
        "other weights in 1 of": replace(one, weights=changed(one.weights, 2)),
    }
    for message, other in cases.items():
        with pytest.raises(DataError, match=message):
            compare(one, other, "liked")
    keep = np.arange(len(one.scores)) < len(one.scores) - 1
    if one.requests[-1] == one.requests[-2]:
        shorter = replace(
            one,
            scores=one.scores[keep],
            labels={n: v[keep] for n, v in one.labels.items()},
            weights=one.weights[keep],
            requests=one.requests[keep],
            candidates=one.candidates[keep],
        )
        assert "other candidates" in str(rows_differ(one, shorter, "liked"))
    with pytest.raises(NotFoundError, match="did you mean 'liked'"):
        compare(one, one, "likd")


def changed(values: np.ndarray, at: int) -> np.ndarray:
    found = values.copy()
    found[at] = 1 - found[at] if found[at] in (0, 1) else 0
    return found


def test_comparing_needs_no_torch() -> None:
    program = (
        "import sys, bedplate.training.comparison, bedplate.training.predictions; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_errors_of_other_rows_add_up_in_squares() -> None:
    one, other = predicted(seed=1), replace(predicted(60, seed=2), request_ids=np.arange(10_000, 10_060))
    parts, found = [measure(p, "liked") for p in (one, other)], combine([(1.0, one), (-1.0, other)], "liked")
    for name, both in found.items():
        assert both.mean == pytest.approx(parts[0][name].mean - parts[1][name].mean, abs=1e-9)
        squares = parts[0][name].error ** 2 + parts[1][name].error ** 2
        assert both.error == pytest.approx(squares**0.5, rel=0.1), "each has draws of its own"
