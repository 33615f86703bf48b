"""The fourth step: the ranking model's scores, the request's side computed once; or a ranking in place of them."""

from __future__ import annotations

from typing import final

import numpy as np

from bedplate.batch import Batch, Dense, Ids
from bedplate.features.artifact import SCORE
from bedplate.inference.artifact import Artifact
from bedplate.inference.model import SharedCalls
from bedplate.inference.time_limit import TimeLimit
from bedplate.serving.progress import Progress
from bedplate.types import Float32s, Float64s


@final
class ScoreStep:
    """Scores the candidates of a request. Where the model is late or fails, there are no scores.

    Args:
        ranker: the model.
        fallback: the feature by which candidates are ranked without scores; None: in their order.
        seconds: how long the model may take; None: no limit.
        place: what a message calls the service.

    Raises:
        ArtifactError: the model gives no scores.
    """

    __slots__ = ("_fallback", "_limit", "_ranker")

    def __init__(self, ranker: Artifact, fallback: str | None, seconds: float | None, place: str) -> None:
        ranker.require(SCORE)
        self._ranker, self._fallback = ranker, fallback
        self._limit = TimeLimit(seconds, f"{place}, score")

    @property
    def has_limit(self) -> bool:
        """Whether the model may take only so long."""
        return self._limit.seconds is not None

    async def scores(self, batch: Batch, progress: Progress, batcher: SharedCalls | None = None) -> Float32s | None:
        """[n] the score of each candidate, NaN where the model gives none or infinity; None: there are none.

        Args:
            batch: one request with its candidates.
            progress: of the answer.
            batcher: of the model: other requests may share its call. None: the call is this request's, and nothing is
                waited for.
        """
        if not batch.items:
            return np.zeros(0, np.float32)
        try:
            if batcher is not None:
                scores = (await batcher.run(self._ranker.tensors(batch), [SCORE], progress.until))[0]
            else:
                scores = self._limit.run(
                    lambda: self._ranker.score(batch, SCORE), progress.until, is_patient=progress.is_strict
                )
        except Exception as error:  # noqa: BLE001  (whatever a model raises: candidates can be ranked without it)
            by = "the order of the candidates" if self._fallback is None else f"the order of '{self._fallback}'"
            progress.failed("score", error, by)
            return None
        return _finite(scores, progress)

    def ranks(self, batch: Batch) -> Float64s:
        """[n] in place of scores: the larger the better, from the fallback's feature or the candidates' order."""
        order = np.linspace(1.0, 0.0, batch.items)
        if self._fallback is None:
            return order
        column = batch.item[self._fallback]
        if not isinstance(column, Dense | Ids):
            return order
        values = column.values.astype(np.float64)
        return values if column.present is None else np.where(column.present, values, np.nan)


def _finite(scores: Float32s, progress: Progress) -> Float32s:
    """The scores, NaN in place of infinities: one of these would make all others look equal."""
    there = np.isfinite(scores)
    if there.all():
        return scores
    progress.flag("score", "not finite", "null, after all others", int(len(scores) - there.sum()))
    return np.where(there, scores, np.float32(np.nan))
