"""The port of gRPC: who has it, and what is said where another program does."""

from __future__ import annotations

import socket

from bedplate.errors import ConfigError
from bedplate.http.listening import hold


def address_of(host: str, port: int) -> str:
    """What the library binds.

    >>> address_of("::1", 8001), address_of("0.0.0.0", 8001)
    ('[::1]:8001', '0.0.0.0:8001')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def not_bound(address: str) -> ConfigError:
    """The error where a port can't be bound."""
    hint = "stop the other program, give another --grpc-port, or --grpc-port 0 for a free one"
    return ConfigError("can't listen here for gRPC", where=address, hint=hint)


def hold_port(host: str, port: int) -> list[socket.socket]:
    """Keeps a port for the workers of this process, which share it; see `hold`.

    Raises:
        ConfigError: another program listens there, or keeps it; or the host or port is not allowed.
    """
    try:
        return hold(host, port)
    except OSError as error:
        raise not_bound(address_of(host, port)) from error
