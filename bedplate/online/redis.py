"""The shared online store: Redis or Valkey, one server or a cluster. Any number of machines read it and write it.

A view's rows and state are read with one MGET. A step is one script on each server that it changes something on, which
nothing interrupts: on one server the whole step, in a cluster what it changes of one view. Texts are written before.

A step whose answer is lost is sent again until it is clear that it was taken once: the server knows the last step of
each writer (`redis_script`). A step is as safe as the server is set to keep it; see docs/redis.md.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count, repeat
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar, final

from redis import exceptions

from bedplate.errors import ConfigError, ConflictError, DeadlineError, StoreError, UncertainError
from bedplate.online import keys
from bedplate.online.base import PAGE, Changes, OnlineStore, Values, check_deadline, conflict
from bedplate.online.redis_address import RedisAddress, parse_address
from bedplate.online.redis_leases import LEASE, Leases
from bedplate.online.redis_names import MARK, ROWS, Names, TextKeyError, lexical
from bedplate.online.redis_script import Step, steps_of
from bedplate.online.redis_servers import (
    Asked,
    Cluster,
    OneServer,
    Server,
    UnreachableError,
    ask_server,
    is_passing,
    refusal,
)

FORMAT = b"1"
"""The version of the store's form: kept in the store, and checked when it is opened."""

PATIENCE = 30.0
"""How long a lost connection is tried again, seconds, where a read has no deadline of its own."""

_ATTEMPT, _OPENING = 10.0, 1.0  # seconds
_PAUSES = (0.0, 0.005, 0.02, 0.1, 0.5)  # seconds; the last one again and again
_CHUNK = 1000
_T = TypeVar("_T")


