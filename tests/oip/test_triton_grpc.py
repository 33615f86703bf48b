"""The Open Inference Protocol over gRPC, asked by Triton's own client, sync, streaming and asyncio."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import echo
import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from test_batching import Rows, batcher_of, request
from tritonclient.grpc import service_pb2 as published
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from bedplate.errors import ConfigError
from bedplate.http.bodies import Bodies
from bedplate.http.door import Door
from bedplate.http.metrics import Metrics
from bedplate.http.settings import Settings
from bedplate.http.tls import Certificate
from bedplate.http.tokens import Tokens
from bedplate.http.turns import Turns
from bedplate.inference.model import Model
from bedplate.inference.repository import Repository
from bedplate.oip.grpc import GrpcServer
from bedplate.oip.messages import MESSAGES
from bedplate.oip.methods import METHODS, STREAM, InferenceService, Wait
from bedplate.oip.model_config import model_config
from bedplate.registry.registry import Registry
from bedplate.runtimes.tensors import DATATYPES
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.service_app import App

INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def target(registry: Registry, pipeline: Pipeline) -> Iterator[str]:
    app, repository = echo.served(registry, pipeline)
    with echo.running_grpc(app, repository) as target:
        yield target


@pytest.fixture(scope="module")
def client(target: str) -> Iterator[Any]:
    with triton.InferenceServerClient(target) as made:
        yield made


def tensor(dtype: str, module: Any = triton) -> Any:
    values = echo.values_of(dtype)
    made = module.InferInput(f"in_{dtype}", list(values.shape), DATATYPES[dtype])
    made.set_data_from_numpy(values.astype(ml_dtypes.bfloat16) if dtype == "bfloat16" else values)
    return made


def everything(module: Any = triton) -> list[Any]:
    return [tensor(dtype, module) for dtype in echo.DTYPES]


def check(result: Any) -> None:
    for dtype in echo.DTYPES:
        got = result.as_numpy(f"out_{dtype}")
        if dtype == "object":
            got = np.array([v.decode() for v in got.ravel()], object).reshape(got.shape)
        assert np.array_equal(got, echo.values_of(dtype)), dtype


def test_messages_and_methods_are_those_that_are_published() -> None:
    methods = {m.name: m for m in published.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
    for method in (*METHODS, STREAM):
        if method.service == STREAM.service:
            assert methods[method.name].input_type.name == method.request
    theirs = {m.name: m for m in _all(published.DESCRIPTOR.message_types_by_name.values())}
    from tritonclient.grpc import model_config_pb2 as config

    theirs |= {m.name: m for m in _all(config.DESCRIPTOR.message_types_by_name.values())}
    renamed = {"SpecificVersions": "Specific"}
    for name, ours in MESSAGES.items():
        if name.startswith("HealthCheck") or name == "ModelConfigTensor":
            continue
        known = {f.name: f for f in theirs[renamed.get(name, name)].fields}
        for field in ours.DESCRIPTOR.fields:
            other = known[field.name]
            enum = (field.type, other.type) == (field.TYPE_INT32, field.TYPE_ENUM)
            assert field.number == other.number, (name, field.name)
            assert field.type == other.type or enum, (name, field.name)
            assert field.is_repeated == other.is_repeated, (name, field.name)


def _all(messages: Any) -> Iterator[Any]:
    for message in messages:
        yield message
        yield from _all(message.nested_types)


def test_every_datatype_goes_both_ways(client: Any) -> None:
    result = client.infer("echo", everything(), request_id="a-1", client_timeout=20)
    check(result)
    shown = result.get_response()
    assert (shown.id, shown.model_name, shown.model_version) == ("a-1", "echo", "1")
    wanted = [triton.InferRequestedOutput("out_int8"), triton.InferRequestedOutput("out_bool")]
    some = client.infer("echo", everything(), outputs=wanted, parameters={"a": 1, "b": "two", "c": True})
    assert [o.name for o in some.get_response().outputs] == ["out_int8", "out_bool"]


def test_typed_contents_are_taken_and_given_to_who_asks(target: str) -> None:
    asked = published.ModelInferRequest(model_name="one")
    values = published.InferTensorContents(fp32_contents=[0.5, 1.5])
    asked.inputs.add(name="in_float32", datatype="FP32", shape=[1, 2], contents=values)
    with grpc.insecure_channel(target) as channel:
        answer = ask(channel, asked)
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [0.5, 1.5]
        asked.parameters["binary_data_output"].bool_param = False
        answer = ask(channel, asked)
        assert list(answer.outputs[0].contents.fp32_contents) == [0.5, 1.5]
        assert not answer.raw_output_contents
        full = published.ModelInferRequest(model_name="echo")
        field = {"BYTES": "bytes", "BOOL": "bool", "INT64": "int64", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64"}
        for dtype in echo.DTYPES:
            name = DATATYPES[dtype]
            kind = field.get(name) or ("uint" if name.startswith("UINT") else "int")
            one = full.inputs.add(name=f"in_{dtype}", datatype=name, shape=[3, 2])
            listed = echo.values_of(dtype).ravel().tolist()
            if name not in ("FP16", "BF16"):
                encoded = [v.encode() for v in listed] if kind == "bytes" else listed
                getattr(one.contents, f"{kind}_contents").extend(encoded)
        with pytest.raises(grpc.RpcError, match="expected raw_input_contents"):
            ask(channel, full)
        for wrong, message in (("int_contents", "expected fp32_contents"), ("fp32_contents", "got 3 values")):
            getattr(asked.inputs[0].contents, wrong).append(1)
            with pytest.raises(grpc.RpcError, match=message):
                ask(channel, asked)
            asked.inputs[0].contents.ClearField("int_contents")


def ask(channel: Any, asked: Any, metadata: Any = ()) -> Any:
    content = asked if isinstance(asked, bytes) else asked.SerializeToString()
    return published.ModelInferResponse.FromString(channel.unary_unary(INFER)(content, timeout=20, metadata=metadata))


def test_what_the_server_says_of_itself_and_its_models(client: Any, target: str) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo", "1")
    assert not client.is_model_ready("echo", "7")
    assert not client.is_model_ready("nobody")
    assert {"model_repository", "statistics"} <= set(client.get_server_metadata().extensions)
    shown = client.get_model_metadata("echo", as_json=True)
    assert shown["inputs"][0] == {"name": "in_bool", "datatype": "BOOL", "shape": ["-1", "2"]}
    config = client.get_model_config("echo").config
    assert [DATATYPES[d].replace("BYTES", "STRING") for d in echo.DTYPES] == [
        triton.model_config_pb2.DataType.Name(i.data_type).removeprefix("TYPE_") for i in config.input
    ]
    assert list(config.version_policy.specific.versions) == [1]
    client.infer("one", [tensor("float32")])
    (stats,) = client.get_inference_statistics("one").model_stats
    assert (
        stats.inference_count == stats.inference_stats.compute_infer.count == stats.batch_stats[0].compute_infer.count
    )
    assert stats.inference_stats.queue.ns > 0
    with grpc.insecure_channel(target) as channel:
        health = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20)
        assert health == b"\x08\x01"  # SERVING


@pytest.mark.parametrize(
    ("service", "code"),
    [
        ("", None), ("inference.GRPCInferenceService", None), ("grpc.health.v1.Health", None), ("one", "NOT_FOUND"),
        ("inference.grpcinferenceservice", "NOT_FOUND"), ("x" * 10_000, "NOT_FOUND"),
    ],
)  # fmt: skip
def test_the_health_of_a_service_is_told_if_there_is_one(target: str, service: str, code: str | None) -> None:
    asked = MESSAGES["HealthCheckRequest"](service=service).SerializeToString()
    check = _channel(target).unary_unary("/grpc.health.v1.Health/Check")
    if code is None:
        assert check(asked, timeout=20) == b"\x08\x01"
        return
    with pytest.raises(grpc.RpcError) as refused:
        check(asked, timeout=20)
    assert (refused.value.code().name, "no service" in refused.value.details()) == (code, True)  # pyright: ignore


def test_the_configuration_says_how_calls_are_shared_over_both_protocols(
    registry: Registry, pipeline: Pipeline
) -> None:
    app, repository = echo.served(registry, pipeline)
    measured = Model(echo.Echo("float32"), "measured", "1")
    measured.calls = "each request has a call of its own: sharing does not pay"
    repository.serve([measured])
    with echo.running_grpc(app, repository) as target, triton.InferenceServerClient(target) as client:
        config = client.get_model_config("measured").config
        assert {name: p.string_value for name, p in config.parameters.items()} == {"calls": measured.calls}
        theirs = json_format.MessageToDict(config, preserving_proto_field_name=True)
        shown = model_config(measured, ["1"])
        parsed = json_format.ParseDict(shown, triton.model_config_pb2.ModelConfig())  # what HTTP shows is that message
        assert json_format.MessageToDict(parsed, preserving_proto_field_name=True) == theirs


def test_versions_are_loaded_and_unloaded(client: Any) -> None:
    def states() -> dict[str, str]:
        return {f"{m.name}:{m.version}": m.state for m in client.get_model_repository_index().models}

    assert states()["ranker:1"] == "READY"
    client.load_model("ranker")
    with pytest.raises(InferenceServerException, match="the service uses version 1"):
        client.unload_model("ranker")
    with pytest.raises(InferenceServerException, match="no model 'rankr'"):
        client.load_model("rankr")


def test_a_stream_answers_in_order_and_goes_on_after_a_wrong_request(client: Any) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    try:
        for i in range(3):
            client.async_stream_infer("one", [tensor("float32")], request_id=str(i), enable_empty_final_response=True)
            client.async_stream_infer("nobody", [tensor("float32")], request_id=f"wrong{i}")
        for i in range(3):
            result, error = answers.get(timeout=20)
            assert error is None
            assert result.get_response().id == str(i)
            assert result.get_response().parameters["triton_final_response"].bool_param
            result, error = answers.get(timeout=20)
            assert "no model 'nobody'" in str(error)
    finally:
        client.stop_stream()


def test_the_asyncio_client(target: str) -> None:
    async def run() -> None:
        async with triton_aio.InferenceServerClient(target) as client:
            assert await client.is_model_ready("echo")
            inputs = everything(triton_aio)
            for result in await asyncio.gather(*(client.infer("echo", inputs) for _ in range(4))):
                check(result)

            async def requests() -> Any:
                yield {"model_name": "one", "inputs": [tensor("float32", triton_aio)]}

            async for result, error in client.stream_infer(requests()):
                assert error is None
                assert result.as_numpy("out_float32").shape == (3, 2)

    asyncio.run(run())


def test_wrong_requests_get_their_code_and_say_why(client: Any, target: str) -> None:
    wrong = triton.InferInput("in_float32", [3, 3], "FP32")
    wrong.set_data_from_numpy(np.zeros((3, 3), np.float32))
    for name, inputs, code, message in (
        ("one", [wrong], "INVALID_ARGUMENT", "got shape"),
        ("one", [], "INVALID_ARGUMENT", "missing"),
        ("one", [tensor("int8")], "INVALID_ARGUMENT", "unknown input"),
        ("nobody", [], "NOT_FOUND", "no model 'nobody'"),
    ):
        with pytest.raises(InferenceServerException, match=message) as raised:
            client.infer(name, inputs)
        assert raised.value.status() == f"StatusCode.{code}"
    with grpc.insecure_channel(target) as channel:
        for content, code in ((b"\xff", "INVALID_ARGUMENT"), (bytes(17_000_000), "RESOURCE_EXHAUSTED")):
            with pytest.raises(grpc.RpcError) as failed:
                ask(channel, content)
            assert failed.value.code().name == code  # pyright: ignore
    with (
        grpc.insecure_channel(target, compression=grpc.Compression.Gzip) as channel,
        pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"),
    ):
        ask(channel, bytes(40_000_000))  # a few kilobytes on the wire
    with grpc.insecure_channel(target) as channel:
        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary("/inference.GRPCInferenceService/Nothing")(b"", timeout=20)
        assert failed.value.code().name == "UNIMPLEMENTED"


def test_calls_of_a_model_are_shared_and_counted_so() -> None:
    model = Model(runtime := Rows(), "rows", "1")
    model.batcher = batcher_of(runtime, most=8, delay=0.05)
    repository = Repository()
    repository.serve([model])
    service = InferenceService(repository, lambda: True)
    asked = [request(seed, 1, [3], 1, 2) for seed in range(24)]
    calls = []
    for tensors in asked:
        call = MESSAGES["ModelInferRequest"](model_name="rows")
        for name, array in tensors.items():
            call.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
            call.raw_input_contents.append(array.tobytes())
        calls.append(call)

    async def together() -> list[Any]:
        return await asyncio.gather(*(service.infer(call, Wait()) for call in calls))

    for tensors, answer in zip(asked, asyncio.run(together()), strict=True):
        got = dict(zip([o.name for o in answer.outputs], answer.raw_output_contents, strict=True))["score"]
        assert got == Rows().run(tensors, ["score"])[0].tobytes()
    (stats,) = repository.statistics("rows")
    assert (stats["inference_count"], stats["execution_count"]) == (24, 3)
    assert [(b["batch_size"], b["compute_infer"]["count"]) for b in stats["batch_stats"]] == [(8, 3)]
    with echo.running_grpc(App(repository), repository) as target, grpc.insecure_channel(target) as channel:
        assert ask(channel, calls[0]).raw_output_contents


def test_roles_and_deadlines_count_as_over_http(registry: Registry, pipeline: Pipeline) -> None:
    app, repository = echo.served(registry, pipeline)
    tokens = Tokens(["infer a-token-of-a-client", "operate a-token-of-an-operator"])
    with echo.running_grpc(app, repository, tokens=tokens) as target, triton.InferenceServerClient(target) as client:
        assert client.is_server_live()
        inputs, bearer = [tensor("float32")], {"authorization": "Bearer a-token-of-a-client"}
        for headers, code in (({}, "UNAUTHENTICATED"), (bearer | {"x-request-timeout-ms": "0"}, "DEADLINE_EXCEEDED")):
            with pytest.raises(InferenceServerException) as raised:
                client.infer("one", inputs, headers=headers)
            assert raised.value.status() == f"StatusCode.{code}"
        assert client.infer("one", inputs, headers=bearer)
        with pytest.raises(InferenceServerException) as raised:
            client.load_model("ranker", headers=bearer)
        assert raised.value.status() == "StatusCode.PERMISSION_DENIED"
        client.load_model("ranker", headers={"authorization": "Bearer a-token-of-an-operator"})


def test_before_the_models_are_loaded_it_is_live_and_not_ready() -> None:
    repository = Repository()
    with echo.running_grpc(App(repository), repository) as target, triton.InferenceServerClient(target) as client:
        assert client.is_server_live()
        assert not client.is_server_ready()
        with pytest.raises(InferenceServerException, match="still loading"):
            client.get_model_metadata("one")


def test_a_port_in_use_is_said(target: str) -> None:
    repository = Repository()
    port = int(target.rpartition(":")[2])
    server = GrpcServer(InferenceService(repository, lambda: True), Metrics(), Settings(), port=port)
    with pytest.raises(ConfigError, match="can't listen here for gRPC"):
        asyncio.run(server.start(Turns(), Door(), Bodies(1)))


def test_calls_are_encrypted_and_a_renewed_certificate_is_taken_up(
    registry: Any, pipeline: Any, tmp_path: Path
) -> None:
    pair = tmp_path / "cert.pem", tmp_path / "key.pem"
    folder = Path(__file__).parents[1] / "http" / "certificates"

    def renew(name: str) -> None:
        for path, suffix in zip(pair, ("pem", "key"), strict=True):
            path.write_bytes((folder / f"{name}.{suffix}").read_bytes())

    def live(name: str, port: str) -> bytes:
        trusted = grpc.ssl_channel_credentials((folder / f"{name}.pem").read_bytes())
        with grpc.secure_channel(f"localhost:{port}", trusted) as channel:
            return channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=20)

    app, repository = echo.served(registry, pipeline)
    renew("first")
    with echo.running_grpc(app, repository, certificate=Certificate(*pair)) as target:
        port = target.rpartition(":")[2]
        assert live("first", port) == b"\x08\x01"
        renew("second")
        assert live("second", port) == b"\x08\x01"
        with pytest.raises(grpc.RpcError):
            live("first", port)
        with grpc.insecure_channel(target) as plain, pytest.raises(grpc.RpcError):
            plain.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=20)


_sizes = st.lists(st.integers(-2, 4) | st.just(2**62), max_size=3)


@given(st.data())
def test_no_message_gives_an_internal_error(target: str, data: Any) -> None:
    asked = published.ModelInferRequest(model_name=data.draw(st.sampled_from(["one", "echo", ""])))
    for dtype in data.draw(st.lists(st.sampled_from(echo.DTYPES), max_size=3)):
        one = asked.inputs.add(name=f"in_{dtype}", datatype=data.draw(st.sampled_from([DATATYPES[dtype], "X"])))
        one.shape.extend(data.draw(_sizes))
        if data.draw(st.booleans()):
            one.contents.fp32_contents.extend(data.draw(st.lists(st.floats(width=32), max_size=4)))
        if data.draw(st.booleans()):
            one.contents.int_contents.extend(data.draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)))
    asked.raw_input_contents.extend(data.draw(st.lists(st.binary(max_size=20), max_size=3)))
    content = asked.SerializeToString()
    cut = data.draw(st.integers(0, len(content)))
    for sent in (content, content[:cut], data.draw(st.binary(max_size=60))):
        try:
            ask(_channel(target), sent)
        except grpc.RpcError as error:
            assert error.code().name in ("INVALID_ARGUMENT", "NOT_FOUND")  # noqa: PT017


def _channel(target: str, channels: dict[str, Any] = {}) -> Any:  # noqa: B006
    return channels.setdefault(target, channels.get(target) or grpc.insecure_channel(target))
