"""What a client raises, by what was wrong: the request, the token, the service, or the way to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import msgspec

from bedplate.errors import BedplateError, RequestError, StoreError


@final
class RefusedError(RequestError):
    """The service refuses the request, which is wrong as it is: a status 4xx that is not one of the others.

    Attributes:
        status: of the answer.
    """

    status = 400


@final
class UnauthorizedError(RequestError):
    """No token, one that is not known, or one whose role may not ask this: 401 or 403."""


@final
class BusyError(StoreError):
    """The service can't answer now, and may later: 429 or 503.

    Attributes:
        retry_after: in how many seconds it says to ask again; None: it doesn't say.
    """

    retry_after: float | None = None


@final
class LateError(StoreError):
    """There was no answer in the client's time, or the service says that there would be none: 504."""


@final
class FailedError(StoreError):
    """The service failed: another status 5xx, or an answer that is not what was asked for.

    Attributes:
        status: of the answer.
    """

    status = 500


@final
class UnreachableError(StoreError):
    """No connection, or one that broke off."""


_MOST_SHOWN = 200  # bytes of an answer that says nothing of why


def failure(status: int, content: bytes, headers: Mapping[str, str]) -> BedplateError:
    """The error of an answer.

    Args:
        status: from 400.
        content: the body.
        headers: by name in lower case.

    >>> failure(503, b'{"error": "busy"}', {"retry-after": "2"}).retry_after
    2.0
    """
    try:
        problem = msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.MsgspecError:
        problem = {"error": content.decode("utf-8", "replace")}
    more = {n: problem.get(n) for n in ("where", "hint")}
    said = problem.get("error")
    if said is None or said == "":  # as of a model that is not ready
        said = f"the answer gives no reason: {content[:_MOST_SHOWN].decode('utf-8', 'replace') or 'it is empty'}"
    said = str(said).removeprefix(f"{more['where']}: ")  # below /v2 a service says where in both
    message = f"{status}: {said}"
    if status in (401, 403):
        return UnauthorizedError(message, **more)
    if status in (429, 503):
        busy = BusyError(message, **more)
        busy.retry_after = _seconds(headers.get("retry-after"))
        return busy
    if status == 504:
        return LateError(message, **more)
    error = RefusedError(message, **more) if status < 500 else FailedError(message, **more)
    error.status = status
    return error


def _seconds(text: str | None) -> float | None:
    try:
        seconds = math.nan if text is None else float(text)
    except ValueError:
        return None  # a date: nobody waits so long
    return max(0.0, seconds) if math.isfinite(seconds) else None
