"""The feature graph: the views and derived features of a project, and what must be read for a list of features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, final

import polars as pl

from bedplate.canonical import digest
from bedplate.errors import DefinitionError, suggest
from bedplate.features.context import PREFIX, Context
from bedplate.features.derived import REQUEST_TIME, DerivedFeature
from bedplate.features.entity import Entity
from bedplate.features.expression import expression_type
from bedplate.features.vectors import dtype_of
from bedplate.features.view import CompiledView, Feature, FeatureView
from bedplate.types import Type, type_of

FeatureLike: TypeAlias = "str | FeatureView | DerivedFeature | Context"
"""A feature by its full name, all features of a view (the view, or `"view.*"`), a derived feature, or context."""

_Named = TypeVar("_Named", CompiledView, DerivedFeature, Context)

_DTYPES: dict[Type, pl.DataType] = {
    Type.INT: pl.Int64(),
    Type.FLOAT: pl.Float64(),
    Type.BOOL: pl.Boolean(),
    Type.STRING: pl.String(),
    Type.TIME: pl.Int64(),
}


@final
@dataclass(frozen=True, slots=True)
class Selected:
    """A list of features and what it takes to compute them.

    Attributes:
        features: those asked for, in order.
        views: each view to read, with the full names of the features to read from it.
        derived: derived features in an order in which each comes after its inputs.
        contexts: the context of the request that they need.
    """

    features: tuple[Feature, ...]
    views: tuple[tuple[CompiledView, tuple[str, ...]], ...]
    derived: tuple[DerivedFeature, ...]
    contexts: tuple[Context, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features asked for."""
        return tuple(f.name for f in self.features)

    @property
    def entities(self) -> tuple[Entity, ...]:
        """Every entity that a view to read is about."""
        return tuple(dict.fromkeys(e for view, _ in self.views for e in view.view.entities))


