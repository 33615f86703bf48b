"""The rows that an estimator learns from: read once, batch by batch, into a file that is mapped into memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np

from bedplate.batch import Batch, Dense, Embedding
from bedplate.datasets.negatives import LOG_Q
from bedplate.errors import DataError
from bedplate.features.encoder import Encoder
from bedplate.files import new_folder
from bedplate.models.estimator import Rows
from bedplate.models.matrix import MatrixLayout
from bedplate.stopping import Stop
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.report import RoundStatus, Show
from bedplate.training.stages import ENCODE, LOAD, WRITE, Lap, unlapped
from bedplate.training.wrong_rows import written_rows
from bedplate.types import Array, Bools, Float32s

if TYPE_CHECKING:
    from bedplate.datasets.blocks import Batches

MATRIX = "matrix.f32"
_FACTS = ("labels", "weights", "requests", "log_q")


@final
class MatrixRows:
    """Reads sources into files, a folder each; what is there already is not read again.

    Memory is that of a batch, and of some numbers a row: the matrix is written as it comes.

    Args:
        encoder: as the estimator reads it.
        label: whose rows are wanted: those in which it is known.
        folder: for the files.
        interrupt: ends the reading.
        show: takes the status after each batch.
        lap: is told where the time goes.
    """

    def __init__(
        self, encoder: Encoder, label: str, folder: Path, interrupt: Stop, show: Show | None, lap: Lap = unlapped
    ) -> None:
        self.layout = MatrixLayout(encoder)
        self._encoder, self._label, self._folder = encoder, label, folder
        self._interrupt, self._show, self._lap = interrupt, show, lap

    def read(self, name: str, source: Batches, seed: int) -> Rows:
        """The rows of the first epoch of a source.

        Args:
            name: of the folder.
            source: of batches.
            seed: of the order and of what is drawn.

        Raises:
            DataError: a value or label is not finite, or no row has the label.
            TrainingInterruptedError: SIGINT or SIGTERM; nothing is kept of this source.
        """
        folder = self._folder / name
        if not folder.exists():
            with new_folder(folder) as aside:
                self._write(aside, name, source, seed)
        facts: dict[str, Array] = {f: np.load(folder / f"{f}.npy", allow_pickle=False) for f in _FACTS}
        shape = (len(facts["labels"]), len(self.layout.columns))
        if not shape[0]:
            raise DataError(f"no row has the label '{self._label}'", where=name)
        matrix: Float32s = np.memmap(folder / MATRIX, np.float32, "r", shape=shape)
        drawn = facts["log_q"]
        return Rows(matrix, facts["labels"], facts["weights"], facts["requests"], drawn if len(drawn) else None)

    def _write(self, folder: Path, name: str, source: Batches, seed: int) -> None:
        parts: dict[str, list[Array]] = {f: [] for f in _FACTS}
        first, rows, began = 0, 0, time.perf_counter()
        with (folder / MATRIX).open("wb") as file:
            for i, batch in enumerate(source.epoch(seed, 0)):
                if self._interrupt.asked:
                    raise TrainingInterruptedError(
                        f"interrupted while the rows of '{name}' were read; they will be read anew",
                        where=str(self._folder),
                        hint="run the same again",
                    )
                self._lap(LOAD, batch.items)
                labels = np.asarray(batch.labels[self._label], np.float32)
                known = ~np.isnan(labels)
                matrix = self.layout.matrix(self._encoder.encode(batch))
                self._lap(ENCODE, batch.items)
                require_finite(batch, matrix, self._encoder, self.layout, self._folder)
                file.write(matrix[known].data)
                weights = np.ones(batch.items, np.float32) if batch.weights is None else batch.weights
                parts["labels"].append(labels[known])
                parts["weights"].append(np.asarray(weights, np.float32)[known])
                parts["requests"].append(batch.request_of_item()[known] + first)
                drawn = log_q_of(batch)
                if drawn is not None:
                    parts["log_q"].append(drawn[known])
                self._lap(WRITE, batch.items)
                first, rows = first + batch.requests, rows + batch.items
                if self._show is not None:
                    rate = rows / max(time.perf_counter() - began, 1e-9)
                    self._show(RoundStatus(f"read {name}, batch", i + 1, len(source), rate))
        for fact, found in parts.items():
            nothing = np.zeros(0, np.int64 if fact == "requests" else np.float32)
            np.save(folder / f"{fact}.npy", np.concatenate([nothing, *found]), allow_pickle=False)


def log_q_of(batch: Batch) -> Float32s | None:
    """[N] float32: the log of the probability with which each candidate was drawn; None: not known."""
    drawn = batch.item.get(LOG_Q)
    return np.asarray(drawn.values, np.float32) if isinstance(drawn, Dense) else None


def require_finite(batch: Batch, matrix: Float32s, encoder: Encoder, layout: MatrixLayout, folder: Path) -> None:
    """Checks that what an estimator learns from is finite, but for nulls; the rows that are not are saved.

    Raises:
        DataError: a value is not, or is too large for float32.
    """
    found: dict[str, Bools] = dict(_not_finite(batch, encoder))
    if np.isinf(matrix).any():
        found |= {name: wrong for name, wrong in zip(layout.names, np.isinf(matrix).T, strict=True) if wrong.any()}
    found |= {f"label {n}": wrong for n, values in batch.labels.items() if (wrong := np.isinf(values)).any()}
    if not found:
        return
    requests = batch.request_ids[batch.request_of_item()]
    saved = written_rows(folder, found, batch.request_ids, requests, batch.candidates)
    raise DataError(
        f"not finite: {', '.join(found)}{saved}",
        where="training rows",
        hint="make such values null where the feature is defined",
    )


def _not_finite(batch: Batch, encoder: Encoder) -> Iterator[tuple[str, Bools]]:
    """The features that hold a value that is there and not finite, and in which rows."""
    for field in encoder.fields:
        source = batch.request if field.level == "request" else batch.item
        column = source.get(field.feature)
        if not isinstance(column, Dense | Embedding) or column.values.dtype.kind != "f":
            continue
        finite: Bools = np.isfinite(column.values)
        wrong: Bools = np.logical_not(finite if finite.ndim == 1 else np.logical_and.reduce(finite, axis=1))
        if column.present is not None:
            wrong = wrong & column.present
        if wrong.any():
            yield field.feature, wrong
