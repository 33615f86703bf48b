"""The API of ids: `recommend`, `rank`, `embed` and `similar`, in JSON or Arrow."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias

import msgspec

from bedplate.errors import RequestError
from bedplate.http.message import Request, Response
from bedplate.inference.model import SharedCalls
from bedplate.serving.answers import Answer, Similar, Vectors
from bedplate.serving.arrow import REQUEST_HEADER, answer_stream, is_arrow, read_candidates, wants_arrow
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.wire import Asked

Answered: TypeAlias = "tuple[Response, Answer | Vectors | Similar]"
"""An answer as it is sent, and what is in it."""
Call: TypeAlias = "Callable[[Request, Pipeline, SharedCalls | None], Coroutine[Any, Any, Answered]]"
"""Answers a request. Others may share its call of the ranking model, by a batcher; without one it waits for nothing."""

_encoder = msgspec.json.Encoder()


async def recommend(request: Request, pipeline: Pipeline, batcher: SharedCalls | None) -> Answered:
    """The best items.

    Raises:
        BedplateError: see `Pipeline.recommend`.
    """
    asked = pipeline.wire.recommend(_json_body(request))
    asked.deadline = request.deadline
    answer = await pipeline.answer_recommend(asked, batcher)
    return _response(request, pipeline, answer), answer


async def rank(request: Request, pipeline: Pipeline, batcher: SharedCalls | None) -> Answered:
    """The scores of candidates.

    Raises:
        BedplateError: see `Pipeline.rank`.
    """
    if is_arrow(request):
        rest = request.headers.get(REQUEST_HEADER.lower().encode(), b"{}")
        asked = pipeline.wire.rank_table(rest, read_candidates(request.body, pipeline.service.most_candidates))
    else:
        asked = pipeline.wire.rank(request.body)
    asked.deadline = request.deadline
    answer = await pipeline.answer_rank(asked, batcher)
    return _response(request, pipeline, answer), answer


async def embed(request: Request, pipeline: Pipeline, _: SharedCalls | None) -> Answered:
    """Vectors.

    Raises:
        BedplateError: see `Pipeline.embed`.
    """
    asked = pipeline.wire.embed(_json_body(request))
    if isinstance(asked, Asked):
        asked.deadline = request.deadline
    answer = pipeline.embed(asked)
    return _response(request, pipeline, answer), answer


async def similar(request: Request, pipeline: Pipeline, _: SharedCalls | None) -> Answered:
    """The items nearest to one.

    Raises:
        BedplateError: see `Pipeline.similar`.
    """
    answer = pipeline.similar(pipeline.wire.similar(_json_body(request)))
    return _response(request, pipeline, answer), answer


CALLS: Mapping[str, Call] = {"recommend": recommend, "rank": rank, "embed": embed, "similar": similar}
"""By the name of the path."""


def _json_body(request: Request) -> bytes:
    if is_arrow(request):
        raise RequestError(f"got Arrow, expected JSON: {request.path} takes no table", where="body")
    return request.body


def _response(request: Request, pipeline: Pipeline, answer: Answer | Vectors | Similar) -> Response:
    if wants_arrow(request):
        return answer_stream(answer, pipeline.service, pipeline.wire.item)
    return Response(200, _encoder.encode(answer))
