"""Scores of a model over a whole source."""

from __future__ import annotations

import numpy as np
import torch

from bedplate.errors import DataError
from bedplate.features.encoder import Encoder
from bedplate.models.base import Model, Prediction
from bedplate.training.prefetch import Ahead, Waiting, prefetched
from bedplate.training.source import Batches, blocks_of
from bedplate.types import Array


def predict(
    model: Model, encoder: Encoder, source: Batches, *, seed: int = 0, ahead: Ahead | None = None
) -> Prediction:
    """The scores, labels and mean loss over the first epoch of a source, in its order.

    Raises:
        DataError: the source has no candidates.
    """
    model.eval()
    scores: list[Array] = []
    labels: dict[str, list[Array]] = {}
    weights: list[Array] = []
    requests: list[Array] = []
    request_ids: list[Array] = []
    candidates: list[Array] = []
    loss = 0.0
    first_request = 0
    with torch.no_grad(), prefetched(blocks_of(source, seed, 0), encoder, ahead or Ahead(), Waiting()) as ready:
        for batch in ready:
            if not batch.rows:
                continue
            outputs = model(batch)
            loss += model.loss(outputs, batch).item() * batch.rows
            scores.append(model.judged(outputs, batch).numpy().astype(np.float64))
            for name, values in batch.labels.items():
                known = batch.known.get(name)
                there = values if known is None else values.masked_fill(~known, float("nan"))
                labels.setdefault(name, []).append(there.numpy())
            weights.append(batch.weights.numpy())
            requests.append(batch["request_of_item"].numpy() + first_request)
            request_ids.append(batch.request_ids)
            candidates.append(batch.candidates.numpy())
            first_request += len(batch.request_ids)
    if not scores:
        raise DataError("the source has no candidates to score", where="validation")
    rows = sum(len(s) for s in scores)
    return Prediction(
        scores=np.concatenate(scores),
        labels={name: np.concatenate(parts) for name, parts in labels.items()},
        weights=np.concatenate(weights),
        requests=np.concatenate(requests),
        request_ids=np.concatenate(request_ids),
        candidates=np.concatenate(candidates),
        loss=loss / rows,
    )


def evaluate(
    model: Model, encoder: Encoder, source: Batches, *, seed: int = 0, ahead: Ahead | None = None
) -> dict[str, float]:
    """The model's metrics on a source, and `loss`."""
    prediction = predict(model, encoder, source, seed=seed, ahead=ahead)
    return {"loss": prediction.loss, **model.metrics(prediction)}
