"""What clients say to a service and how they read its answers, whichever way the bytes go."""

from __future__ import annotations

import io
import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeAlias, TypeVar, cast, final
from urllib.parse import quote, urlsplit

import msgspec
import numpy as np
import polars as pl

from bedplate.client.errors import BusyError, FailedError, LateError, UnreachableError, failure
from bedplate.errors import BedplateError, ConfigError, RequestError
from bedplate.oip.codec import HEADER_LENGTH
from bedplate.runtimes.tensors import DATATYPES, from_binary, to_binary
from bedplate.serving.answers import Key
from bedplate.serving.arrow import ARROW, CANDIDATES, REQUEST_HEADER
from bedplate.types import Array

MOST_IDLE = 64
"""Connections that a client keeps while it asks nothing: those of a burst are closed after it."""
TIMEOUT_HEADER = "X-Request-Timeout-Ms"
"""How long the client waits for an answer: a service need not make one that comes later."""

MOST_SECONDS = 900_000
"""The longest timeout of a client: a service reads at most nine digits of milliseconds."""

Keys: TypeAlias = "Sequence[Key] | pl.Series | Array"
"""Keys of items, as callers have them; of an array [n]."""

_Answer = TypeVar("_Answer")
_UNREADABLE = (OSError, LookupError, TypeError, ValueError)
_DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where a service is.

    Attributes:
        url: as given, without a slash at the end.
        host: its name or address.
        port: of it.
        is_secure: whether it is spoken to by TLS.
    """

    url: str
    host: str
    port: int
    is_secure: bool

    @property
    def authority(self) -> str:
        """Host and port as a request names them: an address of IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def of(cls, url: str) -> Place:
        """The place of a URL.

        Raises:
            ConfigError: it has another form.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        if parts.scheme not in ("http", "https") or not host:
            raise ConfigError(f"got '{url}', expected http://host:port or https://host:port", where="client")
        is_secure = parts.scheme == "https"
        return cls(url.rstrip("/"), host, port or (443 if is_secure else 80), is_secure)


def timeout_header(seconds: float) -> str:
    """The time that is left, as a service is told it: whole milliseconds, at least one."""
    return str(max(1, int(seconds * 1000)))


@final
@dataclass(frozen=True, slots=True)
class Target:
    """Whom a client asks, and how; see `of`.

    Attributes:
        place: where the service is.
        timeout: seconds for each call, tries included.
        retries: how often a call is sent again to a service that is busy and says when to.
        tls: of an https URL; None: it is not spoken to by TLS.
        headers: of every request.
    """

    place: Place
    timeout: float
    retries: int
    tls: ssl.SSLContext | None
    headers: Mapping[str, str]

    @classmethod
    def of(cls, url: str, timeout: float, token: str | None, retries: int, tls: ssl.SSLContext | None) -> Target:
        """What the arguments of a client say.

        Raises:
            ConfigError: the URL has another form, or the timeout or the token is none.

        >>> Target.of("https://shop.example", 0.2, "a-token-of-the-team", 1, None).headers
        {'Authorization': 'Bearer a-token-of-the-team'}
        """
        place = Place.of(url)
        if tls is None and place.is_secure:
            tls = ssl.create_default_context()
        return cls(place, _checked_timeout(timeout), retries, tls, _authorization(token))

    @property
    def url(self) -> str:
        """As given, without a slash at the end."""
        return self.place.url

    def late(self) -> LateError:
        """The error of a call whose time is over."""
        return LateError(f"no answer in {self.timeout:g} s", where=self.url)

    def unreachable(self, error: Exception) -> UnreachableError:
        """The error of a call that nobody answered.

        Args:
            error: what came instead.
        """
        return UnreachableError(f"no answer: {error}", where=self.url, hint="is the service running?")


@final
class Tries:
    """How often a call is sent, and until when: its time begins here.

    Args:
        target: whom it is sent to.

    Attributes:
        until: when its time is over, on the monotonic clock.
    """

    __slots__ = ("_left", "until")

    def __init__(self, target: Target) -> None:
        self.until, self._left = monotonic() + target.timeout, target.retries

    def wait_after(self, reply: Reply) -> float | None:
        """The seconds after which the call is sent again; None: the reply is its answer.

        Raises:
            RequestError: the service refuses the request.
            StoreError: it can't answer, and there is no other try that the time allows.
        """
        if reply.status < 400:
            return None
        error = failure(reply.status, reply.body, reply.headers)
        wait = error.retry_after if isinstance(error, BusyError) else None
        if wait is None or not self._left or monotonic() + wait >= self.until:
            raise error
        self._left -= 1
        return wait


def _checked_timeout(seconds: float) -> float:
    if not 0 < seconds <= MOST_SECONDS:
        hint = "a call that may take long needs a long timeout, not none"
        raise ConfigError(f"got {seconds!r}, expected seconds from 0 to {MOST_SECONDS:,}", where="timeout", hint=hint)
    return seconds


def _authorization(token: str | None) -> dict[str, str]:
    """The header by which a service knows the caller; none without a token."""
    if token is None:
        return {}
    if not token or not token.isascii() or not token.isprintable() or " " in token:  # such as a line with its end
        raise ConfigError("expected printable ASCII without spaces", where="token", hint="strip the end of the line")
    return {"Authorization": f"Bearer {token}"}


@final
@dataclass(frozen=True, slots=True)
class Call:
    """A request. None changes anything in the service, so that each may be sent again."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its status, its body, and its headers by name in lower case."""

    status: int
    body: bytes
    headers: Mapping[str, str]


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