@final
class FeatureGraph:
    """Views and derived features, checked together.

    Args:
        views: the feature views.
        derived: the derived features.
        root: the project's folder, where relative paths of sources start.
        contexts: the context of requests.

    Raises:
        DefinitionError: duplicate names, an unknown feature, a cycle, an entity with keys of two types.
    """

    __slots__ = ("contexts", "derived", "features", "views")

    def __init__(
        self,
        views: Iterable[FeatureView],
        derived: Iterable[DerivedFeature] = (),
        root: Path | None = None,
        contexts: Iterable[Context] = (),
    ) -> None:
        self.views = _by_name("view", [v.compile(root) for v in views])
        self.derived = _by_name("derived feature", list(derived))
        self.features: dict[str, Feature] = {}
        for view in self.views.values():
            for name, feature in view.features.items():
                if name in self.features:
                    raise DefinitionError(f"another view has a feature '{name}'", where=view.place)
                self.features[name] = feature
        self.contexts = {f"{PREFIX}{c.name}": c for c in _by_name("context", list(contexts)).values()}
        for name, context in self.contexts.items():
            if name in self.features:
                raise DefinitionError(f"a view has a feature '{name}'", where=context.place, hint="rename the view")
            self.features[name] = context.feature
        self._check_sources()
        for feature in self._ordered(self.derived):
            self.features[feature.name] = self._derived_feature(feature)
        self.key_types()

    def key_types(self) -> Mapping[str, Type]:
        """The type of each entity's key.

        Raises:
            DefinitionError: two views disagree on the key's type or column.
        """
        kinds: dict[str, tuple[Type, str]] = {}
        columns: dict[str, str] = {}
        for view in self.views.values():
            for entity, kind in zip(view.view.entities, view.key_types, strict=True):
                known, first = kinds.setdefault(entity.name, (kind, view.name))
                column = columns.setdefault(entity.name, entity.key)
                if column != entity.key:
                    raise DefinitionError(
                        f"entity '{entity.name}' has the key '{entity.key}' here and '{column}' in view '{first}'",
                        where=view.place,
                        hint="define the entity once, and rename the column in a source's prepare step",
                    )
                if known is not kind:
                    raise DefinitionError(
                        f"entity '{entity.name}' has {kind} keys here and {known} keys in view '{first}'",
                        where=view.place,
                        hint="cast the key column in a source's prepare step",
                    )
        return {name: kind for name, (kind, _) in kinds.items()}

    def select(self, features: Sequence[FeatureLike], place: str = "features") -> Selected:
        """What must be read and derived for these features.

        Raises:
            DefinitionError: a feature is unknown.
        """
        names = list(dict.fromkeys(n for f in features for n in self._names(f, place)))
        needed: dict[str, None] = {}
        derived: dict[str, None] = {}
        self._collect(names, needed, derived)
        contexts = tuple(c for name, c in self.contexts.items() if name in needed)
        views = [
            (view, tuple(n for n in view.features if n in needed))
            for view in self.views.values()
            if any(n in needed for n in view.features)
        ]
        order = [self.derived[n] for n in derived]
        return Selected(tuple(self.features[n] for n in names), tuple(views), tuple(order), contexts)

    def _names(self, feature: FeatureLike, place: str) -> list[str]:
        if isinstance(feature, Context):
            feature = feature.feature.name
        if not isinstance(feature, str | FeatureView | DerivedFeature):  # pyright: ignore[reportUnnecessaryIsInstance]
            is_label = type(feature).__name__ == "Label"
            raise DefinitionError(
                f"got a {type(feature).__name__}, expected a feature, a view or a name",
                where=place,
                hint="a Label looks forward in time and can't be a feature" if is_label else None,
            )
        if not isinstance(feature, str):
            self._check_same(feature, place)
        name = f"{feature.name}.*" if isinstance(feature, FeatureView) else feature
        name = name if isinstance(name, str) else name.name
        if name.endswith(".*"):
            view = self.views.get(name[:-2])
            if view is None:
                raise DefinitionError(f"unknown view '{name[:-2]}'", where=place, hint=suggest(name[:-2], self.views))
            return list(view.features)
        if name not in self.features:
            raise DefinitionError(f"unknown feature '{name}'", where=place, hint=suggest(name, self.features))
        return [name]

    def _check_same(self, feature: FeatureView | DerivedFeature, place: str) -> None:
        """Raises `DefinitionError` where the graph has something else under the name of a definition."""
        known = self.derived.get(feature.name)
        if isinstance(feature, FeatureView):
            known = self.views[feature.name].view if feature.name in self.views else None
        if known is not None and known is not feature and known.form() != feature.form():
            raise DefinitionError(f"'{feature.name}' is not the one of this name that the project defines", where=place)

    def _check_sources(self) -> None:
        sources: dict[str, tuple[dict[str, Any], str]] = {}
        for view in self.views.values():
            source = view.view.source
            form = source.form() | {"prepare": view.prepare_id}
            known, first = sources.setdefault(source.name, (form, view.name))
            if known != form:
                raise DefinitionError(
                    f"the source '{source.name}' is not the source of this name that view '{first}' reads",
                    where=view.place,
                    hint="give sources of different time, delay or prepare step different names",
                )

    def _collect(self, names: Iterable[str], needed: dict[str, None], derived: dict[str, None]) -> None:
        for name in names:
            if name in self.derived and name not in derived:
                self._collect(self.derived[name].inputs, needed, derived)
                derived[name] = None
            elif name != REQUEST_TIME and name not in self.derived:
                needed[name] = None

    def _ordered(self, derived: Mapping[str, DerivedFeature]) -> list[DerivedFeature]:
        order: dict[str, DerivedFeature] = {}

        def visit(feature: DerivedFeature, path: tuple[str, ...]) -> None:
            place = f"derived feature '{feature.name}'"
            if feature.name in path:
                cycle = " -> ".join((*path[path.index(feature.name) :], feature.name))
                hint = "compute one of them from features of views"
                raise DefinitionError(f"the definitions form a cycle: {cycle}", where=place, hint=hint)
            if feature.name in self.features:
                raise DefinitionError("a view has a feature of this name", where=place)
            for name in feature.inputs:
                if name in derived:
                    visit(derived[name], (*path, feature.name))
                elif name not in self.features and name != REQUEST_TIME:
                    known = [*self.features, *derived, REQUEST_TIME]
                    raise DefinitionError(f"unknown feature '{name}'", where=place, hint=suggest(name, known))
            order[feature.name] = feature

        for feature in derived.values():
            if feature.name not in order:
                visit(feature, ())
        return list(order.values())

    def _derived_feature(self, derived: DerivedFeature) -> Feature:
        schema = {name: self.dtype(name) for name in derived.inputs}
        place = f"derived feature '{derived.name}'"
        used = [self.features[n] for n in derived.inputs if n != REQUEST_TIME]
        if derived.expression is None:
            kind, is_list = self._function_type(derived, place)
        else:
            dtype = expression_type(derived.expression, schema, "the feature", place, "features")
            is_list = isinstance(dtype, pl.List)
            found = type_of(dtype.inner if isinstance(dtype, pl.List) else dtype)  # pyright: ignore[reportArgumentType]
            if found is None or (is_list and found.width):
                expected = "numbers, strings, vectors or lists"
                raise DefinitionError(f"{derived.expression} is {dtype}, expected {expected}", where=place)
            kind = found
        context = tuple(dict.fromkeys(c for f in used for c in f.context))
        form = digest([derived.form(), [f.id for f in used]])
        return Feature(derived.name, kind, is_list, form, derived.text, context)

    def _function_type(self, derived: DerivedFeature, place: str) -> tuple[Type, bool]:
        """The declared type of a function's values, once the function has been tried on made-up rows."""
        if derived.function is None or derived.output is None:
            raise DefinitionError("expected an expression or a function", where=place)
        kinds: list[Type] = []
        for name in derived.inputs:
            feature = self.features.get(name)
            if feature is not None and feature.is_list:
                raise DefinitionError(
                    f"the input '{name}' is a list of {feature.type}, which no function takes",
                    where=place,
                    hint="a Polars expression does: pl.col(...).list",
                )
            kinds.append(Type.TIME if feature is None else feature.type)
        derived.function.check(kinds)
        return derived.output

    def dtype(self, name: str) -> pl.DataType:
        """The Polars type of a feature, or of `request.time`, as an expression over features sees it."""
        if name == REQUEST_TIME:
            return pl.Datetime("us", "UTC")
        feature = self.features[name]
        if feature.type.width:
            return dtype_of(feature.type)
        return pl.List(_DTYPES[feature.type]) if feature.is_list else _DTYPES[feature.type]


def _by_name(kind: str, items: Sequence[_Named]) -> dict[str, _Named]:
    result: dict[str, _Named] = {}
    for item in items:
        if item.name in result:
            raise DefinitionError(
                "two definitions have this name", where=f"{kind} '{item.name}'", hint="give one of them another name"
            )
        result[item.name] = item
    return result
