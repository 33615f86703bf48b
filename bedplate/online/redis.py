"""The shared online store: Redis or Valkey, one server or a cluster. Any number of machines read it and write it.

A view's rows and state are read with one MGET. A step is one script on each server that it changes something on, or one
transaction where it has many rows, which nothing interrupts: on one server the whole step, in a cluster what it changes
of one view. Texts are written before.

A step whose answer is lost is sent again until it is clear that it was taken once: the server knows the last step of
each writer (`redis_script`, `redis_transaction`). A step is as safe as the server is set to keep it; see docs/redis.md.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import monotonic
from typing import ClassVar, final

from bedplate.errors import ConfigError, ConflictError, StoreError, UncertainError
from bedplate.online import keys
from bedplate.online.base import PAGE, Changes, OnlineStore, Values, check_deadline, conflict
from bedplate.online.redis_address import RedisAddress, parse_address
from bedplate.online.redis_asking import Asking
from bedplate.online.redis_leases import LEASE, Leases
from bedplate.online.redis_listing import Listing
from bedplate.online.redis_names import ROWS, Names, TextKeyError
from bedplate.online.redis_script import Script, Step, TextsScript, parted, steps_of
from bedplate.online.redis_servers import (
    Asked,
    Cluster,
    OneServer,
    ask_server,
)
from bedplate.online.redis_transaction import MANY, Transaction

FORMAT = b"1"
"""The version of the store's form: kept in the store, and checked when it is opened."""

PATIENCE = 30.0
"""How long a lost connection is tried again, seconds, where a read has no deadline of its own."""

_ATTEMPT, _OPENING = 10.0, 1.0  # seconds
_CHUNK = 1000


