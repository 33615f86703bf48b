"""The API of ids: `recommend`, `rank`, `embed` and `similar`, in JSON or Arrow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import msgspec

from bedplate.errors import RequestError
from bedplate.serving.answers import Answer, Similar, Vectors
from bedplate.serving.arrow import REQUEST_HEADER, answer_stream, is_arrow, read_candidates, wants_arrow
from bedplate.serving.http import Request, Response
from bedplate.serving.model import SharedCalls
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.wire import Asked

Answered: TypeAlias = "tuple[Response, Answer | Vectors | Similar]"
"""An answer as it is sent, and what is in it."""
Call: TypeAlias = Callable[[Request, Pipeline], Answered]
"""Answers a request."""
SharedCall: TypeAlias = Callable[[Request, Pipeline, SharedCalls], Awaitable[Answered]]
"""Answers a request together with others."""

_encoder = msgspec.json.Encoder()


def recommend(request: Request, pipeline: Pipeline) -> Answered:
    """The best items.

    Raises:
        BedplateError: see `Pipeline.recommend`.
    """
    answer = pipeline.recommend(_recommended(request, pipeline))
    return _response(request, pipeline, answer), answer


def rank(request: Request, pipeline: Pipeline) -> Answered:
    """The scores of candidates.

    Raises:
        BedplateError: see `Pipeline.rank`.
    """
    answer = pipeline.rank(_ranked(request, pipeline))
    return _response(request, pipeline, answer), answer


def embed(request: Request, pipeline: Pipeline) -> Answered:
    """Vectors.

    Raises:
        BedplateError: see `Pipeline.embed`.
    """
    asked = pipeline.wire.embed(_json_body(request))
    if isinstance(asked, Asked):
        asked.deadline = request.deadline
    answer = pipeline.embed(asked)
    return _response(request, pipeline, answer), answer


def similar(request: Request, pipeline: Pipeline) -> Answered:
    """The items nearest to one.

    Raises:
        BedplateError: see `Pipeline.similar`.
    """
    answer = pipeline.similar(pipeline.wire.similar(_json_body(request)))
    return _response(request, pipeline, answer), answer


async def recommend_shared(request: Request, pipeline: Pipeline, batcher: SharedCalls) -> Answered:
    """As `recommend`, with a call of the ranking model that other requests may share."""
    answer = await pipeline.recommend_shared(_recommended(request, pipeline), batcher)
    return _response(request, pipeline, answer), answer


async def rank_shared(request: Request, pipeline: Pipeline, batcher: SharedCalls) -> Answered:
    """As `rank`, with a call of the ranking model that other requests may share."""
    answer = await pipeline.rank_shared(_ranked(request, pipeline), batcher)
    return _response(request, pipeline, answer), answer


SHARED: Mapping[str, SharedCall] = {"recommend": recommend_shared, "rank": rank_shared}
"""Those that call the ranking model, by the name of the path."""

CALLS: Mapping[str, Call] = {"recommend": recommend, "rank": rank, "embed": embed, "similar": similar}
"""By the name of the path."""


def _recommended(request: Request, pipeline: Pipeline) -> Asked:
    asked = pipeline.wire.recommend(_json_body(request))
    asked.deadline = request.deadline
    return asked


def _ranked(request: Request, pipeline: Pipeline) -> Asked:
    if is_arrow(request):
        rest = request.headers.get(REQUEST_HEADER.lower().encode(), b"{}")
        asked = pipeline.wire.rank_table(rest, read_candidates(request.body, pipeline.service.most_candidates))
    else:
        asked = pipeline.wire.rank(request.body)
    asked.deadline = request.deadline
    return asked


def _json_body(request: Request) -> bytes:
    if is_arrow(request):
        raise RequestError(f"got Arrow, expected JSON: {request.path} takes no table", where="body")
    return request.body


def _response(request: Request, pipeline: Pipeline, answer: Answer | Vectors | Similar) -> Response:
    if wants_arrow(request):
        return answer_stream(answer, pipeline.service, pipeline.wire.item)
    return Response(200, _encoder.encode(answer))
