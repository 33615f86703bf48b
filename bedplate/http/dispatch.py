"""From a request to the answer of its route: counted, compressed, and an error as its status."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from bedplate.errors import BedplateError
from bedplate.http.compression import compress, decompress
from bedplate.http.message import TEXT, Request, Response, error_response
from bedplate.http.metrics import Metrics

log = logging.getLogger("bedplate.serving")

Route: TypeAlias = tuple[str, str, Callable[[Request], Response | Awaitable[Response]]]
"""The name under which a route is counted, its method, and its function."""


def usual_routes(openapi: Callable[[], bytes], metrics: Metrics) -> dict[str, Route]:
    """The routes of every application by path: the description of its requests, and its metrics."""
    return {
        "/openapi.json": ("openapi", "GET", lambda _: Response(200, openapi())),
        "/metrics": ("metrics", "GET", lambda _: Response(200, metrics.text().encode(), TEXT)),
    }


def respond(request: Request, route: Route, metrics: Metrics) -> Response | Awaitable[Response]:
    """The answer of a route, counted and compressed; an error becomes its status and `{"error": ...}`."""
    begin = time.perf_counter()
    name, method, function = route
    try:
        asked = "GET" if request.method == "HEAD" else request.method
        if method not in (asked, "*"):
            response = _wrong_method(request, method)
        else:
            decompress(request)
            response = function(request)
    except BedplateError as error:
        response = _problem(request, error)
    if isinstance(response, Response):
        metrics.observe(name, response.status, time.perf_counter() - begin)
        return compress(request, response)
    return _later(request, response, lambda status: metrics.observe(name, status, time.perf_counter() - begin))


async def _later(request: Request, answer: Awaitable[Response], observe: Callable[[int], None]) -> Response:
    try:
        response = await answer
    except BedplateError as error:
        response = _problem(request, error)
    observe(response.status)
    return compress(request, response)


def _problem(request: Request, error: BedplateError) -> Response:
    if error.http_status >= 500 and error.http_status != 504:  # a client that gives little time is no fault here
        log.error("%s %s: %s", request.method, request.path, error, exc_info=error if error.told else None)
    told = error.for_client()
    # Clients of the protocol show nothing but its one field.
    is_named = bool(told.where) and request.path.startswith("/v2")
    message = f"{told.where}: {told.message}" if is_named else told.message
    return error_response(error.http_status, message, where=told.where, hint=told.hint)


def _wrong_method(request: Request, expected: str) -> Response:
    allowed = "GET, HEAD" if expected == "GET" else expected
    response = error_response(405, f"got {request.method} {request.path}, expected {allowed}")
    return Response(response.status, response.body, headers=((b"Allow", allowed.encode()),))
