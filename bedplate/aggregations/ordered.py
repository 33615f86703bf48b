"""Aggregations that depend on the order of events: the last value, the last N, the time since the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from bedplate.aggregations.base import (
    Aggregation,
    ExpressionLike,
    Finish,
    Latest,
    Newest,
    Oldest,
    OneInput,
    Output,
    Partial,
    Reduce,
    Reduction,
)
from bedplate.aggregations.text import shown_input
from bedplate.aggregations.window import WindowLike
from bedplate.batch import Column, Dense, Embedding, Ids, Ragged, TextLookup
from bedplate.errors import DefinitionError
from bedplate.types import SECOND, Array, Bools, Int64s, Type


def newest(partial: Partial) -> Newest:
    """The partial as one of the last event, which a LATEST of depth 1 has."""
    if not isinstance(partial, Newest):
        raise DefinitionError(f"got a {type(partial).__name__} partial, expected a newest one")
    return partial


def latest(partial: Partial) -> Latest:
    """The partial as lists of the last events.

    >>> one = Newest(np.array([True, False]), np.array([5, 0]), (np.array([1.5, 0.0]),), (None,))
    >>> latest(one).offsets.tolist(), latest(one).columns[0].tolist()
    ([0, 1, 1], [1.5])
    """
    if isinstance(partial, Latest):
        return partial
    if not isinstance(partial, Newest):
        raise DefinitionError(f"got a {type(partial).__name__} partial, expected a latest one")
    present = partial.present
    offsets = np.zeros(len(present) + 1, np.int64)
    np.cumsum(present, out=offsets[1:])
    return Latest(offsets, partial.times[present], tuple(c[present] for c in partial.columns), partial.texts)


def _element(values: Array, present: Bools | None, texts: TextLookup | None) -> Dense | Ids:
    return Dense(values, present) if texts is None else Ids(values, present, texts)


@final
class Last(OneInput):
    """The value of the last event in which the expression is not null. No event: null."""

    __slots__ = ()

    finish = Finish.NEWEST

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """The latest event."""
        return (Reduction(Reduce.LATEST, self.selection, 1),)

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """The type of the input."""
        return (Output("", types[0]),)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The last value where there was an event."""
        partial = newest(partials[0])
        values, present = partial.columns[0], partial.present
        if values.ndim > 1:
            return (Embedding(values, present),)
        return (_element(values, present, partial.texts[0]),)