@final
class RedisStore(OnlineStore):
    """A database of a Redis or Valkey server, or a cluster of them.

    Args:
        url: see `redis_address`.
        root: where a relative path of a file starts.
        patience: how long a lost connection is tried again, seconds.
        lease: so many seconds after its last sign of life a writer's claim is over, if nobody sees that it was killed.

    Raises:
        ConfigError: the URL is not of the form, or the server is of a cluster and the URL of none.
        StoreError: the server can't be reached or used, or holds a store of another version.
    """

    def __init__(self, url: str, root: Path | None = None, *, patience: float = PATIENCE, lease: float = LEASE) -> None:
        self._address: RedisAddress = parse_address(url, root)
        self._names = Names(self._address.namespace)
        self._servers = Cluster(self._address) if self._address.cluster else OneServer(self._address)
        self._patience, self._lease, self._sessions = patience, lease, threading.local()
        try:
            self._check_servers()
            self._check_format()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """The URL, its password hidden."""
        return self._address.shown

    def read_many(self, wanted: Sequence[bytes], runs: Sequence[slice] = (), deadline: float | None = None) -> Values:
        """The values of keys, on one server all as one step left them: one MGET on each, sent at once."""
        check_deadline(deadline, self.url)
        asked, places = self._gets(wanted)
        answers = self._ask(asked, deadline)
        if len(answers) == 1:
            return Values([value or b"" for value in answers[0]])
        found = [b""] * len(wanted)
        for values, at in zip(answers, places, strict=True):
            for i, value in zip(at, values, strict=True):
                found[i] = value or b""
        return Values(found)

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The keys with a prefix and their values, states and the like as one step left each view.

        Rows are found by a walk over all names; they and texts are as they were when the walk came by.
        """
        found = dict(self._scan_indexed(prefix))
        for letter in (ROWS, keys.TEXTS):
            if letter.startswith(prefix[:1]):
                for page in self.pages(prefix or letter):
                    found.update(page)
        return sorted(found.items())

    def pages(self, prefix: bytes, size: int = PAGE) -> Iterator[list[tuple[bytes, bytes]]]:
        """The keys with a prefix, in no order; a row or text that is there all the time comes once, or more often."""
        if prefix.startswith(ROWS):
            for names in self._walk(prefix, size):
                found = zip(names, self._ask([(names[0], (b"MGET", *names))])[0] if names else (), strict=True)
                yield [(self._names.key(n), v) for n, v in found if v is not None]
        elif prefix.startswith(keys.TEXTS):
            yield from self._text_pages(prefix, size)
        else:
            yield from super().pages(prefix, size)

    @contextmanager
    def writing(self, names: Sequence[str]) -> Generator[None]:
        """Claims names with leases, which a thread renews as long as the context lasts.

        A writer that is killed on this machine gives them up at once, one on another machine when the lease ends.
        """
        hashed = {hashlib.blake2b(n.encode(), digest_size=10).hexdigest(): n for n in sorted(set(names))}
        leases = Leases({self._names.claim(h): n for h, n in hashed.items()}, self._lease, self._one, self.url)
        with leases.held():
            yield

    def commit(self, changes: Changes) -> None:
        """Applies all changes of a server in one script, after the texts; see the module for several servers."""
        dropped = self._dropped(changes)
        steps = steps_of(changes, dropped, apart=self._servers.apart)
        if len(steps) > 1 and changes.expects:
            # What all views expect is looked at before the first view's step, so that a late writer changes nothing.
            found = self.read_many([k for k, _ in changes.expects])
            if any(value != now for (_, value), now in zip(changes.expects, found, strict=True)):
                raise conflict(self.url)
        self._change_texts(changes)
        for taken, step in enumerate(steps):
            try:
                self._take(step)
            except ConflictError as error:
                if not taken:
                    raise
                raise UncertainError(
                    "another writer was first for one of the views, and the step was taken for others",
                    where=self.url,
                    hint="read the states again, then go on from them",
                ) from error

    def close(self) -> None:
        """Closes the connections that are idle."""
        self._servers.close()

    # reading

    def _gets(self, wanted: Sequence[bytes]) -> tuple[list[Asked], list[Sequence[int]]]:
        """What to ask for the values of keys, and which of the keys each answer is of."""
        if not wanted:
            return [], []
        try:
            names = self._names.of(wanted)
            if not self._servers.apart:
                return [(names[0], (b"MGET", *names))], [range(len(names))]
        except TextKeyError:
            pass
        places: dict[bytes, list[int]] = {}
        for i, key in enumerate(wanted):
            is_text = key.startswith(keys.TEXTS)
            group = b"t" if is_text else keys.group_of(key) + b"!" if self._servers.apart else b""
            places.setdefault(group, []).append(i)
        asked: list[Asked] = []
        for at in places.values():
            if wanted[at[0]].startswith(keys.TEXTS):
                asked.append((self._names.texts, (b"HMGET", self._names.texts, *(wanted[i][1:] for i in at))))
            else:
                names = self._names.of([wanted[i] for i in at])
                asked.append((names[0], (b"MGET", *names)))
        return asked, list(places.values())

    def _walk(self, prefix: bytes, size: int) -> Iterator[list[bytes]]:
        """The names of rows with a prefix, some at a time, some more than once; all at a time are on one server."""
        until = monotonic() + self._patience
        group = prefix[1:9]
        if len(group) == 8:
            index = self._names.index(group)
            if self._one(index, (b"ZSCORE", index, MARK)) is None:
                return
            servers = [self._retried("read", None, lambda end: self._servers.of(index, end))]
        else:
            servers = self._servers.every(until)
        command = (b"MATCH", self._names.rows(prefix), b"COUNT", size)
        for server in servers:
            cursor = b"0"
            while True:
                cursor, names = self._ask_of(server, (b"SCAN", cursor, *command))
                by_group: dict[bytes, list[bytes]] = {}
                for name in names:
                    by_group.setdefault(name[: name.find(b"}")] if self._servers.apart else b"", []).append(name)
                yield from by_group.values()
                if cursor == b"0":
                    break

    def _text_pages(self, prefix: bytes, size: int) -> Iterator[list[tuple[bytes, bytes]]]:
        cursor, texts = b"0", self._names.texts
        while True:
            cursor, found = self._one(texts, (b"HSCAN", texts, cursor, b"COUNT", size))
            page = [(keys.TEXTS + i, v) for i, v in zip(found[::2], found[1::2], strict=True)]
            yield [(k, v) for k, v in page if k.startswith(prefix)]
            if cursor == b"0":
                return

    def _scan_indexed(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The keys that are in an index, those of each group as one step left them: read again if one came between."""
        found: list[tuple[bytes, bytes]] = []
        pending = self._groups(prefix)
        until = monotonic() + self._patience
        while pending:
            left: list[bytes] = []
            for group in pending:
                name = self._names.step(group)
                before, listed = self._ask([(name, (b"GET", name)), self._range(group, prefix)])
                wanted = [k for k in listed if k != MARK]
                names = [*self._names.of(wanted), name]
                *values, after = self._one(name, (b"MGET", *names))
                if before == after:
                    found += [(k, v) for k, v in zip(wanted, values, strict=True) if v is not None]
                else:
                    left.append(group)
            pending = left
            if pending and monotonic() > until:
                raise StoreError("steps came one after the other all the time", where=self.url, hint="scan it again")
        return found

    def _groups(self, prefix: bytes) -> list[bytes]:
        """The groups that keys with a prefix may be of."""
        group = keys.group_of(prefix)
        if len(group) == 8 or prefix.startswith(b"m"):
            return [group]
        found: list[bytes] = self._one(self._names.groups, (b"SMEMBERS", self._names.groups))
        return [g for g in found if g.startswith(prefix[1:9])]

    def _range(self, group: bytes, prefix: bytes) -> Asked:
        index = self._names.index(group)
        return index, (b"ZRANGEBYLEX", index, *lexical(prefix))

    # writing

    def _dropped(self, changes: Changes) -> list[bytes]:
        """The keys that prefixes and names of keys mean, texts left out."""
        found = dict.fromkeys(k for k in changes.drops if not k.startswith(keys.TEXTS))
        for prefix in changes.deletes:
            if prefix.startswith(ROWS):
                for names in self._walk(prefix, PAGE):
                    found.update(dict.fromkeys(map(self._names.key, names)))
            groups = self._groups(prefix) if not prefix.startswith(keys.TEXTS) else []
            for listed in self._ask([self._range(group, prefix) for group in groups]):
                found.update(dict.fromkeys(k for k in listed if k != MARK))
        return list(found)

    def _change_texts(self, changes: Changes) -> None:
        texts = self._names.texts
        gone = [k[1:] for k in changes.drops if k.startswith(keys.TEXTS)]
        for prefix in changes.deletes:
            if prefix.startswith(keys.TEXTS):
                gone += [k[1:] for page in self._text_pages(prefix, PAGE) for k, _ in page]
        for first in range(0, len(gone), _CHUNK):
            self._one(texts, (b"HDEL", texts, *gone[first : first + _CHUNK]), "write")
        put = [x for key, value in changes.puts if key.startswith(keys.TEXTS) for x in (key[1:], value)]
        for first in range(0, len(put), 2 * _CHUNK):
            self._one(texts, (b"HSET", texts, *put[first : first + 2 * _CHUNK]), "write")

    def _take(self, step: Step) -> None:
        """Takes a step once: sends it until there is an answer, which is the same however often it came through."""
        session, number = self._session()
        name = self._names.step(step.groups()[0])
        sent, registered, text = 0, False, False

        def attempt(until: float) -> bytes:
            nonlocal sent, text
            command = step.command(self._names, session, number, registered=registered, text=text)
            try:
                sent += 1
                return self._servers.ask([(name, command)], min(until, monotonic() + _ATTEMPT))[0]
            except UnreachableError:
                sent -= 1
                raise
            except exceptions.NoScriptError:
                text, sent = True, sent - 1
                return attempt(until)

        answer = self._retried("write", None, attempt, lambda: sent > 0)
        if answer == b"REGISTER":
            self._one(self._names.groups, (b"SADD", self._names.groups, *step.indexed()), "write")
            registered, sent = True, 0
            answer = self._retried("write", None, attempt, lambda: sent > 0)
        if answer == b"CONFLICT" and sent > 1:
            raise self._uncertain("another writer came after it was sent")
        if answer == b"CONFLICT":
            raise conflict(self.url)

    def _uncertain(self, why: object) -> UncertainError:
        return UncertainError(
            f"the connection was lost, and whether the step was taken is not known: {why}",
            where=self.url,
            hint="run it again when the server is there: it goes on from what was taken",
        )

    def _session(self) -> tuple[bytes, int]:
        """This thread's session and the number of its next step."""
        if not hasattr(self._sessions, "name"):
            self._sessions.name, self._sessions.numbers = secrets.token_hex(10).encode(), count(1)
        return self._sessions.name, next(self._sessions.numbers)

    # servers

    def _one(self, name: bytes, command: tuple[Any, ...], what: str = "read", deadline: float | None = None) -> Any:
        return self._ask([(name, command)], deadline, what)[0]

    def _ask(self, asked: Sequence[Asked], deadline: float | None = None, what: str = "read") -> list[Any]:
        if not asked:
            return []
        return self._retried(what, deadline, lambda until: self._servers.ask(asked, until))

    def _ask_of(self, server: Server, command: tuple[Any, ...]) -> Any:
        return self._retried("read", None, lambda until: ask_server(server, command, until))

    def _retried(
        self,
        what: str,
        deadline: float | None,
        call: Callable[[float], _T],
        may_be_done: Callable[[], bool] = bool,
        patience: float | None = None,
    ) -> _T:
        """What a call gives, which is tried again while what fails may pass: until the deadline, or patience ends."""
        until = monotonic() + (patience or self._patience) if deadline is None else deadline
        for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
            try:
                return call(until)
            except (UnreachableError, exceptions.RedisError) as error:
                if not is_passing(error):
                    raise refusal(what, error, self.url) from error
                self._servers.look_again()
                if monotonic() + pause < until:
                    sleep(pause)
                    continue
                if deadline is not None:
                    raise DeadlineError(
                        f"the answer was needed earlier: {error}", where=self.url, hint="allow it more time, or see why"
                    ) from error
                raise self._uncertain(error) if may_be_done() else refusal(what, error, self.url) from error
        raise AssertionError  # there is always another pause

    def _check_servers(self) -> None:
        """Refuses a server of a cluster where the URL is of none; warns of one that forgets rows when it is full."""

        def ask(until: float) -> list[bytes]:
            return [ask_server(s, (b"INFO",), until) for s in self._servers.every(until)]

        for answer in self._retried("open", None, ask, patience=_OPENING):
            info = dict(line.split(":", 1) for line in answer.decode().splitlines() if ":" in line)
            if (info.get("cluster_enabled") == "1") != self._address.cluster:
                kind = "no cluster" if self._address.cluster else "a cluster"
                raise ConfigError(f"the server belongs to {kind}", where=self.url, hint="a cluster's URL has +cluster")
            policy = info.get("maxmemory_policy", "noeviction")
            if info.get("maxmemory", "0") != "0" and policy != "noeviction":
                warnings.warn(
                    f"{self.url}: the server forgets keys when its memory is full (maxmemory-policy {policy}): users "
                    "whose rows are gone look like new ones. Set it to noeviction",
                    RuntimeWarning,
                    stacklevel=4,
                )

    def _check_format(self) -> None:
        found = self.read_many([keys.FORMAT_KEY]).data
        if not found:
            self.commit(Changes([(keys.FORMAT_KEY, FORMAT)]))
        elif found != FORMAT:
            raise StoreError(
                f"the store has format {found.decode(errors='replace')}, expected {FORMAT.decode()}",
                where=self.url,
                hint="load it anew into another database or namespace with this version of Bedplate",
            )
