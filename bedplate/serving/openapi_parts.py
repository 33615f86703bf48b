"""What the descriptions of both servers say alike: the headers of any request, and the scheme of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bedplate.http.door import PRIORITY, TIMEOUT
from bedplate.http.turns import PRIORITIES

BEARER: dict[str, Any] = {"bearer": {"type": "http", "scheme": "bearer"}}
"""The security schemes."""
NO_TOKEN: Sequence[dict[str, list[str]]] = ()
"""The security of a path that needs no token."""

PARAMETERS: dict[str, dict[str, Any]] = {
    "timeout": {
        "in": "header",
        "name": "-".join(word.capitalize() for word in TIMEOUT.decode().split("-")),
        "description": "Milliseconds until the answer is of no more use, from the first byte of the request.",
        "schema": {"type": "integer", "minimum": 0, "maximum": 999_999_999},
    },
    "priority": {
        "in": "header",
        "name": "-".join(word.capitalize() for word in PRIORITY.decode().split("-")),
        "description": "Who goes first where requests wait.",
        "schema": {"type": "string", "enum": list(PRIORITIES), "default": "normal"},
    },
}
"""The headers that any request but a probe may have, by their name in `components`."""


def parameters() -> list[dict[str, Any]]:
    """References to them.

    >>> parameters()[0]
    {'$ref': '#/components/parameters/timeout'}
    """
    return [{"$ref": f"#/components/parameters/{name}"} for name in PARAMETERS]
