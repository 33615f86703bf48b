"""A Feast repository as definitions of Bedplate's, with a report of what could not be carried over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import polars as pl

from bedplate.features.entity import key_cast
from bedplate.migration.code import MODULES, Variables
from bedplate.migration.definitions import (
    Call,
    ContextDefinition,
    Definitions,
    EntityDefinition,
    FeatureList,
    SourceDefinition,
    ViewDefinition,
    call,
)
from bedplate.migration.feast_config import FeastConfig, report_settings
from bedplate.migration.feast_others import leave_argument, leave_other, leave_unread, on_demand, transformed
from bedplate.migration.feast_sources import (
    STREAMS,
    Located,
    created_column,
    is_source,
    locate,
    mapping_of,
    source_name,
    time_column,
)
from bedplate.migration.feast_views import (
    CONTEXT_TYPES,
    ON_DEMAND,
    Field,
    View,
    aggregation,
    aggregations_of,
    fields_of,
    ttl_of,
    unsupported,
    view_of,
)
from bedplate.migration.recording import Record, Recording
from bedplate.migration.report import Report
from bedplate.types import Type, format_duration, type_of


@final
@dataclass(frozen=True, slots=True)
class _Source:
    definition: SourceDefinition
    schema: Mapping[str, pl.DataType] | None


@final
class Translation:
    """Turns what a repository defines into definitions, kind after kind.

    Args:
        config: the repository.
        recording: what its files define.
        target: the project to be made; paths are relative to it.
    """

    def __init__(self, config: FeastConfig, recording: Recording, target: Path) -> None:
        self.definitions, self.report = Definitions(), Report()
        self._config, self._target, self._recording = config, target, recording
        self._variables = Variables([*MODULES, "pl"])
        self._by_record = {id(r): variable for variable, r in recording.defined}
        self._entities: dict[str, EntityDefinition] = {}
        self._sources: dict[int, _Source | None] = {}
        self._features: dict[str, dict[str, str]] = {}
        report_settings(config, self.report)
        leave_unread(recording, self.report)
        self._translate([r for _, r in recording.defined])

    def _translate(self, records: list[Record]) -> None:
        for record in records:
            if record.kind == "Entity":
                self._entity(record)
        for record in records:
            if record.kind in STREAMS:
                leave_other(record, self.report)
            batch = record.record("batch_source") if record.kind in STREAMS else record
            if batch is not None and is_source(batch):
                self._source(batch)
        for record in records:
            if record.kind == "RequestSource":
                self._context(record)
        views = [v for r in records if (v := view_of(r)) is not None]
        for view in views:
            if view.kind != ON_DEMAND:
                self._view(view)
        for view in views:
            if view.kind == ON_DEMAND:
                on_demand(view, self._features, self.report)
        for record in records:
            if record.kind == "FeatureService":
                self._service(record)
            elif record.kind not in (*STREAMS, "RequestSource") and view_of(record) is None:
                leave_other(record, self.report)

    def _variable(self, record: Record, wanted: str) -> str:
        return self._variables.new(self._by_record.get(id(record)) or wanted)

    def _entity(self, record: Record) -> EntityDefinition:
        name = record.text("name")
        if name not in self._entities:
            keys = record.kwargs.get("join_keys")
            key = str(keys[0]) if isinstance(keys, list) and keys else record.text("join_key") or name
            made = EntityDefinition(self._variable(record, name), name, key, described(record))
            self._entities[name] = made
            self.definitions.entities.append(made)
            self.report.carry("entity", name, record.place, f"`{made.variable}`, key `{key}`")
        return self._entities[name]

    def _source(self, record: Record) -> _Source | None:
        """The source that a record becomes, or None: its column of times is not known."""
        if id(record) in self._sources:
            return self._sources[id(record)]
        name = self._free_name(source_name(record))
        variable = self._variable(record, name)
        located = locate(record, variable, self._config, self._target)
        rename = mapping_of(record)
        schema = None if located.schema is None else {rename.get(c, c): dtype for c, dtype in located.schema.items()}
        time = time_column(record, schema)
        problem = _time_problem(time, schema)
        self._sources[id(record)] = None
        if time is None or problem is not None:
            self.report.leave("source", name, record.place, *(problem or ("no column of event times", "")))
            return None
        sequence = self._sequence(record, schema, located)
        made = SourceDefinition(variable, name, located.table, time, rename, sequence, described(record))
        self.definitions.sources.append(made)
        if located.problem is None:
            self.report.carry("source", name, record.place, f"`{variable}`, read where it is")
            if located.is_server:
                self.report.note(f"The password of the server of `{name}` comes from the environment: PGPASSWORD.")
            elif located.schema is None:
                self.report.note(
                    f"Nothing was read at `{located.table}` yet: types are taken as Feast declares them. "
                    "Put the rows there before 'bedplate plan': it reads their columns."
                )
        else:
            self.report.leave("source", name, record.place, located.problem, located.todo)
        self._sources[id(record)] = _Source(made, schema)
        return self._sources[id(record)]

    def _sequence(self, record: Record, schema: Mapping[str, pl.DataType] | None, located: Located) -> str | None:
        """The column that orders rows of one key and time, unless it can't be one."""
        column = created_column(record)
        if column is None or schema is None:
            return column
        if column not in schema:
            reason, todo = "the source has no column of this name", "correct it, and run this again"
        elif type_of(schema[column]) not in (Type.TIME, Type.INT):
            reason, todo = f"the column is {schema[column]}", "cast it in the source's prepare step, then name it there"
        elif located.has_nulls(next((c for c, new in mapping_of(record).items() if new == column), column)):
            reason, todo = "the column has nulls", "fill them in the source's prepare step, then name it there"
        else:
            return column
        todo += " as sequence: it orders rows of one key and time"
        self.report.leave("created timestamp", f"{source_name(record)}.{column}", record.place, reason, todo)
        return None

    def _free_name(self, name: str) -> str:
        names = Variables(s.name for s in self.definitions.sources)
        return name if name not in {s.name for s in self.definitions.sources} else names.new(name)

    def _source_of(self, view: View) -> _Source | None:
        record = view.record.record("source") or view.record.record("batch_source")
        if record is not None and record.kind in STREAMS:
            record = record.record("batch_source")
        return self._source(record) if record is not None and is_source(record) else None

    def _view(self, view: View) -> None:
        for argument in view.record.kwargs:
            leave_argument(view, argument, self.report)
        if view.function is not None:
            transformed(view, aggregations_of(view.record), self.report)
            return
        entities = self._entities_of(view)
        source = self._source_of(view)
        if source is None or not entities:
            reason, todo = _NO_SOURCE if source is None else _NO_ENTITY
            self.report.leave(view.label, view.name, view.place, reason, todo)
            return
        if any(not self._is_key(view, e, source) for e in entities):
            return
        features = self._aggregations(view) or self._newest_values(view, entities, source)
        if not features:
            self.report.leave(view.label, view.name, view.place, "none of its features was carried over", "see above")
            return
        self._add_view(view, entities, source, features)

    def _add_view(
        self, view: View, entities: list[EntityDefinition], source: _Source, features: dict[str, Call]
    ) -> None:
        made = ViewDefinition(
            self._variables.new(next((v for v, r in self._recording.defined if r is view.record), view.name)),
            view.name,
            tuple(e.variable for e in entities),
            source.definition.variable,
            features,
            ttl_of(view.record),
            (*described(view.record), *_field_texts(view, features)),
        )
        self.definitions.views.append(made)
        counted = "1 feature" if len(features) == 1 else f"{len(features)} features"
        self.report.carry(view.label, view.name, view.place, f"`{made.variable}`, {counted}")

    def _entities_of(self, view: View) -> list[EntityDefinition]:
        given = view.record.kwargs.get("entities")
        found: list[EntityDefinition] = []
        for entity in given if isinstance(given, list) else []:
            if isinstance(entity, Record):
                found.append(self._entity(entity))
            elif isinstance(entity, str) and entity in self._entities:
                found.append(self._entities[entity])
        return found

    def _is_key(self, view: View, entity: EntityDefinition, source: _Source) -> bool:
        if source.schema is None:
            return True
        dtype = source.schema.get(entity.key)
        if dtype is not None and type_of(dtype) in (Type.INT, Type.STRING):
            return True
        if dtype is None:
            reason = f"the source '{source.definition.name}' has no column '{entity.key}', the key of '{entity.name}'"
            todo = "name the key's column in the entity (join_keys in Feast), or rename it in the source's prepare step"
        else:
            reason = f"the key '{entity.key}' is {dtype}, expected integers or strings"
            todo = f"cast it in the source's prepare step: {key_cast(entity.key, dtype)}"
        self.report.leave(view.label, view.name, view.place, reason, todo)
        return False

    def _newest_values(self, view: View, entities: list[EntityDefinition], source: _Source) -> dict[str, Call]:
        keys = {e.key for e in entities}
        features: dict[str, Call] = {}
        for field in self._fields(view, keys, source):
            problem = "a feature's name has no dots" if "." in field.name else unsupported(field, source.schema)
            if problem is not None:
                dtype = (source.schema or {}).get(field.name)
                todo = "compute a number, a text or a time from it in the source's prepare step"
                if field.type.startswith("Array(Float") or (isinstance(dtype, pl.List) and dtype.inner.is_numeric()):
                    todo = f'make vectors of it there: pl.col("{field.name}").cast(pl.Array(pl.Float32, LENGTH))'
                self.report.leave("feature", f"{view.name}.{field.name}", field.record.place, problem, todo)
                continue
            if field.record.kwargs.get("vector_index") is True:
                reason, todo = "the online store finds rows by key only", "keep the search where it is"
                self.report.leave("vector index", f"{view.name}.{field.name}", field.record.place, reason, todo)
            features[field.name] = call("Attribute", field.name)
        self._features[view.name] = {name: f"{view.name}.{name}" for name in features}
        return features

    def _fields(self, view: View, keys: set[str], source: _Source) -> list[Field]:
        """The fields that are features: those declared, or else, as in Feast, every column that is no key or time."""
        found = [f for f in fields_of(view.record) if f.name not in keys]
        if found or source.schema is None:
            return found
        record = view.record.record("source")
        created = None if record is None else created_column(record.record("batch_source") or record)
        used = keys | {source.definition.time, created}
        return [Field(c, "?", "", view.record) for c in source.schema if c not in used]

    def _aggregations(self, view: View) -> dict[str, Call]:
        groups: dict[str, list[int]] = {}
        parts = aggregations_of(view.record)
        for i, part in enumerate(parts):
            groups.setdefault(part.short, []).append(i)
        features: dict[str, Call] = {}
        names: dict[str, str] = {}
        for short, group in groups.items():
            made = aggregation([parts[i] for i in group])
            if made is None:
                reason = f"Bedplate has no aggregation '{parts[group[0]].function}' by this name"
                todo = "see bedplate/aggregations for what there is"
                self.report.leave("aggregation", f"{view.name}.{short}", view.place, reason, todo)
                continue
            features[short] = made
            for part in (parts[i] for i in group):
                window = "" if part.window is None else f"_{format_duration(part.window.micros)}"
                names[part.feast_name] = f"{view.name}.{short}{window}"
        if names:
            self._features[view.name] = names
            renamed = ", ".join(f"`{old}` is `{new}`" for old, new in names.items())
            self.report.note(f"Windows of `{view.name}` slide, and are exact at their near end; {renamed}.")
        return features

    def _context(self, record: Record) -> None:
        """The values of a request source as context of requests; the same name and type twice are one."""
        made: list[str] = []
        known = {c.name: c.type for c in self.definitions.contexts}
        for field in fields_of(record):
            kind = CONTEXT_TYPES.get(field.type)
            if kind is None or not field.name.isidentifier() or known.get(field.name, kind) != kind:
                reason = f"context is a text, a number, a time, and this is {field.type}"
                if kind is not None:
                    reason = "context has another type of this name" if field.name in known else "it is no Python name"
                todo = "give it to the request in another form or under another name"
                self.report.leave("request field", f"{record.text('name')}.{field.name}", record.place, reason, todo)
                continue
            made.append(f"`request.{field.name}`")
            if field.name not in known:
                said = (field.description,) if field.description else ()
                variable = self._variables.new(field.name)
                self.definitions.contexts.append(ContextDefinition(variable, field.name, kind, said))
        if made:
            self.report.carry("request source", record.text("name"), record.place, f"context {', '.join(made)}")

    def _service(self, record: Record) -> None:
        name = record.text("name")
        features: list[str] = []
        lacking: list[str] = []
        given = record.kwargs.get("features")
        for item in given if isinstance(given, list) else []:
            found, problem = self._chosen(item)
            features += found
            lacking += [problem] if problem else []
        if lacking:
            reason = f"its list lacks {'; '.join(lacking)}"
            todo = "add them to the list once they are defined"
            self.report.leave("feature service", name, record.place, reason, todo)
        if record.kwargs.get("logging_config") is not None:
            reason, todo = (
                "Bedplate keeps no log of features that were served",
                "log them where you serve, if you need it",
            )
            self.report.leave("logging of feature service", name, record.place, reason, todo)
        if features:
            made = FeatureList(self._variables.new(name.upper()), tuple(dict.fromkeys(features)), described(record))
            self.definitions.lists.append(made)
            self.report.carry("feature service", name, record.place, f"the list `{made.variable}`")

    def _chosen(self, item: object) -> tuple[list[str], str | None]:
        """The features that an entry of a feature service names, and what it names that was not carried over."""
        wanted: list[str] | None = None
        if isinstance(item, str):
            view_name, _, feature = item.partition(":")
            view_name, wanted = view_name.partition("@")[0], [feature] if feature else None
        elif isinstance(item, Record):
            base = item
            if item.kind == "item" and item.base is not None:
                base = item.base
                wanted = [str(v) for v in item.args[0]] if isinstance(item.args[0], list) else None
            if base.kind == "call" and base.base is not None and base.base.kind == "attribute":
                return [], f"a view under another name or key ({base.base.args[0]}, {base.place})"
            view = view_of(base)
            view_name = view.name if view is not None else base.text("name")
        else:
            return [], "an entry that could not be read"
        known = self._features.get(view_name, {})
        found = [full for name, full in known.items() if wanted is None or name in wanted]
        absent = [f for f in wanted or [] if f not in known]
        if not known or absent:
            return found, f"{view_name}:{', '.join(absent)}" if absent else view_name
        return found, None


