"""Routes: from a request to the answer of the pipeline, of a model, or of the server itself.

POST /recommend, /rank                          ids in, ids and scores out
GET  /                                          the service: models, requests
GET  /metrics                                   for Prometheus
GET  /v2, /v2/health/live, /v2/health/ready     Open Inference Protocol
GET  /v2/models/{model}[/versions/{version}][/ready]
POST /v2/models/{model}[/versions/{version}]/infer
"""

from __future__ import annotations

import importlib.metadata
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, final

import msgspec

from bedplate.errors import BedplateError, NotFoundError, suggest
from bedplate.serving import oip
from bedplate.serving.http import TEXT, Request, Response, error_response
from bedplate.serving.metrics import Metrics
from bedplate.serving.model import Model
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.wire import Answer, Asked

log = logging.getLogger("bedplate.serving")

Route: TypeAlias = tuple[str, str, Callable[[Request], Response]]
"""The name under which a route is counted, its method, and its function."""

_answer_encoder = msgspec.json.Encoder()


@final
class App:
    """Answers the requests of one service. Before `open` and after `close` it is live and not ready.

    >>> App().handle(Request("GET", "/v2/health/ready", {}, b"")).status
    503
    """

    __slots__ = ("_metrics", "_models", "_pipeline", "_ready", "_routes", "_version")

    def __init__(self) -> None:
        self._pipeline: Pipeline | None = None
        self._models: Mapping[str, Model] = {}
        self._ready = False
        self._metrics = Metrics()
        self._version = importlib.metadata.version("bedplate")
        self._routes: dict[str, Route] = {
            "/recommend": ("recommend", "POST", self._recommend),
            "/rank": ("rank", "POST", self._rank),
            "/": ("describe", "GET", self._describe),
            "/metrics": ("metrics", "GET", self._show_metrics),
            "/v2": ("metadata", "GET", self._server_metadata),
            "/v2/": ("metadata", "GET", self._server_metadata),
            "/v2/health/live": ("live", "GET", lambda _: _json({"live": True})),
            "/v2/health/ready": ("ready", "GET", self._health_ready),
        }

    @property
    def metrics(self) -> Metrics:
        """What it has answered, and how."""
        return self._metrics

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that are the same for every service."""
        return tuple(self._routes)

    def open(self, pipeline: Pipeline) -> None:
        """Becomes ready."""
        self._pipeline = pipeline
        self._models = {artifact.model.name: artifact.model for artifact in pipeline.models.values()}
        if pipeline.store is not None:
            self._metrics.watch(pipeline.store, pipeline.resident)
        self._ready = True

    def close(self) -> None:
        """Is no longer ready; requests that come nevertheless are answered."""
        self._ready = False

    def handle(self, request: Request) -> Response:
        """Answers a request; an error becomes its status and `{"error": ...}`."""
        return respond(request, self._find(request.path), self._metrics)

    def _find(self, path: str) -> Route:
        route = self._routes.get(path)
        if route is not None:
            return route
        parts = path.split("/")
        if path.startswith("/v2/models/") and len(parts) > 3 and parts[3]:
            model, rest = parts[3], parts[4:]
            version = None
            if len(rest) > 1 and rest[0] == "versions":
                version, rest = rest[1], rest[2:]
            if rest in ([], [""]):
                return "model_metadata", "GET", lambda _: self._model_metadata(self._model(model, version))
            if rest == ["ready"]:
                return "model_ready", "GET", lambda _: self._model_ready(self._model(model, version))
            if rest == ["infer"]:
                return "infer", "POST", lambda request: _infer(self._model(model, version), request)
        return "unknown", "*", self._unknown

    def _unknown(self, request: Request) -> Response:
        raise NotFoundError(f"no path '{request.path}'", hint=suggest(request.path, self._routes, "paths"))

    def _loaded(self) -> Pipeline:
        if self._pipeline is None:
            raise _NotReadyError("the models are still loading", hint="ask /v2/health/ready")
        return self._pipeline

    def _recommend(self, request: Request) -> Response:
        pipeline = self._loaded()
        return self._answered(pipeline.recommend, pipeline.wire.recommend(request.body))

    def _rank(self, request: Request) -> Response:
        pipeline = self._loaded()
        return self._answered(pipeline.rank, pipeline.wire.rank(request.body))

    def _answered(self, step: Callable[[Asked], Answer], asked: Asked) -> Response:
        answer = step(asked)
        if answer.degraded:
            self._metrics.observe_degraded(answer.degraded)
        return Response(200, _answer_encoder.encode(answer))

    def _describe(self, request: Request) -> Response:
        return _json(self._loaded().describe())

    def _show_metrics(self, request: Request) -> Response:
        return Response(200, self._metrics.text().encode(), TEXT)

    def _server_metadata(self, request: Request) -> Response:
        return _json({"name": "bedplate", "version": self._version, "extensions": ["binary_tensor_data"]})

    def _health_ready(self, request: Request) -> Response:
        return _json({"ready": self._ready}, 200 if self._ready else 503)

    def _model(self, name: str, version: str | None) -> Model:
        self._loaded()
        model = self._models.get(name)
        if model is None:
            raise NotFoundError(f"no model '{name}' is served", hint=suggest(name, self._models, "models"))
        if version is not None and version != model.version:
            raise NotFoundError(f"version '{version}' of model '{name}' is not served", hint=f"it is {model.version}")
        return model

    def _model_ready(self, model: Model) -> Response:
        return _json({"name": model.name, "ready": self._ready}, 200 if self._ready else 503)

    def _model_metadata(self, model: Model) -> Response:
        return _json(
            {
                "name": model.name,
                "versions": [model.version],
                "platform": model.platform,
                "inputs": [oip.metadata(spec) for spec in model.inputs.values()],
                "outputs": [oip.metadata(spec) for spec in model.outputs.values()],
            }
        )


def respond(request: Request, route: Route, metrics: Metrics) -> Response:
    """The answer of a route, counted; an error becomes its status and `{"error": ...}`."""
    begin = time.perf_counter()
    name, method, function = route
    try:
        asked = "GET" if request.method == "HEAD" else request.method
        if method not in (asked, "*"):
            response = _wrong_method(request, method)
        elif request.headers.get(b"content-encoding", b"identity") != b"identity":
            response = error_response(415, "got a compressed body, expected it as it is")
        else:
            response = function(request)
    except BedplateError as error:
        if error.http_status >= 500:
            log.error("%s %s: %s", request.method, request.path, error)
        response = error_response(error.http_status, error.message, where=error.where, hint=error.hint)
    metrics.observe(name, response.status, time.perf_counter() - begin)
    return response


class _NotReadyError(BedplateError):
    http_status = 503


def _infer(model: Model, request: Request) -> Response:
    call = oip.decode_infer(request.body, request.headers.get(oip.HEADER_LENGTH), model.inputs, tuple(model.outputs))
    results = model.run(call.tensors, [name for name, _ in call.outputs])
    return oip.encode_infer(call, model.name, model.version, results)


def _wrong_method(request: Request, expected: str) -> Response:
    allowed = "GET, HEAD" if expected == "GET" else expected
    response = error_response(405, f"got {request.method} {request.path}, expected {allowed}")
    return Response(response.status, response.body, headers=((b"Allow", allowed.encode()),))


def _json(value: Any, status: int = 200) -> Response:
    return Response(status, msgspec.json.encode(value))
