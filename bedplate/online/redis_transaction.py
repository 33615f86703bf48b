"""One step of many rows as a transaction (`MULTI`): the server stores them as they come.

A step watches what it expects and the number of the last such step of its session, then looks at both, then sends its
changes. The server drops them where one of these has changed meanwhile: another writer was first, or this very step was
taken before, its answer lost, or it waited in the connection of a server that stood still.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, final

from bedplate.online.redis_names import Names
from bedplate.online.redis_script import Step
from bedplate.online.redis_servers import Servers, left_until, send
from bedplate.online.redis_wire import packed, packed_mset

MANY = 500
"""A step with at least so many rows is a transaction: below, a script's one round trip is quicker."""

_CHUNK = 1000
_REMEMBERED = 24 * 3_600_000  # milliseconds
_T = TypeVar("_T")


@final
class Transaction:
    """A step that is sent until it is clear that it was taken once.

    Args:
        names: of keys.
        step: the step.
        session: of the writer.
        number: of the step in its session.

    Attributes:
        sent: how often the changes were sent.
        registered: whether the groups are known to be in the list of groups.
        may_be_taken: whether the step may be taken though there is a conflict.
    """

    __slots__ = ("_changes", "_expected", "_indexes", "_name", "_number", "_watched", "registered", "sent")

    def __init__(self, names: Names, step: Step, session: bytes, number: int) -> None:
        self._number, self.sent, self.registered = number, 0, False
        self._name = names.session_step(step.groups()[0], session)
        self._watched = [self._name, *names.of([key for key, _ in step.expects])]
        self._indexes = [names.index(group) for group in step.indexed()]
        self._expected = [value for _, value in step.expects]
        self._changes = [*self._transaction(names, step)]

    @property
    def may_be_taken(self) -> bool:
        """It is not: where it was taken before, its number says so, and what still waits watches what it expects."""
        return False

    def attempt(self, servers: Servers, until: float) -> bytes:
        """Tries to take the step.

        Returns:
            `OK`, `TAKEN` (it was before), `CONFLICT`, or `REGISTER`: a group is not in the list of groups.

        Raises:
            UnreachableError: the server could not be reached; nothing was sent.
            exceptions.RedisError: it did not answer in time, or with an error.
        """
        with servers.of(self._name, until).connection(until) as connection:
            while True:
                answer = self._look(connection, until)
                if answer:
                    _ask(connection, [packed((b"UNWATCH",))], until)
                    return answer
                self.sent += 1
                done = _ask(connection, self._changes, until)[-1]
                if done is not None:
                    _raise_any(done)
                    return b"OK"

    def _look(self, connection: Any, until: float) -> bytes:
        """Watches and looks; empty: the changes are to be sent."""
        asked = [(b"WATCH", *self._watched), (b"MGET", *self._watched), (b"EXISTS", *self._indexes)]
        _, (last, *found), there = _ask(connection, [packed(command) for command in asked], until)
        if last is not None and int(last) >= self._number:
            return b"TAKEN"
        if [value or b"" for value in found] != self._expected:
            return b"CONFLICT"
        return b"" if self.registered or there == len(self._indexes) else b"REGISTER"

    def _transaction(self, names: Names, step: Step) -> Iterator[bytes]:
        """The commands; what is deleted goes first."""
        yield packed((b"MULTI",))
        yield packed((b"SET", self._name, self._number, b"PX", _REMEMBERED))
        for some in _chunks(names.of(step.drops)):
            yield packed((b"UNLINK", *some))
        put, values = names.of([key for key, _ in step.puts]), [value for _, value in step.puts]
        for some, of_some in zip(_chunks(put), _chunks(values), strict=True):
            yield packed_mset(some, of_some)
        adds, removes = step.index()
        for group, member in adds:
            yield packed((b"ZADD", names.index(group), 0, member))
        for group, member in removes:
            yield packed((b"ZREM", names.index(group), member))
        yield packed((b"EXEC",))


def _chunks(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for first in range(0, len(values), _CHUNK):
        yield values[first : first + _CHUNK]


def _ask(connection: Any, commands: Sequence[bytes], until: float) -> list[Any]:
    """The answers to commands, which are all sent first."""
    send(connection, commands, until)
    return [connection.read_response(timeout=left_until(until)) for _ in commands]


def _raise_any(answers: Sequence[Any]) -> None:
    """Raises the first error among the answers of a transaction's commands."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
