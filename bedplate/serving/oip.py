"""The Open Inference Protocol v2 over REST: bytes to tensors and tensors to bytes.

JSON as in the protocol's "inference request JSON object", and the binary tensor data extension: the JSON part comes
first, its length is in the header `Inference-Header-Content-Length`, and the tensors follow it in the order of the
inputs that have a `binary_data_size`. Fixed-width elements are little-endian; an element of BYTES is its length as a
32-bit number and then its content. JSON has no NaN and no infinity: they are null in a JSON output; ask for binary.

https://github.com/open-inference/open-inference-protocol
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, final

import msgspec
import numpy as np

from bedplate.errors import RequestError, suggest
from bedplate.features.encoding import TensorSpec
from bedplate.serving.http import OCTETS, Response
from bedplate.types import Array

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",
}
"""The protocol's name of each NumPy dtype; elements of `object` are strings."""

HEADER_LENGTH = b"inference-header-content-length"
_UNSUPPORTED = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "classification")
_LENGTH = struct.Struct("<I")

_Size = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class _Input(msgspec.Struct):
    name: str
    shape: list[_Size]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw()


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Infer(msgspec.Struct):
    inputs: list[_Input]
    outputs: list[_Output] = []
    id: str | None = None
    parameters: dict[str, Any] = {}


_decoder = msgspec.json.Decoder(_Infer)


@final
@dataclass(frozen=True, slots=True)
class InferCall:
    """A decoded request: the tensors by name, the outputs wanted and whether each as binary, and the client's id."""

    tensors: dict[str, Array]
    outputs: tuple[tuple[str, bool], ...]
    id: str | None


def decode_infer(
    body: bytes, header_length: bytes | None, inputs: Mapping[str, TensorSpec], outputs: Sequence[str]
) -> InferCall:
    """The tensors of an inference request, checked against what the model takes.

    Args:
        body: JSON, or JSON followed by tensors.
        header_length: the value of `Inference-Header-Content-Length`; None: the body is all JSON.
        inputs: what the model takes; a text in a shape is a free size, equal wherever it is named.
        outputs: what the model gives.

    Raises:
        RequestError: not JSON, or a name, datatype, shape or count is wrong; says where.
    """
    header, rest = _split(body, header_length)
    try:
        asked = _decoder.decode(header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"not an inference request: {error}") from error
    _refuse_unsupported(asked.parameters, "$.parameters")
    tensors: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    position = 0
    for i, given in enumerate(asked.inputs):
        spec = inputs.get(given.name)
        if spec is None or given.name in tensors:
            got = f"input '{given.name}' twice" if spec else f"unknown input '{given.name}'"
            raise RequestError(f"got {got}", where=f"$.inputs[{i}]", hint=suggest(given.name, inputs, "inputs"))
        place = f"input '{given.name}'"
        _refuse_unsupported(given.parameters, place)
        _check(given, spec, sizes, place)
        size = given.parameters.get("binary_data_size")
        if size is None:
            tensors[given.name] = _from_json(given, spec, place)
        else:
            end = position + _binary_size(given, size, len(rest) - position, place)
            tensors[given.name] = _from_binary(rest[position:end], given, spec, place)
            position = end
    if position != len(rest):
        raise RequestError(f"got {len(rest)} bytes of tensors, expected {position} by the sizes of the inputs")
    missing = [name for name in inputs if name not in tensors]
    if missing:
        raise RequestError(f"input '{missing[0]}' is missing", where="$.inputs")
    return InferCall(tensors, _wanted(asked, outputs), asked.id)


def encode_infer(call: InferCall, model: str, version: str, results: Sequence[Array]) -> Response:
    """The answer to an inference request.

    Args:
        call: the request.
        model: its name.
        version: its version.
        results: a tensor for each of the outputs wanted.
    """
    shown: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for (name, binary), result in zip(call.outputs, results, strict=True):
        output: dict[str, Any] = {"name": name, "datatype": DATATYPES[result.dtype.name], "shape": result.shape}
        if binary:
            content = _to_binary(result)
            output["parameters"] = {"binary_data_size": len(content)}
            tail.append(content)
        else:
            output["data"] = _to_json(result)
        shown.append(output)
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": shown}
    if call.id is not None:
        answer["id"] = call.id
    header = msgspec.json.encode(answer)
    if not tail:
        return Response(200, header)
    length = (b"Inference-Header-Content-Length", b"%d" % len(header))
    return Response(200, b"".join((header, *tail)), OCTETS, (length,))


