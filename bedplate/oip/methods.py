"""The methods of the Open Inference Protocol over gRPC: from a message to a message, whatever server carries them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, final

from bedplate.errors import NotReadyError, NotServedError, RequestError
from bedplate.inference.repository import Repository
from bedplate.oip import proto
from bedplate.oip.messages import MESSAGES, DecodeError
from bedplate.oip.model_config import DATA_TYPES, model_config
from bedplate.oip.routes import model_metadata, server_metadata

_SERVICE = "inference.GRPCInferenceService"
_HEALTH = "grpc.health.v1.Health"
_SERVICES = ("", _SERVICE, _HEALTH)
"""What the health of can be asked for; the empty name is the whole server."""
_SERVING, _NOT_SERVING = 1, 2


@final
@dataclass(frozen=True, slots=True)
class Wait:
    """What a message has waited for its turn, nanoseconds, and how long its client waits: on the monotonic clock."""

    nanoseconds: int = 0
    deadline: float = math.inf


@final
class InferenceService:
    """What the methods answer from.

    Args:
        repository: the models.
        is_ready: whether the server answers requests.
    """

    def __init__(self, repository: Repository, is_ready: Callable[[], bool]) -> None:
        self._models, self._is_ready = repository, is_ready

    @property
    def repository(self) -> Repository:
        """The models.

        Raises:
            BedplateError: they are still loading.
        """
        if not self._models.is_open:
            raise NotReadyError("models", ask="ServerReady")
        return self._models

    def live(self, asked: Any, wait: Wait) -> Any:
        """ServerLive."""
        return MESSAGES["ServerLiveResponse"](live=True)

    def ready(self, asked: Any, wait: Wait) -> Any:
        """ServerReady."""
        return MESSAGES["ServerReadyResponse"](ready=self._is_ready())

    def check(self, asked: Any, wait: Wait) -> Any:
        """Check of gRPC's health protocol: the whole server, whichever of its services is asked for.

        Raises:
            NotServedError: the server has no such service.
        """
        if asked.service not in _SERVICES:
            raise NotServedError(
                f"no service '{asked.service[:200]}'",
                hint=f"ask for {', '.join(_SERVICES[1:])}, or for none: the server",
            )
        return MESSAGES["HealthCheckResponse"](status=_SERVING if self._is_ready() else _NOT_SERVING)

    def model_ready(self, asked: Any, wait: Wait) -> Any:
        """ModelReady. What is not served is not ready, and no error: clients wait for a model by asking."""
        return MESSAGES["ModelReadyResponse"](
            ready=self.repository.serves(asked.name, asked.version or None) and self._is_ready()
        )

    def server_metadata(self, asked: Any, wait: Wait) -> Any:
        """ServerMetadata."""
        return MESSAGES["ServerMetadataResponse"](**server_metadata())

    def model_metadata(self, asked: Any, wait: Wait) -> Any:
        """ModelMetadata."""
        model = self.repository.find(asked.name, asked.version or None).model
        return MESSAGES["ModelMetadataResponse"](**model_metadata(model, self.repository.versions(asked.name)))

    def model_config(self, asked: Any, wait: Wait) -> Any:
        """ModelConfig."""
        model = self.repository.find(asked.name, asked.version or None).model
        shown = model_config(model, self.repository.versions(asked.name))
        for tensor in (*shown["input"], *shown["output"]):
            tensor["data_type"] = DATA_TYPES.index(tensor["data_type"])
        return MESSAGES["ModelConfigResponse"](config=shown)

    def statistics(self, asked: Any, wait: Wait) -> Any:
        """ModelStatistics."""
        found = self.repository.statistics(asked.name or None, asked.version or None)
        return MESSAGES["ModelStatisticsResponse"](model_stats=found)

    def infer(self, asked: Any, wait: Wait) -> Any:
        """ModelInfer."""
        return self.repository.find(asked.model_name, asked.model_version or None).answer(
            lambda model: proto.decode_infer(asked, model.inputs, tuple(model.outputs)),
            lambda model, call, results: proto.encode_infer(call, model.name, model.version, results, model.outputs),
            wait.nanoseconds,
            wait.deadline,
        )

    async def index(self, asked: Any, wait: Wait) -> Any:
        """RepositoryIndex."""
        return MESSAGES["RepositoryIndexResponse"](models=await self.repository.index(ready=asked.ready))

    async def load(self, asked: Any, wait: Wait) -> Any:
        """RepositoryModelLoad."""
        await self.repository.load(asked.model_name, proto.parameters_of(asked.parameters))
        return MESSAGES["RepositoryModelLoadResponse"]()

    async def unload(self, asked: Any, wait: Wait) -> Any:
        """RepositoryModelUnload."""
        await self.repository.unload(asked.model_name, proto.parameters_of(asked.parameters))
        return MESSAGES["RepositoryModelUnloadResponse"]()

    def stream_infer(self, asked: Any, wait: Wait) -> Any:
        """One request of ModelStreamInfer: its answer, and whether it is to be marked as the final one."""
        final = proto.parameters_of(asked.parameters).get("triton_enable_empty_final_response") is True
        answer = self.infer(asked, wait)
        if inspect.isawaitable(answer):
            return _marked(answer, final)
        return _mark(answer, final)

    @staticmethod
    def streamed(answer: Any) -> Any:
        """The message of a stream for an answer."""
        return MESSAGES["ModelStreamInferResponse"](infer_response=answer)

    @staticmethod
    def streamed_problem(body: bytes, details: str) -> Any:
        """The message of a stream for a request that is not answered; with its id, where that can be read."""
        message = MESSAGES["ModelStreamInferResponse"](error_message=details)
        try:
            message.infer_response.id = MESSAGES["ModelInferRequest"].FromString(body).id
        except DecodeError:
            message.ClearField("infer_response")
        return message


async def _marked(answer: Awaitable[Any], final: bool) -> Any:
    return _mark(await answer, final)


def _mark(answer: Any, final: bool) -> Any:
    if final:
        answer.parameters["triton_final_response"].bool_param = True
    return answer


@final
@dataclass(frozen=True, slots=True)
class Method:
    """A method.

    Attributes:
        service: the service's full name.
        name: in the service.
        request: the name of the message that it takes.
        answer: gives the answer to a message, or what can be awaited for it.
        method: of HTTP: POST for what computes or changes something.
        target: the path of HTTP that means the same; `{}` is the model.
    """

    service: str
    name: str
    request: str
    answer: Callable[[InferenceService, Any, Wait], Any]
    method: str
    target: str

    @property
    def route(self) -> str:
        """The name under which calls are counted."""
        return f"grpc_{self.name}"

    def path(self, asked: Any) -> str:
        """The path of HTTP that means the same as a message."""
        return self.target.format(getattr(asked, "model_name", None) or getattr(asked, "name", ""))

    def parse(self, body: bytes) -> Any:
        """The message.

        Raises:
            RequestError: the bytes are none.
        """
        try:
            return MESSAGES[self.request].FromString(body)
        except DecodeError as error:
            raise RequestError(f"not a {self.request}: {error}") from error


def _method(name: str, answer: Callable[[InferenceService, Any, Wait], Any], method: str, target: str) -> Method:
    return Method(_SERVICE, name, f"{name}Request", answer, method, target)


METHODS = (
    _method("ServerLive", InferenceService.live, "GET", "/v2/health/live"),
    _method("ServerReady", InferenceService.ready, "GET", "/v2/health/ready"),
    _method("ServerMetadata", InferenceService.server_metadata, "GET", "/v2"),
    _method("ModelReady", InferenceService.model_ready, "GET", "/v2/models/{}/ready"),
    _method("ModelMetadata", InferenceService.model_metadata, "GET", "/v2/models/{}"),
    _method("ModelConfig", InferenceService.model_config, "GET", "/v2/models/{}/config"),
    _method("ModelStatistics", InferenceService.statistics, "GET", "/v2/models/{}/stats"),
    _method("ModelInfer", InferenceService.infer, "POST", "/v2/models/{}/infer"),
    _method("RepositoryIndex", InferenceService.index, "POST", "/v2/repository/index"),
    _method("RepositoryModelLoad", InferenceService.load, "POST", "/v2/repository/models/{}/load"),
    _method("RepositoryModelUnload", InferenceService.unload, "POST", "/v2/repository/models/{}/unload"),
    Method(_HEALTH, "Check", "HealthCheckRequest", InferenceService.check, "GET", "/v2/health/ready"),
)
"""The methods that take one message and give one."""

STREAM = Method(
    _SERVICE, "ModelStreamInfer", "ModelInferRequest", InferenceService.stream_infer, "POST", "/v2/models/{}/infer"
)
"""The method that takes many messages and answers each."""
