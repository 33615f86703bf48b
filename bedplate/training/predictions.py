"""What a run's model predicted for the test split, kept in its folder so that models can be compared later.

    RUN/predictions.parquet   a row a candidate, in the order of the test split

| column | type | holds |
|---|---|---|
| `request` | int64 | counted from 0; equal for the candidates of one request |
| `request_id`, `candidate` | int64 | their keys (of strings: their ids) |
| `time` | datetime | of the request |
| `score` | float64 | what the model is judged by |
| `weight` | float32 | of the row |
| `label.NAME` | float32 | of each label; null where it is not known |
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import polars as pl

from bedplate.errors import NotFoundError, StoreError
from bedplate.features.artifact import UNREADABLE
from bedplate.files import aside, fsync_dir, fsync_file
from bedplate.models.prediction import Prediction
from bedplate.types import Int64s

if TYPE_CHECKING:
    from bedplate.datasets.loaded import LoadedDataset
    from bedplate.registry.run import RunRecord

PREDICTIONS = "predictions.parquet"
TEST = "test_"
"""What the names of metrics of the test split begin with."""
_LABEL = "label."
_LOSS = "bedplate.loss"


def write_predictions(folder: Path, prediction: Prediction, times: Int64s) -> Path:
    """Writes what was predicted into a run's folder, whole or not at all, in place of what is there.

    Requests without a candidate leave no trace.

    Args:
        folder: the run's.
        prediction: of the test split.
        times: [R] int64, of its requests, microseconds.

    Returns:
        the file.

    Raises:
        StoreError: it can't be written.
    """
    path = folder / PREDICTIONS
    of_row = prediction.requests
    requests = np.unique(of_row, return_inverse=True)[1]
    labels = [pl.Series(f"{_LABEL}{name}", v, nan_to_null=True) for name, v in prediction.labels.items()]
    frame = pl.DataFrame(
        [
            pl.Series("request", requests.astype(np.int64)),
            pl.Series("request_id", prediction.request_ids[of_row]),
            pl.Series("candidate", prediction.candidates),
            pl.Series("time", times[of_row], dtype=pl.Int64).cast(pl.Datetime("us", "UTC")),
            pl.Series("score", prediction.scores),
            pl.Series("weight", prediction.weights),
            *labels,
        ]
    )
    temporary = aside(path)
    try:
        frame.write_parquet(temporary, compression="zstd", metadata={_LOSS: repr(prediction.loss)})
        fsync_file(temporary)
        temporary.replace(path)
        fsync_dir(folder)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(
            f"can't keep the predictions: {getattr(error, 'strerror', None) or error}",
            where=str(path),
            hint="check free space and permissions; the run can be resumed",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def keep_predictions(folder: Path, prediction: Prediction, dataset: LoadedDataset) -> Path:
    """Writes what was predicted for a dataset's test split; see `write_predictions`."""
    rows, (first, last) = dataset.spine.rows, dataset.positions("test")
    ids = rows.request_ids[first:last]
    order = np.argsort(ids)
    at = order[np.searchsorted(ids, prediction.request_ids, sorter=order)]
    return write_predictions(folder, prediction, rows.times[first:last][at])


def read_predictions(folder: Path) -> Prediction:
    """What a run's model predicted for the test split; torch is not needed.

    Args:
        folder: the run's.

    Raises:
        NotFoundError: the run kept none: it did not come so far, or is of an earlier version.
        StoreError: the file can't be read.
    """
    path = folder / PREDICTIONS
    if not path.is_file():
        raise NotFoundError(
            "the run has kept no predictions",
            where=str(path),
            hint="a run keeps them when its model has been evaluated on the test split; train again",
        )
    try:
        frame = pl.read_parquet(path)
        loss = float(pl.read_parquet_metadata(path)[_LOSS])
        labels = {name: frame[name] for name in frame.columns if name.startswith(_LABEL)}
        requests = frame["request"].to_numpy()
        first = np.flatnonzero(np.diff(requests, prepend=-1))
        return Prediction(
            scores=frame["score"].to_numpy(),
            labels={name.removeprefix(_LABEL): v.fill_null(float("nan")).to_numpy() for name, v in labels.items()},
            weights=frame["weight"].to_numpy(),
            requests=requests,
            request_ids=frame["request_id"].to_numpy()[first],
            candidates=frame["candidate"].to_numpy(),
            loss=loss,
        )
    except (*UNREADABLE, pl.exceptions.PolarsError) as error:
        raise StoreError(
            f"the predictions can't be read: {error}", where=str(path), hint="delete the file, and train again"
        ) from error


def has_binary_values(prediction: Prediction, label: str) -> bool:
    """Whether a label is 0 or 1 in all rows in which it is known, so that Bedplate's own metrics are of it."""
    return bool(np.isin(prediction.of(label)[1], (0.0, 1.0)).all())


def judged_label(record: RunRecord, prediction: Prediction) -> str | None:
    """The label that a run's scores are of: the model's, else the only one; None where that is not known."""
    config = cast("Mapping[str, Any]", record.config.get("model") or {})
    named = config.get("label")
    if named in prediction.labels:
        return str(named)
    return next(iter(prediction.labels)) if len(prediction.labels) == 1 else None
