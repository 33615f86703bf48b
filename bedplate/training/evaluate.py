"""Scores of a model over a whole source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bedplate.datasets.blocks import Batches, Stretch
from bedplate.errors import DataError
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import OF_ITEM
from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.models.prediction import Prediction
from bedplate.training.alone import Alone
from bedplate.training.calling import loss_of, loss_weight_of, metrics_of, outputs_of, scores_of
from bedplate.training.exchange import Exchange
from bedplate.training.prefetch import Ahead, Waiting, prefetched
from bedplate.training.source import Encoded, TensorSource
from bedplate.training.tables import Tables
from bedplate.types import Array


def predict(
    model: Model,
    encoder: Encoder,
    source: Batches,
    *,
    seed: int = 0,
    ahead: Ahead | None = None,
    exchange: Exchange | None = None,
    tables: Tables | None = None,
) -> Prediction:
    """The scores, labels and mean loss over the first epoch of a source, in its order.

    Several processes take a share of the batches each; the first one gets the scores of all, the others their own.

    Args:
        model: whose scores.
        encoder: of the batches.
        source: of the batches.
        seed: of the epoch.
        ahead: how far batches are read ahead.
        exchange: with the other processes; None where there are none.
        tables: the model's, where rows of them are in other processes.

    Raises:
        DataError: the source has no candidates.
        DefinitionError: the model's code fails, or gives something else than it should.
    """
    return _scores(model, Encoded(source, encoder), seed, ahead or Ahead(), exchange or Alone(), tables)


def _scores(
    model: Model, source: TensorSource, seed: int, ahead: Ahead, exchange: Exchange, tables: Tables | None
) -> Prediction:
    share, fetches = exchange.share(len(source)), exchange.largest_share(len(source))
    fetch = _nothing if tables is None else tables.fetch
    parts = exchange.at_first(_predict(model, source, seed, ahead, share, fetch, fetches))
    found = [pair for part in parts for pair in part]
    if not found and exchange.rank == 0:
        raise DataError("the source has no candidates to score", where="validation")
    return _joined([prediction for prediction, _ in found], [weight for _, weight in found])


def _nothing(batch: TensorBatch | None) -> None:
    """All rows of the model's tables are here."""


def _predict(
    model: Model,
    source: TensorSource,
    seed: int,
    ahead: Ahead,
    share: tuple[int, int],
    fetch: Callable[[TensorBatch | None], None],
    fetches: int,
) -> list[tuple[Prediction, float]]:
    """The scores of each of some batches that has candidates, and what its loss counts.

    Fetches so many times, as every process does.
    """
    model.eval()
    found: list[tuple[Prediction, float]] = []
    blocks = partial(source.blocks, Stretch(seed, 0, *share))
    with torch.no_grad(), prefetched(blocks, ahead, Waiting()) as ready:
        for batch in ready:
            fetch(batch)
            fetches -= 1
            if not batch.rows:
                continue
            outputs = outputs_of(model, model, batch)
            loss = loss_of(model, outputs, batch).item()
            made = prediction_of(scores_of(model, outputs, batch), batch, loss)
            found.append((made, loss_weight_of(model, batch)))
        for _ in range(fetches):
            fetch(None)
    return found


def prediction_of(scores: Tensor, batch: TensorBatch, loss: float) -> Prediction:
    """What a model gave for one batch.

    Args:
        scores: [N], without a gradient.
        batch: that they are of.
        loss: of the batch.
    """
    labels: dict[str, Array] = {}
    for name, values in batch.labels.items():
        known = batch.known.get(name)
        labels[name] = (values if known is None else values.masked_fill(~known, float("nan"))).numpy()
    return Prediction(
        scores=scores.numpy().astype(np.float64),
        labels=labels,
        weights=batch.weights.numpy(),
        requests=batch[OF_ITEM].numpy(),
        request_ids=batch.request_ids,
        candidates=batch.candidates.numpy(),
        loss=loss,
    )


def _joined(parts: Sequence[Prediction], weights: Sequence[float]) -> Prediction:
    """The predictions of batches, whose losses count so much each, as one; of none an empty one."""
    first = np.cumsum([0, *(len(p.request_ids) for p in parts)])
    nothing = np.zeros(0, np.int64)
    return Prediction(
        scores=np.concatenate([np.zeros(0), *(p.scores for p in parts)]),
        labels={name: np.concatenate([p.labels[name] for p in parts]) for name in (parts[0].labels if parts else ())},
        weights=np.concatenate([np.zeros(0, np.float32), *(p.weights for p in parts)]),
        requests=np.concatenate([nothing, *(p.requests + at for p, at in zip(parts, first, strict=False))]),
        request_ids=np.concatenate([nothing, *(p.request_ids for p in parts)]),
        candidates=np.concatenate([nothing, *(p.candidates for p in parts)]),
        loss=sum(p.loss * weight for p, weight in zip(parts, weights, strict=True)) / (sum(weights) or 1.0),
    )


def evaluate(
    model: Model,
    source: TensorSource,
    *,
    seed: int = 0,
    ahead: Ahead | None = None,
    exchange: Exchange | None = None,
    tables: Tables | None = None,
) -> dict[str, float]:
    """The model's metrics on a source, and `loss`; the same in every process."""
    exchange = exchange or Alone()
    prediction = _scores(model, source, seed, ahead or Ahead(), exchange, tables)
    metrics = {"loss": prediction.loss, **metrics_of(model, prediction)} if exchange.rank == 0 else {}
    return exchange.of_first(metrics)
