"""What is wrong with JSON and with shapes that clients send, in words of a size that fits a message."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

# An escaped first half of a pair without its second half after it.
_HALF = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})")
_PLAIN: dict[type, Any] = {msgspec.inspect.IntType: 1, msgspec.inspect.FloatType: 1.5, msgspec.inspect.BoolType: True}
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_PLACE = re.compile(r"(.*) - at `(.*)`", re.DOTALL)
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')
_MOST_LIST_BYTES = 128 * 1024
"""Lists of so many bytes are looked into; of a longer one it is said how many bytes it has."""
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
    place = _PLACE.fullmatch(said) if isinstance(error, msgspec.ValidationError) else None
    return said if place is None else f"{with_got(place[1], lambda: got_at(content, place[2]))} - at `{place[2]}`"


def with_got(expected: str, find: Callable[[], str | None]) -> str:
    """What msgspec says of a value beyond a bound, with the value, which it leaves out; what names it stays as it is.

    Args:
        expected: what it says.
        find: gives the value as messages say it, where that is not there yet; None: it can't be found.

    >>> with_got("Expected `int` <= 20", lambda: "1000"), with_got("Expected `int`, got `str`", lambda: "'a'")
    ('got 1000, expected `int` <= 20', 'Expected `int`, got `str`')
    """
    if not expected.startswith("Expected ") or ", got " in expected:
        return expected
    got = find()
    return expected if got is None else f"got {got}, {expected[0].lower()}{expected[1:]}"


def got_at(content: bytes | memoryview, path: str) -> str | None:
    """What stands in JSON at a path of msgspec's, as messages say it; None: it can't be found.

    >>> got_at(b'{"count": 0, "items": ["a", "b"]}', "$.count"), got_at(b'{"items": ["a", "b"]}', "$.items")
    ('0', 'a list of 2')
    >>> got_at(b'{"items": ["a", "b"]}', "$.items[1]"), got_at(b'{"a": {"b": 1}}', "$.a[...]")
    ("'b'", None)
    """
    steps = _STEP.findall(path)
    if path != "$" + "".join(f".{field}" if field else f"[{index}]" for field, index in steps):
        return None
    raw = msgspec.Raw(bytes(content))
    try:
        for field, index in steps:
            if field:
                raw = msgspec.json.decode(raw, type=_one_field(field)).value
            elif len(bytes(raw)) <= _MOST_LIST_BYTES:
                raw = msgspec.json.decode(raw, type=list[msgspec.Raw])[int(index)]
            else:
                return None
        found = bytes(raw)
        return _size_of(found) if found[:1] == b"[" else got_of(msgspec.json.decode(found))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, IndexError):
        return None


def _size_of(content: bytes) -> str:
    """How long a list is, without making its values.

    >>> _size_of(b'["a,b", 1]'), _size_of(b"[ ]"), _size_of(b"[[1, 2]]")
    ('a list of 2', 'a list of 0', 'a list of 8 bytes')
    """
    inner = _TEXT.sub(b"0", content[1:-1]).strip() if len(content) <= _MOST_LIST_BYTES else b"["
    if b"[" in inner or b"{" in inner:
        return f"a list of {len(content):,} bytes"
    return f"a list of {inner.count(b',') + 1 if inner else 0:,}"


def got_of(value: Any) -> str:
    """A value of a client's as messages say what was got: of a long text its length.

    >>> got_of("a" * 2000), got_of(1000)
    ('a text of 2,000 characters', '1000')
    """
    if isinstance(value, str) and len(value) > _MOST_SHOWN:
        return f"a text of {len(value):,} characters"
    return shown(value)


@functools.lru_cache(256)
def _one_field(name: str) -> Any:
    """An object of which one field is read and the others are passed over, which takes no memory."""
    return msgspec.defstruct("OneField", [("value", msgspec.Raw)], rename={"value": name})


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
