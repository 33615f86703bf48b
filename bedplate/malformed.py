"""What is wrong with JSON and with shapes that clients send, in words of a size that fits a message."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

# An escaped first half of a pair without its second half after it.
_HALF = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})")
_PLAIN: dict[type, Any] = {msgspec.inspect.IntType: 1, msgspec.inspect.FloatType: 1.5, msgspec.inspect.BoolType: True}
_MOST_SIZES = 8
_MOST_SHOWN = 40
_MOST_QUOTED = 1024


def reason_of(error: Exception, content: bytes | memoryview) -> str:
    r"""Why some bytes are not JSON of the form that is wanted.

    Args:
        error: what decoding them raised.
        content: the bytes.

    >>> import msgspec
    >>> try: msgspec.json.decode(content := rb'["\ud800"]')
    ... except msgspec.DecodeError as error: print(reason_of(error, content))
    a string has the escape \ud800, half of a surrogate pair, expected both or neither
    """
    said = str(error)
    if isinstance(error, UnicodeDecodeError):
        try:
            str(content, "utf-8")
        except UnicodeDecodeError as whole:  # the decoder's own counts from the beginning of the text that it is in
            return f"byte {whole.object[whole.start]:#04x} at position {whole.start} is not UTF-8: {whole.reason}"
    if "truncated" in said or "surrogate" in said:
        found = _HALF.search(content)
        if found is not None:
            return f"a string has the escape {found[0].decode()}, half of a surrogate pair, expected both or neither"
    return said


def example_of(kind: type[msgspec.Struct]) -> str:
    """A body in JSON of a form, with the fields that must be there, of the kinds that they must have.

    >>> example_of(msgspec.defstruct("Asked", [("user", int), ("query", str), ("items", list[str]), ("top", int, 5)]))
    '{"user":1,"query":"a","items":["a"]}'
    """
    fields = msgspec.structs.fields(kind)
    return msgspec.json.encode({f.encode_name: _value_of(f.type) for f in fields if f.required}).decode()


def _value_of(kind: Any) -> Any:
    match msgspec.inspect.type_info(kind):
        case msgspec.inspect.ListType(item_type=inner):
            return [_PLAIN.get(type(inner), "a")]
        case found:
            return _PLAIN.get(type(found), "a")


def shape_text(shape: Sequence[int]) -> str:
    """A shape as messages show it.

    >>> shape_text([2, 3]), shape_text([1] * 100_000)
    ('[2, 3]', '[1, 1, 1, 1, 1, 1, 1, 1, ... of 100000 sizes]')
    """
    if len(shape) <= _MOST_SIZES:
        return str(list(shape))
    return f"[{', '.join(map(str, shape[:_MOST_SIZES]))}, ... of {len(shape)} sizes]"


def cut(text: str) -> str:
    """A name or a path of a client's as messages quote it: whole, where it is no longer than a key may be.

    >>> cut("https://shop.example/p/17"), len(cut("a" * 100_000))
    ('https://shop.example/p/17', 1027)
    """
    return text if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]}..."


def shown(value: object) -> str:
    """A value of a client's as messages show it.

    >>> shown("16"), shown("a" * 100)
    ("'16'", "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...")
    """
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
