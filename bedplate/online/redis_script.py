"""One step as one script, which a Redis server runs with nothing else in between.

KEYS are the groups' last steps, then the names that are expected, deleted, put, put into an index, and taken out of an
index. ARGV are how many there are of each, the session and number of the step, whether the groups are registered, then
what belongs to KEYS: expected values, values, and what goes into and out of indexes.

A session counts its steps. One that is not newer than the group's last of the same session was taken before: its answer
was lost, and it was sent again, or it waited in the connection of a server that stood still. The first write is one
that a server refuses when its memory is full; after it the others are not refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeAlias, final

from redis import exceptions

from bedplate.online import keys
from bedplate.online.base import Changes
from bedplate.online.redis_names import MARK, ROWS, Names, firsts, runs
from bedplate.online.redis_servers import Servers, UnreachableError
from bedplate.online.redis_wire import Command

_SCRIPT = """
local counts = {}
for i = 1, 6 do counts[i] = tonumber(ARGV[i]) end
local session, number, registered = ARGV[7], tonumber(ARGV[8]), ARGV[9]
local last = redis.call('GET', KEYS[1])
if last and string.sub(last, 1, #session) == session and tonumber(string.sub(last, #session + 1)) >= number then
    return 'TAKEN'
end
local firsts, first = {}, 0
for i = 1, 6 do
    firsts[i] = first
    first = first + counts[i]
end
local at = 9
for i = 1, counts[2] do
    if (redis.call('GET', KEYS[firsts[2] + i]) or '') ~= ARGV[at + i] then return 'CONFLICT' end
end
if registered == '0' then
    for i = 1, counts[5] do
        if redis.call('EXISTS', KEYS[firsts[5] + i]) == 0 then return 'REGISTER' end
    end
end
for i = 1, counts[1] do redis.call('SET', KEYS[i], session .. number) end
for i = 1, counts[3], 4000 do
    redis.call('UNLINK', unpack(KEYS, firsts[3] + i, firsts[3] + math.min(i + 3999, counts[3])))
end
at = at + counts[2]
for i = 1, counts[4], 2000 do
    local pairs, n = {}, 0
    for j = i, math.min(i + 1999, counts[4]) do
        pairs[n + 1], pairs[n + 2] = KEYS[firsts[4] + j], ARGV[at + j]
        n = n + 2
    end
    redis.call('MSET', unpack(pairs, 1, n))
end
at = at + counts[4]
for i = 1, counts[5] do redis.call('ZADD', KEYS[firsts[5] + i], 0, ARGV[at + i]) end
at = at + counts[5]
for i = 1, counts[6] do redis.call('ZREM', KEYS[firsts[6] + i], ARGV[at + i]) end
return 'OK'
"""

_TEXTS = """
local at, expected, dropped = 2, tonumber(ARGV[1]), tonumber(ARGV[2])
for i = at + 1, at + 2 * expected, 2 do
    if (redis.call('HGET', KEYS[1], ARGV[i]) or '') ~= ARGV[i + 1] then return 'CONFLICT' end
end
at = at + 2 * expected
for i = at + 1, at + dropped do redis.call('HDEL', KEYS[1], ARGV[i]) end
for i = at + dropped + 1, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 'OK'
"""
"""Changes texts that are as expected. ARGV are how many are expected and dropped, then texts and values expected, texts
dropped, texts and values put."""

_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()

RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
"""Keeps a lease of this owner for so many milliseconds more."""

RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('UNLINK', KEYS[1]) end return 0"
"""Gives a lease of this owner up."""

_Put: TypeAlias = tuple[bytes, bytes]


@final
@dataclass(slots=True)
class Step:
    """What changes on one server at once.

    Attributes:
        expects: keys and values that they must have.
        drops: keys that are deleted first.
        puts: keys and values.
        emptied: groups all of whose rows are deleted.
    """

    expects: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    drops: list[bytes] = field(default_factory=list[bytes])
    puts: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    emptied: set[bytes] = field(default_factory=set[bytes])
    _firsts: set[bytes] = field(default_factory=set[bytes], init=False)

    def groups(self) -> list[bytes]:
        """The groups that the step expects or changes something of."""
        of_step = self._of_puts() | firsts(self.expects) | {key[:9] for key in self.drops}
        return sorted({keys.group_of(first) for first in of_step} | self.emptied)

    def indexed(self) -> list[bytes]:
        """The groups that get something into their index."""
        return sorted(set(map(keys.group_of, self._of_puts())))

    def _of_puts(self) -> set[bytes]:
        """See `firsts`; looked at once, for puts are many, and none comes when they are asked for."""
        if not self._firsts:
            self._firsts = firsts(self.puts)
        return self._firsts

    def command(self, names: Names, session: bytes, number: int, *, registered: bool, text: bool) -> Command:
        """The script with what it works on.

        Args:
            names: of keys.
            session: of the writer.
            number: of the step in its session.
            registered: whether the groups are known to be in the list of groups.
            text: send the script itself and not its hash.
        """
        adds, removes = self.index()
        pairs = [self.expects, [(k, b"") for k in self.drops], self.puts]
        steps = [names.step(g) for g in self.groups()]
        indexes = [[names.index(g) for g, _ in entries] for entries in (adds, removes)]
        listed = [steps, *(names.of([k for k, _ in p]) for p in pairs), *indexes]
        return (
            b"EVAL" if text else b"EVALSHA",
            _SCRIPT if text else _SHA,
            sum(map(len, listed)),
            *chain.from_iterable(listed),
            *map(len, listed),
            session,
            number,
            int(registered),
            *(value for _, value in self.expects),
            *(value for _, value in self.puts),
            *(member for _, member in adds),
            *(member for _, member in removes),
        )

    def index(self) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]:
        """What goes into the groups' indexes, and what out of them."""
        of_puts = sorted(self._of_puts())
        adds = dict.fromkeys((keys.group_of(first), MARK) for first in of_puts if first.startswith(ROWS))
        if len(adds) < len(of_puts):
            adds.update(dict.fromkeys((keys.group_of(k), k) for k, _ in self.puts if not k.startswith(ROWS)))
        removes = dict.fromkeys((keys.group_of(k), k) for k in self.drops if not k.startswith(ROWS))
        removes.update(dict.fromkeys((g, MARK) for g in self.emptied))
        return list(adds), [r for r in removes if r not in adds]


@final
class Script:
    """A step that is sent as a script until it is clear that it was taken once.

    Args:
        names: of keys.
        step: the step.
        session: of the writer.
        number: of the step in its session.

    Attributes:
        sent: how often it was sent.
        registered: whether the groups are known to be in the list of groups.
    """

    __slots__ = ("_name", "_names", "_step", "_text", "_which", "registered", "sent")

    def __init__(self, names: Names, step: Step, session: bytes, number: int) -> None:
        self._names, self._step, self._which = names, step, (session, number)
        self._name = names.step(step.groups()[0])
        self.sent, self.registered, self._text = 0, False, False

    @property
    def may_be_taken(self) -> bool:
        """Whether the step may be taken though there is a conflict: what it expects was changed by it, or by others."""
        return self.sent > 1

    def attempt(self, servers: Servers, until: float) -> bytes:
        """Tries to take the step.

        Returns:
            `OK`, `TAKEN` (it was before), `CONFLICT`, or `REGISTER`: a group is not in the list of groups.

        Raises:
            UnreachableError: the server could not be reached; nothing was sent.
            exceptions.RedisError: it did not answer in time, or with an error.
        """
        command = self._step.command(self._names, *self._which, registered=self.registered, text=self._text)
        try:
            self.sent += 1
            return servers.ask([(self._name, command)], until)[0]
        except UnreachableError:
            self.sent -= 1
            raise
        except exceptions.NoScriptError:
            self._text, self.sent = True, self.sent - 1
            return self.attempt(servers, until)


@final
class TextsScript:
    """Texts that are changed where texts are as expected, sent until it is clear that they were.

    Args:
        name: of the texts.
        expected: texts and the values that they must have, one after the other.
        dropped: texts.
        put: texts and values, one after the other.

    Attributes:
        sent: how often it was sent.
    """

    __slots__ = ("_command", "_name", "sent")

    def __init__(self, name: bytes, expected: Sequence[bytes], dropped: Sequence[bytes], put: Sequence[bytes]) -> None:
        counts = len(expected) // 2, len(dropped)
        self._name, self.sent = name, 0
        self._command: Command = (b"EVAL", _TEXTS, 1, name, *counts, *expected, *dropped, *put)

    @property
    def may_be_taken(self) -> bool:
        """As for `Script`."""
        return self.sent > 1

    def attempt(self, servers: Servers, until: float) -> bytes:
        """`OK` or `CONFLICT`; raises as `Script.attempt`."""
        try:
            self.sent += 1
            return servers.ask([(self._name, self._command)], until)[0]
        except UnreachableError:
            self.sent -= 1
            raise


def parted(puts: list[_Put]) -> tuple[list[_Put], list[_Put]]:
    """Keys and values of texts, and all others."""
    if not any(first.startswith(keys.TEXTS) for first in firsts(puts)):
        return [], puts
    return [p for p in puts if p[0].startswith(keys.TEXTS)], [p for p in puts if not p[0].startswith(keys.TEXTS)]


def steps_of(changes: Changes, puts: list[_Put], dropped: Sequence[bytes], *, apart: bool) -> list[Step]:
    """The steps of changes without texts.

    Args:
        changes: what changes.
        puts: of these, without those of texts.
        dropped: the keys that its deletes and drops mean.
        apart: whether each group is a step of its own, or all are one.
    """
    expects = [(key, value) for key, value in changes.expects if not key.startswith(keys.TEXTS)]
    if not apart:
        emptied = {p[1:] for p in changes.deletes if p.startswith(ROWS) and len(p) == 9}
        step = Step(expects, list(dropped), puts, emptied)
        return [step] if step.groups() else []
    steps: dict[bytes, Step] = {}

    def of(key: bytes) -> Step:
        return steps.setdefault(keys.group_of(key), Step())

    for key, value in expects:
        of(key).expects.append((key, value))
    for key in dropped:
        of(key).drops.append(key)
    for first, some in runs(puts):
        of(first).puts += some
    for prefix in changes.deletes:
        if prefix.startswith(ROWS) and len(prefix) == 9:
            of(prefix).emptied.add(prefix[1:])
    return list(steps.values())
