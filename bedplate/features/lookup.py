"""Features row by row: views read, and derived features computed, for n keys and times that need not be requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import polars as pl

from bedplate.batch import Column, column_to_series
from bedplate.errors import DataError, DefinitionError, NotFoundError, reason, suggest
from bedplate.features.assemble import context_columns
from bedplate.features.chains import Chains, Level
from bedplate.features.context import PREFIX, Context
from bedplate.features.derived import DerivedFeature, series_to_column
from bedplate.features.entity import KeysLike, encode_keys
from bedplate.features.graph import FeatureGraph, FeatureLike, Selected
from bedplate.features.model import ModelFeature, Scorers, compute
from bedplate.features.reader import Read, Reader
from bedplate.features.times import TimesLike, asked_times, encode_times
from bedplate.features.view import FeatureView
from bedplate.types import Int64s, Type


def lookup(
    selected: Selected,
    reader: Reader,
    keys: Mapping[str, Int64s],
    times: Int64s,
    context: Mapping[str, Column] | None = None,
    scorers: Scorers = MappingProxyType({}),
) -> dict[str, Column]:
    """The values of the selected features, in their order.

    Args:
        selected: the features.
        reader: history or the online store.
        keys: [n] int64 for each entity that a view to read is about, by the entity's name.
        times: [n] int64 microseconds.
        context: columns of length n of the request's context, by full name; what is not here is null.
        scorers: the models behind the features.

    Returns:
        a column of length n for each feature, by its full name.

    Raises:
        DataError: an entity has no keys.
    """
    needed = [(view, view.view.entities) for view, _ in selected.views]
    for view, entities in [*needed, *((chain.view, chain.entities) for chain, _ in selected.chains)]:
        missing = [e.name for e in entities if e.name not in keys]
        if missing:
            raise DataError(f"no keys of '{missing[0]}', got those of {list(keys)}", where=view.place)
    reads = [
        Read(view, names, np.stack([keys[e.name] for e in view.view.entities], axis=1), times)
        for view, names in selected.views
    ]
    columns: dict[str, Column] = context_columns(selected.contexts, context or {}, len(times))
    groups = list(reader.read_all(reads))
    chains = Chains(selected.chains)
    if chains:
        found = Level(keys.__getitem__, lambda n: next(g[n] for g in groups if n in g), times, groups)
        chains.follow(reader, found, None)
    for group in groups:
        columns.update(group)
    for derived in selected.derived:
        columns |= compute([derived], columns, times, scorers)
    return {name: columns[name] for name in selected.names}


def lookup_table(
    graph: FeatureGraph,
    reader: Reader,
    features: FeatureLike | Sequence[FeatureLike],
    keys: KeysLike | Mapping[str, KeysLike],
    times: TimesLike,
    context: Mapping[str, Sequence[Any]] | None = None,
    scorers: Callable[[Selected], Scorers] = lambda _: {},
) -> pl.DataFrame:
    """A row for each key and time; see `Project.lookup`.

    Args:
        graph: the project's features.
        reader: history or the online store.
        features: features, views or their names.
        keys: n keys, or n keys for each entity by its name.
        times: n times, or one for all.
        context: n values for each context, by its name.
        scorers: gives the models behind features.

    Raises:
        DataError: as `Project.lookup`, and values of context that are missing, differ in number or are of another type.
        DefinitionError: something else than features is asked for, or nothing.
        NotFoundError: no feature or view has this name.
    """
    selected = asked_features(graph, features)
    entities = [e.name for e in selected.entities]
    by_entity: Mapping[str, KeysLike] = keys if isinstance(keys, Mapping) else dict.fromkeys(entities[:1], keys)
    kinds = graph.key_types()
    unknown = [e for e in by_entity if e not in kinds]
    if unknown:
        raise DataError(f"unknown entity '{unknown[0]}'", where="lookup", hint=suggest(unknown[0], kinds))
    missing = [e for e in entities if e not in by_entity]
    if missing:
        needed = ", ".join(entities)
        raise DataError(f"no keys of '{missing[0]}'", where="lookup", hint=f"these features need keys of: {needed}")
    encoded = {e: encode_keys(by_entity[e], kinds[e], f"keys of '{e}'") for e in by_entity}
    given = given_context(graph, selected, context or {})
    micros = asked_times(times, max(map(len, [*encoded.values(), *given.values()]), default=1), "lookup: times")
    if any(len(k) != len(micros) for k in encoded.values()):
        counts = ", ".join(f"{len(k)} of '{e}'" for e, k in encoded.items())
        raise DataError(f"got keys: {counts}; and {len(micros)} times; expected as many of each", where="lookup")
    wrong = [n for n, column in given.items() if len(column) != len(micros)]
    if wrong:
        counted = f"{len(given[wrong[0]])} values of {wrong[0]} and {len(micros)} times"
        raise DataError(f"got {counted}; expected as many of each", where="lookup: context")
    columns = lookup(selected, reader, encoded, micros, given, scorers(selected))
    shown = [pl.Series(e, by_entity[e]) for e in by_entity]
    time = pl.Series("time", micros).cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame([*shown, time, *(column_to_series(c, n) for n, c in columns.items())])


def given_context(graph: FeatureGraph, selected: Selected, given: Mapping[str, Sequence[Any]]) -> dict[str, Column]:
    """Values of context as columns, by full name; of every context that the features need.

    Raises:
        DataError: there is no context of this name, it is of another type, or one that is needed is missing.
    """
    found: dict[str, Column] = {}
    for name, values in given.items():
        full = name if name.startswith(PREFIX) else f"{PREFIX}{name}"
        context = graph.contexts.get(full)
        if context is None:
            known = [c.name for c in graph.contexts.values()]
            raise DataError(f"unknown context '{name}'", where="lookup", hint=suggest(name, known, "context"))
        dtype = graph.dtype(full)
        is_time = context.type is Type.TIME
        try:
            shown = encode_times(list(values), len(values), f"lookup: {context.place}") if is_time else values
            series = pl.Series(full, shown, dtype=dtype, strict=True)
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"got {list(values)!r}, expected values of type {context.type}: {reason(error)}",
                where=f"lookup: {context.place}",
            ) from None
        found[full] = series_to_column(series)
    for name, full in ((c.name, f"{PREFIX}{c.name}") for c in selected.contexts):
        if full not in found:
            readers = [d.name for d in selected.derived if full in d.inputs]
            raise DataError(
                f"no values of the context '{name}'" + (f", which '{readers[0]}' reads" if readers else ""),
                where="lookup",
                hint=f'give context={{"{name}": [...]}}, with None where a request has none; on the command line '
                f"--context {name}=VALUE",
            )
    return found


def asked_features(graph: FeatureGraph, features: FeatureLike | Sequence[FeatureLike]) -> Selected:
    """What must be read for features that a person asks for.

    Raises:
        DefinitionError: something else than features is asked for, or nothing.
        NotFoundError: no feature or view has this name.
    """
    single = isinstance(features, str | FeatureView | DerivedFeature | ModelFeature | Context)
    if not single and not isinstance(features, list | tuple | set | dict | pl.Series | np.ndarray):
        raise DefinitionError(f"got {features!r}, expected features, views or their names", where="lookup")
    asked = [features] if single else list(cast("Sequence[FeatureLike]", features))
    if not asked:
        raise DefinitionError("got no features, expected at least one", where="lookup")
    for name in (f for f in asked if isinstance(f, str)):
        view = name.removesuffix(".*")
        if view != name and not graph.group(view):
            raise NotFoundError(f"unknown view '{view}'", where="lookup", hint=suggest(view, graph.groups, "views"))
        if view == name and name not in graph.features:
            hint = f"'{name}' is a view; all its features are '{name}.*'" if name in graph.views else None
            hint = hint or suggest(name, graph.features, "features")
            raise NotFoundError(f"unknown feature '{name}'", where="lookup", hint=hint)
    return graph.select(asked, "lookup")
