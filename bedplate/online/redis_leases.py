"""Claims of writers as leases in Redis: they spare the work of a writer that would be second, and protect nothing.

What protects rows is what steps expect. So a lease that ran out while its process stood still harms nobody.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from time import monotonic
from typing import Any, Protocol, final

from bedplate.errors import ConflictError, StoreError
from bedplate.online.redis_script import RELEASE, RENEW
from bedplate.process import process_alive, process_token

LEASE = 15.0
"""So many seconds after the last sign of life of its writer a lease is over."""

_RENEWALS = 4  # in the time of a lease
_RELEASE_TIME = 1.0  # seconds
_HELD: set[bytes] = set()
"""The owners of this process that hold leases: any other of its own is one that it could not give up."""


class Ask(Protocol):
    """Asks the server of a name; see `RedisStore`."""

    def __call__(self, name: bytes, command: tuple[Any, ...], what: str = ..., deadline: float | None = ...) -> Any:
        """The answer to a command."""


@final
class Leases:
    """Leases of one writer.

    Args:
        names: the name of each key in Redis, as a person knows it.
        seconds: how long a lease lasts.
        ask: asks the server of a key.
        url: of the store.
    """

    __slots__ = ("_ask", "_milliseconds", "_names", "_owner", "_url")

    def __init__(self, names: Mapping[bytes, str], seconds: float, ask: Ask, url: str) -> None:
        self._names, self._ask, self._url = names, ask, url
        self._milliseconds = int(seconds * 1000)
        self._owner = f"{process_token()}/{secrets.token_hex(8)}".encode()

    @contextmanager
    def held(self) -> Generator[None]:
        """Holds all leases as long as the context lasts.

        Raises:
            StoreError: another writer has one of them, or the server can't be asked.
        """
        over = threading.Event()
        with ExitStack() as claimed:
            _HELD.add(self._owner)
            claimed.callback(_HELD.discard, self._owner)
            for key, name in self._names.items():
                self._claim(key, name)
                claimed.callback(self._release, key)
            renewing = threading.Thread(target=self._renew, args=(over,), name="bedplate-leases", daemon=True)
            renewing.start()
            try:
                yield
            finally:
                over.set()
                renewing.join()

    def _claim(self, key: bytes, name: str) -> None:
        for _ in range(2):
            if self._ask(key, (b"SET", key, self._owner, b"NX", b"PX", self._milliseconds), "write") is not None:
                return
            other = self._ask(key, (b"GET", key), "read")
            if other == self._owner:  # the answer to the first try was lost
                return
            if other is not None and _is_at_work(other):
                break
            if other is not None:
                self._ask(key, (b"EVAL", RELEASE, 1, key, other), "write")
        raise ConflictError(
            f"another writer is at work on '{name}'",
            where=self._url,
            hint="a load or an ingest is running; stop it first, or wait until it is done. One that was killed on "
            f"another machine is forgotten after {self._milliseconds / 1000:g} seconds",
        )

    def _renew(self, over: threading.Event) -> None:
        while not over.wait(self._milliseconds / 1000 / _RENEWALS):
            for key in self._names:
                with suppress(StoreError):  # it is tried again, and losing a lease harms nobody
                    command = (b"EVAL", RENEW, 1, key, self._owner, self._milliseconds)
                    self._ask(key, command, "write", monotonic() + self._milliseconds / 1000 / _RENEWALS)

    def _release(self, key: bytes) -> None:
        with suppress(StoreError):  # it ends by itself
            self._ask(key, (b"EVAL", RELEASE, 1, key, self._owner), "write", monotonic() + _RELEASE_TIME)


def _is_at_work(owner: bytes) -> bool:
    token = owner.decode().partition("/")[0]
    return owner in _HELD if token == process_token() else process_alive(token)
