"""Asking the servers of a Redis store again and again, as long as what fails may pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, repeat
from time import monotonic, sleep
from typing import Any, TypeVar, final

from redis import exceptions

from bedplate.errors import DeadlineError, UncertainError
from bedplate.online.redis_servers import Asked, Server, Servers, UnreachableError, ask_server, is_passing, refusal
from bedplate.online.redis_wire import Command

_PAUSES = (0.0, 0.005, 0.02, 0.1, 0.5)  # seconds; the last one again and again
_T = TypeVar("_T")


@final
class Asking:
    """Asks servers, patiently.

    Args:
        servers: of the store.
        url: of the store, as it may be shown.
        patience: how long a lost connection is tried again, seconds.
    """

    __slots__ = ("_url", "patience", "servers")

    def __init__(self, servers: Servers, url: str, patience: float) -> None:
        self.servers, self._url, self.patience = servers, url, patience

    def one(self, name: bytes, command: Command, what: str = "read", deadline: float | None = None) -> Any:
        """The answer of a name's server to a command; see `all`."""
        return self.all([(name, command)], deadline, what)[0]

    def all(self, asked: Sequence[Asked], deadline: float | None = None, what: str = "read") -> list[Any]:
        """The answers to commands that do the same however often they are sent; see `retried`."""
        if not asked:
            return []
        return self.retried(what, deadline, lambda until: self.servers.ask(asked, until))

    def of(self, server: Server, command: Command) -> Any:
        """The answer of a server to a command; see `all`."""
        return self.retried("read", None, lambda until: ask_server(server, command, until))

    def retried(
        self,
        what: str,
        deadline: float | None,
        call: Callable[[float], _T],
        may_be_done: Callable[[], bool] = bool,
        patience: float | None = None,
    ) -> _T:
        """What a call gives, which is tried again while what fails may pass: until the deadline, or patience ends.

        Args:
            what: is done, for a message.
            deadline: of the monotonic clock.
            call: is told the time until which it may take.
            may_be_done: whether it may have been done, though it failed.
            patience: in place of that of others, seconds.

        Raises:
            DeadlineError: the deadline has passed.
            UncertainError: it may have been done.
            StoreError: it was not done.
        """
        until = monotonic() + (patience or self.patience) if deadline is None else deadline
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            try:
                return call(until)
            except (UnreachableError, exceptions.RedisError) as error:
                if not is_passing(error):
                    raise refusal(what, error, self._url) from error
                self.servers.look_again()
                if monotonic() + pause < until:
                    sleep(pause)
                    continue
                if deadline is not None:
                    raise DeadlineError(
                        f"the answer was needed earlier: {error}",
                        where=self._url,
                        hint="allow it more time, or see why",
                    ) from error
                raise self.uncertain(error) if may_be_done() else refusal(what, error, self._url) from error
        raise AssertionError  # there is always another pause

    def uncertain(self, why: object) -> UncertainError:
        """The error of a step that may have been taken."""
        return UncertainError(
            f"the connection was lost, and whether the step was taken is not known: {why}",
            where=self._url,
            hint="run it again when the server is there: it goes on from what was taken",
        )
