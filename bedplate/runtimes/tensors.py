"""One tensor on the wire of the Open Inference Protocol: binary content and JSON values, to and from arrays.

Fixed-width elements are little-endian, row by row without padding; a BOOL is one byte; an element of BYTES is its
length as a 32-bit number and then its content. NumPy has no bfloat16: a BF16 tensor is an array of float32 whose lower
16 bits are zero, and an array of float32 becomes BF16 by rounding to the nearest, ties to even. JSON has no NaN and no
infinity: they are null in a JSON output; ask for binary.

https://github.com/open-inference/open-inference-protocol
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from bedplate.errors import RequestError
from bedplate.malformed import reason_of, shape_text
from bedplate.types import Array, Float32s

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
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",
}
"""The protocol's name of each dtype of a `TensorSpec`; elements of `object` are strings."""

_LENGTH = struct.Struct("<I")
_CODES = {
    "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "f": "d",
}  # fmt: skip
"""How `struct` names the numbers of a kind and width; those of the kind f are rounded from doubles."""


@functools.cache
def array_dtype(dtype: str) -> np.dtype[Any]:
    """The dtype of the array that holds a tensor of a `TensorSpec`'s dtype.

    >>> array_dtype("bfloat16"), array_dtype("int8")
    (dtype('float32'), dtype('int8'))
    """
    return np.dtype("float32" if dtype == "bfloat16" else dtype)


@functools.cache
def wire_dtype(dtype: str) -> np.dtype[Any]:
    """The dtype of the bytes of a fixed-width tensor on the wire."""
    return np.dtype("<u2") if dtype == "bfloat16" else array_dtype(dtype).newbyteorder("<")


def from_binary(content: memoryview, dtype: str, shape: Sequence[int], place: str) -> Array:
    """The tensor of a binary content; where the machine can read it in place, a view of it.

    Args:
        content: the bytes of this tensor alone.
        dtype: as a `TensorSpec` names it.
        shape: what the client says.
        place: the tensor, for messages.

    Raises:
        RequestError: the content has another size than the shape says, or holds strings that are not UTF-8.
    """
    count = math.prod(shape)
    if dtype == "object":
        return _texts(content, count, place).reshape(shape)
    wire = wire_dtype(dtype)
    if len(content) != count * wire.itemsize:
        raise RequestError(
            f"got {len(content)} bytes, expected {count * wire.itemsize} by shape {shape_text(shape)}", where=place
        )
    array = np.frombuffer(content, wire).reshape(shape)
    if dtype == "bfloat16":
        return from_bfloat16(array)
    if dtype == "bool":
        return array.view(np.uint8) != 0
    # The runtime reads in place; a tensor that doesn't begin at a multiple of its width is copied first.
    return array if array.flags.aligned and wire.isnative else array.astype(array_dtype(dtype))


def to_binary(array: Array, dtype: str) -> bytes:
    r"""The binary content of a tensor.

    >>> to_binary(np.array([1.0], np.float32), "bfloat16").hex(), to_binary(np.array(["ab"], object), "object")
    ('803f', b'\x02\x00\x00\x00ab')
    """
    if dtype == "object":
        contents = [str(v).encode() for v in array.ravel().tolist()]
        return b"".join([_LENGTH.pack(len(c)) + c for c in contents])
    if dtype == "bfloat16":
        return to_bfloat16(array).astype("<u2").tobytes()
    return array.astype(wire_dtype(dtype), copy=False).tobytes()


def from_json(raw: bytes, dtype: str, shape: list[int], place: str) -> Array:
    """The tensor of JSON values, flat or nested as the shape says.

    Raises:
        RequestError: a value is not of the datatype or beyond it, or there are more or fewer than the shape says.
    """
    nested = len(shape) > 1 and raw[1:].lstrip()[:1] == b"["
    if dtype != "object":  # whose texts may have any of these
        _check_counts(raw, shape, place, nested=nested)
    try:
        values = _decoder(dtype, len(shape) if nested else 1).decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _unlike(dtype, shape, place, reason_of(error, raw)) from error
    if not nested:
        return from_values(values, dtype, shape, place)
    try:
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            array = np.array(values, array_dtype(dtype))
    except (OverflowError, ValueError) as error:
        raise _unlike(dtype, shape, place, _uneven(values, shape) or str(error)) from error
    if list(array.shape) != shape:
        if uneven := _uneven(values, shape):
            raise _unlike(dtype, shape, place, uneven)
        raise RequestError(
            f"the data has shape {shape_text(array.shape)}, the shape says {shape_text(shape)}", where=place
        )
    return checked(array, dtype, values, place)


def _uneven(values: list[Any], shape: Sequence[int]) -> str | None:
    """What is wrong with nested lists that make no tensor: some beside each other are of different lengths.

    >>> _uneven([[1], [2, 3]], [2, 2]), _uneven([[1], [2]], [2, 2])
    ('its rows have different lengths, from 1 to 2, expected 2', None)
    """
    for size in shape[1:]:
        lengths = {len(row) for row in values}
        if len(lengths) > 1:
            return f"its rows have different lengths, from {min(lengths)} to {max(lengths)}, expected {size}"
        values = [value for row in values for value in row]
    return None


