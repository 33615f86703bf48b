"""How the learning rates change while a model trains."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

Schedule: TypeAlias = Literal["constant", "linear", "cosine"]
"""After the warm-up: the full rate, or one that falls to 0 by the last update: a straight line, or a half cosine."""


def factor(schedule: Schedule, warmup: int, total: int, done: int) -> float:
    """What the learning rates are multiplied with at an update.

    Rises in a straight line over the warm-up, then goes by the schedule. The cosine is that of Loshchilov and Hutter
    2017 ("SGDR", arXiv 1608.03983, equation 5) without restarts.

    Args:
        schedule: after the warm-up.
        warmup: updates of the warm-up.
        total: updates of the whole training.
        done: updates that are done.

    >>> [factor("linear", 2, 6, done) for done in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    >>> round(factor("cosine", 0, 10, 5), 3)
    0.5
    """
    if done < warmup:
        return (done + 1) / warmup
    if schedule == "constant":
        return 1.0
    share = min(1.0, (done - warmup) / max(1, total - warmup))
    return 1.0 - share if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * share))