def metadata(spec: TensorSpec) -> dict[str, Any]:
    """A tensor as the protocol's model metadata shows it; -1 is a free size.

    >>> metadata(TensorSpec("x", "float32", ("items", 3)))
    {'name': 'x', 'datatype': 'FP32', 'shape': [-1, 3]}
    """
    shape = [-1 if isinstance(d, str) else d for d in spec.shape]
    return {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": shape}


def _split(body: bytes, header_length: bytes | None) -> tuple[bytes | memoryview, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if not header_length.isdigit() or len(header_length) > 12 or not 0 < int(header_length) <= len(body):
        shown = header_length.decode("latin-1")
        raise RequestError(
            f"got '{shown}', expected the length of the JSON part, 1 to {len(body)}",
            where="header Inference-Header-Content-Length",
        )
    view, length = memoryview(body), int(header_length)
    return view[:length], view[length:]


def _refuse_unsupported(parameters: Mapping[str, Any], place: str) -> None:
    for name in parameters.keys() & set(_UNSUPPORTED):
        raise RequestError(f"the parameter '{name}' is not supported", where=place)


def _check(given: _Input, spec: TensorSpec, sizes: dict[str, int], place: str) -> None:
    if given.datatype != DATATYPES[spec.dtype]:
        raise RequestError(f"got datatype {given.datatype}, expected {DATATYPES[spec.dtype]}", where=place)
    fits = len(given.shape) == len(spec.shape) and all(
        got == (sizes.setdefault(want, got) if isinstance(want, str) else want)
        for got, want in zip(given.shape, spec.shape, strict=True)
    )
    if not fits:
        expected = ", ".join(f"{d} = {sizes[d]}" if d in sizes else str(d) for d in map(_key, spec.shape))
        raise RequestError(f"got shape {given.shape}, expected [{expected}]", where=place)


def _key(size: int | str) -> str:
    return str(size)


@functools.cache
def _data_decoder(dtype: str, depth: int) -> msgspec.json.Decoder[Any]:
    kind = np.dtype(dtype).kind
    element: Any = {"f": float, "b": bool | int, "O": str}.get(kind, int)
    for _ in range(depth):
        element = list[element]
    return msgspec.json.Decoder(element)


def _from_json(given: _Input, spec: TensorSpec, place: str) -> Array:
    raw = bytes(given.data)
    if not raw:
        raise RequestError("got no data, expected data or the parameter binary_data_size", where=place)
    nested = len(given.shape) > 1 and raw[1:].lstrip()[:1] == b"["
    try:
        values = _data_decoder(spec.dtype, len(given.shape) if nested else 1).decode(raw)
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            array = np.array(values, np.dtype(spec.dtype))
    except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, ValueError) as error:
        raise RequestError(f"the data is not {given.datatype} of shape {given.shape}: {error}", where=place) from error
    if nested:
        if list(array.shape) != given.shape:
            raise RequestError(f"the data has shape {list(array.shape)}, the shape says {given.shape}", where=place)
    elif array.size != math.prod(given.shape):
        raise RequestError(
            f"got {array.size} values, expected {math.prod(given.shape)} by shape {given.shape}", where=place
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RequestError(f"a value is too large for {given.datatype}", where=place)
    if array.dtype.kind == "b" and any(v not in (0, 1) for v in _flat(values)):
        raise RequestError("got a number that is not 0 or 1, expected booleans", where=place)
    return array.reshape(given.shape)


def _flat(values: Any) -> list[Any]:
    while values and isinstance(values[0], list):
        values = [v for row in values for v in row]
    return values


def _binary_size(given: _Input, size: Any, left: int, place: str) -> int:
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= left:
        raise RequestError(f"got binary_data_size {size!r}, expected at most the {left} bytes that follow", where=place)
    if given.data:
        raise RequestError("got both data and binary_data_size, expected one", where=place)
    return size


def _from_binary(content: memoryview, given: _Input, spec: TensorSpec, place: str) -> Array:
    count, dtype = math.prod(given.shape), np.dtype(spec.dtype)
    if dtype.hasobject:
        return _strings(content, count, place).reshape(given.shape)
    if len(content) != count * dtype.itemsize:
        raise RequestError(
            f"got binary_data_size {len(content)}, expected {count * dtype.itemsize} by shape {given.shape}",
            where=place,
        )
    array = np.frombuffer(content, dtype.newbyteorder("<")).reshape(given.shape)
    if dtype.kind == "b":
        return array.view(np.uint8) != 0
    # The runtime reads in place; a tensor that doesn't begin at a multiple of its width is copied first.
    return array if array.flags.aligned and array.dtype.isnative else array.astype(dtype)


def _strings(content: memoryview, count: int, place: str) -> Array:
    found: list[str] = []
    position = 0
    while position < len(content) and len(found) < count:
        begin = position + _LENGTH.size
        length = _LENGTH.unpack_from(content, position)[0] if begin <= len(content) else 0
        position = begin + length
        if position > len(content):
            raise RequestError(f"the content ends within element {len(found)} of {count} elements", where=place)
        try:
            found.append(str(content[begin:position], "utf-8"))
        except UnicodeDecodeError as error:
            raise RequestError(f"element {len(found)} is not UTF-8: {error}", where=place) from error
    if len(found) != count or position != len(content):
        raise RequestError(
            f"got {len(found)} elements in {position} of {len(content)} bytes, expected {count} elements", where=place
        )
    return np.array(found, object)


def _wanted(asked: _Infer, outputs: Sequence[str]) -> tuple[tuple[str, bool], ...]:
    default = _flag(asked.parameters, "binary_data_output", "$.parameters", default=False)
    if not asked.outputs:
        return tuple((name, default) for name in outputs)
    found: dict[str, bool] = {}
    for i, output in enumerate(asked.outputs):
        place = f"$.outputs[{i}]"
        if output.name not in outputs or output.name in found:
            got = f"output '{output.name}' twice" if output.name in found else f"unknown output '{output.name}'"
            raise RequestError(f"got {got}", where=place, hint=suggest(output.name, outputs, "outputs"))
        _refuse_unsupported(output.parameters, place)
        found[output.name] = _flag(output.parameters, "binary_data", place, default=default)
    return tuple(found.items())


def _flag(parameters: Mapping[str, Any], name: str, place: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(f"got {name} {value!r}, expected true or false", where=place)
    return value


def _to_binary(result: Array) -> bytes:
    if result.dtype.hasobject:
        texts = [str(v).encode() for v in result.ravel().tolist()]
        return b"".join(_LENGTH.pack(len(t)) + t for t in texts)
    return result.astype(result.dtype.newbyteorder("<"), copy=False).tobytes()


def _to_json(result: Array) -> list[Any]:
    # msgspec writes NaN and the infinities as null.
    return result.ravel().tolist()
