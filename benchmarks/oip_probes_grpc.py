"""Probes of the Open Inference Protocol over gRPC, by Triton's own client and by messages that it would not send."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as client_of
from oip_probes import Seen, values
from oip_servers import TYPES, Asked
from tritonclient.grpc import service_pb2 as messages
from tritonclient.utils import InferenceServerException

GRPC: dict[str, Callable[[Asked], Seen]] = {}
SERVICE = "/inference.GRPCInferenceService/"


def probe(what: str) -> Callable[[Callable[[Any], Seen]], Callable[[Any], Seen]]:
    def add(function: Callable[[Any], Seen]) -> Callable[[Any], Seen]:
        def ask(server: Asked) -> Seen:
            with client_of.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
                return function(client)

        GRPC[what] = ask
        return function

    return add


def code(what: str, ask: Callable[[Any], Any], *allowed: str) -> None:
    """A probe that a call is refused with one of these codes."""

    def function(client: Any) -> Seen:
        try:
            ask(client)
        except InferenceServerException as error:
            got = str(error.status()).removeprefix("StatusCode.")
            return got, got in allowed
        return "OK", False

    probe(what)(function)


def tensor(values: Any, name: str = "in", datatype: str = "FP32") -> Any:
    made = client_of.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


ROW = np.array([[0.5, 1.5]], np.float32)

code("an unknown model", lambda c: c.infer("x", [tensor(ROW)]), "NOT_FOUND")
code("an unknown version", lambda c: c.infer("one", [tensor(ROW)], model_version="9"), "NOT_FOUND")
code("an unknown input", lambda c: c.infer("one", [tensor(ROW, "x")]), "INVALID_ARGUMENT")
code("an input is missing", lambda c: c.infer("one", []), "INVALID_ARGUMENT")
code("another fixed size", lambda c: c.infer("one", [tensor(np.zeros((1, 3), np.float32))]), "INVALID_ARGUMENT")
code(
    "an unknown output",
    lambda c: c.infer("one", [tensor(ROW)], outputs=[client_of.InferRequestedOutput("x")]),
    "INVALID_ARGUMENT",
)
code("an unknown model's metadata", lambda c: c.get_model_metadata("x"), "NOT_FOUND")
code("loading an unknown model", lambda c: c.load_model("x"), "NOT_FOUND", "INVALID_ARGUMENT")


@probe("live, ready, and the model is ready")
def _(client: Any) -> Seen:
    seen = client.is_server_live(), client.is_server_ready(), client.is_model_ready("one", "1")
    return str(seen), all(seen)


@probe("metadata of the server and of a model, and its configuration")
def _(client: Any) -> Seen:
    server, model = client.get_server_metadata(), client.get_model_metadata("one", "1")
    config = client.get_model_config("one").config
    shape = list(model.inputs[0].shape)
    return f"{server.name}, {shape}", bool(server.extensions) and shape == [-1, 2] and config.input[0].data_type == 11


@probe("every datatype in raw contents, and the id comes back")
def _(client: Any) -> Seen:
    result = client.infer("echo", [tensor(values(k), f"in_{k}", k) for k in TYPES], request_id="42")
    wrong = []
    for kind in TYPES:
        got = result.as_numpy(f"out_{kind}")
        got = [v.decode() for v in got] if kind == "BYTES" else got.tolist()
        if got != values(kind).tolist():
            wrong.append(kind)
    return f"wrong: {wrong}", not wrong and result.get_response().id == "42"


@probe("typed contents")
def _(client: Any) -> Seen:
    asked = messages.ModelInferRequest(model_name="one")
    contents = messages.InferTensorContents(fp32_contents=[0.5, 1.5])
    asked.inputs.add(name="in", datatype="FP32", shape=[1, 2], contents=contents)
    answer = client._client_stub.ModelInfer(asked)
    got = client_of.InferResult(answer).as_numpy("out")
    return str(got.tolist()), np.array_equal(got, ROW)


@probe("contents beside raw contents")
def _(client: Any) -> Seen:
    asked = messages.ModelInferRequest(model_name="one", raw_input_contents=[ROW.tobytes()])
    contents = messages.InferTensorContents(fp32_contents=[0.5, 1.5])
    asked.inputs.add(name="in", datatype="FP32", shape=[1, 2], contents=contents)
    return _code_of(client._client_stub.ModelInfer, asked, "INVALID_ARGUMENT")


@probe("raw contents of another size than the shape says")
def _(client: Any) -> Seen:
    asked = messages.ModelInferRequest(model_name="one", raw_input_contents=[bytes(12)])
    asked.inputs.add(name="in", datatype="FP32", shape=[1, 2])
    return _code_of(client._client_stub.ModelInfer, asked, "INVALID_ARGUMENT")


@probe("more raw contents than inputs")
def _(client: Any) -> Seen:
    asked = messages.ModelInferRequest(model_name="one", raw_input_contents=[ROW.tobytes()] * 2)
    asked.inputs.add(name="in", datatype="FP32", shape=[1, 2])
    return _code_of(client._client_stub.ModelInfer, asked, "INVALID_ARGUMENT")


@probe("a negative size")
def _(client: Any) -> Seen:
    asked = messages.ModelInferRequest(model_name="one", raw_input_contents=[ROW.tobytes()])
    asked.inputs.add(name="in", datatype="FP32", shape=[-1, 2])
    return _code_of(client._client_stub.ModelInfer, asked, "INVALID_ARGUMENT")


@probe("bytes that are no message are the client's fault")
def _(client: Any) -> Seen:
    call = client._channel.unary_unary(f"{SERVICE}ModelInfer")
    return _code_of(call, b"\xff\xff", "INVALID_ARGUMENT")


@probe("an unknown method")
def _(client: Any) -> Seen:
    return _code_of(client._channel.unary_unary(f"{SERVICE}Nothing"), b"", "UNIMPLEMENTED")


def _code_of(call: Any, asked: Any, *allowed: str) -> Seen:
    try:
        call(asked, timeout=20)
    except grpc.RpcError as error:
        got = error.code().name  # pyright: ignore
        return got, got in allowed
    return "OK", False


@probe("a stream answers each request, in order, and goes on after a wrong one")
def _(client: Any) -> Seen:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for i, name in enumerate(("one", "x", "one")):
        client.async_stream_infer(name, [tensor(ROW)], request_id=str(i))
    seen = []
    for _ in range(3):
        result, error = answers.get(timeout=20)
        seen.append("error" if error else result.get_response().id)
    client.stop_stream()
    return str(seen), sorted(seen) == ["0", "2", "error"]


@probe("the health protocol of gRPC")
def _(client: Any) -> Seen:
    got = client._channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20)
    return got.hex(), got == b"\x08\x01"


@probe("statistics and the repository's index")
def _(client: Any) -> Seen:
    before = client.get_inference_statistics("one").model_stats[0].inference_count
    client.infer("one", [tensor(ROW)])
    more = client.get_inference_statistics("one").model_stats[0].inference_count - before
    ready = {m.name for m in client.get_model_repository_index().models if m.state == "READY"}
    return f"+{more} {sorted(ready)}", more == 1 and ready == {"echo", "one"}


@probe("a request and an answer in gzip")
def _(client: Any) -> Seen:
    many = np.zeros((5_000, 2), np.float32)
    got = client.infer("one", [tensor(many)], compression_algorithm="gzip").as_numpy("out")
    return str(got.shape), np.array_equal(got, many)


@probe("a deadline that is too short ends the call in time")
def _(client: Any) -> Seen:
    try:
        client.infer("one", [tensor(ROW)], client_timeout=1e-4)
    except InferenceServerException as error:
        return str(error.status()), "DEADLINE_EXCEEDED" in str(error.status())
    return "OK", False
