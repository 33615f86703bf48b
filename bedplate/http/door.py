"""The door of a server: who asks, whether they may, how soon they need the answer, and how much it matters.

It looks at headers only, and is the same for every protocol: the HTTP connections and other servers in the process ask
it for a `Turn`, and enter that into the `Turns` of the event loop.

Deadlines: `X-Request-Timeout-Ms: 50`, or `grpc-timeout: 50m` as gRPC writes it (digits and one of H M S m u n). The
time counts from the first byte of the request. Priorities: `X-Request-Priority: high`, `normal` or `low`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import final

from bedplate.errors import RequestError
from bedplate.http.message import Response, error_response, retry_after
from bedplate.http.tokens import Role, Tokens
from bedplate.http.turns import LOW, NORMAL, PRIORITIES, PROBE, Refused, Turn

TIMEOUT = b"x-request-timeout-ms"
GRPC_TIMEOUT = b"grpc-timeout"
PRIORITY = b"x-request-priority"
OPEN_PATHS = frozenset({"/healthz", "/openapi.json", "/v2/health/live", "/v2/health/ready"})
"""What needs no token."""
_PROBES = frozenset({"/healthz", "/v2/health/live", "/v2/health/ready"})

_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


@final
class Door:
    """Lets requests in.

    Args:
        tokens: who may ask; without any, everybody.

    Attributes:
        tokens: as given.
    """

    __slots__ = ("tokens",)

    def __init__(self, tokens: Tokens | None = None) -> None:
        self.tokens = tokens or Tokens([])

    def admit(self, method: str, path: str, headers: Mapping[bytes, bytes], peer: str) -> str | Response:
        """Whose request it is: the token's name, or without tokens the address; or the answer to one that may not.

        Args:
            method: as of `turn`.
            path: as of `turn`.
            headers: as of `turn`.
            peer: as of `turn`.
        """
        if not self.tokens or path in OPEN_PATHS:
            return peer
        holder = self.tokens.holder(headers.get(b"authorization"))
        if holder is None:
            return unauthorized()
        wanted = role_of(method, path)
        return holder.name if holder.role >= wanted else _forbidden(holder.role, wanted)

    def turn(
        self,
        method: str,
        path: str,
        headers: Mapping[bytes, bytes],
        size: int,
        peer: str,
        arrived: float,
        run: Callable[[], None],
        refuse: Callable[[Refused], None],
        client: str | None = None,
    ) -> Turn | Response:
        """The place of a request, or the answer to one that is not let in: 400, 401 or 403.

        Args:
            method: of HTTP; other protocols say POST for what computes and GET for what does not.
            path: the path, or the one that means the same.
            headers: by name in lower case; `authorization`, the timeout and the priority are read.
            size: bytes of the body: larger requests are expected to take longer.
            peer: the client's address; with tokens, the token's name counts instead.
            arrived: when it began to come, on the monotonic clock.
            run: as of `Turn`.
            refuse: as of `Turn`.
            client: whose request it is, where `admit` has said so.
        """
        admitted = self.admit(method, path, headers, peer) if client is None else client
        if isinstance(admitted, Response):
            return admitted
        client = admitted
        if is_probe(method, path):
            return Turn(run, refuse, path, PROBE, math.inf, client)
        try:
            priority, seconds = _priority(headers.get(PRIORITY)), timeout_of(headers)
        except RequestError as error:
            return error_response(400, error.message, where=error.where)
        if self.tokens and path in OPEN_PATHS:  # nobody knows who asks: those of whom it is known go first
            priority = LOW
        return Turn(run, refuse, (path, size.bit_length()), priority, arrived + seconds, client)


def is_probe(method: str, path: str) -> bool:
    """Whether a request asks how the server or a model stands: its answer is tiny, and no use later.

    >>> is_probe("GET", "/v2/health/ready"), is_probe("GET", "/v2/models/ranker/ready"), is_probe("GET", "/metrics")
    (True, True, False)
    """
    of_model = path.startswith("/v2/models/") and path.endswith("/ready")
    return method in ("GET", "HEAD") and (path in _PROBES or of_model)


def role_of(method: str, path: str) -> Role:
    """The role that a request needs.

    >>> role_of("GET", "/metrics").name, role_of("POST", "/rank").name
    ('READ', 'INFER')
    >>> role_of("POST", "/v2/repository/models/ranker/load").name
    'OPERATE'
    """
    if method in ("GET", "HEAD") or path in ("/v1/features", "/v2/repository/index"):
        return Role.READ
    operates = path.startswith("/v2/repository/") or path.endswith("/setting") or path.startswith("/v2/logging")
    return Role.OPERATE if operates else Role.INFER


def timeout_of(headers: Mapping[bytes, bytes]) -> float:
    """The seconds that a client gives; infinity where it says nothing.

    Raises:
        RequestError: it is no such number.

    >>> timeout_of({b"x-request-timeout-ms": b"50"}), timeout_of({b"grpc-timeout": b"2S"}), timeout_of({})
    (0.05, 2.0, inf)
    """
    given = headers.get(TIMEOUT)
    if given is not None:
        if given.isdigit() and len(given) <= 9:
            return int(given) / 1e3
        raise _wrong(TIMEOUT, given, "milliseconds, such as 50")
    given = headers.get(GRPC_TIMEOUT)
    if given is None:
        return math.inf
    unit = _UNITS.get(given[-1:])
    if unit is None or not given[:-1].isdigit() or len(given) > 9:
        raise _wrong(GRPC_TIMEOUT, given, "at most 8 digits and a unit, such as 50m")
    return int(given[:-1]) * unit


def answer_to(refused: Refused) -> Response:
    """What a client is told whose request is not worked on: 503, 504 or 429; `Retry-After` where waiting helps."""
    status, message, hint = _SAID[refused.reason]
    response = error_response(status, message, hint=hint)
    return Response(status, response.body, headers=retry_after(status, max(1, math.ceil(refused.seconds))))


_LATER = "ask again later, or ask another server too"
_SAID = {
    "deadline": (503, "the answer would come after the deadline", "ask another server, or give more time"),
    "expired": (504, "the deadline had passed before the request had its turn", None),
    "wait": (503, "too much work waits", _LATER),
    "waiting": (429, "too many requests wait", _LATER),
    "client": (429, "too many requests of this client are under way", "wait for answers before asking for more"),
}


def unauthorized() -> Response:
    """401: no token that is known."""
    response = error_response(401, "no token, or one that is not known", hint="send Authorization: Bearer TOKEN")
    return Response(response.status, response.body, headers=((b"WWW-Authenticate", b"Bearer"),))


def _forbidden(role: Role, wanted: Role) -> Response:
    got, expected = role.name.lower(), wanted.name.lower()
    return error_response(403, f"the token's role is '{got}', this needs '{expected}'")


def _priority(given: bytes | None) -> int:
    if given is None:
        return NORMAL
    found = PRIORITIES.get(given.decode("latin-1").strip().lower())
    if found is None:
        raise _wrong(PRIORITY, given, f"one of {', '.join(PRIORITIES)}")
    return found


def _wrong(name: bytes, given: bytes, expected: str) -> RequestError:
    shown = given[:40].decode("latin-1")
    return RequestError(f"got '{shown}', expected {expected}", where=f"header {name.decode()}")
