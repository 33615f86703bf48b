"""Negatives: candidates that were not chosen, drawn as popular as they were when the request was made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from bedplate.aggregations.base import ExpressionLike, to_expression
from bedplate.arguments import checks_arguments
from bedplate.canonical import digest, expression_form
from bedplate.datasets.checks import check_events, check_kind, check_number, duration_of, id_type
from bedplate.datasets.reading import read_rows
from bedplate.errors import DefinitionError
from bedplate.features.entity import Entity, encode
from bedplate.features.expression import check_condition
from bedplate.sources.base import TIME, Source
from bedplate.types import Int64s, Type, format_duration

ATTEMPTS = 16
"""How many events are drawn for one negative before it is given up; part of the definition's id."""

LOG_Q = "negatives.log_q"
"""The item column with the log sampling probability of each candidate as of the request's time: the log of its share of
the window's events, float32. Not present where it has none; the value there is that of a share of one event more."""
SAMPLED = "negatives.sampled"
"""The boolean item column that says which candidates were drawn rather than chosen."""


@checks_arguments
@final
class Negatives:
    """Negatives of a request at time `t`, drawn from the events of a source with `t - window <= time < t`.

    Each draw takes one of these events uniformly, which makes an item as likely as it was popular in the window. An
    item that the request has already, chosen or drawn, is drawn again, up to `ATTEMPTS` times. A request without events
    in its window gets no negatives. The window is exact: nothing is snapped to a hop.

    Args:
        source: the events.
        item: the entity that is drawn, that of the spine's candidates.
        window: how far back popularity counts.
        per_request: how many for each request; or
        per_positive: how many for each positive of a request, rounded up.
        where: a boolean row expression; other events do not count.

    Raises:
        DefinitionError: an argument does not fit.
    """

    __slots__ = ("item", "per_positive", "per_request", "source", "where", "window")

    def __init__(
        self,
        source: Source,
        item: Entity,
        *,
        window: str = "28d",
        per_request: int | None = None,
        per_positive: float | None = None,
        where: ExpressionLike | None = None,
    ) -> None:
        check_events(source, "negatives")
        self.source = source
        check_kind(item, Entity, f"{self.place}: item")
        self.item = item
        self.window = duration_of(window, f"{self.place}: window")
        self.where = None if where is None else to_expression(where, f"{self.place}: where")
        self.per_request, self.per_positive = per_request, per_positive
        given = [n for n in (per_request, per_positive) if n is not None]
        for part, value in (("per_request", per_request), ("per_positive", per_positive)):
            if value is not None:
                check_number(value, f"{self.place}: {part}", whole=part == "per_request")
        if len(given) != 1 or not given[0] > 0:
            raise DefinitionError(
                f"got per_request={per_request} and per_positive={per_positive}, expected one number above zero",
                where=self.place,
                hint="for example per_request=20, or per_positive=1.0",
            )

    @property
    def place(self) -> str:
        """What a message calls the negatives."""
        return f"negatives of source '{self.source.name}'"

    def wanted(self, positives: Int64s) -> Int64s:
        """How many negatives requests with so many positives want, [R] int64."""
        if self.per_positive is None:
            return np.full(len(positives), self.per_request or 0, np.int64)
        return np.ceil(positives * self.per_positive).astype(np.int64)

    def compile(self, root: Path | None = None) -> CompiledNegatives:
        """The negatives checked against the columns of their source.

        Raises:
            DefinitionError: an unknown column or one of a wrong type.
        """
        return CompiledNegatives(self, root)

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {
            "source": self.source.form(),
            "item": self.item.form(),
            "window": format_duration(self.window),
            "per_request": self.per_request,
            "per_positive": self.per_positive,
            "where": None if self.where is None else expression_form(self.where, self.place),
            "attempts": ATTEMPTS,
        }


@final
@dataclass(frozen=True, slots=True)
class DrawnFrom:
    """Events that negatives are drawn from, in order of time and arrival.

    Attributes:
        times: [n] int64 microseconds, ascending.
        items: [n] int64 keys.
        snapshot: the id of the source's snapshot that was read.
    """

    times: Int64s
    items: Int64s
    snapshot: str


@final
class CompiledNegatives:
    """Negatives checked against their source.

    Attributes:
        negatives: the definition.
        key_type: the type of the item's key in the source.
        id: the hash of the definition, of the cleaning step and of the key's type.
    """

    __slots__ = ("_root", "id", "key_type", "negatives")

    def __init__(self, negatives: Negatives, root: Path | None) -> None:
        self.negatives, self._root = negatives, root
        source = negatives.source
        schema = source.schema(root)
        check_condition(negatives.where, schema, negatives.place)
        self.key_type: Type = id_type(negatives.item.key, schema, source, negatives.place)
        self.id = digest([negatives.form(), source.prepare_id(root), self.key_type.value])

    def read(self) -> DrawnFrom:
        """The events that negatives are drawn from.

        Raises:
            DataError: rows that can't be read, a row without time or item; the table was changed while it was read.
        """
        negatives = self.negatives
        frame, snapshot = read_rows(
            negatives.source, self._root, negatives.where, {"item": negatives.item.key}, negatives.place
        )
        times = np.ascontiguousarray(frame[TIME].to_numpy())
        order = np.argsort(times, kind="stable")
        return DrawnFrom(times[order], encode(frame["item"])[order], snapshot)
