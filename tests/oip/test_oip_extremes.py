"""The Open Inference Protocol at its edges: extremes of every datatype, empty and huge shapes, and what a client may
get wrong; over REST and as messages of gRPC alike."""

from __future__ import annotations

import asyncio
import json
import math
import re
import struct
import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from echo import DTYPES, Echo, values_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bedplate.errors import ArtifactError, NotFoundError, RequestError
from bedplate.features.encoding import TensorSpec
from bedplate.http.message import Request
from bedplate.inference.model import Model, Ran, Shared
from bedplate.inference.repository import Repository
from bedplate.oip import proto as oip_proto
from bedplate.oip.codec import decode_infer, encode_infer
from bedplate.oip.messages import MESSAGES
from bedplate.runtimes.tensors import DATATYPES, array_dtype, from_binary, from_json, to_binary, to_json
from bedplate.serving.service_app import App

HEADER = b"inference-header-content-length"
FIXED = [d for d in DTYPES if d != "object"]


def free(dtype: str, ndim: int) -> dict[str, TensorSpec]:
    return {"x": TensorSpec("x", dtype, tuple("abcdef"[:ndim]))}


def rest(dtype: str, shape: Sequence[int], content: bytes | None = None, **more: Any) -> tuple[bytes, bytes | None]:
    """A body with one input, binary where there is a content, and the value of the header."""
    one: dict[str, Any] = {"name": "x", "shape": list(shape), "datatype": DATATYPES[dtype], **more}
    if content is None:
        return json.dumps({"inputs": [one]}).encode(), None
    one["parameters"] = {"binary_data_size": len(content)}
    head = json.dumps({"inputs": [one]}).encode()
    return head + content, str(len(head)).encode()


def message(dtype: str, shape: Sequence[int], content: bytes | None = None, **contents: Any) -> Any:
    asked = MESSAGES["ModelInferRequest"](model_name="m", id="7")
    given = asked.inputs.add(name="x", datatype=DATATYPES[dtype], shape=list(shape))
    if content is not None:
        asked.raw_input_contents.append(content)
    for name, values in contents.items():
        getattr(given.contents, name).extend(values)
    return asked


def same(got: Any, expected: Any) -> bool:
    return got.dtype == expected.dtype and got.shape == expected.shape and np.array_equal(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_extremes_of_every_datatype_go_every_way(dtype: str) -> None:
    values, inputs = values_of(dtype), free(dtype, 2)
    shape, packed = [3, 2], to_binary(values_of(dtype), dtype)
    ways = [
        decode_infer(*rest(dtype, shape, packed), inputs, ["y"]),
        decode_infer(*rest(dtype, shape, data=values.tolist()), inputs, ["y"]),
        decode_infer(*rest(dtype, shape, data=values.ravel().tolist()), inputs, ["y"]),
        oip_proto.decode_infer(message(dtype, shape, packed), inputs, ["y"]),
    ]
    field = oip_proto._CONTENTS.get(dtype)
    if field is not None:
        flat = [str(v).encode() if dtype == "object" else v for v in values.ravel().tolist()]
        ways.append(oip_proto.decode_infer(message(dtype, shape, **{field: flat}), inputs, ["y"]))
    for call in ways:
        assert same(call.tensors["x"], values)
    gives = {"y": TensorSpec("y", dtype, ("n", 2))}
    shown = msgspec.json.decode(encode_infer(ways[1], "m", "1", [values], gives).body)["outputs"][0]
    assert same(from_json(msgspec.json.encode(shown["data"]), dtype, shown["shape"], "y"), values)
    answer = oip_proto.encode_infer(ways[3], "m", "1", [values], gives)
    assert same(from_binary(memoryview(answer.raw_output_contents[0]), dtype, shape, "y"), values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2**40, 0), (1, 0, 2**40)])
