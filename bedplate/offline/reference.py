"""The oracle: what every feature's value is, stated as slow and obvious code.

Nothing here is shared with the paths it checks but the definitions themselves: rows are evaluated one column at a time
into Python lists, every key and time is answered by a scan over all events, and each aggregation is written out again.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias, cast, final

import numpy as np
import polars as pl

from bedplate.aggregations.attribute import Attribute
from bedplate.aggregations.base import Aggregation, Selection
from bedplate.aggregations.ratio import Ratio
from bedplate.aggregations.window import Window
from bedplate.batch import Column, Dense, Ids, Ragged
from bedplate.canonical import string_ids
from bedplate.features.derived import series_to_column
from bedplate.features.links import Link
from bedplate.features.reader import Reader
from bedplate.features.view import CompiledView
from bedplate.sources.base import AVAILABLE, SEQUENCE, TIME
from bedplate.types import Int64s, Type, parse_duration

Value: TypeAlias = Any
"""None, a number, a string, or a list of numbers (a vector too) or strings."""

Event: TypeAlias = "tuple[int, list[Value] | None]"
"""The time of an event, and its inputs; None in place of the inputs where it does not count."""


def window_start(window: Window, time: int) -> int:
    """The first event time that a window at `time` covers: `floor(time - length, hop)`.

    >>> window_start(Window.of("1h"), 3_600_000_000 + 301_000_000)
    300000000
    """
    start = time - window.length
    return start if window.hop == 0 else (start // window.hop) * window.hop


def visible(
    times: Sequence[int], known: Sequence[int], view: CompiledView, window: Window | None, time: int
) -> list[int]:
    """The positions of a key's events (in order of time and, at equal times, of arrival) that count at `time`.

    Args:
        times: when each event happened.
        known: when each event could be known at the earliest, apart from the source's delay.
        view: the view.
        window: of the feature.
        time: the time asked for.
    """
    delay = view.view.source.delay
    seen = [i for i, event in enumerate(times) if max(event, known[i]) + delay < time]
    if window is None:
        return seen
    if window.bound is not None:
        seen = seen[-window.bound :]
    return [i for i in seen if times[i] >= window_start(window, time)]


def _known(value: Value) -> bool:
    if isinstance(value, list):  # a vector: there when all of its numbers are
        return all(map(_known, cast("list[Value]", value)))
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _sum(values: Sequence[Value]) -> Value:
    return math.fsum(values) if any(isinstance(v, float) for v in values) else sum(values)


def _count(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    return [len(events)]


def _total(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    return [_sum([inputs[0] for _, inputs in events if inputs is not None])]


def _mean(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    values = [float(inputs[0]) for _, inputs in events if inputs is not None]
    return [math.fsum(values) / len(values) if values else None]


def _min(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    return [min((inputs[0] for _, inputs in events if inputs is not None), default=None)]


def _max(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    return [max((inputs[0] for _, inputs in events if inputs is not None), default=None)]


def _distinct(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    return [len({inputs[0] for _, inputs in events if inputs is not None})]


def _last(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    return [inputs[0] for _, inputs in events[-1:] if inputs is not None] or [None]


def _last_n(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    options = aggregation.options()
    kept = _last_of_each(events)[-options["n"] :] if "distinct" in options else events[-options["n"] :]
    width = len(options["fields"]) - (1 if options["age"] else 0)
    columns = options.get("inputs", range(width))
    lists: list[Value] = [[inputs[c] for _, inputs in kept if inputs is not None] for c in columns]
    return [*lists, [(time - event) / 1_000_000 for event, _ in kept]] if options["age"] else lists


def _last_of_each(events: Sequence[Event]) -> list[Event]:
    """Of each value of the last input the last event, in their order."""
    last = {inputs[-1]: i for i, (_, inputs) in enumerate(events) if inputs is not None}
    return [events[i] for i in sorted(last.values())]


def _number(value: Value) -> int:
    """A value as a whole number: the id of a string."""
    return string_ids([value])[0] if isinstance(value, str) else int(value)


def _top_k(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    number: dict[Value, int] = Counter(inputs[0] for _, inputs in events if inputs is not None)
    last = {inputs[0]: event for event, inputs in events if inputs is not None}
    ranked = sorted(number, key=lambda v: (-number[v], -last[v], _number(v)))
    top = ranked[: aggregation.options()["k"]]
    return [top, [number[v] for v in top]] if aggregation.options()["counts"] else [top]


def _histogram(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    values = [inputs[0] for _, inputs in events if inputs is not None]
    known = [value for _, value in aggregation.options()["categories"]]
    numbers = [*(values.count(v) for v in known), sum(v not in known for v in values)]
    if aggregation.options()["share"]:
        return [n / len(values) if values else None for n in numbers]
    return list(numbers)


def _quantile(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    buckets = sorted(inputs[0] for _, inputs in events if inputs is not None)
    error: float = aggregation.options()["error"]
    growth = (1 + error) / (1 - error)
    found: list[Value] = []
    for each in np.atleast_1d(aggregation.options()["q"]).tolist():
        bucket = buckets[math.floor(each * (len(buckets) - 1))] if buckets else None
        if not bucket:
            found.append(None if bucket is None else 0.0)
            continue
        number = abs(bucket) - 2**32
        found.append(math.copysign(2 * growth**number / (growth + 1), bucket))
    return found


def _hash(value: int) -> int:
    """The first number that splitmix64 draws when its seed is the value."""
    z = (value + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def _about_distinct(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    error: float = aggregation.options()["error"]
    k = math.ceil(round(1 / error**2, 6)) + 2
    hashes = sorted({_hash(_number(inputs[0])) for _, inputs in events if inputs is not None})
    return [len(hashes) if len(hashes) < k else round((k - 1) / ((hashes[k - 1] + 1) / 2**64))]


def _first(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    return [inputs[0] for _, inputs in events[:1] if inputs is not None] or [None]


def _variance(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    values = [Fraction(float(inputs[0])) for _, inputs in events if inputs is not None]
    number = len(values) - (1 if aggregation.options()["sample"] else 0)
    if number <= 0:
        return [None]
    mean = sum(values) / len(values)
    squares = sum((v - mean) ** 2 for v in values)
    return [float(squares / number) if squares <= sys.float_info.max else None]


def _std_dev(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    return [None if v is None else math.sqrt(v) for v in _variance(events, aggregation, time)]


def _weights(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[float]:
    """How much each event adds at a time."""
    half_life = parse_duration(aggregation.options()["half_life"])
    return [2.0 ** (-(time - event) / half_life) for event, _ in events]


def _decayed_count(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    return [math.fsum(_weights(events, aggregation, time))]


def _decayed_sum(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    weights = _weights(events, aggregation, time)
    return [math.fsum(w * inputs[0] for w, (_, inputs) in zip(weights, events, strict=True) if inputs is not None)]


def _decayed_mean(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    """As of the last event, where the weights are not so small that they vanish."""
    if not events:
        return [None]
    last = events[-1][0]
    return [_decayed_sum(events, aggregation, last)[0] / _decayed_count(events, aggregation, last)[0]]


def _rate(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    window = aggregation.windows[0]
    assert window is not None
    return [len(events) * parse_duration(aggregation.options()["per"]) / (time - window_start(window, time))]


def _time_since(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    return [(time - events[-1][0]) / 1_000_000 if events else None]


def _attribute(events: Sequence[Event], aggregation: Aggregation, time: int) -> list[Value]:
    """What the newest row says, as of just before the time asked for."""
    if not events or events[-1][1] is None:
        return [None]
    value, valid_to, deleted = events[-1][1]
    ended = deleted is True or (valid_to is not None and valid_to <= time - 1)
    return [value if _known(value) and not ended else None]


_WRITTEN_OUT: Mapping[str, Callable[[Sequence[Event], Aggregation, int], list[Value]]] = {
    "Count": _count,
    "Sum": _total,
    "Mean": _mean,
    "Min": _min,
    "Max": _max,
    "CountDistinct": _distinct,
    "Attribute": _attribute,
    "Last": _last,
    "LastN": _last_n,
    "TimeSince": _time_since,
    "TopK": _top_k,
    "Histogram": _histogram,
    "Quantile": _quantile,
    "ApproxCountDistinct": _about_distinct,
    "First": _first,
    "Variance": _variance,
    "StdDev": _std_dev,
    "DecayedCount": _decayed_count,
    "DecayedSum": _decayed_sum,
    "DecayedMean": _decayed_mean,
    "Rate": _rate,
}
_CARRIED_FORWARD = ("Attribute", "Last", "LastN", "TimeSince")


@final
class Reference(Reader):
    """The values of a view's features by definition. Satisfies `Reader`.

    Args:
        view: the view.
        raw: rows as the table holds them; None for the view's whole source.
    """

    __slots__ = ("_events", "_kinds", "_leaves", "view")

    def __init__(self, view: CompiledView, raw: pl.LazyFrame | None = None) -> None:
        self.view = view
        source, definition = view.view.source, view.view
        events = source.scan(view.root) if raw is None else source.events(raw)
        frame = events.collect()
        if definition.where is not None:
            frame = frame.filter(definition.where)
        frame = frame.with_row_index("arrival")
        if source.available is None:
            frame = frame.with_columns(pl.col(TIME).alias(AVAILABLE))
        if source.sequence is None:
            frame = frame.with_columns(pl.lit(0).alias(SEQUENCE))
        known = pl.max_horizontal(TIME, AVAILABLE)
        frame = frame.sort(TIME, SEQUENCE, known, "arrival")
        keys = [_key_column(frame[e.key]) for e in definition.entities]
        leaves = [leaf for call in view.calls for leaf in _leaves(call.aggregation)]
        self._leaves = [
            (call, [(leaf, _name(leaf, selection)) for leaf, selection in _leaves(call.aggregation)])
            for call in view.calls
        ]
        selected = {
            _name(leaf, selection): _states(frame, leaf) if isinstance(leaf, Attribute) else _inputs(frame, selection)
            for leaf, selection in leaves
        }
        self._kinds = {n: f.type for n, f in view.features.items()}
        times: list[int] = frame[TIME].to_list()
        available: list[int] = frame[AVAILABLE].to_list()
        self._events: dict[tuple[int, ...], tuple[list[int], list[int], dict[str, list[list[Value] | None]]]] = {}
        for row, key in enumerate(zip(*keys, strict=True)):
            of_key, known_of_key, rows = self._events.setdefault(key, ([], [], {a: [] for a in selected}))
            of_key.append(times[row])
            known_of_key.append(available[row])
            for a, values in selected.items():
                rows[a].append(values[row])

    def values(self, key: tuple[int, ...], time: int) -> dict[str, Value]:
        """Every feature of one key at one time."""
        return self._over(key, lambda times, known, window: visible(times, known, self.view, window, time), time)

    def ahead(self, key: tuple[int, ...], time: int, within: int) -> dict[str, Value]:
        """Every feature of the view (which must have no windows) over `time <= event < time + within`."""
        return self._over(
            key, lambda times, _, __: [i for i, event in enumerate(times) if time <= event < time + within], time
        )

    def _over(
        self,
        key: tuple[int, ...],
        chosen: Callable[[Sequence[int], Sequence[int], Window | None], list[int]],
        time: int,
    ) -> dict[str, Value]:
        times, known, rows = self._events.get(key, ([], [], {}))
        result: dict[str, Value] = {}
        in_window = {window: chosen(times, known, window) for window in {call.window for call in self.view.calls}}
        for call, leaves in self._leaves:
            seen = in_window[call.window]
            parts: list[list[Value]] = []
            for leaf, name in leaves:
                kind, inputs = type(leaf).__name__, rows.get(name, [])
                counted = [(times[i], inputs[i]) for i in seen if inputs[i] is not None]
                if kind in _CARRIED_FORWARD and self.view.view.ttl is not None:
                    counted = [event for event in counted if event[0] >= time - self.view.view.ttl]
                parts.append(_WRITTEN_OUT[kind](counted, leaf, time))
            values = parts[0] if len(parts) == 1 else [_ratio(parts[0][0], parts[1][0], call.aggregation)]
            result |= {f"{self.view.name}.{n}": v for n, v in zip(call.names, values, strict=True)}
        return result

    def read(self, view: CompiledView, names: Sequence[str], keys: Int64s, times: Int64s) -> Mapping[str, Column]:
        """The values as columns; see `Reader`."""
        rows = [self.values(tuple(k), t) for k, t in zip(keys.tolist(), times.tolist(), strict=True)]
        return {n: self._column(view, n, [row[n] for row in rows]) for n in names}

    def _column(self, view: CompiledView, name: str, values: Sequence[Value]) -> Column:
        feature = view.features[name]
        if feature.type.width:
            return series_to_column(pl.Series(name, values, dtype=pl.Array(pl.Float32, feature.type.width)))
        inner = {Type.FLOAT: pl.Float64, Type.STRING: pl.String, Type.BOOL: pl.Boolean}.get(feature.type, pl.Int64)
        plain = [[int(v) for v in x] if feature.is_list and inner is pl.Int64 else x for x in values]
        column = series_to_column(pl.Series(name, plain, dtype=pl.List(inner) if feature.is_list else inner))
        if isinstance(column, Ragged) and len(column.values) == 0:
            empty = np.zeros(0, feature.type.dtype)
            column = Ragged(Ids(empty) if feature.type is Type.STRING else Dense(empty), column.offsets)
        return column


def linked(
    name: str,
    links: Mapping[str, Link],
    references: Mapping[str, Reference],
    keys: Mapping[str, int],
    time: int,
) -> Value:
    """A feature that links reach, of one row: each link gives one more key, then the feature's view is asked.

    Args:
        name: of the feature: the links that are followed, then its own full name.
        links: the links by name.
        references: the oracle of each view by the view's name.
        keys: what the row has, by the entity's name.
        time: the time asked for, of every step.
    """

    def value(feature: str) -> Value:
        reference = references[feature.partition(".")[0]]
        return reference.values(tuple(known[e.name] for e in reference.view.view.entities), time)[feature]

    known, rest = dict(keys), name
    nothing: Value = (
        [] if references[name.split(".")[-2]].view.features[".".join(name.split(".")[-2:])].is_list else None
    )
    while rest.partition(".")[0] in links:
        link, _, rest = rest.partition(".")
        key = value(links[link].feature)
        if key is None:
            return nothing
        known[links[link].entity.name] = string_ids([key])[0] if isinstance(key, str) else key
    return value(rest)


def _leaves(aggregation: Aggregation) -> list[tuple[Aggregation, Selection]]:
    """The aggregation and which events it is of; of a ratio both aggregations, under both conditions."""
    if not isinstance(aggregation, Ratio):
        return [(aggregation, aggregation.selection)]
    own = aggregation.selection.where
    leaves: list[tuple[Aggregation, Selection]] = []
    for part in (aggregation.numerator, aggregation.denominator):
        inner = part.selection.where
        both = own if inner is None else inner if own is None else own & inner
        leaves.append((part, Selection(part.selection.inputs, both, "reference")))
    return leaves


def _ratio(above: Value, below: Value, aggregation: Aggregation) -> Value:
    add, more = aggregation.options()["smoothing"] or (0, 0)
    return None if above is None or below is None or below + more == 0 else (above + add) / (below + more)


def _name(leaf: Aggregation, selection: Selection) -> str:
    return f"{isinstance(leaf, Attribute)} {selection.form}"


def _key_column(series: pl.Series) -> list[int]:
    values = series.to_list()
    return string_ids([str(v) for v in values]) if series.dtype.base_type() in {pl.String, pl.Categorical} else values


def _inputs(frame: pl.DataFrame, selection: Selection) -> list[list[Value] | None]:
    """For each row the inputs, or None where the row does not count."""
    # Beside a column, so that a literal has a value for each row.
    columns = [_plain(frame.select(TIME, e.alias("value"))["value"]) for e in selection.inputs]
    condition = [True] * frame.height
    if selection.where is not None:
        condition = frame.select(TIME, selection.where.alias("value"))["value"].to_list()
    rows = [[column[row] for column in columns] for row in range(frame.height)]
    return [v if condition[i] is True and all(map(_known, v)) else None for i, v in enumerate(rows)]


def _states(frame: pl.DataFrame, attribute: Attribute) -> list[list[Value] | None]:
    """For each row the value, when it ends and whether it says that there is nothing; every row counts."""
    end = [None] * frame.height if attribute.valid_to is None else _plain(frame[attribute.valid_to])
    deleted = pl.lit(value=False) if attribute.deleted is None else attribute.deleted
    parts = frame.select(attribute.expression.alias("value"), deleted.alias("deleted"))
    return [list(row) for row in zip(_plain(parts["value"]), end, parts["deleted"].to_list(), strict=True)]


def _plain(series: pl.Series) -> list[Value]:
    if series.dtype.base_type() in {pl.Date, pl.Datetime}:
        return series.dt.epoch("us").to_list()
    if series.dtype == pl.Float32:
        return series.cast(pl.Float64).to_list()
    return series.to_list()
