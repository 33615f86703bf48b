"""What keys there are in a Redis store: rows by a walk over all names, the rest by indexes."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import final

from bedplate.errors import StoreError
from bedplate.online import keys
from bedplate.online.base import PAGE
from bedplate.online.redis_asking import Asking
from bedplate.online.redis_names import MARK, ROWS, Names, lexical
from bedplate.online.redis_servers import Asked


@final
class Listing:
    """Finds keys.

    Args:
        asking: of the store's servers.
        names: of its keys.
        url: of the store, as it may be shown.
    """

    __slots__ = ("_asking", "_names", "_url")

    def __init__(self, asking: Asking, names: Names, url: str) -> None:
        self._asking, self._names, self._url = asking, names, url

    def rows(self, prefix: bytes, size: int) -> Iterator[list[bytes]]:
        """The names of rows with a prefix, some or none at a time, some more than once; all of a time on one server."""
        until = monotonic() + self._asking.patience
        group = prefix[1:9]
        if len(group) == 8:
            index = self._names.index(group)
            if self._asking.one(index, (b"ZSCORE", index, MARK)) is None:
                return
            servers = [self._asking.retried("read", None, lambda end: self._asking.servers.of(index, end))]
        else:
            servers = self._asking.servers.every(until)
        command = (b"MATCH", self._names.rows(prefix), b"COUNT", size)
        for server in servers:
            cursor = b"0"
            while True:
                cursor, names = self._asking.of(server, (b"SCAN", cursor, *command))
                by_group: dict[bytes, list[bytes]] = {}
                for name in names:
                    by_group.setdefault(name[: name.find(b"}")] if self._asking.servers.apart else b"", []).append(name)
                yield from by_group.values() or ([],)
                if cursor == b"0":
                    break

    def texts(self, prefix: bytes, size: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """The texts with a prefix, some at a time and some more than once."""
        cursor, texts = b"0", self._names.texts
        while True:
            cursor, found = self._asking.one(texts, (b"HSCAN", texts, cursor, b"COUNT", size))
            page = [(keys.TEXTS + i, v) for i, v in zip(found[::2], found[1::2], strict=True)]
            yield [(k, v) for k, v in page if k.startswith(prefix)]
            if cursor == b"0":
                return

    def indexed(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The keys that are in an index, those of each group as one step left them: read again if one came between."""
        found: list[tuple[bytes, bytes]] = []
        pending = self._groups(prefix)
        until = monotonic() + self._asking.patience
        while pending:
            left: list[bytes] = []
            for group in pending:
                name = self._names.step(group)
                before, listed = self._asking.all([(name, (b"GET", name)), self._range(group, prefix)])
                wanted = [k for k in listed if k != MARK]
                names = [*self._names.of(wanted), name]
                *values, after = self._asking.one(name, (b"MGET", *names))
                if before == after:
                    found += [(k, v) for k, v in zip(wanted, values, strict=True) if v is not None]
                else:
                    left.append(group)
            pending = left
            if pending and monotonic() > until:
                raise StoreError("steps came one after the other all the time", where=self._url, hint="scan it again")
        return found

    def named(self, prefix: bytes) -> list[bytes]:
        """All keys with a prefix but those of texts."""
        found: dict[bytes, None] = {}
        if prefix.startswith(keys.TEXTS):
            return []
        if prefix.startswith(ROWS):
            for names in self.rows(prefix, PAGE):
                found.update(dict.fromkeys(map(self._names.key, names)))
        for listed in self._asking.all([self._range(group, prefix) for group in self._groups(prefix)]):
            found.update(dict.fromkeys(k for k in listed if k != MARK))
        return list(found)

    def _groups(self, prefix: bytes) -> list[bytes]:
        """The groups that keys with a prefix may be of."""
        group = keys.group_of(prefix)
        if len(group) == 8 or prefix.startswith(b"m"):
            return [group]
        found: list[bytes] = self._asking.one(self._names.groups, (b"SMEMBERS", self._names.groups))
        return [g for g in found if g.startswith(prefix[1:9])]

    def _range(self, group: bytes, prefix: bytes) -> Asked:
        index = self._names.index(group)
        return index, (b"ZRANGEBYLEX", index, *lexical(prefix))
