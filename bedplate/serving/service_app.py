"""The application of a service: from a request to the answer of the pipeline, of a model, or of the server itself.

POST /recommend, /rank, /embed, /similar        ids in, ids and scores out, or vectors
GET  /                                          the service: models, requests
GET  /openapi.json                              all of this, for programs that write clients
GET  /metrics                                   for Prometheus
     /v2...                                     Open Inference Protocol, see `oip.routes`
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, final

import msgspec

from bedplate.errors import NotReadyError, NotServedError, suggest
from bedplate.http.dispatch import Route, respond, usual_routes
from bedplate.http.message import Request, Response
from bedplate.http.metrics import Metrics, view_lines
from bedplate.inference.repository import Repository
from bedplate.malformed import cut
from bedplate.oip.routes import ProtocolRoutes
from bedplate.serving import api
from bedplate.serving.answers import Answer, Similar, Vectors
from bedplate.serving.call_metrics import call_lines, side_lines
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.service_openapi import service_openapi
from bedplate.serving.stepping import finished

_ANSWERED_BEFORE = ("metadata", "live", "ready")
"""Routes below /v2 that are answered before the models are loaded."""


@final
class App:
    """Answers the requests of one service. Before `open` and after `close` it is live and not ready.

    Args:
        repository: the models that tensor clients are answered for; those of the service are added to it.

    >>> App().handle(Request("GET", "/v2/health/ready", {}, b"")).status
    503
    """

    __slots__ = ("_failed", "_metrics", "_openapi", "_pipeline", "_protocol", "_ready", "_repository", "_routes")

    def __init__(self, repository: Repository | None = None) -> None:
        self._pipeline: Pipeline | None = None
        self._repository = Repository() if repository is None else repository
        self._openapi = b""
        self._ready = self._failed = False
        self._metrics = Metrics()
        self._protocol = ProtocolRoutes(self._repository, lambda: self._ready)
        self._routes: dict[str, Route] = {
            **{f"/{name}": (name, "POST", self._call(call)) for name, call in api.CALLS.items()},
            "/": ("describe", "GET", self._describe),
            **usual_routes(lambda: self._openapi_of(self._loaded()), self._metrics),
        }

    @property
    def metrics(self) -> Metrics:
        """What it has answered, and how."""
        return self._metrics

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that are the same for every service."""
        return (*self._routes, *self._protocol.paths)

    def retry(self) -> None:
        """Says in answers before `open` that the models could not be loaded, and are tried again."""
        self._failed = True

    def open(self, pipeline: Pipeline) -> None:
        """Becomes ready."""
        self._pipeline = pipeline
        self._repository.serve([artifact.model for artifact in pipeline.models.values()])
        if pipeline.reader is not None:
            self._metrics.watch(pipeline.reader.guard, pipeline.reader.resident)
            self._metrics.add(lambda: _view_lines(pipeline))
        self._metrics.add(lambda: call_lines(self._repository.models))
        self._metrics.add(lambda: side_lines(pipeline.models.values()))
        self._ready = True

    @property
    def is_ready(self) -> bool:
        """Whether it answers requests."""
        return self._ready

    def close(self) -> None:
        """Is no longer ready; requests that come nevertheless are answered."""
        self._ready = False

    def handle(self, request: Request) -> Response | Awaitable[Response]:
        """Answers a request; an error becomes its status and `{"error": ...}`."""
        return respond(request, self._find(request.path), self._metrics)

    def _find(self, path: str) -> Route:
        route = self._routes.get(path)
        if route is None and path.startswith("/v2"):
            route = self._protocol.find(path)
            if route is not None and not self._repository.is_open and route[0] not in _ANSWERED_BEFORE:
                return route[0], route[1], lambda _: self._not_loaded()
        return route or ("unknown", "*", self._unknown)

    def _not_loaded(self) -> Response:
        raise NotReadyError("models", ask="/v2/health/ready", failed=self._failed)

    def _unknown(self, request: Request) -> Response:
        path = cut(request.path)
        raise NotServedError(f"no path '{path}'", hint=suggest(path, self.paths, "paths"))

    def _loaded(self) -> Pipeline:
        if self._pipeline is None:
            raise NotReadyError("models", ask="/v2/health/ready", failed=self._failed)
        return self._pipeline

    def _call(self, call: api.Call) -> Callable[[Request], Response | Awaitable[Response]]:
        def answer(request: Request) -> Response | Awaitable[Response]:
            pipeline = self._loaded()
            batcher = pipeline.batcher
            answered = self._observed(call(request, pipeline, batcher))
            return finished(answered) if batcher is None else answered

        return answer

    async def _observed(self, answered: Awaitable[api.Answered]) -> Response:
        response, answer = await answered
        self._observe(answer)
        return response

    def _observe(self, answer: Answer | Vectors | Similar) -> None:
        if isinstance(answer, Similar):  # it reads no features
            return
        self._metrics.observe_behind(answer.behind_seconds)
        if answer.degraded:
            self._metrics.observe_degraded(answer.degraded)

    def _openapi_of(self, pipeline: Pipeline) -> bytes:
        self._openapi = self._openapi or msgspec.json.encode(service_openapi(pipeline))
        return self._openapi

    def _describe(self, request: Request) -> Response:
        return _json(self._loaded().describe())


def _json(value: Any, status: int = 200) -> Response:
    return Response(status, msgspec.json.encode(value))


def _view_lines(pipeline: Pipeline) -> list[str]:
    missing = None if pipeline.reader is None else pipeline.reader.missing(pipeline.views)
    return [] if missing is None else view_lines([view.name for view in pipeline.views], missing)
