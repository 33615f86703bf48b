"""The routes of the feature server.

POST /v1/features        features for keys, as of now; JSON or Arrow IPC
GET  /openapi.json       all of this, for programs that write clients
GET  /healthz            whether it answers: 200, or 503
GET  /metrics            for Prometheus
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection
from typing import final

import msgspec

from bedplate.errors import NotReadyError, NotServedError, suggest
from bedplate.http.dispatch import Route, respond, usual_routes
from bedplate.http.message import Request, Response, retry_after
from bedplate.http.metrics import Metrics, view_lines
from bedplate.malformed import cut
from bedplate.serving.feature_plan import FeatureLookup
from bedplate.serving.feature_wire import answer
from bedplate.serving.openapi import openapi


@final
class FeatureApp:
    """Answers requests for features. Before `open` and after `close` it is live and not ready.

    Args:
        has_tokens: whether its server lets in only those with a token, which the description of its requests says.

    >>> FeatureApp().handle(Request("GET", "/healthz", {}, b"")).status
    503
    """

    __slots__ = ("_failed", "_features", "_has_tokens", "_metrics", "_missing", "_openapi", "_ready", "_routes")

    def __init__(self, *, has_tokens: bool = False) -> None:
        self._has_tokens = has_tokens
        self._features: FeatureLookup | None = None
        self._openapi = b""
        self._ready = self._failed = False
        self._missing: Collection[str] = ()
        self._metrics = Metrics()
        self._metrics.add(self._view_lines)
        self._routes: dict[str, Route] = {
            "/v1/features": ("features", "POST", self._answer),
            "/healthz": ("health", "GET", self._health),
            **usual_routes(lambda: self._openapi_of(self._loaded()), self._metrics),
        }

    @property
    def metrics(self) -> Metrics:
        """What it has answered, and how."""
        return self._metrics

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that are answered."""
        return tuple(self._routes)

    def retry(self) -> None:
        """Says in answers before `open` that the features could not be loaded, and are tried again."""
        self._failed = True

    def open(self, features: FeatureLookup) -> None:
        """Becomes ready; or answers from now on with these features, in place of those before.

        A request is answered with the ones or the others: it asks once which.
        """
        self._features, self._openapi, self._missing = features, b"", ()
        self._metrics.watch(features.reader.guard, features.reader.resident)
        self._ready = True

    def close(self) -> None:
        """Is no longer ready; requests that come nevertheless are answered."""
        self._ready = False

    def handle(self, request: Request) -> Response | Awaitable[Response]:
        """Answers a request; an error becomes its status and `{"error": ...}`."""
        route = self._routes.get(request.path, ("unknown", "*", self._unknown))
        return respond(request, route, self._metrics)

    def _answer(self, request: Request) -> Response:
        response, values = answer(request, self._loaded())
        self._metrics.observe_behind(values.behind)
        if values.degraded:
            self._metrics.observe_degraded(values.degraded)
        return response

    def _health(self, request: Request) -> Response:
        up = self._features is not None and self._features.reader.guard.is_up
        missing = self._look()
        ready = self._ready and not (missing and self._has_none(missing))
        shown = {"ready": ready, "store": "up" if up else "down"}
        body = msgspec.json.encode(shown | ({"missing": list(missing)} if missing else {}))
        status = 200 if ready else 503
        return Response(status, body, headers=retry_after(status))

    def _look(self) -> Collection[str]:
        """The names of the views that the store does not hold: as it last said, where it does not answer."""
        if self._features is not None:
            found = self._features.reader.missing(self._features.graph.views.values())
            self._missing = self._missing if found is None else found
        return self._missing

    def _has_none(self, missing: Collection[str]) -> bool:
        return self._features is not None and len(missing) == len(self._features.graph.views)

    def _view_lines(self) -> list[str]:
        return [] if self._features is None else view_lines(self._features.graph.views, self._look())

    def _loaded(self) -> FeatureLookup:
        if self._features is None:
            raise NotReadyError("features", ask="/healthz", failed=self._failed)
        return self._features

    def _openapi_of(self, features: FeatureLookup) -> bytes:
        self._openapi = self._openapi or msgspec.json.encode(openapi(features, has_tokens=self._has_tokens))
        return self._openapi

    def _unknown(self, request: Request) -> Response:
        path = cut(request.path)
        raise NotServedError(f"no path '{path}'", hint=suggest(path, self._routes, "paths"))
