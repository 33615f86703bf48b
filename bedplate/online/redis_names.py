"""Names of keys in Redis: every name of a view has the view's bytes in braces, so that a cluster keeps them together.

The key `r` + VIEW + ENTITY is `NAMESPACE:r{.VIEW}ENTITY`. What a cluster hashes is between the first brace and the next
closing one; the dot is there because VIEW, eight bytes of any value, may begin with a brace, and empty braces count as
none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TypeVar, final

import numpy as np
import numpy.typing as npt

from bedplate.online import keys

ROWS = b"r"
"""Packed rows: the only keys that are found by a walk over all names and not by an index."""

MARK = b"!"
"""In the index of a group: that it has rows."""

_MOST_HEADS = 10_000
_FIRST: Callable[[bytes], bytes] = itemgetter(slice(9))
_FEW = 8
_LINE = np.frombuffer(b"\r\n", np.uint8)
_KEY: Callable[[tuple[bytes, object]], bytes] = itemgetter(0)
_Pair = TypeVar("_Pair", tuple[bytes, bytes], tuple[bytes, int])


def firsts(pairs: Iterable[_Pair]) -> set[bytes]:
    """The first nine bytes of the keys of pairs: they say of what kind a key is, and of which group. They are few."""
    return set(map(_FIRST, map(_KEY, pairs)))


def runs(pairs: Iterable[_Pair]) -> Iterator[tuple[bytes, Iterator[_Pair]]]:
    """Pairs of a key and something in runs of equal first nine bytes."""
    return groupby(pairs, lambda pair: pair[0][:9])


class TextKeyError(Exception):
    """A key is one of a text: those are the fields of one hash."""


@final
class _Heads(dict[bytes, bytes]):
    """From the first nine bytes of a key to what replaces them."""

    def __init__(self, namespace: bytes) -> None:
        self._namespace = namespace

    def __missing__(self, first: bytes) -> bytes:
        if first.startswith(keys.TEXTS):
            raise TextKeyError
        if len(self) > _MOST_HEADS:
            self.clear()
        group = keys.group_of(first)
        rest = first[1:] if group == first[:1] else first[1 + len(group) :]
        head = self[first] = self._namespace + first[:1] + b"{." + group + b"}" + rest
        return head


@final
class Names:
    """From keys of the store to names in Redis and back.

    Args:
        namespace: what all names begin with, before a colon.

    >>> names = Names("shop")
    >>> names.of([b"r12345678entity", b"v12345678", b"m:format"])
    [b'shop:r{.12345678}entity', b'shop:v{.12345678}', b'shop:m{.m}:format']
    >>> [names.key(name) for name in names.of([b"r12345678entity", b"v12345678", b"m:format", b"k"])]
    [b'r12345678entity', b'v12345678', b'm:format', b'k']
    """

    __slots__ = ("_heads", "_namespace", "groups", "texts")

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace.encode() + b":"
        self._heads = _Heads(self._namespace)
        self.groups = self._namespace + b"!g"
        self.texts = self._namespace + b"!t{.t}"

    def of(self, wanted: Sequence[bytes]) -> list[bytes]:
        """The names of keys.

        Raises:
            TextKeyError: one is of a text.
        """
        found: list[bytes] = []
        for first, alike in groupby(wanted, _FIRST):
            head = self._heads[first]
            found += [head + key[9:] for key in alike]
        return found

    def packed_mget(self, wanted: Sequence[bytes]) -> bytes:
        r"""`MGET` of the names of keys, as it is sent; the many keys of a view are put together in one go.

        Raises:
            TextKeyError: one is of a text.

        >>> Names("shop").packed_mget([b"m:format"])
        b'*2\r\n$4\r\nMGET\r\n$17\r\nshop:m{.m}:format\r\n'
        """
        parts = [b"*%d\r\n$4\r\nMGET\r\n" % (len(wanted) + 1)]
        for length, alike in groupby(wanted, len):
            run = list(alike)
            if length < 10 or len(run) < _FEW:
                parts += self._packed_one_by_one(run)
                continue
            rows = np.frombuffer(b"".join(run), np.uint8).reshape(-1, length)
            begins = np.flatnonzero((rows[1:, :9] != rows[:-1, :9]).any(axis=1)) + 1
            if len(begins) * _FEW > len(run):
                parts += self._packed_one_by_one(run)
                continue
            ends: list[int] = [*begins.tolist(), len(run)]
            parts += [self._packed_rows(rows[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
        return b"".join(parts)

    def _packed_one_by_one(self, wanted: Sequence[bytes]) -> list[bytes]:
        return [b"$%d\r\n%b\r\n" % (len(name), name) for name in self.of(wanted)]

    def _packed_rows(self, rows: npt.NDArray[np.uint8]) -> bytes:
        """Keys [n, length] that begin with the same nine bytes, as arguments of a command."""
        head, rest = self._heads[rows[0, :9].tobytes()], rows[:, 9:]
        lead = b"$%d\r\n%b" % (len(head) + rest.shape[1], head)
        out = np.empty((len(rows), len(lead) + rest.shape[1] + 2), np.uint8)
        out[:, : len(lead)] = np.frombuffer(lead, np.uint8)
        out[:, len(lead) : -2] = rest
        out[:, -2:] = _LINE
        return out.tobytes()

    def key(self, name: bytes) -> bytes:
        """The key of a name."""
        first = len(self._namespace)
        letter, rest = name[first : first + 1], name[first + 3 :]
        if letter == b"m":
            return letter + rest[2:]
        return letter + rest[:8] + rest[9:] if len(rest) > 8 else letter + rest[:-1]

    def index(self, group: bytes) -> bytes:
        """The sorted set of a group's keys, all but rows and texts."""
        return self._namespace + b"!i{." + group + b"}"

    def step(self, group: bytes) -> bytes:
        """Which step a group was changed by last."""
        return self._namespace + b"!s{." + group + b"}"

    def session_step(self, group: bytes, session: bytes) -> bytes:
        """Which step of many rows a group was changed by last in a session."""
        return self.step(group) + session

    def claim(self, name: str) -> bytes:
        """The lease of whoever writes what has a name."""
        return self._namespace + b"!c{." + name.encode() + b"}"

    def rows(self, prefix: bytes) -> bytes:
        """The pattern of the names of all rows with a prefix."""
        view, rest = prefix[1:9], prefix[9:]
        name = self._namespace + ROWS + b"{." + view + (b"}" + rest if len(view) == 8 else b"")
        return b"".join(b"\\" + c if c in b"\\*?[]" else c for c in (name[i : i + 1] for i in range(len(name)))) + b"*"


def lexical(prefix: bytes) -> tuple[bytes, bytes]:
    r"""The bounds of a prefix in a sorted set.

    >>> lexical(b"a\xff"), lexical(b"")
    ((b'[a\xff', b'(b'), (b'-', b'+'))
    """
    stem = prefix.rstrip(b"\xff")
    end = b"(" + stem[:-1] + bytes([stem[-1] + 1]) if stem else b"+"
    return (b"[" + prefix if prefix else b"-"), end
