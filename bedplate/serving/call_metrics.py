"""What a scraper reads of how models are called: calls that requests share, and candidates that are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bedplate.exposition import family
from bedplate.inference.artifact import Artifact
from bedplate.inference.model import Model


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


def side_lines(artifacts: Iterable[Artifact]) -> list[str]:
    """The samples of the models whose candidates' side is kept; none where no model's is.

    Args:
        artifacts: of a service.

    >>> side_lines([])
    []
    """
    found = [
        ({"model": a.model.name, "version": a.model.version, "was": was}, count)
        for a in artifacts
        if a.item_side is not None
        for was, count in (("known", a.item_side.known), ("computed", a.item_side.computed))
    ]
    said = "Rows of candidates that were looked up among those of earlier requests."
    return family("bedplate_candidate_rows_total", "counter", said, found) if found else []
