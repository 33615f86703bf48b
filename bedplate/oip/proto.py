"""Inference requests and answers as messages of gRPC: to tensors and back.

Tensors come as `raw_input_contents`, in the form of the binary extension, or as typed contents. They go as
`raw_output_contents`, as Triton's clients expect; as typed contents where the parameter `binary_data_output` of the
request, or `binary_data` of every output, is false. FP16 and BF16 have no typed contents: with such an output all are
raw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np

from bedplate.errors import RequestError
from bedplate.features.encoding import TensorSpec
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
from bedplate.malformed import shape_text
from bedplate.oip.messages import MESSAGES
from bedplate.runtimes.tensors import DATATYPES, array_dtype, checked, from_binary, text, to_binary
from bedplate.types import Array

_CONTENTS = {
    "bool": "bool_contents",
    "int8": "int_contents",
    "int16": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "uint8": "uint_contents",
    "uint16": "uint_contents",
    "uint32": "uint_contents",
    "uint64": "uint64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
    "object": "bytes_contents",
}
"""The field of `InferTensorContents` that holds a dtype's values."""
_MOST = 2**40  # of a size in a shape


def parameters_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a message, as values.

    Raises:
        RequestError: they are too many.
    """
    found: dict[str, Any] = {}
    _check_count("parameters", given, MOST_PARAMETERS)
    for name, parameter in given.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is not None:
            found[name] = getattr(parameter, choice)
    return found


def decode_infer(asked: Any, inputs: Mapping[str, TensorSpec], outputs: Sequence[str]) -> InferCall:
    """The tensors of a `ModelInferRequest`, checked against what the model takes.

    Raises:
        RequestError: a name, datatype, shape or count is wrong; says where.
    """
    parameters = parameters_of(asked.parameters)
    refuse_unsupported(parameters, "parameters")
    raw = asked.raw_input_contents
    _check_count("inputs", asked.inputs, len(inputs) + SPARE)
    _check_count("outputs", asked.outputs, len(outputs) + SPARE)
    if raw and len(raw) != len(asked.inputs):
        raise RequestError(f"got {len(raw)} raw_input_contents, expected one for each of {len(asked.inputs)} inputs")
    check = InputCheck(inputs)
    for i, given in enumerate(asked.inputs):
        _check_count("sizes", given.shape, MOST_SIZES)
        shape = list(given.shape)
        if any(not 0 <= size <= _MOST for size in shape):
            raise RequestError(f"got shape {shape_text(shape)}, expected sizes from 0", where=f"input '{given.name}'")
        spec, place = check.spec(i, given.name, given.datatype, shape, parameters_of(given.parameters))
        if raw:
            if given.HasField("contents"):
                raise RequestError("got both contents and raw_input_contents, expected one", where=place)
            tensor = from_binary(memoryview(raw[i]), spec.dtype, shape, place)
        else:
            tensor = _from_contents(given.contents, spec.dtype, shape, place)
        check.tensors[given.name] = tensor
    tensors = check.complete()
    binary = flag(parameters, "binary_data_output", "parameters", default=True)
    named = wanted([(o.name, parameters_of(o.parameters)) for o in asked.outputs], outputs, binary=binary)
    return InferCall(tensors, named, asked.id or None, parameters)


def encode_infer(
    call: InferCall, model: str, version: str, results: Sequence[Array], outputs: Mapping[str, TensorSpec]
) -> Any:
    """The `ModelInferResponse` to a request."""
    answer = MESSAGES["ModelInferResponse"](model_name=model, model_version=version, id=call.id or "")
    raw = any(binary or outputs[name].dtype not in _CONTENTS for name, binary in call.outputs)
    for (name, _), result in zip(call.outputs, results, strict=True):
        dtype = outputs[name].dtype
        output = answer.outputs.add(name=name, datatype=DATATYPES[dtype], shape=result.shape)
        if raw:
            answer.raw_output_contents.append(to_binary(result, dtype))
        else:
            values = result.ravel().tolist()
            field = getattr(output.contents, _CONTENTS[dtype])
            field.extend([str(v).encode() for v in values] if dtype == "object" else values)
    return answer


def _check_count(what: str, values: Sized, most: int) -> None:
    """Refuses more than any request has before they are looked at."""
    if len(values) > most:
        raise RequestError(f"got {len(values)} {what}, expected at most {most}")


def _from_contents(contents: Any, dtype: str, shape: list[int], place: str) -> Array:
    name, datatype = _CONTENTS.get(dtype), DATATYPES[dtype]
    if name is None:
        raise RequestError(f"there are no contents of {datatype}, expected raw_input_contents", where=place)
    wrong = [field.name for field, _ in contents.ListFields() if field.name != name]
    if wrong:
        raise RequestError(f"got {wrong[0]}, expected {name} for {datatype}", where=place)
    given = getattr(contents, name)
    count = 1
    for size in shape:
        count *= size
    if len(given) != count:
        raise RequestError(
            f"got {len(given)} values in {name}, expected {count} by shape {shape_text(shape)}", where=place
        )
    values = list(given)
    if dtype == "object":
        values = [text(v, i, place) for i, v in enumerate(values)]
    try:
        array = np.array(values, array_dtype(dtype))
    except OverflowError as error:
        raise RequestError(f"a value is beyond {datatype}: {error}", where=place) from error
    return array.reshape(shape) if array.dtype.kind == "f" else checked(array.reshape(shape), dtype, values, place)
