"""Predictions of a test split as runs keep them: the same requests and labels, other scores."""

from __future__ import annotations

import numpy as np

from bedplate.models.prediction import Prediction


def predicted(requests: int = 300, seed: int = 0, noise: float = 0.3) -> Prediction:
    """The same requests and labels for every seed; the scores are of the seed."""
    rng = np.random.default_rng(9)
    of_row = np.repeat(np.arange(requests), rng.integers(1, 5, requests))
    truth = rng.normal(-1, 1, len(of_row))
    liked = (rng.random(len(of_row)) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    late = np.where(rng.random(len(of_row)) < 0.1, np.nan, 1 - liked).astype(np.float32)
    logits = truth + noise * np.random.default_rng(seed).normal(0, 1, len(of_row))
    return Prediction(
        scores=1 / (1 + np.exp(-logits)),
        labels={"liked": liked, "late": late},
        weights=np.ones(len(of_row), np.float32),
        requests=of_row,
        request_ids=np.arange(requests) * 7 + 3,
        candidates=rng.integers(0, 1000, len(of_row)),
        loss=0.25,
    )


def times_of(prediction: Prediction) -> np.ndarray:
    return 1_767_225_600_000_000 + np.arange(len(prediction.request_ids)) * 1_000_000
