"""What a client and a service say to each other: typed JSON, built from the service's entities and checked on reading.

    recommend  {"customer": 17850, "count": 20, "time": "2011-12-01T09:00:00", "exclude": ["POST"], "trace": true}
    rank       {"customer": 17850, "candidates": ["85123A", "22423"]}

Only the keys of the request's entities (and `candidates`) are required. Keys are integers or strings, as the entity's.
Context of the request, such as a query, is a field of its name: `{"customer": 17850, "query": "red mug"}`.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias, final

import msgspec
import numpy as np

from bedplate.batch import Column
from bedplate.canonical import string_ids
from bedplate.clock import Clock
from bedplate.errors import ConfigError, DefinitionError, RequestError
from bedplate.features.context import Context
from bedplate.online.fallback import Degraded
from bedplate.serving.context import ContextFields
from bedplate.serving.service import Service
from bedplate.types import DAY, LATEST_TIME, Int64s, Type, parse_time

Key: TypeAlias = int | str

_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_YEAR = 365 * DAY

_RESERVED = ("candidates", "count", "exclude", "time", "trace")
KEY_TYPES: dict[Type, Any] = {
    Type.INT: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    Type.STRING: Annotated[str, msgspec.Meta(max_length=1024)],
}
"""How keys are written in JSON."""


class Answer(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The answer to `recommend` and `rank`.

    Attributes:
        ids: of the items: best first, or in the order of the candidates.
        scores: the ranking model's, one for each id. JSON has no NaN: a score that is none is null.
        models: the version of each model that took part, by its part.
        time: the time that the features are of, microseconds.
        unknown: keys of which the store knows nothing, by entity: no feature of theirs has a value other than zero.
        reason: why `recommend` gives no item, where it gives none; see `empty_reason`.
        degraded: the views whose values are not as they should be, because the store is slow, down or behind.
        trace: the milliseconds of each step, where the request asks.
    """

    ids: Sequence[Key]
    scores: Sequence[float | None]
    models: Mapping[str, str]
    time: int
    unknown: dict[str, list[Key]] = {}
    reason: str | None = None
    degraded: dict[str, Degraded] = {}
    trace: dict[str, float] | None = None


def empty_reason(items: int, candidates: int) -> str:
    """Why an answer of `recommend` holds nothing.

    Args:
        items: how many the catalogue has.
        candidates: how many of them were retrieved, those that are excluded left out.

    >>> empty_reason(500, 200), empty_reason(500, 0)
    ('the filters let none of 200 candidates through', 'all 500 items of the catalogue are excluded')
    """
    if candidates:
        return f"the filters let none of {candidates:,} candidates through"
    return f"all {items:,} items of the catalogue are excluded" if items else "the catalogue holds no item"


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
    """

    given: dict[str, Key]
    keys: dict[str, Int64s]
    time: int
    items: list[Key]
    item_keys: Int64s
    count: int
    trace: bool
    context: Mapping[str, Column] = {}


@final
class Wire:
    """Reads the requests of a service.

    Args:
        service: the definition.
        entities: the entities of the request and the type of their keys.
        item: the type of the candidates' keys.
        clock: gives the time of a request that says none.
        contexts: the context that the service's features need.

    Raises:
        DefinitionError: an entity, or context, has the name of another field of a request.
    """

    __slots__ = ("_clock", "_context", "_entities", "_item", "_rank", "_recommend", "_service")

    def __init__(
        self,
        service: Service,
        entities: Mapping[str, Type],
        item: Type,
        clock: Clock,
        contexts: Sequence[Context] = (),
    ) -> None:
        self._service, self._entities, self._item, self._clock = service, dict(entities), item, clock
        self._context = ContextFields(contexts)
        for called, names, taken in (
            ("entity", list(entities), _RESERVED),
            ("context", [c.name for c in contexts], (*_RESERVED, *entities)),
        ):
            for name in names:
                if name in taken:
                    raise DefinitionError(
                        f"{called} '{name}' has the name of a field of a request", where=service.place, hint="rename it"
                    )
        keys: list[tuple[str, Any]] = [(name, KEY_TYPES[kind]) for name, kind in entities.items()]
        common: list[Any] = [*self._context.fields(), ("time", int | str | None, None), ("trace", bool, False)]
        most = service.retrieval.count if service.retrieval is not None else 1
        item_keys: Any = list[KEY_TYPES[item]]
        count: Any = Annotated[int, msgspec.Meta(ge=1, le=most)]
        recommend: list[Any] = [*keys, ("count", count, service.top), ("exclude", item_keys, []), *common]
        self._recommend = _decoder("recommend", recommend)
        limited: Any = Annotated[item_keys, msgspec.Meta(max_length=service.most_candidates)]
        self._rank = _decoder("rank", [*keys, ("candidates", limited), *common])

    def recommend(self, body: bytes) -> Asked:
        """Reads a `recommend` request.

        Raises:
            RequestError: it is not JSON of the form above; says where.
        """
        asked = decode(self._recommend, body)
        return self._asked(asked, asked.exclude, asked.count)

    def rank(self, body: bytes) -> Asked:
        """Reads a `rank` request.

        Raises:
            RequestError: it is not JSON of the form above; says where.
        """
        asked = decode(self._rank, body)
        return self._asked(asked, asked.candidates, len(asked.candidates))

    def now(self) -> int:
        """The time now, microseconds."""
        return self._clock()

    def describe(self) -> dict[str, Any]:
        """The requests as JSON Schema, by name."""
        shown = {"rank": self._rank} | ({"recommend": self._recommend} if self._service.retrieval else {})
        return {name: msgspec.json.schema(decoder.type) for name, decoder in shown.items()}

    def _asked(self, asked: Any, items: list[Key], count: int) -> Asked:
        given: dict[str, Key] = {name: getattr(asked, name) for name in self._entities}
        keys = {name: encode_keys([key], self._entities[name]) for name, key in given.items()}
        time = self._clock() if asked.time is None else decode_time(asked.time)
        found = Asked(given, keys, time, items, encode_keys(items, self._item), count, asked.trace)
        if self._context:
            found.context = self._context.columns(asked)
        return found


def encode_keys(keys: Sequence[Any], kind: Type) -> Int64s:
    """The int64 form [n] of n checked keys.

    >>> encode_keys([7, 9], Type.INT).tolist()
    [7, 9]
    """
    if kind is Type.STRING:
        return np.fromiter(map(_string_id, keys), np.int64, len(keys))
    return np.array(keys, np.int64)


# A hash takes a microsecond, and the same items come with every request.
@functools.lru_cache(maxsize=1 << 18)
def _string_id(text: str) -> int:
    return string_ids([text])[0]


def _decoder(name: str, fields: list[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True))


def decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """A request's body.

    Raises:
        RequestError: it is not JSON of the decoder's type; says where.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at ")
        raise RequestError(message, where=path.strip("`") or "$", hint=_field_hint(message, decoder)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"not JSON: {error}", hint='for example {"customer": 17850}') from error


def _field_hint(message: str, decoder: msgspec.json.Decoder[Any]) -> str | None:
    """What to do about a field that is not known or not there."""
    fields = {f.name: f.required for f in msgspec.structs.fields(decoder.type)}
    if unknown := _UNKNOWN.fullmatch(message):
        near = difflib.get_close_matches(unknown[1], fields, n=1)
        return (f"did you mean '{near[0]}'? " if near else "") + f"expected fields: {', '.join(fields)}"
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