def test_tensors_of_no_elements_keep_their_shape(dtype: str, shape: tuple[int, ...]) -> None:
    inputs = free(dtype, len(shape))
    calls = [
        decode_infer(*rest(dtype, shape, b""), inputs, ["y"]),
        decode_infer(*rest(dtype, shape, data=[]), inputs, ["y"]),
        oip_proto.decode_infer(message(dtype, shape), inputs, ["y"]) if dtype in oip_proto._CONTENTS else None,
        oip_proto.decode_infer(message(dtype, shape, b""), inputs, ["y"]),
    ]
    for call in filter(None, calls):
        assert call.tensors["x"].shape == shape
        assert call.tensors["x"].dtype == array_dtype(dtype)
        assert to_json(call.tensors["x"]) == []
        assert to_binary(call.tensors["x"], dtype) == b""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(2**40, 2**40, 0), (0, 2**40, 2**40), (2**40, 2**40, 2**40), (2**20, 2**20, 2**20), (2**40, 1, 1)]
)
def test_huge_shapes_are_refused_and_not_allocated(dtype: str, shape: tuple[int, ...]) -> None:
    inputs = free(dtype, 3)
    for content, data in ((b"", None), (None, []), (b"\0" * 8, None), (None, [1])):
        given = rest(dtype, shape, content) if data is None else rest(dtype, shape, data=data)
        with pytest.raises(RequestError, match="input 'x'"):
            decode_infer(*given, inputs, ["y"])
    for asked in (message(dtype, shape, b""), message(dtype, shape)):
        with pytest.raises(RequestError, match="input 'x'"):
            oip_proto.decode_infer(asked, inputs, ["y"])


def test_a_shape_that_is_no_shape_is_refused() -> None:
    for shape in ([-1, 2], [2**41], [1.5], ["2"], [None], [[2]], [True]):
        with pytest.raises(RequestError, match="not an inference request"):
            decode_infer(*rest("float32", shape, data=[1.0]), free("float32", len(shape)), ["y"])
    for shape in ([-1], [-(2**63)], [2**41], [-1, -1]):
        with pytest.raises(RequestError, match="expected sizes from 0"):
            oip_proto.decode_infer(message("float32", shape, b""), free("float32", len(shape)), ["y"])
    for wrong in ([], [2], [2, 3, 1]):
        with pytest.raises(RequestError, match=r"expected \[a, b\]"):
            decode_infer(*rest("float32", wrong, data=[1.0]), free("float32", 2), ["y"])
    scalar = {"x": TensorSpec("x", "float32", ())}
    assert decode_infer(*rest("float32", [], data=[2.5]), scalar, ["y"]).tensors["x"].shape == ()
    assert decode_infer(*rest("float32", [], struct.pack("<f", 2.5)), scalar, ["y"]).tensors["x"] == 2.5


@pytest.mark.parametrize("dtype", FIXED)
def test_binary_content_that_is_cut_off_or_too_long_is_refused(dtype: str) -> None:
    content = to_binary(values_of(dtype), dtype)
    for wrong in (content[:-1], content + b"\0", b""):
        with pytest.raises(RequestError, match=f"got {len(wrong)} bytes, expected {len(content)}"):
            decode_infer(*rest(dtype, [3, 2], wrong), free(dtype, 2), ["y"])
        with pytest.raises(RequestError, match=f"got {len(wrong)} bytes, expected {len(content)}"):
            oip_proto.decode_infer(message(dtype, [3, 2], wrong), free(dtype, 2), ["y"])
    body, length = rest(dtype, [3, 2], content)
    with pytest.raises(RequestError, match="binary_data_size"):
        decode_infer(body[:-1], length, free(dtype, 2), ["y"])


@pytest.mark.parametrize(
    ("content", "message_"),
    [
        (struct.pack("<I", 5) + b"abc", "ends within element 0"),
        (struct.pack("<I", 2**32 - 1) + b"abc", "ends within element 0"),
        (struct.pack("<I", 1) + b"a" + b"\1\0", "ends within element 1|got 1 elements"),
        (struct.pack("<I", 1) + b"a", "got 1 elements"),
        (struct.pack("<I", 1) + b"a" + struct.pack("<I", 0) * 2, "got 2 elements"),
        (struct.pack("<I", 1) + b"\xff" + struct.pack("<I", 0), "element 0 is not UTF-8"),
        (struct.pack("<I", 2) + "é".encode()[:1] + b"\0" + struct.pack("<I", 0), "element 0 is not UTF-8"),
        (b"\0\0\0", "ends within|got 0 elements|element 0"),
    ],
    ids=["longer", "huge", "half a length", "one less", "one more", "no text", "half a character", "no length"],
)
def test_texts_of_wrong_lengths_are_refused(content: bytes, message_: str) -> None:
    with pytest.raises(RequestError, match=message_):
        from_binary(memoryview(content), "object", [2], "x")
    with pytest.raises(RequestError, match=message_):
        oip_proto.decode_infer(message("object", [2], content), free("object", 1), ["y"])


