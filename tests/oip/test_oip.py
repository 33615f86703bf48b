"""The Open Inference Protocol: JSON and binary round trips, and refusals of whatever does not fit."""

from __future__ import annotations

import gzip
import json
import struct
from typing import Any

import echo
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.errors import RequestError
from bedplate.features.encoding import TensorSpec
from bedplate.http.message import Request
from bedplate.inference.model import Model
from bedplate.inference.repository import Repository
from bedplate.oip.codec import decode_infer, encode_infer
from bedplate.runtimes.tensors import DATATYPES, from_binary, to_binary, wire_dtype
from bedplate.serving.service_app import App

FIXED = [d for d in DATATYPES if d not in ("object", "bfloat16")]


def spec(dtype: str, *shape: int | str) -> dict[str, TensorSpec]:
    return {"x": TensorSpec("x", dtype, shape)}


def outputs(dtype: str, name: str = "y") -> dict[str, TensorSpec]:
    return {name: TensorSpec(name, dtype, ("n",))}


def body(shape: list[int], datatype: str, data: Any = None, **more: Any) -> bytes:
    one = {"name": "x", "shape": shape, "datatype": datatype} | ({} if data is None else {"data": data}) | more
    return json.dumps({"inputs": [one]}).encode()


def binary(shape: list[int], datatype: str, content: bytes, outputs: bool = False) -> tuple[bytes, bytes]:
    header = {
        "inputs": [
            {"name": "x", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(content)}}
        ],
        "parameters": {"binary_data_output": outputs},
    }
    text = json.dumps(header).encode()
    return text + content, str(len(text)).encode()


def values_of(dtype: str) -> Any:
    return np.array([[0, 1, 1], [1, 0, 1]], dtype) if dtype == "bool" else np.arange(6, dtype=dtype).reshape(2, 3)


@pytest.mark.parametrize("dtype", FIXED)
def test_every_fixed_width_dtype_goes_both_ways(dtype: str) -> None:
    values, kind = values_of(dtype), DATATYPES[dtype]
    inputs = spec(dtype, "n", 3)
    nested = decode_infer(body([2, 3], kind, values.tolist()), None, inputs, ["y"])
    flat = decode_infer(body([2, 3], kind, values.ravel().tolist()), None, inputs, ["y"])
    packed = decode_infer(*binary([2, 3], kind, values.tobytes(), outputs=True), inputs, ["y"])
    for call in (nested, flat, packed):
        assert call.tensors["x"].dtype == values.dtype
        assert np.array_equal(call.tensors["x"], values)
        assert call.tensors["x"].flags.aligned
    shown = json.loads(encode_infer(flat, "m", "1", [values], outputs(dtype)).body)
    assert shown == {
        "model_name": "m",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": kind, "shape": [2, 3], "data": values.ravel().tolist()}],
    }
    answer = encode_infer(packed, "m", "1", [values], outputs(dtype))
    length = int(dict(answer.headers)[b"Inference-Header-Content-Length"])
    header = json.loads(answer.body[:length])
    assert header["outputs"][0]["parameters"] == {"binary_data_size": values.nbytes}
    assert answer.body[length:] == values.tobytes()


def test_strings_go_both_ways() -> None:
    texts = ["", "é", "a" * 300]
    inputs = spec("object", "n")
    content = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
    for call in (
        decode_infer(body([3], "BYTES", texts), None, inputs, ["y"]),
        decode_infer(*binary([3], "BYTES", content, outputs=True), inputs, ["y"]),
    ):
        assert call.tensors["x"].tolist() == texts
    assert encode_infer(call, "m", "1", [call.tensors["x"]], outputs("object")).body.endswith(content)


