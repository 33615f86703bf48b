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
from bedplate.features.links import Chain, Link, chains_of
from bedplate.features.model import Computed, ModelFeature
from bedplate.features.vectors import dtype_of
from bedplate.features.view import CompiledView, Feature, FeatureView
from bedplate.types import Type, type_of

FeatureLike: TypeAlias = "str | FeatureView | DerivedFeature | ModelFeature | Context"
"""A feature by its full name, all features of a view (the view, or `"view.*"`), one that is computed, or context."""

THE_REQUEST = "the request"
"""What context is about, in place of an entity."""

_Named = TypeVar("_Named", CompiledView, Computed, Context)

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
        chains: each view to read by keys that features hold, with the names of the features to read as the view itself
            calls them; those that need fewer reads before come first. What holds their keys is among the rest.
    """

    features: tuple[Feature, ...]
    views: tuple[tuple[CompiledView, tuple[str, ...]], ...]
    derived: tuple[Computed, ...]
    contexts: tuple[Context, ...] = ()
    chains: tuple[tuple[Chain, tuple[str, ...]], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features asked for."""
        return tuple(f.name for f in self.features)

    @property
    def entities(self) -> tuple[Entity, ...]:
        """Every entity whose key a row must have."""
        direct = [e for view, _ in self.views for e in view.view.entities]
        return tuple(dict.fromkeys([*direct, *(e for chain, _ in self.chains for e in chain.entities)]))

    @property
    def every_view(self) -> tuple[CompiledView, ...]:
        """Every view that is read, by its own keys or by those that features hold, each once."""
        found = {view.id: view for view, _ in self.views}
        return tuple((found | {chain.view.id: chain.view for chain, _ in self.chains}).values())

    @property
    def about(self) -> dict[str, tuple[str, ...]]:
        """The names of the entities whose keys each feature needs, for each that is read or computed.

        Context stands for `THE_REQUEST`.
        """
        found = {n: tuple(e.name for e in view.view.entities) for view, names in self.views for n in names}
        for chain, names in self.chains:
            found |= {chain.prefix + n: tuple(e.name for e in chain.entities) for n in names}
        found |= {c.feature.name: (THE_REQUEST,) for c in self.contexts}
        for derived in self.derived:
            found[derived.name] = tuple(dict.fromkeys(e for n in derived.inputs for e in found.get(n, ())))
        return found

    @property
    def models(self) -> tuple[ModelFeature, ...]:
        """The features that models compute."""
        return tuple(f for f in self.derived if isinstance(f, ModelFeature))

    def models_behind(self, names: Iterable[str]) -> tuple[ModelFeature, ...]:
        """The features that models compute and that these features are, or are computed from."""
        needed = set(names)
        for derived in reversed(self.derived):
            if derived.name in needed:
                needed.update(derived.inputs)
        return tuple(f for f in self.models if f.name in needed)


