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

from bedplate.online import keys

ROWS = b"r"
"""Packed rows: the only keys that are found by a walk over all names and not by an index."""

MARK = b"!"
"""In the index of a group: that it has rows."""

_MOST_HEADS = 10_000
_FIRST: Callable[[bytes], bytes] = itemgetter(slice(9))
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
