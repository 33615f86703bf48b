"""Canonical JSON and ids: equal definitions have equal text, and the text's hash names what is built from it.

Keys are sorted and nothing depends on the process, the machine or the order of definition. Ids are BLAKE2b (RFC 7693),
20 bytes, in hexadecimal.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from bedplate.errors import DefinitionError

if TYPE_CHECKING:
    import polars as pl


def to_json(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8.

    >>> to_json({"b": 1, "a": [True, None]})
    b'{"a":[true,null],"b":1}'
    """
    return msgspec.json.encode(value, order="deterministic")


def digest(value: Any) -> str:
    """The id of a JSON value: 40 hexadecimal digits.

    >>> digest({"a": 1}) == digest({"a": 1}), len(digest({}))
    (True, 40)
    """
    return hashlib.blake2b(to_json(value), digest_size=20).hexdigest()


def digest_bytes(parts: Iterable[bytes]) -> str:
    """The id of a sequence of byte strings.

    >>> digest_bytes([b"ab"]) == digest_bytes([b"a", b"b"])
    True
    """
    hasher = hashlib.blake2b(digest_size=20)
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()


def expression_form(expression: pl.Expr, where: str) -> dict[str, str] | str:
    """The canonical form of a row expression: a column's name, or the text with an id of the whole expression tree.

    >>> import polars as pl
    >>> expression_form(pl.col("price"), "")
    'price'
    >>> sorted(expression_form(pl.col("price") * 2, ""))
    ['expression', 'id']

    Raises:
        DefinitionError: the expression calls a Python function, whose content has no stable form.
    """
    if expression.meta.is_column():
        return expression.meta.root_names()[0]
    text = str(expression)
    if calls_python(text):
        raise DefinitionError(
            f"the row expression {text} calls a Python function, which has no canonical form",
            where=where,
            hint="write it with Polars expressions; they run in training and in serving alike",
        )
    return {"expression": text, "id": digest_bytes([expression.meta.serialize()])}


_PYTHON = re.compile(r"python|map_groups|rolling_map|\.fold\(|\.reduce\(|\.name\.map\(", re.IGNORECASE)


def calls_python(text: str) -> bool:
    """Whether the text of a Polars expression or query shows that it calls a Python function.

    >>> calls_python('col("x").python_udf()'), calls_python('[(col("language")) == ("python")]')
    (True, False)
    """
    # What stands between quotes is a name or a value of the user's.
    return _PYTHON.search(re.sub(r'"[^"\n]*"', "", text)) is not None


def string_ids(texts: list[str]) -> list[int]:
    """64-bit ids of strings, stable across machines and versions: BLAKE2b of the UTF-8 text as a signed integer.

    >>> string_ids(["85123A", "POST"]) == string_ids(["85123A"]) + string_ids(["POST"])
    True
    """
    blake = hashlib.blake2b
    return [int.from_bytes(blake(t.encode(), digest_size=8).digest(), "little", signed=True) for t in texts]
