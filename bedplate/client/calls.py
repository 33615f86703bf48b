"""What clients ask of a service and what its answers say, whichever way the bytes go."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast
from urllib.parse import quote

import msgspec
import numpy as np
import polars as pl

from bedplate.client.errors import FailedError
from bedplate.client.wire import Call, Reply
from bedplate.errors import BedplateError, RequestError
from bedplate.oip.codec import HEADER_LENGTH
from bedplate.runtimes.tensors import DATATYPES, from_binary, to_binary
from bedplate.serving.answers import Key
from bedplate.serving.arrow import ARROW, CANDIDATES, REQUEST_HEADER
from bedplate.types import Array

Keys: TypeAlias = "Sequence[Key] | pl.Series | Array"
"""Keys of items, as callers have them; of an array [n]."""

_Answer = TypeVar("_Answer")
_UNREADABLE = (OSError, LookupError, TypeError, ValueError)
_DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}


def json_call(path: str, request: Mapping[str, Any]) -> Call:
    """A request in JSON.

    Raises:
        RequestError: it holds something that is neither of JSON nor of NumPy or Polars.

    >>> json_call("/rank", {"user": np.int64(5), "candidates": np.array(["a"])}).body
    b'{"user":5,"candidates":["a"]}'
    """
    return Call("POST", path, msgspec.json.encode(request, enc_hook=_plain), {"Content-Type": "application/json"})


def table_call(path: str, request: Mapping[str, Any]) -> Call:
    """A request for an answer in Arrow; candidates of `rank` go in Arrow too."""
    accept = {"Accept": ARROW.decode()}
    candidates: Keys = request.get("candidates", ())
    if path != "/rank" or not len(candidates):
        call = json_call(path, request)
        return Call("POST", path, call.body, {**call.headers, **accept})
    rest = {name: value for name, value in request.items() if name != "candidates"}
    out = io.BytesIO()
    pl.DataFrame({CANDIDATES: candidates}).write_ipc_stream(out, compat_level=pl.CompatLevel.oldest())
    header = json.dumps(msgspec.to_builtins(rest, enc_hook=_plain))  # in ASCII, as a header must be
    return Call("POST", path, out.getvalue(), {"Content-Type": ARROW.decode(), REQUEST_HEADER: header, **accept})


def answer_of(reply: Reply, read: Callable[[Reply], _Answer]) -> _Answer:
    """What an answer says.

    Args:
        reply: the answer.
        read: reads it.

    Raises:
        FailedError: it is not what was asked for, such as the page of a proxy.
    """
    try:
        return read(reply)
    except (msgspec.MsgspecError, pl.exceptions.PolarsError, BedplateError, *_UNREADABLE) as error:
        hint = "is it a service of Bedplate, of a version that this client knows?"
        failed = FailedError(f"{reply.status}: the answer can't be read: {error}", where="client", hint=hint)
        failed.status = reply.status
        raise failed from error


def described(reply: Reply) -> dict[str, Any]:
    """A service as it describes itself."""
    return msgspec.json.decode(reply.body, type=dict[str, Any])


def table_of(reply: Reply) -> pl.DataFrame:
    """The table of an answer in Arrow."""
    return pl.read_ipc_stream(io.BytesIO(reply.body))


def candidates_of(candidates: Keys) -> list[Key]:
    """Keys as a list."""
    return _plain(candidates) if isinstance(candidates, pl.Series | np.ndarray) else list(candidates)


def _plain(value: Any) -> Any:
    """What JSON has in place of a value of NumPy or Polars; times without a zone are UTC, as in texts."""
    if isinstance(value, np.generic | np.ndarray):
        array: Array = np.asarray(cast("Any", value))
        is_time = array.dtype.kind == "M"
        return (array.astype("datetime64[us]") if is_time else array).tolist()  # nanoseconds would be a bare number
    if isinstance(value, pl.Series):
        return value.to_list()
    raise RequestError(
        f"got a value of type {type(value).__name__}, expected what JSON has, or NumPy or Polars", where="client"
    )


def infer_call(model: str, tensors: Mapping[str, Array], version: str | None, outputs: Sequence[str]) -> Call:
    """A request for a model's outputs, in binary by the Open Inference Protocol.

    Raises:
        RequestError: a tensor is of a dtype that is not sent.
    """
    wrong = [name for name, array in tensors.items() if array.dtype.name not in DATATYPES]
    if wrong:
        raise RequestError(
            f"'{wrong[0]}' is {tensors[wrong[0]].dtype}, expected one of {', '.join(DATATYPES)}", where="client"
        )
    contents = [to_binary(array, array.dtype.name) for array in tensors.values()]
    inputs = [
        {
            "name": name,
            "shape": array.shape,
            "datatype": DATATYPES[array.dtype.name],
            "parameters": {"binary_data_size": len(content)},
        }
        for (name, array), content in zip(tensors.items(), contents, strict=True)
    ]
    wanted = [{"name": name} for name in outputs]
    header = msgspec.json.encode({"inputs": inputs, "outputs": wanted, "parameters": {"binary_data_output": True}})
    path = (
        f"/v2/models/{quote(model, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "") + "/infer"
    )
    return Call("POST", path, b"".join((header, *contents)), {HEADER_LENGTH.decode(): str(len(header))})


def tensors_of(reply: Reply) -> dict[str, Array]:
    """The outputs in an answer to `infer_call`."""
    size = int(reply.headers.get(HEADER_LENGTH.decode().lower(), len(reply.body)))
    shown: dict[str, Any] = msgspec.json.decode(reply.body[:size])
    found: dict[str, Array] = {}
    body = memoryview(reply.body)
    for output in shown["outputs"]:
        end = size + int(output["parameters"]["binary_data_size"])
        place = f"output '{output['name']}'"
        found[output["name"]] = from_binary(body[size:end], _DTYPES[output["datatype"]], output["shape"], place)
        size = end
    return found