@given(st.lists(st.floats(width=32), max_size=20))
def test_bfloat16_is_the_nearest_as_ml_dtypes_has_it(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(ml_dtypes.bfloat16)
    content = to_binary(values, "bfloat16")
    got = np.frombuffer(content, ml_dtypes.bfloat16)
    assert np.array_equal(got.astype(np.float32), expected.astype(np.float32), equal_nan=True)
    back = from_binary(memoryview(content), "bfloat16", [len(values)], "x")
    assert np.array_equal(back, expected.astype(np.float32), equal_nan=True)


def test_one_json_part_before_other_tensors_is_read_and_checked_as_if_it_were_new() -> None:
    inputs, twins = spec("float32", "n", 2), spec("int32", "n", 2)
    for values in (np.ones((3, 2), np.float32), np.arange(6, dtype=np.float32).reshape(3, 2)):
        content, length = binary([3, 2], "FP32", values.tobytes(), outputs=True)
        call = decode_infer(content, length, inputs, ["y"])
        assert np.array_equal(call.tensors["x"], values)
        assert call.outputs == (("y", True),)
    assert decode_infer(content, length, inputs, ["z"]).outputs == (("z", True),)
    with pytest.raises(RequestError, match="datatype FP32, expected INT32"):
        decode_infer(content, length, twins, ["y"])
    with pytest.raises(RequestError, match="at most the 23 bytes"):
        decode_infer(content[:-1], length, inputs, ["y"])
    with pytest.raises(RequestError, match="28 bytes of tensors"):
        decode_infer(content + b"more", length, inputs, ["y"])


def test_the_type_of_json_values_may_come_before_the_name() -> None:
    data = {"data": [1, 2], "parameters": {}, "shape": [2], "datatype": "FP32", "name": "x"}
    call = decode_infer(json.dumps({"inputs": [data]}).encode(), None, spec("float32", "n"), ["y"])
    assert call.tensors["x"].tolist() == [1.0, 2.0]
    with pytest.raises(RequestError, match="unknown input 'w'"):
        decode_infer(json.dumps({"inputs": [data | {"name": "w"}]}).encode(), None, spec("float32", "n"), ["y"])


def test_the_id_is_given_back_and_outputs_are_chosen() -> None:
    asked = json.loads(body([1], "FP32", [1.0]))
    asked |= {"id": "seven", "outputs": [{"name": "b", "parameters": {"binary_data": True}}, {"name": "a"}]}
    call = decode_infer(json.dumps(asked).encode(), None, spec("float32", "n"), ["a", "b", "c"])
    assert call.outputs == (("b", True), ("a", False))
    gives = outputs("float32", "a") | outputs("int64", "b")
    answer = encode_infer(call, "m", "1", [np.array([1, 2], np.int64), np.array([0.5], np.float32)], gives)
    length = int(dict(answer.headers)[b"Inference-Header-Content-Length"])
    shown = json.loads(answer.body[:length])
    assert shown["id"] == "seven"
    assert [o["name"] for o in shown["outputs"]] == ["b", "a"]
    assert answer.body[length:] == struct.pack("<qq", 1, 2)


def test_what_json_can_not_hold_is_null() -> None:
    call = decode_infer(body([1], "FP32", [1]), None, spec("float32", "n"), ["y"])
    shown = json.loads(
        encode_infer(call, "m", "1", [np.array([np.nan, np.inf, 1.0], np.float32)], outputs("float32")).body
    )
    assert shown["outputs"][0]["data"] == [None, None, 1.0]


def test_an_empty_tensor_is_a_tensor() -> None:
    for data in ([], [[], []]):
        call = decode_infer(body([2, 0], "FP32", data), None, spec("float32", "n", "m"), ["y"])
        assert call.tensors["x"].shape == (2, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an inference request"),
        (b"{", "not an inference request"),
        (b"[]", "object"),
        (b"{}", "inputs"),
        (b'{"inputs": 3}', "inputs"),
        (b"\xff\xfe", "not an inference request"),
        (b'{"inputs": []}', "missing"),
        (b'{"inputs":' + b"[" * 5000, "not an inference request"),
        (body([1], "FP32", [1], name="z"), "unknown input 'z'"),
        (body([1], "INT32", [1]), "got datatype INT32, expected FP32"),
        (body([1], "FLOAT", [1]), "datatype"),
        (body([1, 1], "FP32", [1]), "got shape"),
        (body([-1], "FP32", [1]), ">= 0"),
        (body([2**62, 2**62], "FP32", []), "inference request"),
        (body([2**39], "FP32", [1.0]), "expected at most 100000 rows"),
        (body([3], "FP32", [1, 2]), "got 2 values, expected 3"),
        (body([2], "FP32", ["1", "2"]), "not FP32"),
        (body([2], "FP32", [1, None]), "not FP32"),
        (body([2], "FP32", [True, 1]), "not FP32"),
        (body([1], "FP32", [1e300]), "too large"),
        (body([1], "FP32", "abcd"), "not FP32"),
        (body([1], "FP32", {"a": 1}), "not FP32"),
        (body([1], "FP32"), "no data"),
        (body([1], "FP32", [1], parameters={"binary_data_size": 0}), "both"),
        (body([1], "FP32", parameters={"binary_data_size": 4}), "at most the 0"),
        (body([1], "FP32", parameters={"binary_data_size": "4"}), "binary_data_size '4'"),
        (body([1], "FP32", parameters={"binary_data_size": -1}), "binary_data_size -1"),
        (body([1], "FP32", [1], parameters={"shared_memory_region": "r"}), "not supported"),
        (json.dumps({**json.loads(body([1], "FP32", [1])), "outputs": [{"name": "q"}]}).encode(), "unknown output"),
        (json.dumps({**json.loads(body([1], "FP32", [1])), "outputs": [{"name": "y"}] * 2}).encode(), "twice"),
        (json.dumps({**json.loads(body([1], "FP32", [1])), "parameters": {"binary_data_output": 1}}).encode(), "true"),
        (json.dumps({"inputs": json.loads(body([1], "FP32", [1]))["inputs"] * 2}).encode(), "twice"),
    ],
)
def test_what_does_not_fit_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        decode_infer(content, None, spec("float32", "n"), ["y"])