_NO_SOURCE = (
    "it has no source with a table that could be carried over",
    "write the source and the view by hand, once its rows are in a table",
)
_NO_ENTITY = (
    "it has no entity, and every view of Bedplate's has a key",
    "give its rows a constant column as key in the source's prepare step, and an entity with that key",
)


def _time_problem(time: str | None, schema: Mapping[str, pl.DataType] | None) -> tuple[str, str] | None:
    if time is None:
        return "it names no column of event times", "name it in timestamp_field, and run this again"
    if schema is None or (time in schema and type_of(schema[time]) is Type.TIME):
        return None
    if time not in schema:
        return f"its column of event times '{time}' is not in the data", "correct timestamp_field, and run this again"
    return f"its column of event times '{time}' is {schema[time]}", "write datetimes into it, and run this again"


def described(record: Record) -> tuple[str, ...]:
    """What a definition says of itself, for a comment: description, owner, tags."""
    tags = record.kwargs.get("tags")
    texts = [record.text("description").strip()]
    texts += [f"Owner: {record.text('owner')}"] if record.text("owner") else []
    texts += ["Tags: " + ", ".join(f"{k}={v}" for k, v in tags.items())] if isinstance(tags, dict) and tags else []
    return tuple(t for t in texts if t)


def _field_texts(view: View, features: Mapping[str, Call]) -> tuple[str, ...]:
    return tuple(f"{f.name}: {f.description}" for f in fields_of(view.record) if f.description and f.name in features)
