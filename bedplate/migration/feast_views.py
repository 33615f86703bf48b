"""Feast's views: their fields, types and aggregations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import polars as pl

from bedplate.migration.definitions import Call, Expression, Symbol, call
from bedplate.migration.recording import Duration, Function, Name, Record, Value
from bedplate.types import format_duration, type_of

VIEWS = ("FeatureView", "BatchFeatureView", "StreamFeatureView")
ON_DEMAND = "OnDemandFeatureView"
_DECORATORS = {
    "on_demand_feature_view": ON_DEMAND,
    "batch_feature_view": "BatchFeatureView",
    "stream_feature_view": "StreamFeatureView",
}
LABELS = {
    "FeatureView": "feature view",
    "BatchFeatureView": "batch feature view",
    "StreamFeatureView": "stream feature view",
    ON_DEMAND: "on demand feature view",
}

_SUPPORTED = {"Bool", "Int32", "Int64", "Float32", "Float64", "String", "UnixTimestamp", "Json", "Decimal", "Uuid"} | {
    *("BOOL", "INT32", "INT64", "FLOAT", "DOUBLE", "STRING", "UNIX_TIMESTAMP"),
}
CONTEXT_TYPES: dict[str, Expression] = {
    **dict.fromkeys(("Int32", "Int64"), Symbol("int")),
    **dict.fromkeys(("Float32", "Float64"), Symbol("float")),
    **dict.fromkeys(("String", "Json", "Uuid"), Symbol("str")),
    "Bool": Symbol("bool"),
    "UnixTimestamp": "timestamp",
}
"""The types of what requests bring, by Feast's."""
_AGGREGATIONS = {
    "sum": "Sum",
    "mean": "Mean",
    "avg": "Mean",
    "min": "Min",
    "max": "Max",
    "count": "Count",
    "count_distinct": "CountDistinct",
    "nunique": "CountDistinct",
    "last": "Last",
    "latest": "Last",
}


@final
@dataclass(frozen=True, slots=True)
class View:
    """A view, however it was made.

    Attributes:
        kind: `FeatureView`, `BatchFeatureView`, `StreamFeatureView` or `OnDemandFeatureView`.
        name: its name.
        place: where it is defined.
        record: its arguments.
        function: its transformation, if it has one.
    """

    kind: str
    name: str
    place: str
    record: Record
    function: Function | None

    @property
    def label(self) -> str:
        """What a report calls its kind."""
        return LABELS[self.kind]


def view_of(record: Record) -> View | None:
    """The view that a record makes: by its class, or by a decorator of a function."""
    if record.kind in (*VIEWS, ON_DEMAND):
        udf = record.kwargs.get("udf") or record.kwargs.get("feature_transformation")
        function = udf if isinstance(udf, Function) else Function("?", "", 0) if udf else None
        return View(record.kind, record.text("name"), record.place, record, function)
    base = record.base
    if record.kind == "call" and base is not None and base.kind in _DECORATORS:
        function = next((a for a in record.args if isinstance(a, Function)), None) or Function("?", "", 0)
        name = base.text("name") or function.name
        return View(_DECORATORS[base.kind], name, record.place, base, function)
    return None


@final
@dataclass(frozen=True, slots=True)
class Field:
    """A feature of a view: its name, Feast's type, and what is said of it."""

    name: str
    type: str
    description: str
    record: Record


def fields_of(record: Record) -> list[Field]:
    """The fields of a view's schema, in their order."""
    found = [r for r in (*record.records("schema"), *record.records("features")) if r.kind in ("Field", "Feature")]
    return [Field(r.text("name"), type_text(r.kwargs.get("dtype")), r.text("description"), r) for r in found]


def type_text(value: Value) -> str:
    """A type of Feast's as a text.

    >>> type_text(Name("Float32"))
    'Float32'
    """
    if isinstance(value, Name):
        return value.name
    if isinstance(value, Record):
        inside = ", ".join(type_text(a) for a in value.args if isinstance(a, Name | Record))
        return f"{value.kind}({inside})"
    return "?"


def unsupported(field: Field, schema: Mapping[str, pl.DataType] | None) -> str | None:
    """Why Bedplate has no value for a field, or None: by the column where it can be seen, else by the declared type."""
    if schema is None:
        return None if field.type in _SUPPORTED else f"Bedplate has no value of the type {field.type}"
    if field.name not in schema:
        return "the source has no column of this name"
    dtype = schema[field.name]
    return f"Bedplate has no value of the column's type, {dtype}" if type_of(dtype) is None else None


def ttl_of(record: Record) -> str | None:
    """A view's ttl; Feast's zero is none."""
    value = record.kwargs.get("ttl")
    return format_duration(value.micros) if isinstance(value, Duration) and value.micros > 0 else None


@final
@dataclass(frozen=True, slots=True)
class Aggregated:
    """An aggregation of a view: the function and what Feast calls its value."""

    column: str
    function: str
    window: Duration | None
    slide: Duration | None
    name: str

    @property
    def feast_name(self) -> str:
        """The feature's name in Feast."""
        seconds = f"_{self.window.micros // 1_000_000}s" if self.window and not self.name else ""
        return f"{self.short}{seconds}"

    @property
    def short(self) -> str:
        """The name without the window."""
        return self.name or f"{self.function}_{self.column}"


def aggregations_of(record: Record) -> list[Aggregated]:
    """The aggregations of a view, in their order."""
    found: list[Aggregated] = []
    for r in record.records("aggregations"):
        order = ("column", "function", "time_window", "slide_interval", "name")
        given: dict[str, Value] = dict(zip(order, r.args, strict=False)) | r.kwargs
        window, slide = given.get("time_window"), given.get("slide_interval")
        found.append(
            Aggregated(
                str(given.get("column") or ""),
                str(given.get("function") or ""),
                window if isinstance(window, Duration) else None,
                slide if isinstance(slide, Duration) else None,
                str(given.get("name") or ""),
            )
        )
    return found


def aggregation(parts: list[Aggregated]) -> Call | None:
    """The aggregation of a column over one or more windows, or None: Bedplate has none of this name."""
    function = _AGGREGATIONS.get(parts[0].function)
    if function is None:
        return None
    windows: list[Expression] = [_window(p.window, p.slide) for p in parts if p.window is not None]
    return call(function, parts[0].column, windows=windows) if windows else call(function, parts[0].column)


def _window(window: Duration, slide: Duration | None) -> Expression:
    length = format_duration(window.micros)
    if slide is None or slide.micros >= window.micros:
        return length
    return call("Window.of", length, hop=format_duration(slide.micros))
