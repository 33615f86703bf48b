"""The moving average of a model's weights, with which it is judged, kept and served."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn


@final
class Average:
    """An exponential moving average of weights (Polyak averaging): `a = decay a + (1 - decay) w` after each update.

    The first updates count more, by `min(decay, (1 + n) / (10 + n))` at update n, so that the average forgets the first
    weights. Embedding tables are left out: a step changes few of their rows and must not cost more than these.

    Args:
        weights: that are averaged.
        decay: the share that an average keeps at each update.

    >>> w = nn.Parameter(torch.zeros(1))
    >>> average = Average([w], 0.9)
    >>> w.data += 1
    >>> average.update()
    >>> with average.in_place():
    ...     print(f"{w.item():.2f}")
    0.90
    >>> w.item()
    1.0
    """

    def __init__(self, weights: Sequence[nn.Parameter], decay: float) -> None:
        self._weights = [w.detach() for w in weights]
        self._decay, self._updates = decay, 0
        self._averages = [w.clone() for w in self._weights]

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights as they are."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        self._updates += 1
        torch._foreach_lerp_(self._averages, self._weights, 1.0 - decay)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Has the averages in place of the weights inside."""
        own = [w.clone() for w in self._weights]
        _copy(self._weights, self._averages)
        try:
            yield
        finally:
            _copy(self._weights, own)

    def state_dict(self) -> dict[str, Any]:
        """The averages, and how many updates they are of."""
        return {"averages": self._averages, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over averages."""
        _copy(self._averages, state["averages"])
        self._updates = state["updates"]


@torch.no_grad()
def _copy(to: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    for one, other in zip(to, source, strict=True):
        one.copy_(other)
