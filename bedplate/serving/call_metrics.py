"""What a scraper reads of the calls of models that requests share."""

from __future__ import annotations

from collections.abc import Sequence

from bedplate.exposition import family
from bedplate.serving.model import Model


def call_lines(models: Sequence[Model]) -> list[str]:
    """The samples of the models whose calls are shared; none where no model's are.

    Args:
        models: all that answer.

    >>> call_lines([])
    []
    """
    found = [
        ({"model": model.name, "version": model.version}, model.batcher.shared)
        for model in models
        if model.batcher is not None
    ]
    if not found:
        return []
    alone = "Requests that could not share a call, and had their own."
    return [
        *family(
            "bedplate_shared_calls_total", "counter", "Calls of models.", [(labels, s.calls) for labels, s in found]
        ),
        *family(
            "bedplate_shared_requests_total",
            "counter",
            "Requests in them.",
            [(labels, s.requests) for labels, s in found],
        ),
        *family("bedplate_unshared_requests_total", "counter", alone, [(labels, s.alone) for labels, s in found]),
    ]
