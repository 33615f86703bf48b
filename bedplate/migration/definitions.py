"""The definitions of a project before they are Python: what `code` writes and a migration makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias, final


@final
@dataclass(frozen=True, slots=True)
class Call:
    """A call: the function's name, and its arguments, each with its name or an empty one."""

    function: str
    arguments: tuple[tuple[str, Expression], ...]


@final
@dataclass(frozen=True, slots=True)
class Symbol:
    """A name of the program."""

    name: str


Expression: TypeAlias = "str | Symbol | Call | list[Expression] | dict[str, Expression]"
"""A text is a string in the program, not code."""


def call(function: str, *arguments: Expression, **named: Expression) -> Call:
    """A call with positional and named arguments.

    >>> call("Sum", "price", windows=["1d"]).arguments
    (('', 'price'), ('windows', ['1d']))
    """
    return Call(function, (*(("", a) for a in arguments), *named.items()))


@final
@dataclass(frozen=True, slots=True)
class EntityDefinition:
    """An entity.

    Attributes:
        variable: its name in the program.
        name: its name in the project.
        key: the column of its key.
        comments: what is said above it.
    """

    variable: str
    name: str
    key: str
    comments: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class SourceDefinition:
    """A source.

    Attributes:
        variable: its name in the program.
        name: its name in the project.
        table: where its rows are: a path, or an expression that makes a table.
        time: the column of event times.
        rename: columns that get another name, by the name that they have.
        sequence: the column that orders rows of one key and time, if any.
        comments: what is said above it.
    """

    variable: str
    name: str
    table: Expression
    time: str
    rename: dict[str, str] = field(default_factory=dict[str, str])
    sequence: str | None = None
    comments: tuple[str, ...] = ()

    @property
    def prepare(self) -> str | None:
        """The name of its cleaning step, if it has one."""
        return f"prepare_{self.variable}" if self.rename else None


@final
@dataclass(frozen=True, slots=True)
class ViewDefinition:
    """A feature view.

    Attributes:
        variable: its name in the program.
        name: its name in the project.
        entities: the variables of its entities.
        source: the variable of its source.
        features: aggregations by name.
        ttl: how old an event may be, if there is a limit.
        comments: what is said above it.
    """

    variable: str
    name: str
    entities: tuple[str, ...]
    source: str
    features: dict[str, Call]
    ttl: str | None = None
    comments: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class ContextDefinition:
    """A value that each request brings.

    Attributes:
        variable: its name in the program.
        name: its name in the project.
        type: its type, an expression.
        comments: what is said above it.
    """

    variable: str
    name: str
    type: Expression
    comments: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class FeatureList:
    """A named list of features, by full name."""

    variable: str
    features: tuple[str, ...]
    comments: tuple[str, ...] = ()


@final
@dataclass(slots=True)
class Definitions:
    """All definitions of a project, each kind in its order."""

    entities: list[EntityDefinition] = field(default_factory=list[EntityDefinition])
    sources: list[SourceDefinition] = field(default_factory=list[SourceDefinition])
    views: list[ViewDefinition] = field(default_factory=list[ViewDefinition])
    contexts: list[ContextDefinition] = field(default_factory=list[ContextDefinition])
    lists: list[FeatureList] = field(default_factory=list[FeatureList])
