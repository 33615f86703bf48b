"""Definitions as a Python file, laid out as `ruff format` would."""

from __future__ import annotations

import keyword
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from bedplate.migration.definitions import (
    Call,
    ContextDefinition,
    Definitions,
    EntityDefinition,
    Expression,
    FeatureList,
    SourceDefinition,
    Symbol,
    ViewDefinition,
    call,
)

WIDTH = 88
"""The longest line: ruff's own default."""

_BEDPLATE = ("Count", "CountDistinct", "Entity", "FeatureView", "Last", "Max", "Mean", "Min", "Source", "Sum", "Window")
MODULES: dict[str, str] = dict.fromkeys(_BEDPLATE, "bedplate") | {
    "Attribute": "bedplate.aggregations.attribute",
    "Context": "bedplate.features.context",
}
"""Where the names that definitions use are imported from."""


@final
class Variables:
    """Names for a program's variables, each given once.

    >>> names = Variables(["Entity"])
    >>> names.new("driver stats"), names.new("driver_stats"), names.new("class"), names.new("7d")
    ('driver_stats', 'driver_stats_2', 'class_', '_7d')
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def new(self, wanted: str) -> str:
        """A name like the wanted one that is a Python name and not taken yet."""
        name = re.sub(r"\W", "_", wanted) or "_"
        name = f"_{name}" if name[0].isdigit() else f"{name}_" if keyword.iskeyword(name) else name
        free, number = name, 2
        while free in self._taken:
            free, number = f"{name}_{number}", number + 1
        self._taken.add(free)
        return free


def text_literal(text: str) -> str:
    r"""A string in double quotes, or in single ones where it holds more double ones than single ones.

    >>> print(text_literal("a\n'b'"), text_literal('say "x"'))
    "a\n'b'" 'say "x"'
    """
    body = repr(f'"{text}')[2:-1].replace("\\'", "'")
    quote = "'" if text.count('"') > text.count("'") else '"'
    return quote + body.replace(quote, f"\\{quote}") + quote


def layout(head: str, expression: Expression, tail: str = "", indent: int = 0) -> str:
    """An expression after `head`: on one line where it fits, else each part of it on a line of its own.

    >>> print(layout("x = ", call("Sum", "price", windows=["1d", "7d"])))
    x = Sum("price", windows=["1d", "7d"])
    """
    line = f"{' ' * indent}{head}{_flat(expression)}{tail}"
    parts = _parts(expression)
    if len(line) <= WIDTH or not parts:
        return line
    opening, closing = _brackets(expression)
    inside = [layout(before, part, ",", indent + 4) for before, part in parts]
    return "\n".join([f"{' ' * indent}{head}{opening}", *inside, f"{' ' * indent}{closing}{tail}"])


def _flat(expression: Expression) -> str:
    if isinstance(expression, str):
        return text_literal(expression)
    opening, closing = _brackets(expression)
    return f"{opening}{', '.join(head + _flat(part) for head, part in _parts(expression))}{closing}"


def _brackets(expression: Expression) -> tuple[str, str]:
    match expression:
        case Call(function):
            return f"{function}(", ")"
        case Symbol(name):
            return name, ""
        case list():
            return "[", "]"
        case dict():
            return "{", "}"
        case str():
            return "", ""


def _parts(expression: Expression) -> list[tuple[str, Expression]]:
    """What stands between the brackets: each part with what stands before it."""
    match expression:
        case Call(_, arguments):
            return [(f"{name}=" if name else "", part) for name, part in arguments]
        case list():
            return [("", part) for part in expression]
        case dict():
            return [(f"{text_literal(key)}: ", part) for key, part in expression.items()]
        case _:
            return []


def comment(texts: Sequence[str]) -> list[str]:
    """Comment lines, each text wrapped.

    >>> comment(["Average trips."])
    ['# Average trips.']
    """
    lines = [line for text in texts for part in text.splitlines() for line in wrapped(part, WIDTH - 2)]
    return [f"# {line}" for line in lines]


def wrapped(text: str, width: int = WIDTH) -> list[str]:
    """A text in lines, words kept whole."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


@final
@dataclass(frozen=True, slots=True)
class _Statement:
    """Lines of the file; a function has two empty lines on either side."""

    lines: tuple[str, ...]
    is_function: bool = False


