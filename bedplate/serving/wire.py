"""What a client and a service say to each other: typed JSON, built from the service's entities and checked on reading.

    recommend  {"customer": 17850, "count": 20, "time": "2011-12-01T09:00:00", "exclude": ["POST"], "trace": true}
    rank       {"customer": 17850, "candidates": ["85123A", "22423"]}
    embed      {"customer": 17850} or {"items": ["85123A", "22423"]}
    similar    {"item": "85123A", "count": 20, "exclude": ["22423"]}

Only the keys of the request's entities (and `candidates`) are required. Keys are integers or strings, as the entity's.
Context of the request, such as a query, is a field of its name: `{"customer": 17850, "query": "red mug"}`.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, final

import msgspec
import numpy as np
import polars as pl

from bedplate.batch import Column
from bedplate.canonical import string_ids
from bedplate.clock import Clock
from bedplate.errors import ConfigError, DataError, DefinitionError, RequestError, nearest
from bedplate.features.context import Context
from bedplate.features.entity import encode_keys as encode_series
from bedplate.malformed import example_of, got_at, reason_of, with_got
from bedplate.serving.answers import Answer, Key, empty_reason
from bedplate.serving.arrow import CANDIDATES, plain_keys
from bedplate.serving.context import ContextFields
from bedplate.serving.service import Service
from bedplate.serving.steps import MOST, Given
from bedplate.texts import Remembered
from bedplate.types import DAY, LATEST_TIME, Int64s, Type, parse_time

__all__ = ["KEY_TYPES", "Answer", "Asked", "Key", "Wire", "decode", "decode_time", "empty_reason", "encode_keys"]

_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_YEAR = 365 * DAY

_RESERVED = ("candidates", "count", "exclude", "time", "trace")
_SEED_BITS = 53
"""Of a seed: an integer that every language's JSON keeps."""
KEY_TYPES: dict[Type, Any] = {
    Type.INT: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    Type.STRING: Annotated[str, msgspec.Meta(max_length=1024)],
}
"""How keys are written in JSON."""


class Asked(msgspec.Struct):
    """A decoded request.

    Attributes:
        given: the key of each entity of the request, as the client wrote it.
        keys: the same as [1] int64 each.
        time: microseconds.
        items: the candidates of `rank`, or what `recommend` leaves out, as the client wrote them.
        item_keys: the same as [n] int64.
        count: how many items `recommend` gives.
        trace: whether the answer says how long each step took.
        context: columns [1] of the context that the client sent, by full name.
        candidates: what a client of `recommend` gives as candidates, as it wrote them.
        candidate_keys: the same as [n] int64.
        seed: of what is drawn for this request.
        deadline: when the answer is of no more use to the client, on the monotonic clock.
    """

    given: dict[str, Key]
    keys: dict[str, Int64s]
    time: int
    items: list[Key]
    item_keys: Int64s
    count: int
    trace: bool
    context: Mapping[str, Column] = {}
    candidates: list[Key] = []
    candidate_keys: Int64s = msgspec.field(default_factory=lambda: np.zeros(0, np.int64))
    seed: int = 0
    deadline: float = math.inf


class ItemsAsked(msgspec.Struct):
    """A decoded request for the vectors of items.

    Attributes:
        keys: [n] int64.
    """

    keys: Int64s


class SimilarAsked(msgspec.Struct):
    """A decoded request for the items nearest to one.

    Attributes:
        item: as the client wrote it.
        key: the same as int64.
        count: how many.
        without: [n] keys that are left out.
    """

    item: Key
    key: int
    count: int
    without: Int64s