@final
class RedisStore(OnlineStore):
    """A database of a Redis or Valkey server, or a cluster of them.

    Args:
        url: see `redis_address`.
        root: where a relative path of a file starts.
        patience: how long a lost connection is tried again, seconds.
        lease: so many seconds after its last sign of life a writer's claim is over, if nobody sees that it was killed.
        create: whether a store is made where there is none.

    Raises:
        ConfigError: the URL is not of the form, or the server is of a cluster and the URL of none.
        StoreError: the server can't be reached or used, or holds a store of another version; or it holds none, and none
            is to be made.
    """

    step_events: ClassVar[int] = 3_000

    def __init__(
        self,
        url: str,
        root: Path | None = None,
        *,
        patience: float = PATIENCE,
        lease: float = LEASE,
        create: bool = True,
    ) -> None:
        self._address: RedisAddress = parse_address(url, root)
        self._names = Names(self._address.namespace)
        self._servers = Cluster(self._address) if self._address.cluster else OneServer(self._address)
        self._asking = Asking(self._servers, self.url, patience)
        self._listing = Listing(self._asking, self._names, self.url)
        self._lease, self._sessions = lease, threading.local()
        try:
            self._check_servers()
            self._check_format(create=create)
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
        answers = self._asking.all(asked, deadline)
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
        found = dict(self._listing.indexed(prefix))
        for letter in (ROWS, keys.TEXTS):
            if letter.startswith(prefix[:1]):
                for page in self.pages(prefix or letter):
                    found.update(page)
        return sorted(found.items())

    def pages(self, prefix: bytes, size: int = PAGE) -> Iterator[list[tuple[bytes, bytes]]]:
        """The keys with a prefix, in no order; a row or text that is there all the time comes once, or more often."""
        if prefix.startswith(ROWS):
            for names in self._listing.rows(prefix, size):
                found = zip(names, self._asking.all([(names[0], (b"MGET", *names))])[0] if names else (), strict=True)
                yield [(self._names.key(n), v) for n, v in found if v is not None]
        elif prefix.startswith(keys.TEXTS):
            yield from self._listing.texts(prefix, size)
        else:
            yield from super().pages(prefix, size)

    @contextmanager
    def writing(self, names: Sequence[str]) -> Generator[None]:
        """Claims names with leases, which a thread renews as long as the context lasts.

        A writer that is killed on this machine gives them up at once, one on another machine when the lease ends.
        """
        hashed = {hashlib.blake2b(n.encode(), digest_size=10).hexdigest(): n for n in sorted(set(names))}
        leases = Leases({self._names.claim(h): n for h, n in hashed.items()}, self._lease, self._asking.one, self.url)
        with leases.held():
            yield

    def commit(self, changes: Changes) -> None:
        """Applies all changes of a server in one script, after the texts; see the module for several servers."""
        dropped = dict.fromkeys(k for k in changes.drops if not k.startswith(keys.TEXTS))
        for prefix in changes.deletes:
            dropped.update(dict.fromkeys(self._listing.named(prefix)))
        texts, puts = parted(changes.puts)
        steps = steps_of(changes, puts, list(dropped), apart=self._servers.apart)
        if len(steps) > 1 and changes.expects:
            # What all views expect is looked at before the first view's step, so that a late writer changes nothing.
            found = self.read_many([k for k, _ in changes.expects])
            if any(value != now for (_, value), now in zip(changes.expects, found, strict=True)):
                raise conflict(self.url)
        self._change_texts(changes, texts)
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

    def _gets(self, wanted: Sequence[bytes]) -> tuple[list[Asked], list[Sequence[int]]]:
        """What to ask for the values of keys, and which of the keys each answer is of."""
        if not wanted:
            return [], []
        try:
            if not self._servers.apart:
                return [(self._names.groups, self._names.packed_mget(wanted))], [range(len(wanted))]
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
                of_group = [wanted[i] for i in at]
                asked.append((self._names.of(of_group[:1])[0], self._names.packed_mget(of_group)))
        return asked, list(places.values())

    def _change_texts(self, changes: Changes, puts: list[tuple[bytes, bytes]]) -> None:
        texts = self._names.texts
        gone = [k[1:] for k in changes.drops if k.startswith(keys.TEXTS)]
        for prefix in changes.deletes:
            if prefix.startswith(keys.TEXTS):
                gone += [k[1:] for page in self._listing.texts(prefix, PAGE) for k, _ in page]
        put = [x for key, value in puts for x in (key[1:], value)]
        expected = [x for key, value in changes.expects if key.startswith(keys.TEXTS) for x in (key[1:], value)]
        if expected:
            self._once(TextsScript(texts, expected, gone, put))
            return
        for first in range(0, len(gone), _CHUNK):
            self._asking.one(texts, (b"HDEL", texts, *gone[first : first + _CHUNK]), "write")
        for first in range(0, len(put), 2 * _CHUNK):
            self._asking.one(texts, (b"HSET", texts, *put[first : first + 2 * _CHUNK]), "write")

    def _take(self, step: Step) -> None:
        """Takes a step once; the answer is the same however often it comes through."""
        kind = Transaction if len(step.puts) >= MANY else Script
        taking = kind(self._names, step, *self._session())
        if self._once(taking) == b"REGISTER":
            self._asking.one(self._names.groups, (b"SADD", self._names.groups, *step.indexed()), "write")
            taking.registered, taking.sent = True, 0
            self._once(taking)

    def _once(self, taking: Script | Transaction | TextsScript) -> bytes:
        """Sends it until there is an answer, which is the same however often it came through."""

        def attempt(until: float) -> bytes:
            return taking.attempt(self._servers, min(until, monotonic() + _ATTEMPT))

        answer = self._asking.retried("write", None, attempt, lambda: taking.sent > 0)
        if answer == b"CONFLICT":
            if taking.may_be_taken:
                raise self._asking.uncertain("another writer came after it was sent")
            raise conflict(self.url)
        return answer

    def _session(self) -> tuple[bytes, int]:
        """This thread's session and the number of its next step."""
        if not hasattr(self._sessions, "name"):
            self._sessions.name, self._sessions.numbers = secrets.token_hex(10).encode(), count(1)
        return self._sessions.name, next(self._sessions.numbers)

    def _check_servers(self) -> None:
        """Refuses a server of a cluster where the URL is of none; warns of one that forgets rows when it is full."""

        def ask(until: float) -> list[bytes]:
            return [ask_server(s, (b"INFO",), until) for s in self._servers.every(until)]

        for answer in self._asking.retried("open", None, ask, patience=_OPENING):
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

    def _check_format(self, *, create: bool) -> None:
        found = self.read_many([keys.FORMAT_KEY]).data
        if not found and not create:
            raise StoreError(
                "the server holds no online store here",
                where=self.url,
                hint="if it lost what was loaded, restore it; if nothing was loaded yet, or to load it anew, run: "
                "bedplate materialize",
            )
        if not found:
            self.commit(Changes([(keys.FORMAT_KEY, FORMAT)]))
        elif found != FORMAT:
            raise StoreError(
                f"the store has format {found.decode(errors='replace')}, expected {FORMAT.decode()}",
                where=self.url,
                hint="load it anew into another database or namespace with this version of Bedplate",
            )
