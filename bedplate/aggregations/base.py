"""The algebra that history and the online store share.

A feature is computed in four steps, each with one definition:

- **prepare**: row expressions (Polars) turn an event into the values that its `Selection` names.
- **update** and **merge**: a `Reduction` says how the values of a set of events reduce to a partial result. It is a
  commutative monoid over disjoint sets of events (ordered by time and, at equal times, by arrival). History gets
  partials from prefix sums and sorted columns, the online store from tiles and rings; both get the same partials.
- **finalize**: an `Aggregation` turns partials into the feature's value, vectorised over keys.

Which events count for a reduction over a window: the events of the key in the window for which the selection's `where`
is true and every input is there (not null, not NaN).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, final

import msgspec

from bedplate.aggregations.text import expression_text, shown_input
from bedplate.aggregations.window import Window, WindowLike, windows_of
from bedplate.arguments import checks_arguments
from bedplate.batch import Column, TextLookup
from bedplate.canonical import expression_form
from bedplate.errors import DefinitionError, suggest
from bedplate.identity import class_id
from bedplate.types import Array, Bools, Int64s, Type

if TYPE_CHECKING:
    import polars as pl

ExpressionLike: TypeAlias = "str | pl.Expr"
"""A row expression: the name of a column, or a Polars expression that works row by row. Give `is_in` a list: a set has
another order in another process, and the expression then another id."""


def to_expression(expression: ExpressionLike, place: str | None = None) -> pl.Expr:
    """The Polars expression of a column's name or of an expression; `place` is what a message calls the definition.

    Raises:
        DefinitionError: it is neither.
    """
    import polars as pl

    if isinstance(expression, str):
        return pl.col(expression)
    if not isinstance(expression, pl.Expr):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(
            f"got {expression!r}, expected the name of a column or a Polars expression",
            where=place,
            hint='for example "price" or pl.col("price") * 2',
        )
    return expression


@final
class Selection:
    """Row values of the events that count: inputs, and an optional condition.

    Two selections are equal when their canonical forms are; they are then stored once, however many features use them.

    Attributes:
        inputs: row expressions.
        where: a boolean row expression, or None.
        given: the numbers or booleans of which the one input is computed, where the aggregation computes it; else
            None. An infinite one is refused when it is read.
        keeps_null: whether an event also counts where its first input is not there. The second and last one, integers
            that are never null, is then 0.
        text: the inputs for a person to read, without how long a nullable value holds.
        form: the canonical form.
    """

    __slots__ = ("form", "given", "inputs", "keeps_null", "text", "where")

    def __init__(
        self,
        inputs: Sequence[ExpressionLike],
        where: ExpressionLike | None,
        place: str,
        *,
        keeps_null: bool = False,
        text: str | None = None,
        given: pl.Expr | None = None,
    ) -> None:
        self.given = given
        self.inputs = tuple(to_expression(e, place) for e in inputs)
        self.where = None if where is None else to_expression(where, place)
        shown = self.inputs[:1] if keeps_null else self.inputs
        self.text = ", ".join(map(expression_text, shown)) if text is None else text
        self.form: dict[str, Any] = {
            "inputs": [expression_form(e, place) for e in self.inputs],
            "where": None if self.where is None else expression_form(self.where, place),
        }
        self.keeps_null = keeps_null
        if keeps_null:
            self.form["keeps_null"] = True

    def narrowed(self, where: pl.Expr | None, place: str) -> Selection:
        """The same inputs of those of the events for which another condition is true too."""
        if where is None:
            return self
        both = where if self.where is None else self.where & where
        return Selection(self.inputs, both, place, text=self.text, given=self.given)

    @property
    def expressions(self) -> tuple[pl.Expr, ...]:
        """The inputs and then the condition."""
        return self.inputs if self.where is None else (*self.inputs, self.where)


class Reduce(StrEnum):
    """How the values of the events that count become one partial result.

    - COUNT: their number; int64.
    - SUM: the sum of the one input; int64 for integers and booleans, float64 for floats.
    - MIN, MAX: of the one input.
    - LATEST: the last `depth` events in order (time, arrival): their times and inputs. The partial is a `Newest` where
      the depth is 1, else a `Latest`.
    - DISTINCT: the number of different values of the one input; int64.
    - COUNTS: the different values of the one input, how often each occurs and when last. The partial is a `Counts`.
    - SMALLEST: the `depth` smallest of the hashes of the one input's different values. The partial is a `Hashes`.
    - LATEST_BY: of each value of the last input the last event in order (time, arrival), of these the last `depth`.
      The partial is a `Latest`.
    - EARLIEST: the first event in order (time, arrival): its time and input. The partial is an `Oldest`.
    - MOMENTS: how many values of the one input there are, their mean and the sum of their squared deviations from it.
      The partial is a `Moments`.
    - DECAYED_SUM, DECAYED_COUNT: the sum of the one input, or of 1 for each event, where what an event adds is halved
      by every `half_life` that passes after it. The partial is a `Decayed`.
    """

    COUNT = "count"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    LATEST = "latest"
    DISTINCT = "distinct"
    COUNTS = "counts"
    SMALLEST = "smallest"
    LATEST_BY = "latest-by"
    EARLIEST = "earliest"
    MOMENTS = "moments"
    DECAYED_SUM = "decayed-sum"
    DECAYED_COUNT = "decayed-count"


@final
@dataclass(frozen=True, slots=True)
class Reduction:
    """A reduction of a selection.

    Attributes:
        reduce: how the values are reduced.
        selection: of which events and values.
        depth: how many events or hashes it keeps; 0 where it keeps no list, or of COUNTS all values.
        half_life: microseconds; 0 where nothing decays.
    """

    reduce: Reduce
    selection: Selection
    depth: int = 0
    half_life: int = 0

    @property
    def stored(self) -> str:
        """The name of what history keeps for it beside the selection's values, with the depth or half-life of it.

        >>> Reduction(Reduce.SMALLEST, Selection(["x"], None, ""), 402).stored
        'smallest-402'
        """
        part = self.depth if self.reduce is Reduce.SMALLEST else self.half_life
        return f"{self.reduce}-{part}" if part else self.reduce.value

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        form = {"reduce": self.reduce.value, "selection": self.selection.form, "depth": self.depth}
        return form | {"half_life": self.half_life} if self.half_life else form


@final
class Scalar(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A partial with one value a key: `values` [n] (count, sum, min, max, distinct); `present` [n], None: all."""

    values: Array
    present: Bools | None = None


