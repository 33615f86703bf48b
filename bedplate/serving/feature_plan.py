"""Features for keys as of now: what a list of features needs is worked out once and kept."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np

from bedplate.batch import Column
from bedplate.clock import Clock, system_clock
from bedplate.errors import DataError, DefinitionError, NotFoundError, RequestError, StoreError, suggest
from bedplate.features.graph import FeatureGraph, Selected
from bedplate.features.lookup import asked_features, given_context, lookup
from bedplate.features.model import Scorers
from bedplate.features.view import CompiledView
from bedplate.inference.time_limit import scored_until
from bedplate.online.base import OnlineStore
from bedplate.online.fallback import Degraded, FallbackReader, texts_read
from bedplate.online.fetch import OnlineReader
from bedplate.serving.wire import decode_time
from bedplate.types import Int64s, Type

MOST_PLANS = 1000
"""Lists of features whose plans are kept; those asked for longest ago are forgotten first."""

MOST_NAMES = 1000
"""So many names a list may have where the project has no more features."""


class TooManyKeysError(RequestError):
    """A call asks for more keys than it may."""

    http_status = 413


@final
class FeaturePlan:
    """What must be read for a list of features.

    Attributes:
        selected: the features.
        entities: the type of the keys that a call must bring, by entity.
        texts_of: the features whose texts are read with them.
        scorers: the models behind features.
    """

    __slots__ = ("entities", "scorers", "selected", "texts_of")

    def __init__(self, selected: Selected, kinds: Mapping[str, Type], scorers: Scorers) -> None:
        self.selected, self.scorers = selected, scorers
        self.entities = {e.name: kinds[e.name] for e in selected.entities}
        self.texts_of = texts_read(selected, selected.names)


@final
class Values:
    """The answer to one call.

    Attributes:
        columns: a column of `rows` values for each feature, in the order asked for.
        rows: how many keys were asked for.
        time: of which the values are, microseconds.
        degraded: the views whose values are not as they should be.
        behind: how many seconds before the time asked for each view's stream was last known to be taken in.
    """

    __slots__ = ("behind", "columns", "degraded", "rows", "time")

    def __init__(
        self,
        columns: Mapping[str, Column],
        rows: int,
        time: int,
        degraded: Mapping[str, Degraded],
        behind: Mapping[str, float],
    ) -> None:
        self.columns, self.rows, self.time, self.degraded, self.behind = columns, rows, time, degraded, behind


@final
class FeatureLookup:
    """Answers calls for features: many views and keys, derived features and chained keys in one.

    Args:
        graph: the project's features.
        reader: the online store.
        scorers: gives the models behind features.
        most_keys: how many rows a call may ask for.
        clock: gives the time of a call that says none.

    Attributes:
        graph: as given.
        reader: as given.
        most_keys: as given.
    """

    __slots__ = ("_clock", "_plans", "_scorers", "graph", "most_keys", "reader")

    def __init__(
        self,
        graph: FeatureGraph,
        reader: FallbackReader,
        scorers: Callable[[Selected], Scorers] = lambda _: {},
        *,
        most_keys: int = 10_000,
        clock: Clock = system_clock,
    ) -> None:
        self.graph, self.reader, self.most_keys = graph, reader, most_keys
        self._scorers, self._clock = scorers, clock
        self._plans: OrderedDict[tuple[str, ...], FeaturePlan] = OrderedDict()

    def plan(self, features: Sequence[str]) -> FeaturePlan:
        """What must be read for features, or for all of a view: `VIEW.*`.

        Raises:
            RequestError: there is no feature of this name, none is asked for, or too many are.
        """
        most = max(MOST_NAMES, len(self.graph.features))  # what is kept of a list is bounded
        if len(features) > most:
            raise RequestError(f"got {len(features):,} names, expected at most {most:,}", where="$.features")
        asked = tuple(features)
        plan = self._plans.get(asked)
        if plan is None:
            try:
                selected = asked_features(self.graph, list(asked))
            except (DefinitionError, NotFoundError) as error:
                raise RequestError(error.message, where="$.features", hint=error.hint) from error
            plan = FeaturePlan(selected, self.graph.key_types(), self._scorers(selected))
            self._plans[asked] = plan
            if len(self._plans) > MOST_PLANS:
                self._plans.popitem(last=False)
        self._plans.move_to_end(asked)
        return plan

    def values(
        self,
        plan: FeaturePlan,
        keys: Mapping[str, Int64s],
        context: Mapping[str, Sequence[Any]],
        time: int | str | None,
        deadline: float = math.inf,
    ) -> Values:
        """The values of features for keys.

        Args:
            plan: of the features.
            keys: [n] or [1] int64 for each entity of the plan; one key is that of all rows.
            context: n values, or one, of each context that the features need; null where a row has none.
            time: as of when; None: now.
            deadline: of the monotonic clock, when the store is to have been read, and models that make features run.

        Raises:
            RequestError: the keys of an entity are missing or of another number, or context is wrong.
            NotHeldError: the store holds none of the views, so that there is nothing to answer with.
            AheadError: it is ahead of the time.
            DeadlineError: a model that makes a feature is not done by then.
        """
        micros = self._clock() if time is None else decode_time(time)
        rows = self._rows(plan, {**{e: len(k) for e, k in keys.items()}, **{c: len(v) for c, v in context.items()}})
        given = {e: np.full(rows, k[0]) if len(k) == 1 else k for e, k in keys.items()}
        spread = {n: list(v) * rows if len(v) == 1 else v for n, v in context.items()}
        try:
            columns = given_context(self.graph, plan.selected, spread)
        except DataError as error:
            raise RequestError(error.message, where="$.context", hint=error.hint) from error
        reading = self.reader.begin(plan.texts_of, deadline)
        with scored_until(deadline):
            found = lookup(plan.selected, reading, given, np.full(rows, micros), columns, plan.scorers)
        has_none = reading.lacking and all(view.id in reading.lacking for view in plan.selected.every_view)
        if has_none and not any(flag.cached for flag in reading.degraded.values()):
            raise next(iter(reading.lacking.values()))
        return Values(found, rows, micros, reading.degraded, reading.behind)

    def check_keys(self, plan: FeaturePlan, given: Mapping[str, object]) -> None:
        """Checks that a call brings the keys of each entity that its features need, and no others.

        Raises:
            RequestError: it does not; says which.
        """
        for entity in given:
            if entity not in plan.entities:
                known = self.graph.key_types()
                hint = "leave it out" if entity in known else suggest(entity, known, "entities")
                raise RequestError(f"these features need no keys of '{entity}'", where="$.keys", hint=hint)
        for entity in plan.entities:
            if entity not in given:
                needed = ", ".join(plan.entities)
                hint = f"these features need keys of: {needed}"
                raise RequestError(f"got no keys of '{entity}'", where="$.keys", hint=hint)

    def check_rows(self, rows: int) -> None:
        """Raises `TooManyKeysError` where a call asks for more rows than it may."""
        if rows > self.most_keys:
            raise TooManyKeysError(
                f"got {rows:,} keys, expected at most {self.most_keys:,}", where="$.keys", hint="ask in several calls"
            )

    def _rows(self, plan: FeaturePlan, counts: Mapping[str, int]) -> int:
        """How many rows a call asks for."""
        several = {name: count for name, count in counts.items() if count != 1}
        rows = max(counts.values(), default=1) if 0 not in several.values() else 0
        wrong = [name for name, count in several.items() if count != rows]
        if wrong:
            shown = ", ".join(f"{count} of '{name}'" for name, count in counts.items())
            raise RequestError(f"got {shown}; expected as many of each, or one", where="$.keys")
        self.check_rows(rows)
        return rows


def warm_up(features: FeatureLookup) -> dict[str, StoreError]:
    """Reads each view once, so that the first call finds everything prepared.

    Returns:
        By the view's name why it can't be served: the store does not hold it.

    Raises:
        StoreError: the store can't be read.
    """
    missing: dict[str, StoreError] = {}
    time = system_clock()
    with features.reader.guard.starting():
        for name, view in features.graph.views.items():
            reading = features.reader.begin()
            keys: Int64s = np.zeros((1, len(view.view.entities)), np.int64)
            try:
                reading.read(view, list(view.features), keys, np.array([time]))
            except StoreError as error:
                missing[name] = error
            if view.id in reading.lacking:
                missing[name] = reading.lacking[view.id]
            if reading.failure is not None:
                raise reading.failure
    return missing


def unread(store: OnlineStore, views: Mapping[str, CompiledView]) -> dict[str, StoreError]:
    """Reads each view once, however long it takes, while others are served.

    Returns:
        By the view's name why it can't be read.
    """
    reader, now, found = OnlineReader(store), np.array([system_clock()]), dict[str, StoreError]()
    for name, view in views.items():
        try:
            reader.read(view, list(view.features), np.zeros((1, len(view.view.entities)), np.int64), now)
        except StoreError as error:
            found[name] = error
    return found
