"""Commands as the bytes that go to a Redis server, many arguments at once.

The form is that of https://redis.io/docs/latest/develop/reference/protocol-spec/: an array of bulk strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby, repeat
from typing import Any, TypeAlias

Command: TypeAlias = tuple[Any, ...] | bytes
"""A command and its arguments: bytes, texts and numbers; or all of it as it is sent."""


def packed(command: Command) -> bytes:
    r"""A command as it is sent. Arguments of one length that follow each other are put together in one go.

    >>> packed((b"GET", "key"))
    b'*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n'
    """
    if isinstance(command, bytes):
        return command
    words: Sequence[bytes] = command
    if set(map(type, command)) != {bytes}:
        words = [word if type(word) is bytes else str(word).encode() for word in command]
    parts = [b"*%d\r\n" % len(words)]
    for length, alike in groupby(words, len):
        head = b"$%d\r\n" % length
        parts += (head, (b"\r\n" + head).join(alike), b"\r\n")
    return b"".join(parts)


def packed_mset(names: Sequence[bytes], values: Sequence[bytes]) -> bytes:
    r"""`MSET` of names and values of equal number, one at least.

    >>> packed_mset([b"a"], [b"value"])
    b'*3\r\n$4\r\nMSET\r\n$1\r\na\r\n$5\r\nvalue\r\n'
    """
    begin = b"*%d\r\n$4\r\nMSET\r\n" % (1 + 2 * len(names))
    sizes, lengths = set(map(len, names)), set(map(len, values))
    if len(sizes) == len(lengths) == 1:
        of_name, of_value = b"$%d\r\n" % sizes.pop(), b"\r\n$%d\r\n" % lengths.pop()
        pairs = zip(repeat(of_name), names, repeat(of_value), values, repeat(b"\r\n"))
        return begin + b"".join(chain.from_iterable(pairs))
    pairs = zip(names, values, strict=True)
    return begin + b"".join([b"$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(n), n, len(v), v) for n, v in pairs])
