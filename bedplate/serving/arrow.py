"""Arrow IPC streams in requests and answers: when they are meant, and how answers of a service are written as such."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import polars as pl

from bedplate.errors import RequestError
from bedplate.http.message import JSON, Request, Response
from bedplate.serving.answers import Answer, Similar, Vectors
from bedplate.serving.arrow_check import TooManyRowsError, check_stream
from bedplate.serving.service import Service
from bedplate.types import Type

_WEIGHT = re.compile(rb"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
ARROW = b"application/vnd.apache.arrow.stream"
TIME_HEADER = "Bedplate-Time"
"""As of when: of an Arrow request for features, and of every answer in Arrow."""
DEGRADED_HEADER = "Bedplate-Degraded"
"""What is not as it should be in an answer in Arrow, as JSON."""
BEHIND_HEADER = "Bedplate-Behind"
"""How far each view is behind in an answer in Arrow, seconds by view, as JSON."""
REQUEST_HEADER = "Bedplate-Request"
"""The fields of a `rank` request in Arrow beside `candidates`, as JSON."""
ANSWER_HEADER = "Bedplate-Answer"
"""The fields of an answer in Arrow that are of no single item, as JSON."""
CANDIDATES = "candidates"
"""The column of a `rank` request in Arrow."""


def is_arrow(request: Request) -> bool:
    """Whether the body is an Arrow IPC stream."""
    return request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == ARROW


def wants_arrow(request: Request) -> bool:
    """Whether the answer is to be one, and not JSON: the client prefers it, or names it and has no preference."""
    accept = request.headers.get(b"accept", b"").lower()
    if accept in (b"", b"*/*", JSON):
        return False
    weights = _weights(accept)
    arrow, json_ = _weight(weights, ARROW), _weight(weights, JSON)
    return arrow > json_ or (arrow == json_ > 0 and ARROW in weights)


def _weights(accept: bytes) -> dict[bytes, float]:
    """The weight of each media range of an Accept header; those that are malformed are left out.

    >>> _weights(b"application/json;q=0.5, */* ; q=0, text/html;q=2, a/b")
    {b'application/json': 0.5, b'*/*': 0.0, b'a/b': 1.0}
    """
    found: dict[bytes, float] = {}
    for part in accept.split(b","):
        name, *parameters = [text.strip() for text in part.split(b";")]
        given = next((p[2:] for p in parameters if p.startswith(b"q=")), b"1")
        if _WEIGHT.fullmatch(given):
            found[name] = float(given)
    return found


def _weight(weights: Mapping[bytes, float], media: bytes) -> float:
    """Of a media type, by the closest of the ranges that it is in; 0: it is not acceptable."""
    ranges = (media, media.partition(b"/")[0] + b"/*", b"*/*")
    return next((weights[name] for name in ranges if name in weights), 0.0)


def read_stream(body: bytes, most_rows: int) -> pl.DataFrame:
    """The table in a stream.

    Raises:
        RequestError: it is none, is compressed, or has more rows than a request may.
    """
    check_stream(body, most_rows)
    try:
        return pl.read_ipc_stream(io.BytesIO(body))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise RequestError(f"not an Arrow IPC stream: {str(error)[:200]}", where="body") from None


def read_candidates(body: bytes, most: int) -> pl.DataFrame:
    """The table of a `rank` request in a stream.

    Raises:
        RequestError: as of `read_stream`; more rows than a service takes candidates are what they are in JSON.
    """
    try:
        return read_stream(body, most)
    except TooManyRowsError as error:
        raise RequestError(error.message, where=f"column '{CANDIDATES}'") from None


def plain_keys(series: pl.Series) -> pl.Series:
    """Keys that another language wrote: narrower integers, and texts in a dictionary."""
    if series.dtype.is_integer() and series.dtype != pl.UInt64:
        return series.cast(pl.Int64)
    return series.cast(pl.String) if isinstance(series.dtype, pl.Categorical | pl.Enum) else series


_MOST_LEFT = 100
"""Unknown items in a header: more are more than clients read."""


def stream(frame: pl.DataFrame, headers: Sequence[tuple[bytes, bytes]] = ()) -> Response:
    """An answer of one record batch."""
    out = io.BytesIO()
    frame.write_ipc_stream(out, compat_level=pl.CompatLevel.oldest())
    return Response(200, out.getvalue(), ARROW, tuple(headers))


def answer_stream(answer: Answer | Vectors | Similar, service: Service, kind: Type) -> Response:
    """An answer: its items as rows, all else in headers.

    Columns: `id`, `score`, and where the answer has them `source`, `propensity` and `unknown`, whether the store knows
    nothing of the item; of vectors `vector` alone. Unknown items that are no rows are in the header, at most 100. An
    answer without items has the columns, and their types, of one that has some.

    Args:
        answer: to write.
        service: that answers.
        kind: of the items' keys.
    """
    return stream(pl.DataFrame(_series(answer, service, kind)), _headers(answer, service.item))


def _series(answer: Answer | Vectors | Similar, service: Service, kind: Type) -> list[pl.Series]:
    if isinstance(answer, Vectors):
        return [pl.Series("vector", list(answer.vectors), dtype=pl.List(pl.Float32))]
    ids = pl.Series("id", list(answer.ids), dtype=pl.String if kind is Type.STRING else pl.Int64)
    found = [ids, pl.Series("score", list(answer.scores), dtype=pl.Float32)]
    if isinstance(answer, Similar):
        return found
    gives_none = answer.reason is not None  # an answer of `recommend` without items
    if answer.sources or (gives_none and len(service.sources) > 1):
        found.append(pl.Series("source", list(answer.sources), dtype=pl.String))
    if answer.propensities or (gives_none and service.exploration is not None):
        found.append(pl.Series("propensity", list(answer.propensities), dtype=pl.Float64))
    if service.item in answer.unknown:
        unknown = set(answer.unknown[service.item])
        found.append(pl.Series("unknown", [key in unknown for key in answer.ids], dtype=pl.Boolean))
    return found


def _headers(answer: Answer | Vectors | Similar, item: str) -> list[tuple[bytes, bytes]]:
    shown: dict[str, Any] = msgspec.to_builtins(answer)
    of_items = ("ids", "scores", "sources", "propensities", "vectors")
    rest = {name: value for name, value in shown.items() if name not in of_items}
    if isinstance(answer, Answer) and item in answer.unknown:  # as many as candidates: a column has room for them
        shown_in = set(answer.ids)
        left = [key for key in answer.unknown[item] if key not in shown_in][:_MOST_LEFT]
        rest["unknown"] = {name: keys for name, keys in answer.unknown.items() if name != item}
        rest["unknown"] |= {item: left} if left else {}
        rest = {name: value for name, value in rest.items() if value != {}}
    found = [(ANSWER_HEADER.encode(), in_header(rest))]
    if "time" in shown:
        found.append((TIME_HEADER.encode(), str(shown["time"]).encode()))
    if "behind_seconds" in shown:
        found.append((BEHIND_HEADER.encode(), in_header(shown["behind_seconds"])))
    if "degraded" in shown:
        found.append((DEGRADED_HEADER.encode(), in_header(shown["degraded"])))
    return found


def in_header(value: Mapping[str, Any]) -> bytes:
    """JSON in ASCII, as a header must be."""
    return json.dumps(value, separators=(",", ":")).encode()
