"""Feature views: features of one entity (or several together) aggregated from one source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, final

import polars as pl

from bedplate.aggregations.attribute import Attribute, attributes_of
from bedplate.aggregations.base import Aggregation, ExpressionLike, Reduce, Reduction, Selection, to_expression
from bedplate.aggregations.text import expression_text, shown_expression
from bedplate.aggregations.window import Window
from bedplate.arguments import checks_arguments
from bedplate.canonical import digest, expression_form
from bedplate.errors import DefinitionError, suggest
from bedplate.features.entity import Entity, entities_of, key_cast
from bedplate.features.expression import check_condition, expression_type
from bedplate.sources.base import ALWAYS, Source
from bedplate.types import Type, format_duration, parse_duration, type_of


@checks_arguments
@final
class FeatureView:
    """Features of an entity, or of a pair of entities, from the events of one source.

    Args:
        name: unique in the project; a feature is called `view.feature`.
        entities: whose features these are; their key columns are in the source.
        source: the events.
        features: aggregations by name. A windowed one gives a feature a window: `spend` over 7d is `spend_7d`. Or a
            list of columns: what the newest row of the entity says of each, as a whole (`Attribute`).
        where: a boolean row expression; other events are not part of the view.
        ttl: how old an event may be for `Last`, `LastN` and `TimeSince` to still see it; older values are null.
            Windows bound themselves, and a count or sum without a window is over all history.

    >>> from bedplate.aggregations.arithmetic import Count
    >>> frame = pl.DataFrame({"user": [1], "time": [1_700_000_000_000_000]})
    >>> source = Source("visits", frame, time="time")
    >>> view = FeatureView("visits", Entity("user", key="user"), source, {"n": Count(windows="1d")})
    >>> [f.name for f in view.compile().features.values()]
    ['visits.n_1d']
    """

    __slots__ = ("entities", "features", "name", "source", "ttl", "where")

    def __init__(
        self,
        name: str,
        entities: Entity | Sequence[Entity],
        source: Source,
        features: Mapping[str, Aggregation] | Sequence[str],
        *,
        where: ExpressionLike | None = None,
        ttl: str | None = None,
    ) -> None:
        place = f"view '{name}'"
        self.name = name
        self.entities = entities_of(entities, place)
        self.source = source
        _check_parts(name, source, place)
        self.features = attributes_of(features, source.valid_to, source.deleted, place)
        self.ttl = None if ttl is None else parse_duration(ttl, where=f"{place}: ttl", error=DefinitionError)
        _check_features(self, place)
        self.where = None if where is None else to_expression(where, f"{place}: where")

    def compile(self, root: Path | None = None) -> CompiledView:
        """The view checked against the columns of its source, with the type of every feature.

        Raises:
            DefinitionError: an unknown column, a wrong type, two features of one name.
        """
        return CompiledView(self, root)

    def form(self) -> dict[str, Any]:
        """The canonical form.

        Raises:
            DefinitionError: the condition calls a Python function, or the code of an aggregation has no canonical form.
        """
        place = f"view '{self.name}'"
        return {
            "entities": [e.form() for e in self.entities],
            "features": {name: _form(a, f"{place}, feature '{name}'") for name, a in self.features.items()},
            "source": self.source.form(),
            "ttl": None if self.ttl is None else format_duration(self.ttl),
            "where": None if self.where is None else expression_form(self.where, place),
        }


def _check_parts(name: object, source: object, place: str) -> None:
    """Raises `DefinitionError` unless the parts are what they should be: whoever defines may run no type checker."""
    parts: list[tuple[object, type]] = [(name, str), (source, Source)]
    for part, expected in parts:
        if not isinstance(part, expected) or not part:
            if expected is Source and isinstance(part, list | tuple):
                several = cast("Sequence[object]", part)
                names = ", ".join(str(getattr(p, "name", p)) for p in several)
                raise DefinitionError(
                    f"got a list of {len(several)} sources ({names}), expected one Source",
                    where=place,
                    hint="make a view of each; tables with the same columns can be one source, by a path such as "
                    '"events/*.parquet"',
                )
            raise DefinitionError(f"got {part!r}, expected {_article(expected.__name__)}", where=place)


def _check_features(view: FeatureView, place: str) -> None:
    """Raises `DefinitionError` unless each feature has a name and is an aggregation that the source can have."""
    for feature, aggregation in view.features.items():
        if not isinstance(feature, str) or not feature or "." in feature:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(
                f"got the feature name {feature!r}, expected a name without dots",
                where=place,
                hint="a feature's full name is the view's name, a dot and this name",
            )
        if not isinstance(aggregation, Aggregation):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(
                f"feature '{feature}' is {_article(type(aggregation).__name__)}, expected an aggregation",
                where=place,
                hint="a Label looks forward in time and can't be a feature"
                if type(aggregation).__name__ == "Label"
                else 'for example Count() or Sum("price", windows="7d")',
            )
        if view.source.time == ALWAYS and not (isinstance(aggregation, Attribute) and view.ttl is None):
            raise DefinitionError(
                f"'{feature}' needs the time of rows, and source '{view.source.name}' has none (time=ALWAYS)",
                where=place,
                hint="take attributes of it, without a ttl; or give the source the column that says from when "
                "each row holds",
            )
    if not view.features:
        raise DefinitionError("no features", where=place)


def _form(aggregation: Aggregation, place: str) -> dict[str, Any]:
    try:
        return aggregation.form()
    except DefinitionError as error:
        raise DefinitionError(error.message, where=place, hint=error.hint) from None


def _by_name(view: FeatureView) -> list[tuple[str, Aggregation]]:
    """The aggregations by name, whatever the order of definition: equal views are laid out alike in a store."""
    return sorted(view.features.items())


def _article(name: str) -> str:
    return f"an {name}" if name[:1] in "AEIOUaeiou" else f"a {name}"


def _cast_hint(dtype: pl.DataType, expression: pl.Expr) -> str | None:
    """What to do about an expression of a type that is none of a value."""
    if isinstance(dtype, pl.List) and dtype.inner.is_numeric():  # pyright: ignore[reportAttributeAccessIssue]
        named = f'"{expression.meta.root_names()[0]}"' if expression.meta.is_column() else str(expression)
        return f"lists of one length are vectors: vector({named}, LENGTH), from bedplate.features.vectors"
    return "cast it to pl.Int64" if dtype.is_integer() else None


def _check_given(given: pl.Expr, schema: Mapping[str, pl.DataType], place: str) -> None:
    """Raises `DefinitionError` unless that of which an aggregation computes its input is a number or a boolean."""
    dtype = expression_type(given, schema, "an aggregation", place)
    if not dtype.is_numeric() and dtype != pl.Boolean:
        raise DefinitionError(f"{shown_expression(given)} is {dtype}, expected a number or boolean", where=place)


def _decimal_hint(aggregation: Aggregation, schema: Mapping[str, pl.DataType]) -> str | None:
    """What to do about decimals, which are read as floats, where an aggregation takes no floats."""
    for expression in (e for s in aggregation.selections for e in s.inputs):
        dtype = expression_type(expression, schema, "an aggregation", "")
        if isinstance(dtype, pl.Decimal):
            shown = shown_expression(expression)
            return (
                f"{shown} is {dtype}, which is read as float64; cast it to pl.Int64 (times 10^{dtype.scale}) or String"
            )
    return None


@final
@dataclass(frozen=True, slots=True)
class Feature:
    """One value a key and time.

    Attributes:
        name: `view.feature`, or the name of a derived feature.
        type: of the value, or of the elements of a list.
        is_list: whether the value is a list.
        id: the hash of all that defines it; equal ids mean equal values on equal data.
        text: the definition for a person to read, the window with its hop included.
        context: the name and type of each context of the request that it is computed from.
    """

    name: str
    type: Type
    is_list: bool
    id: str
    text: str
    context: tuple[tuple[str, Type], ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Call:
    """One call of `Aggregation.finalize`: an aggregation `over` one window, and the names of what it gives.

    Attributes:
        aggregation: what is called.
        window: over which window; None: all history.
        names: of what it gives, within the view.
        feature: the name that the view defines the aggregation by.
    """

    aggregation: Aggregation
    window: Window | None
    names: tuple[str, ...]
    feature: str


@final
class CompiledView:
    """A view checked against its source's schema: what `offline` and `online` build and read.

    Attributes:
        view: the definition.
        key_types: the type of each entity's key.
        selections: every different selection, in order of first use by the aggregations sorted by name.
        types: the input types of each selection.
        calls: every aggregation over every window, the aggregations sorted by name.
        features: by full name, in the order of definition.
        id: the hash of the view's name, of its definition, of its cleaning step and of its types.
    """

    __slots__ = ("calls", "features", "id", "key_types", "prepare_id", "root", "selections", "types", "view")

    def __init__(self, view: FeatureView, root: Path | None) -> None:
        self.view, self.root = view, root
        schema = view.source.schema(root)
        self.key_types = tuple(self._key_type(e, schema) for e in view.entities)
        check_condition(view.where, schema, self.place)
        check_condition(view.source.deleted, schema, self.place, f"deleted of source '{view.source.name}'")
        self.prepare_id = view.source.prepare_id(root)
        self.selections = self._distinct_selections()
        self.types = tuple(self._input_types(schema, s) for s in self.selections)
        self.calls, self.features = self._calls()
        self.id = digest([view.name, self._base(), view.form(), [list(t) for t in self.types]])

    @property
    def name(self) -> str:
        """The view's name."""
        return self.view.name

    @property
    def place(self) -> str:
        """What a message calls the view."""
        return f"view '{self.view.name}'"

    def reduction_index(self, reduction: Reduction) -> int:
        """The position in `selections` of a reduction's selection."""
        return next(i for i, s in enumerate(self.selections) if s.form == reduction.selection.form)

    def input_types(self, aggregation: Aggregation) -> tuple[Type, ...]:
        """The types of the inputs of an aggregation, of one selection after the other."""
        forms = [s.form for s in self.selections]
        return tuple(kind for s in aggregation.selections for kind in self.types[forms.index(s.form)])

    def output_type(self, reduction: Reduction) -> Type:
        """The type of a scalar reduction's partial."""
        if reduction.reduce in (Reduce.COUNT, Reduce.DISTINCT):
            return Type.INT
        kind = self.types[self.reduction_index(reduction)][0]
        return Type.INT if kind is Type.BOOL else kind

    def short(self, feature: str) -> str:
        """A feature's name within the view."""
        return feature.removeprefix(f"{self.name}.")

    def _base(self) -> dict[str, Any]:
        form = self.view.form()
        return {k: form[k] for k in ("entities", "source", "where")} | {"prepare": self.prepare_id}

    def _ttl(self, aggregation: Aggregation, window: Window | None) -> int | None:
        """The view's ttl where it applies: to values that are carried forward without end."""
        carried = any(r.reduce in (Reduce.LATEST, Reduce.LATEST_BY) for r in aggregation.reductions)
        return self.view.ttl if carried and window is None else None

    def _key_type(self, entity: Entity, schema: Mapping[str, pl.DataType]) -> Type:
        if entity.key not in schema:
            raise DefinitionError(
                f"the key column '{entity.key}' of entity '{entity.name}' is not in source '{self.view.source.name}'",
                where=self.place,
                hint=suggest(entity.key, schema, "columns"),
            )
        kind = type_of(schema[entity.key])
        if kind is not Type.INT and kind is not Type.STRING:
            raise DefinitionError(
                f"the key column '{entity.key}' is {schema[entity.key]}, expected integers or strings",
                where=self.place,
                hint=f"cast it in the source's prepare step: {key_cast(entity.key, schema[entity.key])}",
            )
        return kind

    def _distinct_selections(self) -> tuple[Selection, ...]:
        found: list[Selection] = []
        for _, aggregation in _by_name(self.view):
            for reduction in aggregation.reductions:
                if all(s.form != reduction.selection.form for s in found):
                    found.append(reduction.selection)
        return tuple(found)

    def _input_types(self, schema: Mapping[str, pl.DataType], selection: Selection) -> tuple[Type, ...]:
        place = f"{self.place}, feature '{self._first_use(selection)}'"
        check_condition(selection.where, schema, place)
        if selection.given is not None:
            _check_given(selection.given, schema, place)
        kinds: list[Type] = []
        for expression in selection.inputs:
            dtype = expression_type(expression, schema, "an aggregation", place)
            kind = type_of(dtype)
            if kind is None:
                raise DefinitionError(
                    f"{shown_expression(expression)} is {dtype}, expected a number, boolean, string, time or vector",
                    where=place,
                    hint=_cast_hint(dtype, expression),
                )
            kinds.append(kind)
        return tuple(kinds)

    def _first_use(self, selection: Selection) -> str:
        return next(n for n, a in _by_name(self.view) if any(r.selection.form == selection.form for r in a.reductions))

    def _calls(self) -> tuple[tuple[Call, ...], dict[str, Feature]]:
        calls: list[Call] = []
        made: dict[str, list[Feature]] = {}
        base = self._base()
        for name, aggregation in _by_name(self.view):
            try:
                outputs = aggregation.outputs(self.input_types(aggregation))
            except DefinitionError as error:
                hint = error.hint or _decimal_hint(aggregation, self.view.source.schema(self.root))
                raise DefinitionError(error.message, where=f"{self.place}, feature '{name}'", hint=hint) from None
            made[name] = []
            for window in aggregation.windows:
                stem = name if window is None else f"{name}_{window.label}"
                names = tuple(f"{stem}_{o.suffix}" if o.suffix else stem for o in outputs)
                calls.append(Call(aggregation.over(window), window, names, name))
                ttl, text = self._ttl(aggregation, window), self._text(aggregation, window)
                call = aggregation.form() | {"windows": window and window.form()}
                form = {"base": base | {"ttl": ttl and format_duration(ttl)}, "call": call}
                made[name] += [
                    Feature(f"{self.name}.{short}", output.type, output.is_list, digest([form, output.suffix]), text)
                    for short, output in zip(names, outputs, strict=True)
                ]
        features: dict[str, Feature] = {}
        for feature in (f for name in self.view.features for f in made[name]):
            if feature.name in features:
                raise DefinitionError(
                    f"two features are named '{self.short(feature.name)}'",
                    where=self.place,
                    hint="a feature over a window is called by its name and the window, such as spend_7d",
                )
            features[feature.name] = feature
        return tuple(calls), features

    def _text(self, aggregation: Aggregation, window: Window | None) -> str:
        conditions = [expression_text(c) for c in (self.view.where, aggregation.selection.where) if c is not None]
        ttl, delay = self._ttl(aggregation, window), self.view.source.delay
        available = self.view.source.available
        parts = [
            f"{aggregation.text} over {'all history' if window is None else window.text}",
            f" where {' and '.join(conditions)}" if conditions else "",
            f", ttl {format_duration(ttl)}" if ttl else "",
            f", delay {format_duration(delay)}" if delay else "",
            ", the same at all times (not time-true)" if self.view.source.time == ALWAYS else "",
            f", known from {available}" if available else "",
        ]
        return "".join(parts)
