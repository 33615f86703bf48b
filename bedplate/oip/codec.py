"""The Open Inference Protocol v2 over REST: bytes to tensors and tensors to bytes.

JSON as in the protocol's "inference request JSON object", and the binary tensor data extension: the JSON part comes
first, its length is in the header `Inference-Header-Content-Length`, and the tensors follow it in the order of the
inputs that have a `binary_data_size`. Both kinds may be mixed, in a request and in an answer.

https://github.com/open-inference/open-inference-protocol
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, final

import msgspec

from bedplate.errors import RequestError
from bedplate.features.encoding import TensorSpec
from bedplate.http.message import OCTETS, Response
from bedplate.inference.infer_call import (
    MOST_PARAMETERS,
    MOST_SIZES,
    SPARE,
    InferCall,
    InputCheck,
    flag,
    refuse_unsupported,
    wanted,
)
from bedplate.malformed import reason_of, shown
from bedplate.runtimes.tensors import (
    DATATYPES,
    element_type,
    from_binary,
    from_json,
    from_values,
    to_binary,
    to_json,
)
from bedplate.types import Array

HEADER_LENGTH = b"inference-header-content-length"

_Size = Annotated[int, msgspec.Meta(ge=0, le=2**40)]
_Shape = Annotated[list[_Size], msgspec.Meta(max_length=MOST_SIZES)]
_parameters_decoder = msgspec.json.Decoder(
    Annotated[dict[str, str | int | float | bool], msgspec.Meta(max_length=MOST_PARAMETERS)]
)
_MOST_PARAMETERS_BYTES = 64 * 1024


class _Input(msgspec.Struct):
    name: str
    shape: _Shape
    datatype: str
    parameters: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()


_FEW = 16  # inputs of a model that has a decoder of its own: to make one takes the square of their number
_LARGEST_KNOWN, _MOST_KNOWN = 4096, 64
"""How long the JSON part of a binary request may be that is remembered, bytes, and how many are."""


@final
@dataclass(frozen=True, slots=True)
class _Known:
    """A JSON part that was read and checked: clients send the same one again and again before other tensors.

    Attributes:
        inputs: what the model takes that it was checked for.
        gives: the outputs of that model.
        size: bytes of tensors that follow.
        parts: of each tensor the name, where it begins and ends, and its shape.
        outputs: as of `InferCall`.
        parameters: as of `InferCall`.
    """

    inputs: Mapping[str, TensorSpec]
    gives: tuple[str, ...]
    size: int
    parts: tuple[tuple[str, int, int, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, bool], ...]
    parameters: Mapping[str, Any]

    def call(self, rest: memoryview) -> InferCall:
        """The request with these tensors."""
        tensors = {
            name: from_binary(rest[begin:end], self.inputs[name].dtype, shape, f"input '{name}'")
            for name, begin, end, shape in self.parts
        }
        return InferCall(tensors, self.outputs, None, self.parameters)


_known: dict[bytes, _Known] = {}


class _Output(msgspec.Struct):
    name: str
    parameters: msgspec.Raw = msgspec.Raw()


def _at_most(most: int, kind: Any) -> Any:
    """A list of at most so many: unlike a list with a longest length, it ends with the first that is too many."""
    fields: list[Any] = [(f"_{i}", kind | msgspec.UnsetType, msgspec.UNSET) for i in range(most)]
    return msgspec.defstruct("AtMost", fields, array_like=True, forbid_unknown_fields=True)


def _listed(values: Any) -> list[Any]:
    """What is in a list of `_at_most`."""
    return [] if values is msgspec.UNSET else [v for v in msgspec.structs.astuple(values) if v is not msgspec.UNSET]


def _decoder_of(inputs: Any, inputs_count: int, outputs_count: int) -> msgspec.json.Decoder[Any]:
    """Of requests to a model of so many inputs and outputs."""
    fields: list[Any] = [
        ("inputs", _at_most(inputs_count + SPARE, inputs)),
        ("outputs", _at_most(outputs_count + SPARE, _Output) | msgspec.UnsetType, msgspec.UNSET),
        ("id", str | None, None),
        ("parameters", msgspec.Raw, msgspec.Raw()),
    ]
    return msgspec.json.Decoder(msgspec.defstruct("Infer", fields))


@functools.lru_cache(64)
def _decoder(inputs_count: int, outputs_count: int) -> msgspec.json.Decoder[Any]:
    """Of requests in any form."""
    return _decoder_of(_Input, inputs_count, outputs_count)


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
    content = bytes(header) if rest and len(header) <= _LARGEST_KNOWN else b""
    known = _known.get(content)
    if known is not None and known.inputs is inputs and known.size == len(rest) and known.gives == tuple(outputs):
        return known.call(rest)
    try:
        asked: Any = None if rest else _decode_flat(header, inputs, len(outputs))
        if asked is None:
            asked = _decoder(len(inputs), len(outputs)).decode(header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"not an inference request: {reason_of(error, header)}") from error
    parameters = _parameters(asked.parameters, "$.parameters")
    refuse_unsupported(parameters, "$.parameters")
    check = InputCheck(inputs)
    parts: list[tuple[str, int, int]] = []
    position = 0
    for i, given in enumerate(_listed(asked.inputs)):
        own = _parameters(given.parameters, f"$.inputs[{i}].parameters")
        spec, place = check.spec(i, given.name, given.datatype, given.shape, own)
        size = own.get("binary_data_size")
        if size is None:
            check.tensors[given.name] = _from_data(given.data, spec.dtype, given.shape, place)
        else:
            end = position + _binary_size(given, size, len(rest) - position, place)
            check.tensors[given.name] = from_binary(rest[position:end], spec.dtype, given.shape, place)
            parts.append((given.name, position, end))
            position = end
    if position != len(rest):
        raise RequestError(f"got {len(rest)} bytes of tensors, expected {position} by the sizes of the inputs")
    default = flag(parameters, "binary_data_output", "$.parameters", default=False)
    asked_outputs = [
        (o.name, _parameters(o.parameters, f"$.outputs[{i}].parameters")) for i, o in enumerate(_listed(asked.outputs))
    ]
    named = wanted(asked_outputs, outputs, binary=default)
    call = InferCall(check.complete(), named, asked.id, parameters)
    if content and len(parts) == len(inputs) and asked.id is None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        shaped = tuple([(name, begin, end, call.tensors[name].shape) for name, begin, end in parts])
        _known[content] = _Known(inputs, tuple(outputs), position, shaped, named, parameters)
    return call


def encode_infer(
    call: InferCall, model: str, version: str, results: Sequence[Array], outputs: Mapping[str, TensorSpec]
) -> Response:
    """The answer to an inference request.

    Args:
        call: the request.
        model: its name.
        version: its version.
        results: a tensor for each of the outputs wanted.
        outputs: what the model gives.
    """
    listed: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for (name, binary), result in zip(call.outputs, results, strict=True):
        dtype = outputs[name].dtype
        output: dict[str, Any] = {"name": name, "datatype": DATATYPES[dtype], "shape": result.shape}
        if binary:
            content = to_binary(result, dtype)
            output["parameters"] = {"binary_data_size": len(content)}
            tail.append(content)
        else:
            output["data"] = to_json(result)
        listed.append(output)
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": listed}
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


def _parameters(raw: msgspec.Raw, place: str) -> dict[str, Any]:
    """Parameters; not read with what they belong to, for a million take seconds before their number is known."""
    if not raw:
        return {}
    if len(bytes(raw)) > _MOST_PARAMETERS_BYTES:
        raise RequestError(f"got parameters longer than {_MOST_PARAMETERS_BYTES} bytes", where=place)
    try:
        return _parameters_decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestError(f"not an inference request: {reason_of(error, bytes(raw))}", where=place) from error


def _decode_flat(header: bytes | memoryview, inputs: Mapping[str, TensorSpec], outputs_count: int) -> Any:
    """A request whose values are all flat lists, read in one pass; None: it has another form, or something is wrong."""
    if len(inputs) > _FEW:
        return None
    try:
        tensors = tuple([(name, spec.dtype) for name, spec in inputs.items()])
        return _flat_decoder(tensors, outputs_count).decode(header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


@functools.lru_cache(64)
def _flat_decoder(tensors: tuple[tuple[str, str], ...], outputs_count: int) -> msgspec.json.Decoder[Any]:
    """Of requests to one model: the name of an input says the type of its values."""
    kinds: list[Any] = []
    for name, dtype in tensors:
        fields: list[Any] = [("shape", _Shape), ("datatype", str), ("data", list[element_type(dtype)])]
        fields.append(("parameters", msgspec.Raw, msgspec.Raw()))
        kinds.append(msgspec.defstruct("Flat", fields, namespace={"name": name}, tag_field="name", tag=name))
    one: Any = functools.reduce(lambda a, b: a | b, kinds)
    return _decoder_of(one, len(tensors), outputs_count)


def _from_data(data: msgspec.Raw | list[Any], dtype: str, shape: list[int], place: str) -> Array:
    if isinstance(data, list):
        return from_values(data, dtype, shape, place)
    if not data:
        raise RequestError("got no data, expected data or the parameter binary_data_size", where=place)
    return from_json(bytes(data), dtype, shape, place)


def _split(body: bytes, header_length: bytes | None) -> tuple[bytes | memoryview, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    if not header_length.isdigit() or len(header_length) > 12 or not 0 < int(header_length) <= len(body):
        given = header_length.decode("latin-1")
        raise RequestError(
            f"got '{given}', expected the length of the JSON part, 1 to {len(body)}",
            where="header Inference-Header-Content-Length",
        )
    view, length = memoryview(body), int(header_length)
    return view[:length], view[length:]


def _binary_size(given: Any, size: Any, left: int, place: str) -> int:
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise RequestError(f"got binary_data_size {shown(size)}, expected a whole number from 0", where=place)
    if size > left:
        raise RequestError(f"got binary_data_size {size}, expected at most the {left} bytes that follow", where=place)
    if given.data or isinstance(given.data, list):
        raise RequestError("got both data and binary_data_size, expected one", where=place)
    return size
