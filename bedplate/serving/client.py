"""A small client of the service, on the standard library's HTTP. One connection, kept open; not for several threads."""

from __future__ import annotations

import http.client
from collections.abc import Mapping, Sequence
from typing import Any, Self, final
from urllib.parse import quote, urlsplit

import msgspec
import numpy as np

from bedplate.errors import ConfigError, RequestError, StoreError
from bedplate.serving.oip import HEADER_LENGTH
from bedplate.serving.tensors import DATATYPES
from bedplate.serving.wire import Answer, Key
from bedplate.types import Array

_DTYPES = {datatype: np.dtype(dtype) for dtype, datatype in DATATYPES.items() if dtype not in ("object", "bfloat16")}


@final
class Client:
    """Talks to one service.

    Args:
        url: `http://host:port`.
        timeout: seconds for each answer.

    Raises:
        ConfigError: the URL has another form.
    """

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigError(f"got '{url}', expected http://host:port", where="client")
        self.url = url.rstrip("/")
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout)

    def recommend(self, **request: Any) -> Answer:
        """The best items: `recommend(customer=17850, count=20)`.

        Raises:
            RequestError: the service refuses the request; the message is its own.
            StoreError: it can't answer, or can't be reached.
        """
        return self._ask("/recommend", request)

    def rank(self, *, candidates: Sequence[Key], **request: Any) -> Answer:
        """The scores of candidates, in their order: `rank(customer=17850, candidates=["85123A"])`.

        Raises:
            RequestError: the service refuses the request.
            StoreError: it can't answer, or can't be reached.
        """
        return self._ask("/rank", {**request, "candidates": list(candidates)})

    def infer(
        self, model: str, tensors: Mapping[str, Array], *, version: str | None = None, outputs: Sequence[str] = ()
    ) -> dict[str, Array]:
        """The outputs of a model for tensors, both in binary.

        Args:
            model: its name.
            tensors: its inputs, of fixed-width dtypes.
            version: None: the one that is served.
            outputs: their names; none: all.

        Raises:
            RequestError: the service refuses the request.
            StoreError: it can't answer, or can't be reached.
        """
        contents = [np.ascontiguousarray(a, a.dtype.newbyteorder("<")).tobytes() for a in tensors.values()]
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
        asked = {"inputs": inputs, "outputs": wanted, "parameters": {"binary_data_output": True}}
        header = msgspec.json.encode(asked)
        path = f"/v2/models/{quote(model, safe='')}" + (f"/versions/{version}" if version else "") + "/infer"
        body, length = self.request(
            "POST", path, b"".join((header, *contents)), {HEADER_LENGTH.decode(): str(len(header))}
        )
        size = int(length.get(HEADER_LENGTH.decode(), len(body)))
        shown: dict[str, Any] = msgspec.json.decode(body[:size])
        found: dict[str, Array] = {}
        for output in shown["outputs"]:
            end = size + int(output["parameters"]["binary_data_size"])
            array = np.frombuffer(body[size:end], _DTYPES[output["datatype"]])
            found[output["name"]] = array.reshape(output["shape"])
            size = end
        return found

    def ready(self) -> bool:
        """Whether the service answers requests now; False also where nobody answers."""
        try:
            self.request("GET", "/v2/health/ready")
        except StoreError:
            return False
        return True

    def describe(self) -> dict[str, Any]:
        """The service: its models, features and requests.

        Raises:
            StoreError: the service can't be reached.
        """
        return msgspec.json.decode(self.request("GET", "/")[0])

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, dict[str, str]]:
        """The body and the headers (names in lower case) of an answer that is no error.

        Raises:
            RequestError: the status is 4xx.
            StoreError: the status is 5xx, or the service can't be reached.
        """
        try:
            status, content, got = self._exchange(method, path, body, headers or {})
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise StoreError(f"no answer: {error}", where=self.url, hint="is the service running?") from error
        if status < 400:
            return content, got
        try:
            problem = msgspec.json.decode(content, type=dict[str, Any])
        except msgspec.MsgspecError:
            problem = {"error": content.decode("utf-8", "replace")}
        kind = RequestError if status < 500 else StoreError
        raise kind(f"{status}: {problem.get('error')}", where=problem.get("where"), hint=problem.get("hint"))

    def close(self) -> None:
        """Closes the connection; the next call opens it again."""
        self._connection.close()

    def __enter__(self) -> Self:
        """The client, closed when the context ends."""
        return self

    def __exit__(self, *details: object) -> None:
        """Closes the connection."""
        self.close()

    def _ask(self, path: str, request: Mapping[str, Any]) -> Answer:
        return msgspec.json.decode(self.request("POST", path, msgspec.json.encode(request))[0], type=Answer)

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes, dict[str, str]]:
        reused = self._connection.sock is not None
        try:
            self._connection.request(method, path, body, dict(headers))
            response = self._connection.getresponse()
        except (ConnectionError, http.client.RemoteDisconnected):
            # The server may have closed a connection that was idle; asking twice changes nothing.
            self.close()
            if not reused:
                raise
            self._connection.request(method, path, body, dict(headers))
            response = self._connection.getresponse()
        return response.status, response.read(), {k.lower(): v for k, v in response.getheaders()}