@final
class Wire:
    """Reads the requests of a service.

    Args:
        service: the definition.
        entities: the entities of the request and the type of their keys.
        item: the type of the candidates' keys.
        clock: gives the time of a request that says none.
        contexts: the context that the service's features need.

    Attributes:
        entities: as given.
        item: as given.

    Raises:
        DefinitionError: an entity, or context, has the name of another field of a request.
    """

    __slots__ = ("_clock", "_context", "_decoders", "_rest", "_service", "entities", "item")

    def __init__(
        self,
        service: Service,
        entities: Mapping[str, Type],
        item: Type,
        clock: Clock,
        contexts: Sequence[Context] = (),
    ) -> None:
        self._service, self._clock = service, clock
        self.entities: Mapping[str, Type] = dict(entities)
        self.item = item
        self._context = ContextFields(contexts)
        reserved = (*_RESERVED, "seed") if service.exploration is not None else _RESERVED
        for called, names, taken in (
            ("entity", list(entities), reserved),
            ("context", [c.name for c in contexts], (*reserved, *entities)),
        ):
            for name in names:
                if name in taken:
                    raise DefinitionError(
                        f"{called} '{name}' has the name of a field of a request", where=service.place, hint="rename it"
                    )
        fields = self._fields()
        self._decoders = {name: _decoder(name, of_request) for name, of_request in fields.items()}
        self._rest = _decoder("rank", [field for field in fields["rank"] if field[0] != CANDIDATES])

    def _fields(self) -> dict[str, list[Any]]:
        """The fields of each request."""
        service = self._service
        keys: list[Any] = [(name, KEY_TYPES[kind]) for name, kind in self.entities.items()]
        common: list[Any] = [*self._context.fields(), ("time", int | str | None, None), ("trace", bool, False)]
        count: Any = Annotated[int, msgspec.Meta(ge=1, le=max(1, service.most))]
        item: Any = KEY_TYPES[self.item]
        limited: Any = Annotated[list[item], msgspec.Meta(max_length=service.most_candidates)]
        found: dict[str, list[Any]] = {"rank": [*keys, ("candidates", limited), *common]}
        if service.sources:
            more: list[Any] = []
            for source in service.sources:
                if isinstance(source, Given):
                    more.append(("candidates", Annotated[list[item], msgspec.Meta(max_length=source.count)], []))
            if service.exploration is not None:
                seed: Any = Annotated[int, msgspec.Meta(ge=0, lt=2**_SEED_BITS)]
                more.append(("seed", seed | None, None))
            exclude: Any = ("exclude", Annotated[list[item], msgspec.Meta(max_length=MOST)], [])
            found["recommend"] = [*keys, ("count", count, service.top), exclude, *more, *common]
            if service.index is not None:
                most: Any = Annotated[int, msgspec.Meta(ge=1, le=MOST)]
                found["embed"] = [*keys, *common]
                found["embed_items"] = [("items", limited)]
                found["similar"] = [("item", item), ("count", most, service.top), exclude]
        return found

    def recommend(self, body: bytes) -> Asked:
        """Reads a `recommend` request.

        Raises:
            RequestError: it is not JSON of the form above; says where.
        """
        asked = self._decode("recommend", body)
        found = self._asked(asked, asked.exclude, asked.count)
        given: list[Key] = getattr(asked, "candidates", [])
        if given:
            found.candidates, found.candidate_keys = given, encode_keys(given, self.item)
        if self._service.exploration is not None:
            found.seed = secrets.randbits(_SEED_BITS) if asked.seed is None else asked.seed
        return found

    def rank(self, body: bytes) -> Asked:
        """Reads a `rank` request.

        Raises:
            RequestError: it is not JSON of the form above; says where.
        """
        asked = self._decode("rank", body)
        return self._asked(asked, asked.candidates, len(asked.candidates))

    def rank_table(self, rest: bytes, table: pl.DataFrame) -> Asked:
        """Reads a `rank` request whose candidates are a column.

        Args:
            rest: the other fields, as JSON.
            table: the column `candidates`.

        Raises:
            RequestError: the fields are not of the form above, or the column is another one, or holds no keys.
        """
        asked = decode(self._rest, rest)
        if table.columns != [CANDIDATES]:
            raise RequestError(f"got the columns {table.columns}, expected ['{CANDIDATES}']", where="body")
        column = plain_keys(table[CANDIDATES])
        try:
            keys = encode_series(column, self.item, CANDIDATES)
        except DataError as error:
            raise RequestError(error.message, where=f"column '{CANDIDATES}'", hint=error.hint) from None
        return self._asked(asked, column.to_list(), len(keys), keys)

    def embed(self, body: bytes) -> Asked | ItemsAsked:
        """Reads an `embed` request: of a request, or of items.

        Raises:
            RequestError: it is not JSON of the form above; says where.
        """
        self._decoder_of("embed")
        if "items" in self.entities or not _has_field(body, "items"):
            return self._asked(self._decode("embed", body), [], 0)
        items: list[Key] = self._decode("embed_items", body).items
        return ItemsAsked(encode_keys(items, self.item))

    def similar(self, body: bytes) -> SimilarAsked:
        """Reads a `similar` request.

        Raises:
            RequestError: it is not JSON of the form above; says where.
        """
        asked = self._decode("similar", body)
        key = int(encode_keys([asked.item], self.item)[0])
        return SimilarAsked(asked.item, key, asked.count, encode_keys(asked.exclude, self.item))

    def _decode(self, name: str, body: bytes) -> Any:
        return decode(self._decoder_of(name), body, limits=lambda: self._limits(name))

    def _limits(self, name: str) -> Mapping[str, str]:
        """Which part of the service's definition says how large a field of a request may be."""
        most_candidates = "the service's most_candidates says how many"
        if name == "rank":
            return {"candidates": most_candidates}
        if name == "embed_items":
            return {"items": most_candidates}
        if name != "recommend":
            return {}
        bring = f"the sources of the service bring {self._service.most:,} in all: the count of each says how many"
        return {"count": bring, "candidates": "the count of the service's Given says how many"}

    def _decoder_of(self, name: str) -> msgspec.json.Decoder[Any]:
        if name not in self._decoders:
            lacks, instead = ("candidates", "send them to /rank") if name == "recommend" else ("index", None)
            raise RequestError(f"this service has no retrieval, {lacks}", hint=instead)
        return self._decoders[name]

    def now(self) -> int:
        """The time now, microseconds."""
        return self._clock()

    @property
    def types(self) -> dict[str, Any]:
        """The form of each request, by name."""
        return {name: decoder.type for name, decoder in self._decoders.items()}

    def describe(self) -> dict[str, Any]:
        """The requests as JSON Schema, by name."""
        return {name: msgspec.json.schema(decoder.type) for name, decoder in self._decoders.items()}

    def _asked(self, asked: Any, items: list[Key], count: int, item_keys: Int64s | None = None) -> Asked:
        given: dict[str, Key] = {name: getattr(asked, name) for name in self.entities}
        keys = {name: encode_keys([key], self.entities[name]) for name, key in given.items()}
        time = self._clock() if asked.time is None else decode_time(asked.time)
        of_items = encode_keys(items, self.item) if item_keys is None else item_keys
        found = Asked(given, keys, time, items, of_items, count, asked.trace)
        if self._context:
            found.context = self._context.columns(asked)
        return found