@final
class Latest(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A LATEST partial of a depth above 1: for key i, events `offsets[i]` to `offsets[i + 1]`, oldest first.

    Attributes:
        offsets: [n + 1] int64.
        times: [m] int64, event times.
        columns: one array [m] an input.
        texts: for each input the texts behind its string ids, or None.
    """

    offsets: Int64s
    times: Int64s
    columns: tuple[Array, ...]
    texts: tuple[TextLookup | None, ...]


@final
class Newest(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A LATEST partial of depth 1: the last event of each of n keys.

    Attributes:
        present: [n], whether the key has one; what the other arrays hold elsewhere means nothing.
        times: [n] int64, event times.
        columns: one array [n] an input.
        texts: for each input the texts behind its string ids, or None.
    """

    present: Bools
    times: Int64s
    columns: tuple[Array, ...]
    texts: tuple[TextLookup | None, ...]


@final
class Values(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The different values behind a DISTINCT partial, which merge where their numbers do not: see `merge.merge`.

    Attributes:
        offsets: [n + 1] int64; the values of key i are `offsets[i]` to `offsets[i + 1]`.
        values: [m], no value twice under one key, in any order.
    """

    offsets: Int64s
    values: Array


@final
class Counts(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A COUNTS partial: for key i, values `offsets[i]` to `offsets[i + 1]`, each once, in ascending order.

    Of disjoint sets of events the counts of equal values add up, and the later of their times counts.

    Attributes:
        offsets: [n + 1] int64.
        values: [m], of the input's dtype; strings as ids.
        counts: [m] int64, above 0.
        times: [m] int64, the time of the last event of the value.
        texts: the texts behind string ids, or None.
    """

    offsets: Int64s
    values: Array
    counts: Int64s
    times: Int64s
    texts: TextLookup | None


@final
class Hashes(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A SMALLEST partial: for key i, hashes `offsets[i]` to `offsets[i + 1]`, each once, in ascending order.

    Of several sets of events, disjoint or not, the smallest `depth` of all their hashes are the partial of the whole.

    Attributes:
        offsets: [n + 1] int64.
        values: [m] int64, see `bedplate/hashing.py`.
    """

    offsets: Int64s
    values: Int64s


@final
class Oldest(msgspec.Struct, frozen=True, eq=False, gc=False):
    """An EARLIEST partial: the first event of each of n keys.

    Attributes:
        present: [n], whether the key has one; what the other arrays hold elsewhere means nothing.
        times: [n] int64, event times.
        values: [n], of the input.
        texts: the texts behind string ids, or None.
    """

    present: Bools
    times: Int64s
    values: Array
    texts: TextLookup | None


@final
class Moments(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A MOMENTS partial over n keys; see `bedplate/aggregations/moments.py` for how two of them merge.

    Attributes:
        counts: [n] int64; where it is 0 the others are 0.
        means: [n] float64.
        rests: [n] float64, what is to be added to `means` for the mean to twice the digits of a float.
        squares: [n] float64, the sum of the squared deviations from the mean.
    """

    counts: Int64s
    means: Array
    rests: Array
    squares: Array


@final
class Decayed(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A DECAYED_SUM or DECAYED_COUNT partial over n keys: what the sum was at some time, most often the last event's.

    It is halved by every half-life that passes after that time; where the value is 0, the time means nothing.

    Attributes:
        values: [n] float64.
        times: [n] int64 microseconds.
    """

    values: Array
    times: Int64s


Partial: TypeAlias = Scalar | Newest | Latest | Counts | Hashes | Oldest | Moments | Decayed


@final
@dataclass(frozen=True, slots=True)
class Output:
    """One value that an aggregation gives: `suffix` follows the feature's name (empty for most)."""

    suffix: str
    type: Type
    is_list: bool = False


class Finish(StrEnum):
    """Ways in which partials become a value that are so simple that a compiled loop may take them in place.

    - NUMBER: the one partial, a count or a sum, as it is.
    - RATIO: the first partial, a sum, over the second, the count of the same events; null where that is 0.
    - NEWEST: the one input of the one partial, a `Newest`; null where there is no event.
    """

    NUMBER = "number"
    RATIO = "ratio"
    NEWEST = "newest"


class Aggregation(ABC):
    """A named way from events to a value, over one or more windows (none: all history).

    A subclass says which `reductions` it needs, which `outputs` it has, and how to `finalize`. Its reductions may be of
    several selections: those that differ in their condition, say.

    Args:
        inputs: row expressions.
        windows: lengths such as `"7d"` or `Window` objects; None for all history.
        where: a boolean row expression; events for which it is not true do not count.
    """

    __slots__ = ("selection", "windows")

    finish: ClassVar[Finish | None] = None
    """What `finalize` does, where there is a word for it."""

    def __new__(cls, *_: Any, **named: Any) -> Self:
        """Checks the names of the arguments: whoever defines may run no type checker.

        Raises:
            DefinitionError: an argument is unknown; `within` belongs to a `Label`.
        """
        if "within" in named:
            raise DefinitionError(
                "got within, and an aggregation looks back",
                where=cls.__name__,
                hint=f'windows="{named["within"]}" looks back; a Label looks forward: '
                f'Label("name", entity, source, {cls.__name__}(...), within="{named["within"]}")',
            )
        known = [n for n in inspect.signature(cls.__init__).parameters if n != "self"] if named else []
        for name in named:
            if name not in known:
                hint = suggest(name, known, "arguments")
                raise DefinitionError(f"unknown argument '{name}'", where=cls.__name__, hint=hint)
        return super().__new__(cls)

    def __init_subclass__(cls, **options: Any) -> None:
        """Makes the subclass's constructor refuse arguments that do not fit, as it refuses wrong values."""
        super().__init_subclass__(**options)
        if "__init__" in cls.__dict__:
            checks_arguments(cls)

    def __init__(
        self,
        inputs: Sequence[ExpressionLike],
        windows: WindowLike | Sequence[WindowLike] | None = None,
        where: ExpressionLike | None = None,
    ) -> None:
        self.windows: tuple[Window | None, ...] = windows_of(windows)
        self.selection = Selection(inputs, where, type(self).__name__)

    @property
    @abstractmethod
    def reductions(self) -> tuple[Reduction, ...]:
        """The partials that `finalize` wants, in its order."""

    @property
    @final
    def selections(self) -> tuple[Selection, ...]:
        """The different selections of the reductions, in their order."""
        found: dict[str, Selection] = {}
        for reduction in self.reductions:
            found.setdefault(str(reduction.selection.form), reduction.selection)
        return tuple(found.values())

    @property
    @final
    def columns(self) -> frozenset[str]:
        """The columns of the source that its inputs and conditions read.

        >>> import polars as pl
        >>> from bedplate.aggregations.arithmetic import Sum
        >>> sorted(Sum("price", where=pl.col("kind") == "paid").columns)
        ['kind', 'price']
        """
        return frozenset(c for s in self.selections for e in s.expressions for c in e.meta.root_names())

    @property
    def looks_back(self) -> bool:
        """Whether the value is measured from the time asked for back to the events: no label can be made of it then."""
        return False

    @property
    def leading(self) -> int:
        """Of a COUNTS, how many values `finalize` looks at, the most frequent ones; 0: all.

        Of equally frequent ones those seen last count as the more frequent, of those seen then the smallest. History
        then gives it no others.
        """
        return 0

    def over(self, window: Window | None) -> Aggregation:
        """What finalises the values over one of the windows: itself, unless the window's length is part of them."""
        return self

    @abstractmethod
    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        """The outputs, given the types of the inputs, of one of `selections` after the other.

        Raises:
            DefinitionError: an input's type does not fit the aggregation.
        """

    @abstractmethod
    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        """The values for n keys at n times: one column an output, in the order of `outputs`.

        Args:
            partials: one for each of `reductions`.
            times: [n] int64, the times asked for (microseconds).
        """

    def options(self) -> Mapping[str, Any]:
        """What else makes this aggregation what it is, for the canonical form."""
        return {}

    @final
    def form(self) -> dict[str, Any]:
        """The canonical form: equal for equal definitions.

        Of an aggregation that is not shipped the reductions are part of it, as its file may change, and the id of its
        code.

        Raises:
            DefinitionError: that code can't be read, or depends on what can change.
        """
        form: dict[str, Any] = {
            "aggregation": type(self).__name__,
            **self.selection.form,
            "windows": [None if w is None else w.form() for w in self.windows],
            "options": dict(self.options()),
        }
        if not type(self).__module__.startswith("bedplate."):
            form["reductions"] = [r.form() for r in self.reductions]
            form["code"] = class_id(type(self), f"aggregation '{type(self).__name__}'")
        return form

    @property
    def text(self) -> str:
        """The aggregation for a person to read, without its condition and windows."""
        options = ", ".join(f"{k}={v}" for k, v in self.options().items() if isinstance(v, str | int | float))
        return f"{type(self).__name__}({'; '.join(filter(None, [self.selection.text, options]))})"

    @final
    def require(self, accepted: Sequence[Type], got: Type) -> None:
        """Raises `DefinitionError` unless the type is one of those accepted."""
        if got not in accepted:
            names = ", ".join(accepted)
            shown = shown_input(self.selection.inputs[0])
            raise DefinitionError(f"{type(self).__name__} takes {names}; got {got} from {shown}")


class OneInput(Aggregation):
    """An aggregation of one row expression.

    Args:
        expression: the row expression.
        windows: as for `Aggregation`.
        where: as for `Aggregation`.
    """

    __slots__ = ()

    def __init__(
        self,
        expression: ExpressionLike,
        windows: WindowLike | Sequence[WindowLike] | None = None,
        where: ExpressionLike | None = None,
    ) -> None:
        super().__init__([expression], windows, where)