@final
class First(OneInput):
    """The value of the first event in which the expression is not null. No event: null.

    Over all history it stays what it was: a view's `ttl` does not apply. State: 3 words of 8 bytes a tile (time, value
    and the number of events), or over all history; in history nothing but the values.
    """

    __slots__ = ()

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """The earliest event."""
        return (Reduction(Reduce.EARLIEST, self.selection),)

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """The type of the input."""
        if types[0].width:
            raise DefinitionError(
                f"First takes numbers, strings, booleans and times; got {types[0]}", hint="Last takes vectors"
            )
        return (Output("", types[0]),)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The first value where there was an event."""
        partial = partials[0]
        if not isinstance(partial, Oldest):
            raise DefinitionError(f"got a {type(partial).__name__} partial, expected an oldest one")
        return (_element(partial.values, partial.present, partial.texts),)


@final
class LastN(Aggregation):
    """The last `n` events, oldest first, one list a column; events with a null in any of the columns are left out.

    With `distinct` they are of different values of one column: of each value its last event, of these the last n.

    State, without and with `distinct`: n events online, of 8 bytes for the time and each column. They are enough for
    every time and window that can be asked for, as an event that is not among the last n is never again: values only
    get newer events. In history `distinct` takes 4 bytes an event (8 in a table of 2^32 or more).

    Args:
        columns: names of columns, or a mapping from a field's name to a row expression.
        n: at most so many events.
        age: the name of one more field, the seconds from each event to the time asked for (float64); None for none.
        distinct: a field, or another column or row expression (integers, strings, booleans or times; an event in which
            it is null is left out). Ties in time are broken as everywhere, by arrival. None: every event is taken.
        windows: only events in the window; None for all history.
        where: a boolean row expression; other events do not count.

    >>> LastN(["product_id", "price"], 50, age="age").fields
    ('product_id', 'price', 'age')
    >>> LastN(["product_id", "price"], 50, distinct="product_id").selection.form["inputs"]
    ['price', 'product_id']
    """

    __slots__ = ("_inputs", "age", "fields", "is_distinct", "n")

    def __init__(
        self,
        columns: str | Sequence[str] | Mapping[str, ExpressionLike],
        n: int,
        age: str | None = None,
        windows: WindowLike | Sequence[WindowLike] | None = None,
        where: ExpressionLike | None = None,
        distinct: ExpressionLike | None = None,
    ) -> None:
        # Whoever writes definitions may run no type checker.
        named = columns if isinstance(columns, str | list | tuple | Mapping) else None
        names = [named] if isinstance(named, str) else list(named or ())
        given: list[object] = [*names, *([] if age is None else [age])]
        if named is None or not all(isinstance(n, str) and n for n in given):
            raise DefinitionError(
                f"got the columns {columns!r} and age={age!r}, expected names of columns, or expressions by name",
                where="LastN",
                hint='for example LastN(["product_id", "price"], 50, age="age")',
            )
        inputs = list(columns.values()) if isinstance(columns, Mapping) else names
        self.is_distinct = distinct is not None
        self._inputs = list(range(len(inputs)))
        if distinct is not None:
            inputs, self._inputs = _by_last(dict(zip(names, inputs, strict=True)), distinct)
        super().__init__(inputs, windows, where)
        self.n, self.age = n, age
        self.fields = (*names, age) if age else tuple(names)
        is_count = isinstance(n, int) and not isinstance(n, bool) and n > 0  # pyright: ignore[reportUnnecessaryIsInstance]
        if not is_count or not names or len(set(self.fields)) != len(self.fields):
            raise DefinitionError(
                f"got n={n!r} and fields {list(self.fields)}, expected a whole n above zero and different names",
                where="LastN",
            )

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """The latest n events, or those of different values of the last input."""
        return (Reduction(Reduce.LATEST_BY if self.is_distinct else Reduce.LATEST, self.selection, self.n),)

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """One list a field; a field's suffix is its name when there are several."""
        vectors = [t for t in types if t.width]
        if vectors:
            raise DefinitionError(
                f"LastN takes numbers, strings, booleans and times; got {vectors[0]}", hint="Last takes vectors"
            )
        if self.is_distinct and types[-1] is Type.FLOAT:
            given = shown_input(self.selection.inputs[-1])
            raise DefinitionError(
                f"distinct takes int64, string, bool, timestamp; got float64 from {given}",
                hint="round it to something that recurs, and cast it to pl.Int64",
            )
        kinds = [types[i] for i in self._inputs]
        if self.age:
            kinds.append(Type.FLOAT)
        if len(self.fields) == 1:
            return (Output("", kinds[0], is_list=True),)
        return tuple(Output(name, kind, is_list=True) for name, kind in zip(self.fields, kinds, strict=True))

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The lists, and the ages at the times asked for."""
        partial = latest(partials[0])
        columns: list[Column] = [
            Ragged(_element(partial.columns[i], None, partial.texts[i]), partial.offsets) for i in self._inputs
        ]
        if self.age:
            asked = np.repeat(times, np.diff(partial.offsets))
            columns.append(Ragged(Dense((asked - partial.times) / SECOND), partial.offsets))
        return tuple(columns)

    def options(self) -> Mapping[str, Any]:
        """The number of events, the names of the fields, and with `distinct` what that is and which input is which."""
        options: dict[str, Any] = {"n": self.n, "fields": list(self.fields), "age": self.age}
        if self.is_distinct:
            options |= {"distinct": str(self.selection.inputs[-1]), "inputs": self._inputs}
        return options


def _by_last(fields: Mapping[str, ExpressionLike], distinct: ExpressionLike) -> tuple[list[ExpressionLike], list[int]]:
    """The inputs, of which `distinct` (a field or another expression) is the last, and where each field is in them."""
    names = list(fields)
    if isinstance(distinct, str) and distinct in fields:
        names.remove(distinct)
        return [*(fields[n] for n in names), fields[distinct]], [[*names, distinct].index(n) for n in fields]
    return [*fields.values(), distinct], list(range(len(names)))


@final
class TimeSince(Aggregation):
    """Seconds since the last event (float64), or since the last one for which `where` is true. No event: null."""

    __slots__ = ()

    def __init__(
        self, windows: WindowLike | Sequence[WindowLike] | None = None, where: ExpressionLike | None = None
    ) -> None:
        super().__init__([], windows, where)

    @property
    def looks_back(self) -> bool:
        """It does."""
        return True

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """The latest event, without inputs."""
        return (Reduction(Reduce.LATEST, self.selection, 1),)

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """One float."""
        return (Output("", Type.FLOAT),)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The seconds from the last event's time to the time asked for."""
        partial = newest(partials[0])
        return (Dense(np.where(partial.present, (times - partial.times) / SECOND, 0.0), partial.present),)