@given(st.lists(st.text(max_size=9), max_size=6))
def test_any_texts_go_both_ways(texts: list[str]) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return  # half of a pair is no text in UTF-8
    values = np.array([*texts, ""], object)[:-1]
    assert from_binary(memoryview(to_binary(values, "object")), "object", [len(texts)], "x").tolist() == texts
    assert from_json(msgspec.json.encode(texts), "object", [len(texts)], "x").tolist() == texts


@given(st.sampled_from(["float16", "float32", "float64"]), st.data())
def test_finite_numbers_in_json_come_back_to_the_last_bit(dtype: str, data: Any) -> None:
    width: Any = {"float16": 16, "float32": 32, "float64": 64}[dtype]
    elements = st.floats(width=width, allow_nan=False, allow_infinity=False)
    values = data.draw(hnp.arrays(dtype, st.integers(1, 9), elements=elements))
    text = msgspec.json.encode(to_json(values))
    assert from_json(text, dtype, [len(values)], "x").tobytes() == values.tobytes()


@pytest.mark.parametrize("id_", ["ü-7", "🙂" * 50, "", "a\nb\0c", '"\\'])
def test_an_id_of_any_text_comes_back(id_: str) -> None:
    body = json.dumps({"id": id_, "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}).encode()
    call = decode_infer(body, None, free("float32", 1), ["y"])
    one = np.ones(1, np.float32)
    gives = {"y": TensorSpec("y", "float32", ("n",))}
    assert msgspec.json.decode(encode_infer(call, "m", "1", [one], gives).body)["id"] == id_
    asked = message("float32", [1], one.tobytes())
    asked.id = id_
    back = oip_proto.encode_infer(oip_proto.decode_infer(asked, free("float32", 1), ["y"]), "m", "1", [one], gives)
    assert back.id == id_


def test_parameters_that_mean_nothing_here_are_kept_and_those_that_can_not_be_are_refused() -> None:
    body = msgspec.json.decode(rest("float32", [1], data=[1.0])[0])
    kept = {"sequence_id": 7, "priority": "high", "timeout": 0.5, "custom": True}
    call = decode_infer(json.dumps(body | {"parameters": kept}).encode(), None, free("float32", 1), ["y"])
    assert call.parameters == kept
    for name in ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size", "classification"):
        changes = [
            {"parameters": {name: 1}},
            {"inputs": [body["inputs"][0] | {"parameters": {name: 1}}]},
            {"outputs": [{"name": "y", "parameters": {name: 1}}]},
        ]
        for change in changes:
            with pytest.raises(RequestError, match=f"'{name}' is not supported"):
                decode_infer(json.dumps(body | change).encode(), None, free("float32", 1), ["y"])
    for wrong in ({"parameters": {"a": None}}, {"parameters": {"a": [1]}}, {"parameters": 7}, {"id": 7}):
        with pytest.raises(RequestError, match="not an inference request"):
            decode_infer(json.dumps(body | wrong).encode(), None, free("float32", 1), ["y"])
    for wrong in (
        {"parameters": {"binary_data_output": 1}},
        {"outputs": [{"name": "y", "parameters": {"binary_data": "y"}}]},
    ):
        with pytest.raises(RequestError, match="expected true or false"):
            decode_infer(json.dumps(body | wrong).encode(), None, free("float32", 1), ["y"])


def test_an_input_or_output_twice_is_refused_in_both_protocols() -> None:
    one = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}
    with pytest.raises(RequestError, match="input 'x' twice") as caught:
        decode_infer(json.dumps({"inputs": [one, one]}).encode(), None, free("float32", 1), ["y"])
    assert (caught.value.where, caught.value.hint) == ("$.inputs[1]", "give each input once")
    asked = message("float32", [1], fp32_contents=[1.0])
    asked.inputs.append(asked.inputs[0])
    with pytest.raises(RequestError, match="input 'x' twice"):
        oip_proto.decode_infer(asked, free("float32", 1), ["y"])
    with pytest.raises(RequestError, match="output 'y' twice\n  name each output once"):
        decode_infer(
            json.dumps({"inputs": [one], "outputs": [{"name": "y"}] * 2}).encode(), None, free("float32", 1), ["y"]
        )
    with pytest.raises(RequestError, match="input 'x' is missing"):
        decode_infer(b'{"inputs": []}', None, free("float32", 1), ["y"])


@pytest.mark.parametrize(
    ("dtype", "contents", "wanted"),
    [
        ("int8", {"int_contents": [128]}, "beyond INT8"),
        ("int16", {"int_contents": [-32769]}, "beyond INT16"),
        ("uint8", {"uint_contents": [256]}, "beyond UINT8"),
        ("uint16", {"uint_contents": [65536]}, "beyond UINT16"),
        ("int32", {"int64_contents": [1]}, "got int64_contents, expected int_contents"),
        ("float64", {"fp32_contents": [1.0]}, "expected fp64_contents"),
        ("float16", {"fp32_contents": [1.0]}, "expected raw_input_contents"),
        ("bfloat16", {}, "expected raw_input_contents"),
        ("bool", {"bool_contents": [True, False]}, "got 2 values in bool_contents, expected 1"),
        ("object", {"bytes_contents": [b"\xff"]}, "element 0 is not UTF-8"),
        ("int32", {}, "got 0 values in int_contents, expected 1"),
    ],
)
def test_typed_contents_that_do_not_fit_are_refused(dtype: str, contents: Any, wanted: str) -> None:
    with pytest.raises(RequestError, match=wanted):
        oip_proto.decode_infer(message(dtype, [1], **contents), free(dtype, 1), ["y"])


def test_raw_contents_beside_typed_ones_or_too_few_are_refused() -> None:
    both = message("float32", [1], b"\0\0\0\0", fp32_contents=[1.0])
    with pytest.raises(RequestError, match="both contents and raw_input_contents"):
        oip_proto.decode_infer(both, free("float32", 1), ["y"])
    more = message("float32", [1], b"\0\0\0\0")
    more.raw_input_contents.append(b"")
    with pytest.raises(RequestError, match="got 2 raw_input_contents, expected one for each of 1 inputs"):
        oip_proto.decode_infer(more, free("float32", 1), ["y"])


class Failing(Echo):
    """Fails where it is told to."""

    error: Exception | None = None

    def run(self, tensors: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        if self.error is not None:
            raise self.error
        return super().run(tensors, outputs)


def post(app: App, path: str, body: bytes, header: bytes | None = None) -> Any:
    return app.handle(Request("POST", path, {} if header is None else {HEADER: header}, body))


def test_statistics_count_what_failed_apart_and_go_on(pipeline: Any) -> None:
    runtime, repository = Failing("float32"), Repository()
    repository.serve([Model(runtime, "m", "1")])
    app = App(repository)
    app.open(pipeline)
    good = json.dumps(
        {"inputs": [{"name": "in_float32", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    ).encode()
    statuses = [post(app, "/v2/models/m/infer", body).status for body in (good, b"{", good.replace(b"FP32", b"INT8"))]
    runtime.error = RequestError("an id beyond the table")
    statuses.append(post(app, "/v2/models/m/infer", good).status)
    runtime.error = None
    statuses.append(post(app, "/v2/models/m/infer", good).status)
    assert statuses == [200, 400, 400, 400, 200]
    [shown] = repository.statistics("m")
    counts = {name: part["count"] for name, part in shown["inference_stats"].items()}
    assert counts == {
        "success": 2,
        "fail": 3,
        "queue": 2,
        "compute_input": 2,
        "compute_infer": 2,
        "compute_output": 2,
        "cache_hit": 0,
        "cache_miss": 0,
    }
    assert (shown["inference_count"], shown["execution_count"]) == (2, 2)
    assert [batch["batch_size"] for batch in shown["batch_stats"]] == [1]
    assert shown["last_inference"] > 0
    assert post(app, "/v2/models/n/infer", good).status == 404
    assert [s["inference_stats"]["fail"]["count"] for s in repository.statistics("m")] == [3]  # of m only


class Slow:
    """Shares calls; answers when it is told to. Satisfies `SharedCalls`."""

    def __init__(self) -> None:
        self.shared, self.go = Shared(), asyncio.Event()

    async def run(self, tensors: Mapping[str, Any], outputs: Sequence[str], until: float = math.inf) -> list[Any]:
        return (await self.call(tensors, outputs, until)).results

    async def call(self, tensors: Mapping[str, Any], outputs: Sequence[str], until: float = math.inf) -> Ran:
        await self.go.wait()
        return Ran([np.ones((1, 2), np.float32) for _ in outputs], 1, leads=True, took_ns=1)


class OneModel:
    """A registry with `late:1` and `late:2`; `late:3` is damaged. Satisfies `ModelSource`."""

    def __init__(self) -> None:
        self.released: list[str] = []
        self.batcher = Slow()

    def versions(self) -> Mapping[str, Sequence[str]]:
        return {"late": ["1", "2", "3"]}

    def default(self, name: str) -> str:
        return "2"

    def load(self, name: str, version: str) -> Model:
        if version == "3":
            raise ArtifactError("a golden score is not reproduced")
        model = Model(Echo("float32"), name, version)
        model.batcher = self.batcher
        return model

    def release(self, model: Model) -> None:
        self.released.append(model.version)


def infer(repository: Repository, name: str = "late", version: str | None = None) -> Any:
    body = json.dumps(
        {"inputs": [{"name": "in_float32", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    ).encode()
    return repository.find(name, version).answer(
        lambda model: decode_infer(body, None, model.inputs, tuple(model.outputs)),
        lambda model, call, results: (model.version, results[0].tolist()),
    )


def test_a_model_that_is_unloaded_answers_what_is_under_way_and_is_then_released() -> None:
    async def main() -> None:
        source = OneModel()
        repository = Repository(source, is_controlled=True)
        repository.serve([])
        await repository.load("late", {})
        running = [asyncio.ensure_future(infer(repository)) for _ in range(3)]
        await asyncio.sleep(0)
        running[0].cancel()
        await asyncio.sleep(0)
        await repository.unload("late", {})
        with pytest.raises(NotFoundError, match="no model 'late' is served"):
            infer(repository)
        assert source.released == []  # two requests still need it
        await repository.load("late", {"version": 2})  # again, beside the one that ends
        source.batcher.go.set()
        assert await asyncio.gather(*running[1:]) == [("2", [[1.0, 1.0]])] * 2
        assert source.released == ["2"]
        assert await infer(repository) == ("2", [[1.0, 1.0]])
        await repository.unload("late", {"version": "2"})
        assert source.released == ["2", "2"]

    asyncio.run(main())


def test_a_version_that_does_not_prove_itself_leaves_what_is_served() -> None:
    async def main() -> None:
        source = OneModel()
        source.batcher.go.set()
        repository = Repository(source, is_controlled=True)
        repository.serve([])
        await repository.load("late", {"version": 1})
        with pytest.raises(ArtifactError):
            await repository.load("late", {"version": 3})
        assert (await infer(repository))[0] == "1"
        states = {v["version"]: (v["state"], v["reason"]) for v in await repository.index()}
        assert states == {
            "1": ("READY", ""),
            "2": ("UNAVAILABLE", "unloaded"),
            "3": ("UNAVAILABLE", "a golden score is not reproduced"),
        }
        assert [v["version"] for v in await repository.index(ready=True)] == ["1"]
        with pytest.raises(NotFoundError, match="no version '9'"):
            await repository.load("late", {"version": 9})
        with pytest.raises(NotFoundError, match="the registry has no model 'lat'") as caught:
            await repository.load("lat", {})
        assert "late" in (caught.value.hint or "")
        with pytest.raises(NotFoundError, match="version '2' of model 'late' is not served"):
            await repository.unload("late", {"version": 2})
        with pytest.raises(RequestError, match="'force' is not supported"):
            await repository.unload("late", {"force": True})
        assert source.released == []

    asyncio.run(main())


def test_a_request_brings_at_most_so_many_rows() -> None:
    inputs = free("uint8", 2)
    most = decode_infer(*rest("uint8", [100_000, 1], bytes(100_000)), inputs, ["y"])
    assert most.tensors["x"].shape == (100_000, 1)
    for call in (
        lambda: decode_infer(*rest("uint8", [100_001, 1], bytes(100_001)), inputs, ["y"]),
        lambda: oip_proto.decode_infer(message("uint8", [100_001, 1], bytes(100_001)), inputs, ["y"]),
    ):
        with pytest.raises(RequestError, match="at most 100000 rows"):
            call()
    fixed = {"x": TensorSpec("x", "uint8", ("rows", 200_000))}  # the model's own size is no client's choice
    assert decode_infer(*rest("uint8", [1, 200_000], bytes(200_000)), fixed, ["y"]).tensors["x"].shape == (1, 200_000)


def many(**lists: str) -> bytes:
    """A request where a list has a million entries, each as given."""
    one = '{"name":"in_float32","shape":[1,2],"datatype":"FP32","data":[0,0]}'
    parts = {"inputs": f"[{one}]", **{name: "[" + ",".join([entry] * 1_000_000) + "]" for name, entry in lists.items()}}
    return ("{" + ",".join(f'"{name}":{part}' for name, part in parts.items()) + "}").encode()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (many(outputs='{"name":"a"}'), "at most length 17"),
        (many(outputs="{}"), "missing required field `name`"),
        (many(inputs='{"name":"a","shape":[],"datatype":"b"}'), "at most length 17"),
        (rest("float32", [1] * 100_000, data=[0])[0].replace(b'"x"', b'"in_float32"'), "length <= 64"),
        (
            b'{"inputs":[],"parameters":{%s}}' % b",".join(b'"%d":1' % i for i in range(2000)),
            "`object` of length <= 1000",
        ),
        (
            b'{"inputs":[],"parameters":{%s}}' % b",".join(b'"%d":1' % i for i in range(200_000)),
            "$.parameters: got parameters longer than 65536 bytes",
        ),
        (
            rest("float32", [2, 2], data=[[]] * 1_000_000)[0].replace(b'"x"', b'"in_float32"'),
            "got 1000001 lists, too many for the shape [2, 2]",
        ),
        (
            rest("float32", [2, 2], data=[0] * 1_000_000)[0]
            .replace(b'"x"', b'"one"')
            .replace(b'"FP32"', b'"FP32","a":1'),
            "unknown input 'one'",
        ),
    ],
    ids=["outputs", "wrong outputs", "inputs", "sizes", "parameters", "long parameters", "lists", "values"],
)
def test_more_than_any_request_has_is_refused_before_it_is_read(body: bytes, reason: str) -> None:
    """Each of these held up a server for a second, or took fifty bytes of memory for each byte."""
    echo = Echo("float32")
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match=re.escape(reason)):
            decode_infer(body, None, echo.inputs, tuple(echo.outputs))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 2 * len(body) + 1_000_000


def test_a_tensor_may_be_as_large_as_a_body() -> None:
    inputs = {"x": TensorSpec("x", "float32", ("n", 40))}
    flat = json.dumps([0] * 4_000_000)
    nested = json.dumps([[0] * 40] * 100_000)
    for data in (flat, nested):
        body = f'{{"inputs":[{{"name":"x","shape":[100000,40],"datatype":"FP32","data":{data}}}]}}'.encode()
        assert len(body) > 12_000_000 - 1
        assert decode_infer(body, None, inputs, ("y",)).tensors["x"].shape == (100_000, 40)


@pytest.mark.parametrize("field", ["inputs", "outputs", "parameters", "sizes"])
def test_more_than_any_message_has_is_refused(field: str) -> None:
    asked, most = message("float32", [1, 1], bytes(4)), {"inputs": 17, "outputs": 17, "parameters": 1000, "sizes": 64}
    for i in range(most[field] + 1):
        if field == "parameters":
            asked.parameters[str(i)].int64_param = i
        elif field == "sizes":
            asked.inputs[0].shape.append(1)
        else:
            getattr(asked, field).add(name="x")
    del asked.raw_input_contents[:]
    with pytest.raises(RequestError, match=f"{field}, expected at most {most[field]}"):
        oip_proto.decode_infer(asked, free("float32", 2), ("x",))
