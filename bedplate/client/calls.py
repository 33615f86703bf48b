"""What clients ask of a service and what its answers say, whichever way the bytes go."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast
from urllib.parse import quote

import msgspec
import numpy as np
import polars as pl

from bedplate.client.errors import FailedError
from bedplate.client.values import Keys, keys_of, plain, too_deep, unknown
from bedplate.client.wire import Call, Reply
from bedplate.errors import BedplateError, RequestError, reason
from bedplate.malformed import shown
from bedplate.oip.codec import HEADER_LENGTH
from bedplate.runtimes.tensors import DATATYPES, from_binary, to_binary
from bedplate.serving.answers import Answer
from bedplate.serving.arrow import ARROW, CANDIDATES, REQUEST_HEADER
from bedplate.types import Array

_Answer = TypeVar("_Answer")
_UNREADABLE = (OSError, LookupError, RecursionError, TypeError, ValueError)
_DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}


def json_call(path: str, request: Mapping[str, Any]) -> Call:
    """A request in JSON.

    Raises:
        RequestError: it holds something that is neither of JSON nor of NumPy or Polars, or is nested too deep.

    >>> json_call("/rank", {"user": np.int64(5), "candidates": np.array(["a"])}).body
    b'{"user":5,"candidates":["a"]}'
    """
    fields = {name: plain(value, name) for name, value in request.items()}
    try:
        body = msgspec.json.encode(fields, enc_hook=unknown)
    except UnicodeEncodeError as error:
        raise RequestError(f"got a text that has no form in UTF-8: {error}", where="client") from error
    except RecursionError as error:
        raise too_deep("client") from error
    return Call("POST", path, body, {"Content-Type": "application/json"})


def table_call(name: str, request: Mapping[str, Any]) -> Call:
    """A request for an answer in Arrow; candidates of `rank` go in Arrow too.

    Args:
        name: of the call.
        request: its fields.

    Raises:
        RequestError: as of `json_call`; or the candidates are no keys, or not all of one type.
    """
    accept = {"Accept": ARROW.decode()}
    keys = _column(request["candidates"]) if name == "rank" and "candidates" in request else ()
    rest = {field: value for field, value in request.items() if not len(keys) or field != "candidates"}
    call = json_call(f"/{name}", rest)
    if not len(keys):
        return Call("POST", call.path, call.body, {**call.headers, **accept})
    out = io.BytesIO()
    pl.DataFrame({CANDIDATES: keys}).write_ipc_stream(out, compat_level=pl.CompatLevel.oldest())
    header = json.dumps(msgspec.json.decode(call.body or b""))  # in ASCII, as a header must be
    return Call("POST", call.path, out.getvalue(), {"Content-Type": ARROW.decode(), REQUEST_HEADER: header, **accept})


def _column(candidates: Keys) -> pl.Series:
    """Keys as a column [n]."""
    where = "candidates"
    listed = candidates if isinstance(candidates, pl.Series) else keys_of(candidates, where)
    try:
        column = pl.Series(where, listed)
    except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        raise RequestError(f"got keys of more than one type: {reason(error)}", where=where) from error
    kind = column.dtype
    if len(column) and not kind.is_integer() and not isinstance(kind, pl.String | pl.Categorical | pl.Enum):
        raise RequestError(f"got keys of {kind}, expected texts or integers", where=where)
    return column


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


def json_of(kind: type[_Answer]) -> Callable[[Reply], _Answer]:
    """What reads an answer in JSON of a kind."""
    return lambda reply: msgspec.json.decode(reply.body, type=kind)


class _Sent(msgspec.Struct):
    """Of a request to rank what its answer names again."""

    candidates: list[Any]


_SENT = msgspec.json.Decoder(_Sent)


def scores_of(call: Call) -> Callable[[Reply], Answer]:
    """What reads the answer to a `rank` in JSON, and refuses scores of others than its candidates, as a broken proxy's.

    >>> call = json_call("/rank", {"candidates": ["a"]})
    >>> scores_of(call)(Reply(200, b'{"ids": ["b"], "scores": [0.5], "models": {}, "time": 1}', {}))
    Traceback (most recent call last):
    ValueError: got scores of ['b'], expected those of ['a']
    """

    def read(reply: Reply) -> Answer:
        answer = msgspec.json.decode(reply.body, type=Answer)
        asked = _SENT.decode(call.body or b"").candidates  # as they were sent: texts of UUIDs and others
        if answer.ids != asked:
            raise ValueError(f"got scores of {shown(answer.ids)}, expected those of {shown(asked)}")
        if len(answer.scores) != len(asked):
            raise ValueError(f"got {len(answer.scores):,} scores, expected {len(asked):,}")
        return answer

    return read


def table_of(reply: Reply) -> pl.DataFrame:
    """The table of an answer in Arrow."""
    return pl.read_ipc_stream(io.BytesIO(reply.body))


def infer_call(model: str, tensors: Mapping[str, Array], version: str | None, outputs: Sequence[str]) -> Call:
    """A request for a model's outputs, in binary by the Open Inference Protocol.

    Raises:
        RequestError: a tensor is no array, or of a dtype that is not sent, or a name is no text.
    """
    _check_infer(model, tensors, version, outputs)
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


def _check_infer(model: Any, tensors: Any, version: Any, outputs: Any) -> None:
    for name, value in {"model": model, "version": "" if version is None else version}.items():
        if not isinstance(value, str):
            raise RequestError(f"got {shown(value)}, expected a text", where=name)
    if isinstance(outputs, str) or not isinstance(outputs, Iterable):
        raise RequestError(f"got {shown(outputs)}, expected a list of names", where="outputs")
    if not isinstance(tensors, Mapping):
        raise RequestError(f"got {type(tensors).__name__}, expected arrays by name", where="tensors")
    for name, array in cast("Mapping[str, Any]", tensors).items():
        if not isinstance(array, np.ndarray):
            kind, hint = type(array).__name__, "numpy.array(..., dtype=...) makes one"
            raise RequestError(f"'{name}' is {kind}, expected an array of NumPy", where="tensors", hint=hint)
        given = cast("Array", array)
        if given.dtype.name not in DATATYPES:
            message = f"'{name}' is {given.dtype}, expected one of {', '.join(DATATYPES)}"
            raise RequestError(message, where="tensors")
        wrong = [v for v in given.ravel().tolist() if not isinstance(v, str)] if given.dtype == object else []
        if wrong:
            raise RequestError(f"'{name}' has {shown(wrong[0])}, expected texts", where="tensors", hint="decode bytes")


def tensors_of(reply: Reply) -> dict[str, Array]:
    """The outputs in an answer to `infer_call`."""
    size = int(reply.headers.get(HEADER_LENGTH.decode().lower(), len(reply.body)))
    header: dict[str, Any] = msgspec.json.decode(reply.body[:size])
    found: dict[str, Array] = {}
    body = memoryview(reply.body)
    for output in header["outputs"]:
        end = size + int(output["parameters"]["binary_data_size"])
        place = f"output '{output['name']}'"
        found[output["name"]] = from_binary(body[size:end], _DTYPES[output["datatype"]], output["shape"], place)
        size = end
    return found