def _entity(entity: EntityDefinition) -> _Statement:
    made = layout(f"{entity.variable} = ", call("Entity", entity.name, key=entity.key))
    return _Statement((*comment(entity.comments), made))


def _source(source: SourceDefinition) -> list[_Statement]:
    arguments = call("Source", source.name, source.table, time=source.time).arguments
    if source.sequence is not None:
        arguments = (*arguments, ("sequence", source.sequence))
    if source.prepare is not None:
        arguments = (*arguments, ("prepare", Symbol(source.prepare)))
    made = layout(f"{source.variable} = ", Call("Source", arguments))
    return [*_prepare(source), _Statement((*comment(source.comments), made))]


def _prepare(source: SourceDefinition) -> list[_Statement]:
    """The cleaning step."""
    if source.prepare is None:
        return []
    head = f"def {source.prepare}(rows: pl.LazyFrame) -> pl.LazyFrame:"
    if len(head) > WIDTH:
        head = f"def {source.prepare}(\n    rows: pl.LazyFrame,\n) -> pl.LazyFrame:"
    doc = '    """Gives columns the names that keys and features have."""'
    renamed = layout("return ", call("rows.rename", dict(source.rename)), indent=4)
    return [_Statement((head, doc, renamed), is_function=True)]


def _view(view: ViewDefinition) -> _Statement:
    entities: list[Expression] = [Symbol(e) for e in view.entities]
    features: dict[str, Expression] = dict(view.features)
    made = call(
        "FeatureView", view.name, entities[0] if len(entities) == 1 else entities, Symbol(view.source), features
    )
    if view.ttl is not None:
        made = Call("FeatureView", (*made.arguments, ("ttl", view.ttl)))
    return _Statement((*comment(view.comments), layout(f"{view.variable} = ", made)))


def _context(context: ContextDefinition) -> _Statement:
    made = layout(f"{context.variable} = ", call("Context", context.name, context.type))
    return _Statement((*comment(context.comments), made))


def _list(features: FeatureList) -> _Statement:
    return _Statement((*comment(features.comments), layout(f"{features.variable} = ", list(features.features))))


def _names(expression: Expression) -> set[str]:
    """The functions that an expression calls."""
    inside = {name for _, part in _parts(expression) for name in _names(part)}
    return inside | {expression.function.partition(".")[0]} if isinstance(expression, Call) else inside


def _imports(definitions: Definitions) -> list[str]:
    tables = {name for s in definitions.sources for name in _names(s.table)}
    used = {name for v in definitions.views for a in v.features.values() for name in _names(a)} | tables
    for name, there in (
        ("Entity", definitions.entities),
        ("Source", definitions.sources),
        ("FeatureView", definitions.views),
        ("Context", definitions.contexts),
    ):
        used |= {name} if there else set()
    lines = ["import polars as pl"] if any(s.prepare for s in definitions.sources) else []
    for module in sorted({MODULES[name] for name in used}):
        names = sorted(name for name in used if MODULES[name] == module)
        line = f"from {module} import {', '.join(names)}"
        wide = [f"from {module} import (", *(f"    {name}," for name in names), ")"]
        lines += [line] if len(line) <= WIDTH else wide
    return lines


def python_file(title: str, definitions: Definitions) -> str:
    """The whole file.

    Args:
        title: what its docstring says: a line, and below it, after an empty one, more.
        definitions: what it defines.
    """
    statements = [
        *(_entity(e) for e in definitions.entities),
        *(part for s in definitions.sources for part in _source(s)),
        *(_view(v) for v in definitions.views),
        *(_context(c) for c in definitions.contexts),
        *(_list(f) for f in definitions.lists),
    ]
    head, _, rest = title.partition("\n")
    doc = [f'"""{head}"""'] if not rest else [f'"""{head}', *rest.splitlines(), '"""']
    imports = _imports(definitions)
    lines = [*doc, "", *imports] if imports else doc
    before_function = False
    for statement in statements:
        lines += [""] * (2 if statement.is_function or before_function else 1)
        lines += statement.lines
        before_function = statement.is_function
    return "\n".join(lines).rstrip() + "\n"