@final
class FeatureGraph:
    """Views and derived features, checked together.

    Args:
        views: the feature views.
        derived: the derived features.
        root: the project's folder, where relative paths of sources start.
        contexts: the context of requests.
        links: where the keys of entities are found in features.

    Attributes:
        features: every feature by its full name: of views, those that links reach, context, computed ones.
        chained: of each feature that links reach, the way to its view, and its own full name.

    Raises:
        DefinitionError: duplicate names, an unknown feature, a cycle, an entity with keys of two types.
    """

    __slots__ = ("chained", "contexts", "derived", "features", "views")

    def __init__(
        self,
        views: Iterable[FeatureView],
        derived: Iterable[Computed] = (),
        root: Path | None = None,
        contexts: Iterable[Context] = (),
        links: Sequence[Link] = (),
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
        self.chained: dict[str, tuple[Chain, str]] = {}
        for chain in chains_of(links, self.views, self.key_types()):
            for name, own in chain.view.features.items():
                self.chained[chain.prefix + name] = chain, name
                self.features[chain.prefix + name] = chain.feature(own, self.features)
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
        chains: dict[Chain, list[str]] = {}
        for chain, own in (self.chained[n] for n in self.chained if n in needed):
            chains.setdefault(chain, []).append(own)
        contexts = tuple(c for name, c in self.contexts.items() if name in needed)
        views = [
            (view, tuple(n for n in view.features if n in needed))
            for view in self.views.values()
            if any(n in needed for n in view.features)
        ]
        order = [self.derived[n] for n in derived]
        read = tuple((chain, tuple(own)) for chain, own in chains.items())
        return Selected(tuple(self.features[n] for n in names), tuple(views), tuple(order), contexts, read)

    def _names(self, feature: FeatureLike, place: str) -> list[str]:
        if isinstance(feature, Context):
            feature = feature.feature.name
        if not isinstance(feature, str | FeatureView | DerivedFeature | ModelFeature):  # pyright: ignore[reportUnnecessaryIsInstance]
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
            of_group = self.group(name[:-2])
            if not of_group:
                groups = self.groups
                raise DefinitionError(f"unknown view '{name[:-2]}'", where=place, hint=suggest(name[:-2], groups))
            return of_group
        if name not in self.features:
            raise DefinitionError(f"unknown feature '{name}'", where=place, hint=suggest(name, self.features))
        return [name]

    @property
    def groups(self) -> list[str]:
        """What may stand before `.*`: views, links, and views behind links."""
        prefixes = [(chain.prefix, own) for chain, own in self.chained.values()]
        behind = [n for prefix, own in prefixes for n in (prefix[:-1], f"{prefix}{own.rpartition('.')[0]}")]
        return list(dict.fromkeys([*self.views, *behind]))

    def group(self, name: str) -> list[str]:
        """The features of a view, or all that are behind a link; none where there is no such thing."""
        if name in self.views:
            return list(self.views[name].features)
        return [n for n in self.chained if n.startswith(f"{name}.")]

    def _check_same(self, feature: FeatureView | Computed, place: str) -> None:
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
            elif name != REQUEST_TIME and name not in self.derived and name not in needed:
                needed[name] = None
                if name in self.chained:
                    self._collect(filter(None, self.chained[name][0].keys), needed, derived)

    def _ordered(self, derived: Mapping[str, Computed]) -> list[Computed]:
        order: dict[str, Computed] = {}

        def visit(feature: Computed, path: tuple[str, ...]) -> None:
            place = _place(feature)
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

    def _derived_feature(self, derived: Computed) -> Feature:
        used = [self.features[n] for n in derived.inputs if n != REQUEST_TIME]
        form = digest([derived.form(), [f.id for f in used]])
        context = tuple(dict.fromkeys(c for f in used for c in f.context))
        if isinstance(derived, ModelFeature):
            return Feature(derived.name, Type.FLOAT, False, form, derived.text, context)
        schema = {name: self.dtype(name) for name in derived.inputs}
        place = f"derived feature '{derived.name}'"
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
        return Feature(derived.name, kind, is_list, form, derived.text, context)

    def _function_type(self, derived: DerivedFeature, place: str) -> tuple[Type, bool]:
        """The declared type of a function's values, once the function has been tried on made-up rows."""
        if derived.function is None or derived.output is None:
            raise DefinitionError("expected an expression or a function", where=place)
        kinds: list[tuple[str, Type]] = []
        for name in derived.inputs:
            feature = self.features.get(name)
            if feature is not None and feature.is_list:
                raise DefinitionError(
                    f"the input '{name}' is a list of {feature.type}, which no function takes",
                    where=place,
                    hint="a Polars expression does: pl.col(...).list",
                )
            kinds.append((name, Type.TIME if feature is None else feature.type))
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


def _place(feature: Computed) -> str:
    return feature.place if isinstance(feature, ModelFeature) else f"derived feature '{feature.name}'"


def _by_name(kind: str, items: Sequence[_Named]) -> dict[str, _Named]:
    result: dict[str, _Named] = {}
    for item in items:
        if item.name in result:
            raise DefinitionError(
                "two definitions have this name", where=f"{kind} '{item.name}'", hint="give one of them another name"
            )
        result[item.name] = item
    return result
