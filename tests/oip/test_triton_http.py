"""The Open Inference Protocol over HTTP, asked by Triton's own client, sync and asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any

import echo
import ml_dtypes
import numpy as np
import pytest
import shop
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from bedplate.features.graph import FeatureGraph
from bedplate.registry.registry import Registry
from bedplate.runtimes.tensors import DATATYPES
from bedplate.serving.pipeline import Pipeline


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, features: FeatureGraph) -> Registry:
    """One of this module's own: it gets more versions."""
    root = tmp_path_factory.mktemp("versions")
    made = shop.register(root, features)
    for i in (2, 3):
        shop.write_ranker(root / f"ranker{i}", features, scale=float(i))
        manifest = shop.gather(root, definitions={}, sources={}, config={"scale": i}, seeds={}, metrics={})
        made.register("ranker", root / f"ranker{i}", manifest=manifest)
    return made


@pytest.fixture(scope="module")
def url(versions: Registry, pipeline: Pipeline) -> Iterator[str]:
    app, _ = echo.served(versions, pipeline)
    with shop.running(app.handle) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with triton.InferenceServerClient(url) as made:
        yield made


def tensor(dtype: str, module: Any = triton, *, binary: bool = True) -> Any:
    values = echo.values_of(dtype)
    made = module.InferInput(f"in_{dtype}", list(values.shape), DATATYPES[dtype])
    made.set_data_from_numpy(values.astype(ml_dtypes.bfloat16) if dtype == "bfloat16" else values, binary_data=binary)
    return made


def everything(**options: Any) -> list[Any]:
    return [tensor(dtype, **options) for dtype in echo.DTYPES]


def check(result: Any, dtypes: Any = None) -> None:
    for dtype in dtypes or echo.DTYPES:
        got = result.as_numpy(f"out_{dtype}")
        if dtype == "object":
            got = np.array([v.decode() if isinstance(v, bytes) else v for v in got.ravel()], object).reshape(got.shape)
        assert np.array_equal(got, echo.values_of(dtype)), dtype


def test_every_datatype_goes_both_ways_in_binary(client: Any) -> None:
    check(client.infer("echo", everything()))


def test_binary_and_json_are_mixed_in_a_request_and_in_an_answer(client: Any) -> None:
    texts = ("object", "bool", "int8", "uint64", "float32")
    inputs = [tensor(d, binary=d not in texts) for d in echo.DTYPES]
    outputs = [triton.InferRequestedOutput(f"out_{d}", binary_data=d not in texts) for d in reversed(echo.DTYPES)]
    result = client.infer("echo", inputs, outputs=outputs, request_id="a-1")
    check(result)
    shown = result.get_response()
    assert (shown["id"], shown["model_name"], shown["model_version"]) == ("a-1", "echo", "1")
    assert [o["name"] for o in shown["outputs"]] == [f"out_{d}" for d in reversed(echo.DTYPES)]
    assert [o["datatype"] for o in shown["outputs"]] == [DATATYPES[d] for d in reversed(echo.DTYPES)]
    assert ["data" in o for o in shown["outputs"]] == [d in texts for d in reversed(echo.DTYPES)]


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_requests_and_answers_are_compressed(client: Any, name: str) -> None:
    many = np.tile(np.arange(2, dtype=np.float32), (3000, 1))
    made = triton.InferInput("in_float32", list(many.shape), "FP32")
    made.set_data_from_numpy(many)
    result = client.infer(
        "one", [made], request_compression_algorithm=name, response_compression_algorithm=name,
        parameters={"a": 1, "b": "two", "c": True},
    )  # fmt: skip
    assert np.array_equal(result.as_numpy("out_float32"), many)


