"""The spine: the requests of a dataset, when they were made, and what was chosen in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import polars as pl

from bedplate.aggregations.base import ExpressionLike, to_expression
from bedplate.arguments import checks_arguments
from bedplate.batch import CANDIDATE, KEY, REQUEST_ID, Ids, Ragged, TextLookup
from bedplate.canonical import digest, expression_form
from bedplate.datasets.checks import check_events, check_kind, id_type
from bedplate.datasets.context import SpineContext
from bedplate.datasets.listed import first_of_each
from bedplate.datasets.reading import read_rows
from bedplate.datasets.texts import ReadTexts
from bedplate.errors import DataError, DefinitionError
from bedplate.features.assemble import Candidates
from bedplate.features.context import Context
from bedplate.features.entity import Entity, encode, entities_of
from bedplate.features.expression import check_condition
from bedplate.sources.base import TIME, Source
from bedplate.types import Array, Int64s, Type


@checks_arguments
@final
class Spine:
    """The rows of a source grouped into requests.

    Rows with the same value in the column `request` are one request: an order with its lines, a page with its
    impressions. Its time is the earliest time of its rows, also where they have several, so that no feature of it sees
    any of them. Each row is a positive candidate; the same one twice in a request counts once, the first row's place.

    Args:
        source: the rows.
        request: the column that identifies a request; integers or strings.
        entities: whose request it is, one key each for the whole request.
        item: the entity of the candidates.
        where: a boolean row expression; other rows are not part of the spine.

    Raises:
        DefinitionError: an argument does not fit, or the item is one of the request's entities.
    """

    __slots__ = ("entities", "item", "request", "source", "where")

    def __init__(
        self,
        source: Source,
        *,
        request: str,
        entities: Entity | Sequence[Entity],
        item: Entity,
        where: ExpressionLike | None = None,
    ) -> None:
        check_events(source, "spine")
        self.source = source
        check_kind(request, str, f"{self.place}: request")
        self.request = request
        self.entities = entities_of(entities, f"{self.place}: entities")
        check_kind(item, Entity, f"{self.place}: item")
        self.item = item
        self.where = None if where is None else to_expression(where, f"{self.place}: where")
        if item.name in {e.name for e in self.entities}:
            raise DefinitionError(f"the item '{item.name}' is also an entity of the request", where=self.place)

    @property
    def place(self) -> str:
        """What a message calls the spine."""
        return f"spine of source '{self.source.name}'"

    def compile(self, root: Path | None = None, contexts: Sequence[Context] = ()) -> CompiledSpine:
        """The spine checked against the columns of its source, those of the context that is wanted of it too.

        Raises:
            DefinitionError: an unknown column or one of a wrong type.
        """
        return CompiledSpine(self, root, contexts)

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {
            "source": self.source.form(),
            "request": self.request,
            "entities": [e.form() for e in self.entities],
            "item": self.item.form(),
            "where": None if self.where is None else expression_form(self.where, self.place),
        }


@final
@dataclass(frozen=True, slots=True)
class Requests:
    """All requests of a spine in order of time (and, at equal times, of their first rows).

    Attributes:
        rows: R requests with their P positive candidates, in the order of the source's rows.
        duplicates: [R] int64, how many candidates were left out because they came twice.
        item_texts: the text behind each candidate, where items are strings.
        snapshot: the id of the source's snapshot that was read.
    """

    rows: Candidates
    duplicates: Int64s
    item_texts: TextLookup | None
    snapshot: str


@final
class CompiledSpine:
    """A spine checked against its source.

    Attributes:
        spine: the definition.
        id: the hash of the definition, of the cleaning step, of the types, and of where the context is.
        request_type: the type of the requests' ids.
    """

    __slots__ = ("_context", "_kinds", "_root", "id", "request_type", "spine")

    def __init__(self, spine: Spine, root: Path | None, contexts: Sequence[Context] = ()) -> None:
        self.spine, self._root = spine, root
        self._context = SpineContext(contexts, spine.source, spine.source.schema(root), spine.place)
        schema = spine.source.schema(root)
        check_condition(spine.where, schema, spine.place)
        self.request_type = id_type(spine.request, schema, spine.source, f"{spine.place}: request")
        entities = (*spine.entities, spine.item)
        self._kinds = {e.name: id_type(e.key, schema, spine.source, spine.place) for e in entities}
        kinds = [self.request_type, *self._kinds.values()]
        form: list[Any] = [spine.form(), spine.source.prepare_id(root), [k.value for k in kinds]]
        self.id = digest([*form, self._context.form()] if contexts else form)

    def key_types(self) -> Mapping[str, Type]:
        """The type of each entity's key, the item's included."""
        return self._kinds

    def read(self) -> Requests:
        """The requests of the whole source.

        Raises:
            DataError: rows that can't be read, a row without time, request or key; a request with two different keys of
                an entity or values of context; the table was changed while it was read.
        """
        spine = self.spine
        columns = {"request": spine.request, "item": spine.item.key} | {f"key {e.name}": e.key for e in spine.entities}
        others = self._context.expressions
        return self._grouped(*read_rows(spine.source, self._root, spine.where, columns, spine.place, others))

    def texts(self, requests: Requests) -> Mapping[str, TextLookup]:
        """The texts behind ids of strings as `Batch.texts` has them; those of requests and their keys are read late.

        Args:
            requests: what was read. A later look at the texts raises `DataError` where the source has changed since.
        """
        spine = self.spine
        columns = {REQUEST_ID: (spine.request, self.request_type)}
        columns |= {f"{KEY}{e.name}": (e.key, self._kinds[e.name]) for e in spine.entities}
        found: dict[str, TextLookup] = {
            name: ReadTexts(partial(self._read_texts, column, requests.snapshot))
            for name, (column, kind) in columns.items()
            if kind is Type.STRING
        }
        return found if requests.item_texts is None else found | {CANDIDATE: requests.item_texts}

    def _read_texts(self, column: str, snapshot: str) -> pl.Series:
        spine = self.spine
        frame, now = read_rows(spine.source, self._root, spine.where, {"text": column}, spine.place)
        if now != snapshot:
            raise DataError(
                "the source was changed since the dataset was loaded: the texts of its keys can't be told",
                where=f"{spine.place}, column '{column}'",
                hint="load the dataset anew",
            )
        return frame["text"]

    def _grouped(self, frame: pl.DataFrame, snapshot: str) -> Requests:
        spine = self.spine
        texts: dict[int, str] | None = {} if self._kinds[spine.item.name] is Type.STRING else None
        items, times = encode(frame["item"], texts), np.ascontiguousarray(frame[TIME].to_numpy())
        ids, codes = np.unique(encode(frame["request"]), return_inverse=True)
        by_request = np.argsort(codes, kind="stable")
        starts: Int64s = np.searchsorted(codes[by_request], np.arange(len(ids)))
        keys = {e.name: self._one_key(frame, e, by_request, starts) for e in spine.entities}
        context = self._context.columns(frame, by_request, starts, spine.request)
        request_times = reduce_groups(np.minimum, times[by_request], starts)
        order = np.lexsort((by_request[starts], request_times))
        bounds = np.append(starts, len(items))
        kept = first_of_each(items[by_request], bounds)
        counts = reduce_groups(np.add, kept.astype(np.int64), starts)
        lengths = np.diff(bounds)
        lists = Ragged(Ids(items[by_request][kept]), np.concatenate(([0], np.cumsum(counts)))).take(order)
        rows = Candidates(
            request_keys={n: k[order] for n, k in keys.items()},
            item=spine.item.name,
            candidates=lists.values.values,
            offsets=lists.offsets,
            times=request_times[order],
            request_ids=ids[order],
            context={n: c.take(order) for n, c in context.items()},
        )
        return Requests(rows, (lengths - counts)[order], texts, snapshot)

    def _one_key(self, frame: pl.DataFrame, entity: Entity, by_request: Int64s, starts: Int64s) -> Int64s:
        """[R]: the key of each request, which must have only one."""
        values = encode(frame[f"key {entity.name}"])[by_request]
        low, high = reduce_groups(np.minimum, values, starts), reduce_groups(np.maximum, values, starts)
        if (low != high).any():
            first = frame["request"][int(by_request[starts[np.argmax(low != high)]])]
            raise DataError(
                f"{np.count_nonzero(low != high):,} requests have rows of more than one {entity.name}, "
                f"the first is {self.spine.request} {first!r}",
                where=f"{self.spine.place}, column '{entity.key}'",
                hint="choose a request column that tells them apart, or filter such rows in the prepare step",
            )
        return low


def reduce_groups(function: np.ufunc, values: Array, starts: Int64s) -> Array:
    """The values of each group reduced; group i begins at `starts[i]` and none is empty.

    >>> reduce_groups(np.add, np.array([1, 2, 3]), np.array([0, 2])).tolist()
    [3, 3]
    """
    return function.reduceat(values, starts) if len(starts) else values[:0]
