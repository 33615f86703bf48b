"""Payloads: from the bytes of events to rows of the source's table, by its schema; what does not fit is named.

Field names are the table's columns, and within a struct its fields. One that a payload lacks is null there, and one
that the table does not have is left out. A time is a text as in ISO 8601 (without an offset it is UTC) or whole
microseconds since the epoch; a whole number that is likelier seconds or milliseconds is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np
import polars as pl

from bedplate.errors import reason
from bedplate.online.parsers import Parse, parser
from bedplate.online.payload_values import exact, series, type_of


@final
class Payloads:
    """Decodes payloads of one form.

    Args:
        form: `json`, `avro:FILE` with a schema in JSON, or `protobuf:FILE:MESSAGE` with a descriptor set as
            `protoc --include_imports --descriptor_set_out` writes it, and the full name of a message in it. Or a parser
            of its own, then payloads are what it takes.
        schema: the columns of the source's table.
        root: where a relative path starts.

    Raises:
        ConfigError: the form is not known, or its file can't be read.
        DefinitionError: a column has a type that no payload can hold.

    >>> rows, wrong = Payloads("json", {"user": pl.Int64()}).decode([b'{"user": 1}', b'{"user": "x"}'])
    >>> rows["user"].to_list(), wrong
    ([1], {1: 'Expected `int | null`, got `str` - at `$.user`'})
    """

    __slots__ = ("_fields", "_parse", "_schema", "_struct")

    def __init__(self, form: str | Parse, schema: Mapping[str, pl.DataType], root: Path | None = None) -> None:
        self._schema = dict(schema)
        self._fields = [f"c{i}" for i in range(len(schema))]  # a column's name need not be one in Python
        self._struct = msgspec.defstruct(
            "Event",
            [
                (f, type_of(dtype, name) | None, None)
                for f, (name, dtype) in zip(self._fields, schema.items(), strict=True)
            ],
            rename=dict(zip(self._fields, schema, strict=True)),
        )
        self._parse: Parse = parser(form, root or Path()) if isinstance(form, str) else form

    def decode(self, payloads: Sequence[Any]) -> tuple[pl.DataFrame, dict[int, str]]:
        """The rows of the payloads that fit, in their order, and by number what is wrong with each other one."""
        found: list[msgspec.Struct] = []
        numbers: list[int] = []
        wrong: dict[int, str] = {}
        parse, struct = self._parse, self._struct
        for number, payload in enumerate(payloads):
            if payload is None:
                wrong[number] = "the event has no payload"
                continue
            try:
                found.append(parse(payload, struct))
                numbers.append(number)
            except Exception as error:  # noqa: BLE001  (libraries raise what they like, and no payload may stop a stream)
                wrong[number] = reason(error)
        unfit: dict[int, str] = {}
        columns = [
            _fitting(name, [getattr(event, field) for event in found], dtype, unfit)
            for field, (name, dtype) in zip(self._fields, self._schema.items(), strict=True)
        ]
        rows = pl.DataFrame(columns)
        if unfit:
            kept = np.ones(len(found), np.bool_)
            kept[list(unfit)] = False
            rows = rows.filter(pl.Series(kept))
            wrong.update((numbers[row], why) for row, why in unfit.items())
        return rows, wrong


def _fitting(name: str, values: list[Any], dtype: pl.DataType, unfit: dict[int, str]) -> pl.Series:
    """The values as a column, made once: null in place of those that it can't hold, whose reasons go to `unfit`."""
    values = exact(name, values, dtype, unfit)
    try:
        return series(name, values, dtype)
    except (Exception, pl.exceptions.PanicException):  # noqa: BLE001  (which values they are, is found by halving)
        pass
    parts, left = [(0, len(values))], list(values)
    while parts:
        begin, end = parts.pop()
        try:
            series(name, values[begin:end], dtype)
        except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001  (as above)
            if end - begin == 1:
                unfit.setdefault(begin, reason(error))
                left[begin] = None
            else:
                middle = (begin + end) // 2
                parts += [(middle, end), (begin, middle)]
    return series(name, left, dtype)
