"""A small source with a signal that a model must find: taste x style, what is in the history, and words."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from bedplate.batch import Batch, Dense, Ids, Ragged
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import Bag, Category, Number, Sequence
from bedplate.features.fitting import fit

PRODUCTS = 40
ENCODINGS = {
    "user.taste": Number(),
    "user.spend": Number(log=True),
    "user.country": Category(),
    "user.products": Sequence(Category("product"), "history", 6),
    "user.ages": Sequence(Number(log=True), "history", 6),
    "candidate": Category("product"),
    "product.style": Number(),
    "product.words": Bag(length=3),
}


def ragged(rows: list[np.ndarray], ids: bool) -> Ragged:
    offsets = np.concatenate(([0], np.cumsum([len(r) for r in rows]))).astype(np.int64)
    flat = np.concatenate([*rows, np.zeros(0, np.int64)])
    return Ragged(Ids(flat.astype(np.int64)) if ids else Dense(flat.astype(np.float64)), offsets)


def make_batch(rng: np.random.Generator, requests: int = 16, per_request: int = 12) -> Batch:
    n = requests * per_request
    taste = rng.normal(size=requests)
    products = [rng.integers(0, PRODUCTS, rng.integers(0, 9)) for _ in range(requests)]
    candidates = np.concatenate([rng.choice(PRODUCTS, per_request, replace=False) for _ in range(requests)])
    style = np.cos(candidates * 1.7)
    of_item = np.repeat(np.arange(requests), per_request)
    known = np.array([c in products[r][-6:] for c, r in zip(candidates, of_item, strict=True)])
    logit = 2.5 * taste[of_item] * style + 3.0 * known - 1.0
    label = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    return Batch(
        request={
            "user.taste": Dense(taste),
            "user.spend": Dense(rng.lognormal(size=requests), rng.random(requests) < 0.8),
            "user.country": Ids(rng.integers(0, 3, requests)),
            "user.products": ragged(products, ids=True),
            "user.ages": ragged([np.arange(len(p))[::-1] + 1 for p in products], ids=False),
        },
        item={
            "product.style": Dense(style),
            "product.words": ragged([np.array([c % 5, c % 7]) for c in candidates], ids=True),
        },
        offsets=np.arange(requests + 1) * per_request,
        times=np.full(requests, 10**15),
        request_ids=np.arange(requests),
        candidates=candidates,
        labels={"label": label},
    )


class Source:
    """Batches that depend on seed, epoch and number alone."""

    def __init__(self, batches: int, salt: int = 0, slow: float = 0.0) -> None:
        self.batches, self.salt, self.slow = batches, salt, slow
        self.made: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.batches

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        for i in range(start, self.batches):
            if self.slow:
                time.sleep(self.slow)
            self.made.append((epoch, i))
            yield make_batch(np.random.default_rng([self.salt, seed, epoch, i]))


def make_encoder() -> Encoder:
    return fit(ENCODINGS, Source(10, salt=7).epoch(0, 0))