def encode_keys(keys: Sequence[Any], kind: Type) -> Int64s:
    """The int64 form [n] of n checked keys.

    >>> encode_keys([7, 9], Type.INT).tolist()
    [7, 9]
    """
    if kind is Type.STRING:
        return np.fromiter(map(_STRING_IDS.__getitem__, keys), np.int64, len(keys))
    return np.array(keys, np.int64)


# A hash takes a microsecond, and the same items come with every request.
_STRING_IDS = Remembered(
    lambda text: string_ids([text])[0], lambda _: 36, most_bytes=64 * 1024 * 1024, most_of_one=1024
)


def _decoder(name: str, fields: list[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True))


def _has_field(body: bytes, name: str) -> bool:
    try:
        return name in msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False  # what is wrong is said when it is decoded


def decode(
    decoder: msgspec.json.Decoder[Any],
    body: bytes,
    example: Callable[[], str] | None = None,
    limits: Callable[[], Mapping[str, str]] | None = None,
) -> Any:
    """A request's body.

    Args:
        decoder: of its form.
        body: JSON.
        example: gives one that is right; None: one with the fields that must be there.
        limits: gives of fields that may be too large, by name, what says how large they may be.

    Raises:
        RequestError: it is not JSON of the decoder's type; says where.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message, _, at = str(error).partition(" - at ")
        path = at.strip("`") or "$"
        if limits is not None and "<= " in message:
            hint = limits().get(path.removeprefix("$."))
        else:
            hint = _field_hint(message, decoder)
        raise RequestError(with_got(message, lambda: got_at(body, path)), where=path, hint=hint) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        right = example_of(decoder.type) if example is None else example()
        raise RequestError(f"not JSON: {reason_of(error, body)}", hint=f"for example {right}") from error


def _field_hint(message: str, decoder: msgspec.json.Decoder[Any]) -> str | None:
    """What to do about a field that is not known or not there."""
    fields = {f.name: f.required for f in msgspec.structs.fields(decoder.type)}
    if unknown := _UNKNOWN.fullmatch(message):
        near = nearest(unknown[1], fields)
        return (f"did you mean '{near}'? " if near else "") + f"expected fields: {', '.join(fields)}"
    if "missing required field" in message:
        return f"required: {', '.join(name for name, required in fields.items() if required)}"
    return None


def decode_time(value: int | str) -> int:
    """Microseconds of the time of a request: an integer, or a text as of `types.parse_time`.

    Integers of the first year are refused: they are seconds or milliseconds, of which no feature would have a value.

    Raises:
        RequestError: it is none.
    """
    if isinstance(value, int) and not _YEAR <= value < LATEST_TIME:
        raise RequestError(
            f"got {value}, expected microseconds since the epoch, from 1971 to 2199",
            where="$.time",
            hint="not seconds or milliseconds; a text such as 2011-12-01T09:00:00 does too",
        )
    try:
        return parse_time(value, "$.time")
    except ConfigError as error:
        raise RequestError(error.message, where="$.time", hint=error.hint) from error
