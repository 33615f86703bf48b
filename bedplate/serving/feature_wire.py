"""What a client and a feature server say to each other: JSON, or Arrow IPC streams of one record batch.

    {"features": ["customer_lines.*", "price_ratio"], "keys": {"customer": [17850, 12431], "product": "22386"},
     "context": {"query": "red mug"}, "time": "2011-12-01T09:00:00"}

    {"time": 1322730000000000, "rows": 2, "values": {"price_ratio": [0.9, null], ...}, "behind_seconds":
     {"customer_lines": 1.2}}

A value that is not there is null, in JSON and in Arrow; so is, in JSON, a number that is none. A list without elements
is empty. Times are microseconds. What an Arrow stream can't hold is in headers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias, cast

import msgspec
import numpy as np
import polars as pl

from bedplate.batch import Column, Dense, Ids, Ragged, column_to_series, texts_of
from bedplate.errors import DataError, RequestError
from bedplate.features.entity import encode_keys as encode_series
from bedplate.http.message import Request, Response
from bedplate.malformed import got_of, with_got
from bedplate.serving.arrow import (
    BEHIND_HEADER,
    DEGRADED_HEADER,
    TIME_HEADER,
    in_header,
    is_arrow,
    plain_keys,
    read_stream,
    stream,
    wants_arrow,
)
from bedplate.serving.feature_plan import FeatureLookup, FeaturePlan, Values
from bedplate.serving.progress import READ_SHARE, part_of
from bedplate.serving.wire import KEY_TYPES, decode, encode_keys
from bedplate.types import Int64s, Type

FEATURES_HEADER = "Bedplate-Features"
"""The features that an Arrow request asks for, separated by commas."""

_KeyList: TypeAlias = "list[Any] | dict[str, Any] | int | str | float | bool | None"
"""What is no key is found with the entity that it is for."""


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """A request in JSON.

    Attributes:
        features: names of features, or `VIEW.*`.
        keys: the keys of each entity, as many of each, or one for all rows.
        context: the values of each context, as many, or one for all rows.
        time: as of when, ISO 8601 or microseconds; now unless given.
    """

    features: list[str]
    keys: dict[str, _KeyList] = {}
    context: dict[str, Any] = {}
    time: int | str | None = None


_decoder = msgspec.json.Decoder(Body)
_key_lists: dict[Type, Callable[[Any], list[Any]]] = {
    kind: lambda keys, kind=kind: msgspec.convert(keys, list[KEY_TYPES[kind]]) for kind in KEY_TYPES
}


def answer(request: Request, features: FeatureLookup) -> tuple[Response, Values]:
    """The answer to a request, in the form that it asks for, and what is in it.

    Raises:
        RequestError: the request is wrong; says where.
        StoreError: the store does not hold a view, or is ahead of the time asked for.
    """
    values = (_of_arrow if is_arrow(request) else _of_json)(request, features)
    return (_arrow_response if wants_arrow(request) else _json_response)(values), values


def _of_json(request: Request, features: FeatureLookup) -> Values:
    body: Body = decode(_decoder, request.body, lambda: _example(features))
    plan = features.plan(body.features)
    features.check_keys(plan, body.keys)
    for keys in body.keys.values():
        features.check_rows(len(keys) if isinstance(keys, list) else 1)  # before much is made of them
    keys = {entity: _json_keys(body.keys[entity], kind, entity) for entity, kind in plan.entities.items()}
    context = {name: _context_values(name, value, plan) for name, value in body.context.items()}
    return features.values(plan, keys, context, body.time, part_of(request.deadline, READ_SHARE))


def _example(features: FeatureLookup) -> str:
    """A request that is right, of the first view of the project."""
    view = next(iter(features.graph.views.values()))
    kinds = zip(view.view.entities, view.key_types, strict=True)
    keys = {entity.name: ["a" if kind is Type.STRING else 1] for entity, kind in kinds}
    return msgspec.json.encode({"features": [f"{view.name}.*"], "keys": keys}).decode()


def _json_keys(given: _KeyList, kind: Type, entity: str) -> Int64s:
    keys = given if isinstance(given, list) else [given]
    try:
        return encode_keys(_key_lists[kind](keys), kind)
    except msgspec.ValidationError as error:
        message, _, at = str(error).partition(" - at ")
        place = at.strip("`").removeprefix("$")

        def got() -> str | None:
            return got_of(keys[int(place[1:-1])]) if place[1:-1].isdecimal() else None

        raise RequestError(with_got(message, got), where=f"$.keys.{entity}{place}") from None


def _context_values(name: str, value: Any, plan: FeaturePlan) -> Sequence[Any]:
    """The values of a context; those of a vector are lists themselves."""
    width = next((c.type.width for c in plan.selected.contexts if c.name == name), 0)
    if not isinstance(value, list):
        return [value]
    values = cast("list[Any]", value)
    is_one_vector = width and values and not isinstance(values[0], list) and values[0] is not None
    return [values] if is_one_vector else values


def _of_arrow(request: Request, features: FeatureLookup) -> Values:
    headers = request.headers
    names = headers.get(FEATURES_HEADER.lower().encode(), b"").decode("latin-1")
    plan = features.plan([name.strip() for name in names.split(",") if name.strip()])
    frame = read_stream(request.body, features.most_keys)
    contexts = {c.name for c in plan.selected.contexts}
    features.check_keys(plan, {c: None for c in frame.columns if c not in contexts})
    try:
        keys = {e: encode_series(plain_keys(frame[e]), kind, e) for e, kind in plan.entities.items()}
    except DataError as error:
        raise RequestError(error.message, where=f"column '{error.where}'", hint=error.hint) from None
    context = {name: frame[name].to_list() for name in frame.columns if name in contexts}
    time = headers.get(TIME_HEADER.lower().encode(), b"").decode("latin-1")
    asked = (int(time) if time.isdecimal() else time) or None
    return features.values(plan, keys, context, asked, part_of(request.deadline, READ_SHARE))


def _json_response(values: Values) -> Response:
    shown: dict[str, Any] = {"time": values.time, "rows": values.rows}
    shown["values"] = {name: _json_values(column) for name, column in values.columns.items()}
    shown["behind_seconds"] = values.behind
    if values.degraded:
        shown["degraded"] = values.degraded
    return Response(200, msgspec.json.encode(shown))


def _json_values(column: Column) -> list[Any]:
    """The values of a column, None where there is none."""
    if isinstance(column, Ragged):
        flat, ends = _json_values(column.values), column.offsets.tolist()
        return [flat[a:b] for a, b in pairwise(ends)]
    if isinstance(column, Ids) and column.texts is not None:
        there = np.arange(len(column)) if column.present is None else np.flatnonzero(column.present)
        texts: list[str | None] = [None] * len(column)
        for row, text in zip(there.tolist(), texts_of(column.texts, column.values[there].tolist()), strict=True):
            texts[row] = text
        return texts
    if isinstance(column, Dense) and column.present is not None and column.values.dtype.kind == "f":
        return np.where(column.present, column.values, np.nan).tolist()  # which JSON writes as null
    values: list[Any] = column.values.tolist()
    if column.present is None:
        return values
    return [value if there else None for value, there in zip(values, column.present.tolist(), strict=True)]


def _arrow_response(values: Values) -> Response:
    series = [column_to_series(column, name) for name, column in values.columns.items()]
    headers: list[tuple[bytes, bytes]] = [
        (TIME_HEADER.encode(), str(values.time).encode()),
        (BEHIND_HEADER.encode(), in_header(values.behind)),
    ]
    if values.degraded:
        headers.append((DEGRADED_HEADER.encode(), in_header(msgspec.to_builtins(values.degraded))))
    return stream(pl.DataFrame(series), headers)