def test_what_the_server_says_of_itself_and_its_models(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("echo")
    assert client.is_model_ready("ranker", "1")
    assert not client.is_model_ready("ranker", "9")
    shown = client.get_server_metadata()
    assert shown["name"] == "bedplate"
    assert {"binary_tensor_data", "model_repository", "statistics"} <= set(shown["extensions"])
    shown = client.get_model_metadata("echo", "1")
    assert shown["versions"] == ["1"]
    assert shown["inputs"][0] == {"name": "in_bool", "datatype": "BOOL", "shape": [-1, 2]}
    config = client.get_model_config("ranker")
    assert config["max_batch_size"] == 0
    assert {"name": "score", "data_type": "TYPE_FP32", "dims": [-1]} in config["output"]


def test_statistics_count_answers_failures_and_time(client: Any) -> None:
    def stats() -> Any:
        return client.get_inference_statistics("one")["model_stats"][0]

    before = stats()
    inputs = [tensor("float32")]
    for _ in range(3):
        client.infer("one", inputs)
    with pytest.raises(InferenceServerException):
        client.infer("one", [tensor("int8")])
    after = stats()
    for key, more in (("inference_count", 3), ("execution_count", 3)):
        assert after[key] - before[key] == more
    parts = {k: (v["count"], v["ns"]) for k, v in after["inference_stats"].items()}
    assert parts["fail"][0] == before["inference_stats"]["fail"]["count"] + 1
    assert parts["success"][1] == sum(
        parts[k][1] for k in ("queue", "compute_input", "compute_infer", "compute_output")
    )
    assert all(parts[k][1] > 0 for k in ("compute_input", "compute_infer", "compute_output"))
    assert after["batch_stats"][0]["batch_size"] == 1
    assert after["batch_stats"][0]["compute_infer"]["count"] == after["execution_count"]
    assert after["last_inference"] > 0
    assert {s["name"] for s in client.get_inference_statistics()["model_stats"]} == {"echo", "one", "ranker", "towers"}


def test_versions_are_loaded_and_unloaded_while_others_answer(client: Any) -> None:
    def states(name: str = "ranker") -> dict[str, str]:
        return {m["version"]: m["state"] for m in client.get_model_repository_index() if m["name"] == name}

    assert states() == {"1": "READY", "2": "UNAVAILABLE", "3": "UNAVAILABLE"}
    client.load_model("ranker", config='{"version_policy": {"specific": {"versions": [3]}}}')
    assert states() == {"1": "READY", "2": "UNAVAILABLE", "3": "READY"}
    assert client.is_model_ready("ranker", "3")
    assert client.get_model_metadata("ranker")["versions"] == ["1", "3"]
    # The service's own version stays, and is the one that is meant.
    names = {t["name"]: t for t in client.get_model_metadata("ranker")["inputs"]}
    inputs = []
    for name, spec in names.items():
        kind = np.float32 if spec["datatype"] == "FP32" else np.int64
        values = np.zeros([2 if s < 0 else s for s in spec["shape"]], kind) + (kind == np.float32)
        inputs.append(triton.InferInput(name, list(values.shape), np_to_triton_dtype(kind)))
        inputs[-1].set_data_from_numpy(values)
    meant = client.infer("ranker", inputs)
    assert meant.get_response()["model_version"] == "1"
    other = client.infer("ranker", inputs, model_version="3")
    assert other.get_response()["model_version"] == "3"
    assert not np.array_equal(meant.as_numpy("score"), other.as_numpy("score"))
    client.load_model("ranker", config='{"version_policy": {"latest": {"num_versions": 2}}}')
    assert states() == {"1": "READY", "2": "READY", "3": "READY"}
    client.unload_model("ranker")
    assert states() == {"1": "READY", "2": "UNAVAILABLE", "3": "UNAVAILABLE"}
    with pytest.raises(InferenceServerException, match="the service uses version 1"):
        client.unload_model("ranker")
    for wrong in ('{"version_policy": {"specific": {"versions": [8]}}}', "{", '{"version_policy": 3}'):
        with pytest.raises(InferenceServerException):
            client.load_model("ranker", config=wrong)
    with pytest.raises(InferenceServerException, match="no model 'rankr'"):
        client.load_model("rankr")


def test_a_version_that_does_not_prove_itself_is_not_served_and_says_why(
    client: Any, url: str, versions: Registry, caplog: Any
) -> None:
    golden = next((versions.get("ranker", 2).path / "golden").glob("*.npz"))
    content = golden.read_bytes()
    golden.chmod(0o644)
    golden.write_bytes(content[:-1] + b"?")
    try:
        with pytest.raises(InferenceServerException):
            client.load_model("ranker", config='{"version_policy": {"specific": {"versions": [2]}}}')
        caplog.clear()
        status, body = asked(url, "models/ranker/load", '{"parameters": {"version": "2"}}')
        assert (status, "was changed by hand" in body) == (500, True)
        root = str(versions.get("ranker", 2).path.parent)
        assert root not in body  # where things lie is not for clients
        assert root in caplog.text
        (row,) = [m for m in client.get_model_repository_index() if (m["name"], m["version"]) == ("ranker", "2")]
        assert row["state"] == "UNAVAILABLE"
        assert "changed" in row["reason"]
        assert root not in row["reason"]
    finally:
        golden.write_bytes(content)


def test_where_the_registry_can_t_be_read_the_index_says_so_and_lists_what_is_served(
    client: Any, url: str, versions: Registry, caplog: Any
) -> None:
    index = next(versions.get("ranker", 1).path.parents[2].glob("index.sqlite"))
    content, before = index.read_bytes(), asked(url, "index", "{}")
    index.write_bytes(b"damaged" * 1000)
    try:
        status, body = asked(url, "index", "{}")
        assert status == 503
        assert "bedplate models rebuild" in json.loads(body)["hint"]
        assert '{"ready": true}' in json.loads(body)["hint"]
        assert "index.sqlite" in body
        assert str(index.parent) not in body
        assert str(index) in caplog.text
        status, body = asked(url, "index", '{"ready": true}')
        assert status == 200
        assert {(row["name"], row["state"]) for row in json.loads(body)} >= {("echo", "READY"), ("ranker", "READY")}
        Registry.rebuild(index.parent)
        assert asked(url, "index", "{}") == before, "the server goes on without a new start"
    finally:
        if index.read_bytes().startswith(b"damaged"):
            index.write_bytes(content)


def asked(url: str, path: str, body: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(url, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", f"/v2/repository/{path}", body)
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_wrong_requests_are_400_and_say_why(client: Any) -> None:
    wrong = triton.InferInput("in_float32", [3, 3], "FP32")
    wrong.set_data_from_numpy(np.zeros((3, 3), np.float32))
    for inputs, outputs, message in (
        ([wrong], None, "^.400. input 'in_float32': got shape"),
        ([], None, "missing"),
        ([tensor("float32")], [triton.InferRequestedOutput("z")], "unknown output 'z'"),
        ([tensor("float32")], [triton.InferRequestedOutput("out_float32", class_count=2)], "not supported"),
    ):
        with pytest.raises(InferenceServerException, match=message) as raised:
            client.infer("one", inputs, outputs=outputs)
        assert raised.value.status() == "400"


def test_the_asyncio_client(url: str) -> None:
    async def ask() -> None:
        async with triton_aio.InferenceServerClient(url) as client:
            assert await client.is_model_ready("echo")
            inputs = everything(module=triton_aio)
            for result in await asyncio.gather(*(client.infer("echo", inputs) for _ in range(4))):
                check(result)
            assert len(await client.get_model_repository_index()) >= 4
            await client.load_model("ranker")
            with pytest.raises(InferenceServerException, match="no model"):
                await client.infer("nobody", inputs)

    asyncio.run(ask())