_MOST_WRONG = 1000  # values beyond the shape: so many are looked at, and it is said what is wrong with them


def _check_counts(raw: bytes, shape: list[int], place: str, *, nested: bool) -> None:
    """Refuses more lists or values than a shape has before they are made: each takes some fifty bytes."""
    lists = sum(math.prod(shape[:i]) for i in range(len(shape))) if nested else 1
    for what, got, most in (("lists", raw.count(b"["), lists), ("commas", raw.count(b","), lists + math.prod(shape))):
        if got > most + _MOST_WRONG:
            raise RequestError(f"got {got} {what}, too many for the shape {shape_text(shape)}", where=place)


def from_values(values: list[Any], dtype: str, shape: list[int], place: str) -> Array:
    """As `from_json`, of values that were decoded as `element_type` says.

    >>> from_values([1, 2], "int64", [2, 1], "x").tolist()
    [[1], [2]]
    """
    if len(values) != math.prod(shape):
        raise RequestError(
            f"got {len(values)} values, expected {math.prod(shape)} by shape {shape_text(shape)}", where=place
        )
    wanted = array_dtype(dtype)
    code = _CODES.get(wanted.kind + str(wanted.itemsize)) or _CODES.get(wanted.kind)
    try:
        with np.errstate(over="ignore"):  # what becomes infinite is refused below
            if code is None:
                array = np.array(values, wanted)
            else:
                # An array of a list asks each number what it is: packing takes a quarter of that time.
                packed = struct.pack(f"{len(values)}{code}", *values)
                array = np.frombuffer(packed, code).astype(wanted, copy=False)
    except (struct.error, OverflowError, ValueError) as error:
        raise _unlike(dtype, shape, place, str(error)) from error
    return checked(array.reshape(shape), dtype, values, place)


def _unlike(dtype: str, shape: list[int], place: str, why: str) -> RequestError:
    return RequestError(f"the data is not {DATATYPES[dtype]} of shape {shape_text(shape)}: {why}", where=place)


def checked(array: Array, dtype: str, values: Any, place: str) -> Array:
    """An array of a client's numbers, where all of them are within its datatype; those of BF16 are rounded.

    Args:
        array: of `array_dtype(dtype)`.
        dtype: as a `TensorSpec` names it.
        values: what the array was made of; looked at where `array` has lost what they were.
        place: the tensor, for messages.

    Raises:
        RequestError: a value is beyond the datatype.
    """
    if dtype == "bfloat16":
        array = from_bfloat16(to_bfloat16(array))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RequestError(f"a value is too large for {DATATYPES[dtype]}", where=place)
    if array.dtype.kind == "b" and any(v not in (0, 1) for v in _flat(values)):
        raise RequestError("got a number that is not 0 or 1, expected booleans", where=place)
    return array


def to_json(array: Array) -> list[Any]:
    """The values of a tensor, flat, as msgspec encodes them: NaN and the infinities as null."""
    values = array.ravel().tolist()
    return [str(v) for v in values] if array.dtype.hasobject else values


def to_bfloat16(array: Array) -> Array:
    """The bits of the nearest bfloat16 of each number, uint16; ties to even. A NaN stays one.

    >>> to_bfloat16(np.array([1.0, -2.5], np.float32)).tolist() == [0x3F80, 0xC020]
    True
    """
    values: Float32s = np.ascontiguousarray(array, np.float32).reshape(array.shape)
    bits = values.view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, nearest).astype(np.uint16)


def from_bfloat16(bits: Array) -> Float32s:
    """The numbers of the bits of bfloat16, exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def element_type(dtype: str) -> Any:
    """What the values of a tensor are in JSON.

    >>> element_type("float16"), element_type("bool")
    (<class 'float'>, bool | int)
    """
    return {"f": float, "b": bool | int, "O": str}.get(array_dtype(dtype).kind, int)


@functools.cache
def _decoder(dtype: str, depth: int) -> msgspec.json.Decoder[Any]:
    element = element_type(dtype)
    for _ in range(depth):
        element = list[element]
    return msgspec.json.Decoder(element)


def _flat(values: Any) -> list[Any]:
    while values and isinstance(values[0], list):
        values = [v for row in values for v in row]
    return values


def _texts(content: memoryview, count: int, place: str) -> Array:
    found: list[str] = []
    position = 0
    while position < len(content) and len(found) < count:
        begin = position + _LENGTH.size
        length = _LENGTH.unpack_from(content, position)[0] if begin <= len(content) else 0
        position = begin + length
        if position > len(content):
            raise RequestError(f"the content ends within element {len(found)} of {count} elements", where=place)
        found.append(text(content[begin:position], len(found), place))
    if len(found) != count or position != len(content):
        raise RequestError(
            f"got {len(found)} elements in {position} of {len(content)} bytes, expected {count} elements", where=place
        )
    return np.array(found, object)


def text(element: bytes | memoryview, i: int, place: str) -> str:
    """An element of BYTES.

    Raises:
        RequestError: it is not UTF-8.
    """
    try:
        return str(element, "utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"element {i} is not UTF-8: {error}", where=place) from error
