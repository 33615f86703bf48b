"""The last step: the answer of the scored candidates, as the service defines it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import final

import numpy as np

from bedplate.batch import Batch
from bedplate.inference.retrieval import Catalogue
from bedplate.serving.diversity import Similarity, codes_of, cosine, similarity
from bedplate.serving.exploration import policy
from bedplate.serving.progress import Progress
from bedplate.serving.selection import Chosen, Rules, choose
from bedplate.serving.service import Service
from bedplate.types import Float32s, Float64s, Int64s


@final
@dataclass(frozen=True, slots=True)
class Selected:
    """An answer.

    Attributes:
        order: [k] positions of candidates, best first.
        propensities: [k], see `selection.Chosen`; None: the service doesn't explore.
    """

    order: Int64s
    propensities: Float64s | None = None


@final
class SelectStep:
    """Chooses an answer. Where the time is over, the rest of it is in the order of the scores; quotas hold always.

    Args:
        service: the definition.
        catalogue: has the items' vectors, where diversity is by these.

    Attributes:
        features: of the candidate, that are needed.
        explores: whether answers are drawn.
    """

    __slots__ = ("_best", "_catalogue", "_policy", "_seconds", "_service", "explores", "features")

    def __init__(self, service: Service, catalogue: Catalogue | None) -> None:
        self._service, self._catalogue, self._seconds = service, catalogue, service.budget("select")
        by = service.diversity.by if service.diversity is not None else None
        self.features = tuple(dict.fromkeys([*([] if by is None else [by]), *(q.feature for q in service.quotas)]))
        self.explores = service.exploration is not None
        self._policy, self._best = (None, None) if service.exploration is None else policy(service.exploration)

    def choose(
        self,
        scores: Float32s | None,
        ranks: Float64s | None,
        batch: Batch,
        count: int,
        seed: int,
        progress: Progress,
    ) -> Selected:
        """The candidates of an answer.

        Args:
            scores: [n] of the model; None: there are none.
            ranks: [n] in place of scores, where there are none; then nothing is explored.
            batch: the request with its n candidates.
            count: how many at most.
            seed: of what is drawn.
            progress: of the request.
        """
        values = scores if scores is not None else ranks
        if values is None:
            values = np.zeros(batch.items)
        if not (self._service.diversity or self._service.quotas or self.explores):
            return Selected(np.argsort(-values, kind="stable")[:count])
        seconds = progress.left(self._seconds)
        until = None if seconds is None or progress.is_strict else monotonic() + seconds
        quotas = [(codes_of(batch.item[quota.feature]), quota.most) for quota in self._service.quotas]
        try:
            chosen = self._by_rules(values, quotas, batch, count, seed if scores is not None else None, until)
        except Exception as error:  # noqa: BLE001  (whatever it is: the scores alone make an answer)
            progress.failed("select", error, "the order of the scores")
            chosen = choose(values, count, Rules(quotas=quotas))
        if chosen.is_late:
            progress.flag("select", "late", "the order of the scores for the rest")
        return Selected(chosen.order, chosen.propensities if self.explores else None)

    def _by_rules(
        self,
        values: Float32s | Float64s,
        quotas: Sequence[tuple[Int64s, int]],
        batch: Batch,
        count: int,
        seed: int | None,
        until: float | None,
    ) -> Chosen:
        diversity = self._service.diversity
        rules = Rules(
            self._similarity(batch) if diversity is not None and batch.items else None,
            0.0 if diversity is None else diversity.weight,
            quotas,
            None if seed is None else self._policy,
            self._best,
        )
        rng = None if seed is None or self._policy is None else np.random.default_rng(seed)
        return choose(values, count, rules, rng, until)

    def _similarity(self, batch: Batch) -> Similarity:
        diversity = self._service.diversity
        if diversity is not None and diversity.by is not None:
            return similarity(batch.item[diversity.by])
        if self._catalogue is None:
            return lambda _: np.zeros(batch.items)
        places = self._catalogue.places(batch.candidates)
        vectors = self._catalogue.unit[places]
        vectors[places < 0] = 0.0
        return cosine(vectors)