@pytest.mark.parametrize(
    ("dtype", "shape", "data", "said"),
    [
        ("float32", [2, 2], [[1], [2, 3]], "from 1 to 2, expected 2"),
        ("int64", [2, 1], [[1], []], "from 0 to 1, expected 1"),
        ("object", [2, 2], [["a"], ["b", "c"]], "from 1 to 2, expected 2"),
        ("bool", [2, 1, 2], [[[True, True]], [[True]]], "from 1 to 2, expected 2"),
        ("object", [2, 1, 2], [[["a", "b"]], []], "from 0 to 1, expected 1"),
    ],
)
def test_rows_of_different_lengths_are_said_in_plain_words(
    dtype: str, shape: list[int], data: list[Any], said: str
) -> None:
    free = [f"d{i}" for i in range(len(shape))]
    with pytest.raises(RequestError) as caught:
        decode_infer(body(shape, DATATYPES[dtype], data), None, spec(dtype, *free), ["y"])
    expected = f"the data is not {DATATYPES[dtype]} of shape {shape}: its rows have different lengths, {said}"
    assert caught.value.message == expected


@pytest.mark.parametrize(
    ("dtype", "data", "message"),
    [
        ("int8", [300], "not INT8"),
        ("uint8", [-1], "not UINT8"),
        ("int64", [2**63], "not INT64"),
        ("int64", [1.5], "not INT64"),
        ("bool", [2], "0 or 1"),
        ("bool", ["true"], "not BOOL"),
        ("object", [1], "not BYTES"),
        ("bfloat16", [3.5e38], "too large"),
        ("float16", [70000.0], "too large"),
    ],
)
def test_values_beyond_the_datatype_are_refused(dtype: str, data: list[Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        decode_infer(body([1], DATATYPES[dtype], data), None, spec(dtype, "n"), ["y"])


def test_ragged_and_misshapen_nested_data_is_refused() -> None:
    for data in ([[1, 2], [3]], [[1, 2, 3], [4, 5, 6]], [[1], [2], [3], [4]]):
        with pytest.raises(RequestError, match="input 'x'"):
            decode_infer(body([2, 2], "FP32", data), None, spec("float32", "n", 2), ["y"])


def test_a_free_size_is_the_same_wherever_it_is_named() -> None:
    inputs = {n: TensorSpec(n, "float32", ("items",)) for n in ("a", "b")}
    given_ = [{"name": n, "shape": [s], "datatype": "FP32", "data": [0.0] * s} for n, s in (("a", 2), ("b", 3))]
    with pytest.raises(RequestError, match=r"got shape \[3\], expected \[items = 2\]"):
        decode_infer(json.dumps({"inputs": given_}).encode(), None, inputs, ["y"])


@pytest.mark.parametrize("length", [b"", b"-1", b"x", b"0", b"999999", b"9" * 40, b"1.5", "²".encode()])
def test_a_wrong_header_length_is_refused(length: bytes) -> None:
    content, _ = binary([1], "FP32", b"\0\0\0\0")
    with pytest.raises(RequestError, match="Inference-Header-Content-Length"):
        decode_infer(content, length, spec("float32", "n"), ["y"])


def test_binary_sizes_must_fit_exactly() -> None:
    inputs = spec("float32", "n")
    content, length = binary([2], "FP32", b"\0" * 8)
    for wrong, message in ((content + b"\0", "expected 8"), (content[:-1], "at most the 7")):
        with pytest.raises(RequestError, match=message):
            decode_infer(wrong, length, inputs, ["y"])
    with pytest.raises(RequestError, match="expected 12 by shape"):
        decode_infer(*binary([3], "FP32", b"\0" * 8), inputs, ["y"])


@pytest.mark.parametrize(
    "content", [b"\1\0\0", b"\5\0\0\0abc", b"\1\0\0\0\xff", b"\1\0\0\0ab", b"\xff\xff\xff\xffa", b""]
)
def test_broken_strings_are_refused(content: bytes) -> None:
    with pytest.raises(RequestError, match="element"):
        decode_infer(*binary([1], "BYTES", content), spec("object", "n"), ["y"])


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
_size = st.integers(-2, 5) | st.just(31)


@st.composite
def _input(draw: Any) -> Any:
    name = draw(st.sampled_from(["request_dense", "item_dense", "item_ids", "request_of_item", "z"]))
    shape = draw(st.lists(_size, max_size=3))
    count = int(np.prod([max(s, 0) for s in shape]))
    data = draw(_json | st.just([0] * min(count, 2000)) | st.just([1.5] * min(count, 2000)))
    made = {"name": name, "shape": shape, "datatype": draw(st.sampled_from(["FP32", "INT64", "X"])), "data": data}
    if draw(st.booleans()):
        made["parameters"] = draw(st.just({"binary_data_size": draw(_size)}) | _json)
    for key in draw(st.sets(st.sampled_from(["name", "shape", "datatype", "data"]), max_size=1)):
        made[key] = draw(_json)
    return made


def ask(app: App, content: bytes, headers: dict[bytes, bytes] | None = None) -> int:
    return app.handle(Request("POST", "/v2/models/ranker/infer", headers or {}, content)).status


@given(st.lists(_input(), max_size=5), _json | st.just([]), st.none() | st.binary(max_size=60), st.integers(-3, 3))
def test_no_body_gives_a_server_error(app: App, inputs: list[Any], outputs: Any, tail: bytes | None, off: int) -> None:
    text = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    headers = {} if tail is None else {b"inference-header-content-length": str(len(text) + off).encode()}
    assert ask(app, text + (tail or b""), headers) < 500


@given(st.data())
def test_no_values_give_a_server_error(app: App, data: Any) -> None:
    """The right names, datatypes and ranks, but any sizes and any values: ids beyond the table, items of no request."""
    models = json.loads(app.handle(Request("GET", "/v2/models/ranker", {}, b"")).body)
    sizes = {name: data.draw(st.integers(0, 3)) for name in ("requests", "items")}
    inputs = []
    for tensor in models["inputs"]:
        level = "requests" if tensor["name"].startswith("request_d") else "items"
        shape = [sizes[level] if d < 0 else d for d in tensor["shape"]]
        count = int(np.prod(shape))
        whole = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 40)
        real = st.floats(width=32, allow_nan=False, allow_infinity=False)
        one = whole if tensor["datatype"] == "INT64" else real
        values = data.draw(st.lists(one, min_size=count, max_size=count))
        inputs.append({"name": tensor["name"], "shape": shape, "datatype": tensor["datatype"], "data": values})
    assert ask(app, json.dumps({"inputs": inputs}).encode()) in (200, 400)


@pytest.fixture(scope="module")
def echoing() -> App:
    repository = Repository()
    repository.serve([Model(echo.Echo(*echo.DTYPES), "echo", "1")])
    return App(repository)


@given(st.data())
def test_no_binary_tensors_give_a_server_error(echoing: App, data: Any) -> None:
    """All datatypes, in binary and in JSON, of sizes that fit and of others; answered in binary and in JSON."""
    inputs, tail = [], b""
    for dtype in data.draw(st.permutations(echo.DTYPES)):
        one = {"name": f"in_{dtype}", "datatype": DATATYPES[dtype], "shape": [data.draw(st.integers(0, 2)), 2]}
        width = 5 if dtype == "object" else wire_dtype(dtype).itemsize
        size = data.draw(st.sampled_from([width * one["shape"][0] * 2] * 8 + [1, 7]))
        if data.draw(st.integers(0, 9)):
            content = (
                b"\1\0\0\0a" * (size // 5) if dtype == "object" else data.draw(st.binary(min_size=size, max_size=size))
            )
            inputs.append({**one, "parameters": {"binary_data_size": len(content)}})
            tail += content
        else:
            inputs.append({**one, "data": data.draw(_json)})
    text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": data.draw(st.booleans())}}).encode()
    headers = {b"inference-header-content-length": str(len(text)).encode()}
    request = Request("POST", "/v2/models/echo/infer", headers, text + tail)
    if data.draw(st.booleans()):
        headers[b"content-encoding"] = b"gzip"
        request.body = gzip.compress(request.body)
    assert echoing.handle(request).status in (200, 400)


@given(st.binary(max_size=300), st.none() | st.integers(0, 400))
def test_no_bytes_give_a_server_error(app: App, content: bytes, length: int | None) -> None:
    headers = {} if length is None else {b"inference-header-content-length": str(length).encode()}
    assert ask(app, content, headers) == 400
