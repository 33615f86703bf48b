"""From keys and times to a batch: the one join of features, used by the training loader and by the server.

The loader reads history, the server reads the online store; both are a `Reader`, and everything after the read is here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import numpy as np

from bedplate.batch import Batch, Column
from bedplate.errors import RequestError
from bedplate.features.derived import REQUEST_TIME, DerivedFeature, evaluate
from bedplate.features.graph import Selected
from bedplate.features.view import CompiledView
from bedplate.types import Float32s, Int64s


class Reader(Protocol):
    """Reads the features of a view for keys at times: history or the online store."""

    def read(self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s) -> Mapping[str, Column]:
        """The values of n rows.

        Args:
            view: the compiled view.
            names: full names of features of the view.
            keys: [n, entities] int64.
            times: [n] int64 microseconds; only events with `time + delay < t` count.

        Returns:
            a column of length n for each name.
        """
        ...


@final
@dataclass(frozen=True, slots=True)
class Candidates:
    """R requests with N candidates, without features.

    Attributes:
        request_keys: [R] int64 for each entity of the request, by entity name.
        item: the name of the candidates' entity.
        candidates: [N] int64 keys.
        offsets: [R + 1] int64.
        times: [R] int64 microseconds.
        request_ids: [R] int64.
    """

    request_keys: Mapping[str, Int64s]
    item: str
    candidates: Int64s
    offsets: Int64s
    times: Int64s
    request_ids: Int64s


def assemble(
    selected: Selected,
    reader: Reader,
    rows: Candidates,
    labels: Mapping[str, Float32s] | None = None,
    known: Mapping[str, Column] | None = None,
) -> Batch:
    """A batch with the selected features.

    A view whose entities all belong to the request is read on R rows, any other on N rows; a derived feature is
    computed on R rows when all its inputs are. Each view is read once.

    Args:
        selected: the features.
        reader: history or the online store.
        rows: the requests and their candidates.
        labels: [N] float32 each, by name.
        known: request columns that were made before, by feature; they are not made again.

    Raises:
        RequestError: a view is about an entity that the rows don't have.
    """
    of_item = np.repeat(np.arange(len(rows.times)), np.diff(rows.offsets))
    item_times = rows.times[of_item]
    request: dict[str, Column] = dict(known or {})
    item: dict[str, Column] = {}
    for view, names in selected.views:
        entities = [e.name for e in view.view.entities]
        if all(n in request for n in names):
            continue
        _check_entities(view, entities, rows)
        if rows.item in entities:
            keys = [rows.candidates if e == rows.item else rows.request_keys[e][of_item] for e in entities]
            item.update(reader.read(view, names, np.stack(keys, axis=1), item_times))
        else:
            keys = [rows.request_keys[e] for e in entities]
            request.update(reader.read(view, names, np.stack(keys, axis=1), rows.times))
    left = [d for d in selected.derived if d.name not in request]
    while left:
        of_request = [d for d in left if _inputs(d) <= request.keys()]
        of_items = [d for d in left if d not in of_request and _inputs(d) <= request.keys() | item.keys()]
        if of_request:
            request.update(evaluate(of_request, request, rows.times))
        elif of_items:
            names = {n for d in of_items for n in _inputs(d)}
            columns = {n: item[n] if n in item else request[n].take(of_item) for n in names}
            item.update(evaluate(of_items, columns, item_times))
        left = [d for d in left if d.name not in request and d.name not in item]
    wanted = set(selected.names)
    return Batch(
        request={n: request[n] for n in selected.names if n in request},
        item={n: item[n] for n in item if n in wanted},
        offsets=rows.offsets,
        times=rows.times,
        request_ids=rows.request_ids,
        candidates=rows.candidates,
        labels=labels or {},
    )


def request_level(selected: Selected, item: str) -> Mapping[str, bool]:
    """For each selected feature (and each input of a derived one) whether it is computed once per request."""
    level = {n: all(e.name != item for e in view.view.entities) for view, names in selected.views for n in names}
    for derived in selected.derived:
        level[derived.name] = all(level.get(n, True) for n in derived.inputs)
    return level


def _inputs(derived: DerivedFeature) -> set[str]:
    return {n for n in derived.inputs if n != REQUEST_TIME}


def _check_entities(view: CompiledView, entities: Sequence[str], rows: Candidates) -> None:
    missing = [e for e in entities if e != rows.item and e not in rows.request_keys]
    if missing:
        known = [*rows.request_keys, rows.item]
        raise RequestError(f"needs the entity '{missing[0]}', got {known}", where=view.place)
