"""The routes of the Open Inference Protocol v2 over REST, with its extensions.

GET  /v2, /v2/health/live, /v2/health/ready
GET  /v2/models/{model}[/versions/{version}][/ready|/config|/stats], /v2/models/stats
POST /v2/models/{model}[/versions/{version}]/infer
POST /v2/repository/index, /v2/repository/models/{model}/load, /v2/repository/models/{model}/unload
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeVar, final

import msgspec

from bedplate.errors import RequestError
from bedplate.http.dispatch import Route
from bedplate.http.message import Request, Response, retry_after
from bedplate.inference.model import Model
from bedplate.inference.repository import Repository, Served
from bedplate.malformed import reason_of
from bedplate.oip import codec
from bedplate.oip.model_config import model_config

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics")
"""What the server knows beyond the protocol itself; each is a document of Triton's protocol extensions."""


class _Index(msgspec.Struct):
    ready: bool = False


class _Control(msgspec.Struct):
    parameters: dict[str, str | int | float | bool] = {}


_Body = TypeVar("_Body", _Index, _Control)


@final
class ProtocolRoutes:
    """Finds the route of a path under `/v2`.

    Args:
        repository: the models.
        is_ready: whether the server answers requests.
    """

    __slots__ = ("_fixed", "_is_ready", "_repository")

    def __init__(self, repository: Repository, is_ready: Callable[[], bool]) -> None:
        self._repository, self._is_ready = repository, is_ready
        self._fixed: dict[str, Route] = {
            "/v2": ("metadata", "GET", lambda _: _json(server_metadata())),
            "/v2/": ("metadata", "GET", lambda _: _json(server_metadata())),
            "/v2/health/live": ("live", "GET", lambda _: _json({"live": True})),
            "/v2/health/ready": ("ready", "GET", lambda _: self._health()),
            "/v2/models/stats": ("statistics", "GET", lambda _: self._statistics(None, None)),
            "/v2/repository/index": ("repository_index", "POST", self._index),
        }

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that are the same for every service."""
        return tuple(self._fixed)

    def find(self, path: str) -> Route | None:
        """The route of a path; None: there is none."""
        route = self._fixed.get(path)
        if route is not None:
            return route
        parts = path.split("/")
        if path.startswith("/v2/models/") and len(parts) > 3 and parts[3]:
            return self._of_model(parts[3], parts[4:])
        if path.startswith("/v2/repository/models/") and len(parts) == 6 and parts[4]:
            name = parts[4]
            if parts[5] == "load":
                return "repository_load", "POST", lambda request: self._load(name, request)
            if parts[5] == "unload":
                return "repository_unload", "POST", lambda request: self._unload(name, request)
        return None

    def _of_model(self, name: str, rest: list[str]) -> Route | None:
        version = None
        if len(rest) > 1 and rest[0] == "versions":
            version, rest = rest[1], rest[2:]
        match rest:
            case [] | [""]:
                return "model_metadata", "GET", lambda _: self._metadata(name, version)
            case ["infer"]:
                return "infer", "POST", lambda request: _infer(self._repository.find(name, version), request)
            case ["ready"]:
                return "model_ready", "GET", lambda _: self._model_ready(name, version)
            case ["config"]:
                return "model_config", "GET", lambda _: self._config(name, version)
            case ["stats"]:
                return "statistics", "GET", lambda _: self._statistics(name, version)
            case _:
                return None

    def _health(self) -> Response:
        return _json({"ready": self._is_ready()}, 200 if self._is_ready() else 503)

    def _model_ready(self, name: str, version: str | None) -> Response:
        model = self._repository.find(name, version).model
        return _json({"name": model.name, "ready": self._is_ready()}, 200 if self._is_ready() else 503)

    def _metadata(self, name: str, version: str | None) -> Response:
        model = self._repository.find(name, version).model
        return _json(model_metadata(model, self._repository.versions(name)))

    def _config(self, name: str, version: str | None) -> Response:
        model = self._repository.find(name, version).model
        return _json(model_config(model, self._repository.versions(name)))

    def _statistics(self, name: str | None, version: str | None) -> Response:
        return _json({"model_stats": self._repository.statistics(name, version)})

    async def _index(self, request: Request) -> Response:
        return _json(await self._repository.index(ready=_body(request, _Index).ready))

    async def _load(self, name: str, request: Request) -> Response:
        await self._repository.load(name, _body(request, _Control).parameters)
        return _json({})

    async def _unload(self, name: str, request: Request) -> Response:
        await self._repository.unload(name, _body(request, _Control).parameters)
        return _json({})


def server_metadata() -> dict[str, Any]:
    """The server, as the protocol shows it."""
    return {"name": "bedplate", "version": _version(), "extensions": list(EXTENSIONS)}


@functools.cache
def _version() -> str:
    """The version that is installed; finding it out reads files, which takes half a millisecond."""
    return importlib.metadata.version("bedplate")


def model_metadata(model: Model, versions: list[str]) -> dict[str, Any]:
    """A model, as the protocol shows it."""
    return {
        "name": model.name,
        "versions": versions,
        "platform": model.platform,
        "inputs": [codec.metadata(spec) for spec in model.inputs.values()],
        "outputs": [codec.metadata(spec) for spec in model.outputs.values()],
    }


def _infer(served: Served, request: Request) -> Response | Awaitable[Response]:
    length = request.headers.get(codec.HEADER_LENGTH)
    return served.answer(
        lambda model: codec.decode_infer(request.body, length, model.inputs, tuple(model.outputs)),
        lambda model, call, results: codec.encode_infer(call, model.name, model.version, results, model.outputs),
        int((monotonic() - request.arrived) * 1e9) if request.arrived else 0,
        request.deadline,
    )


def _body(request: Request, kind: type[_Body]) -> _Body:
    if not request.body.strip():
        return kind()
    try:
        return msgspec.json.decode(request.body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"not what this path takes: {reason_of(error, request.body)}", where="body") from error


def _json(value: Any, status: int = 200) -> Response:
    return Response(status, msgspec.json.encode(value), headers=retry_after(status))
