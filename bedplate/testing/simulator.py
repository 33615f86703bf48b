"""An event simulator: small histories that hold every case in which feature stores go wrong.

Ties, duplicates, late events, nulls and NaN, keys with one event and keys with none, events at the edges of windows and
hops, events ahead of the last question. Equal seeds give equal histories, and a shorter history is the beginning of a
longer one with the same seed, so that a failing example shrinks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import polars as pl

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.attribute import Attribute
from bedplate.aggregations.base import Aggregation
from bedplate.aggregations.counts import Histogram, TopK
from bedplate.aggregations.decay import DecayedCount, DecayedMean, DecayedSum
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.extremes import Max, Min
from bedplate.aggregations.moments import StdDev, Variance
from bedplate.aggregations.ordered import First, Last, LastN, TimeSince
from bedplate.aggregations.ratio import Rate, Ratio
from bedplate.aggregations.sketches import ApproxCountDistinct, Quantile
from bedplate.aggregations.window import Window
from bedplate.canonical import string_ids
from bedplate.features.entity import Entity
from bedplate.features.vectors import vector
from bedplate.features.view import CompiledView, FeatureView
from bedplate.sources.base import Source
from bedplate.types import DAY, HOUR, MINUTE, Array, Int64s, format_duration, to_micros

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

START = to_micros("2024-03-01")
"""The time around which simulated histories begin; a multiple of every hop."""

SPAN = 3 * DAY
"""How long a simulated history is."""

USER = Entity("user", key="user")
ITEM = Entity("item", key="item")

_STEPS = np.array([MINUTE, 5 * MINUTE, HOUR, DAY], np.int64)
_SHIFTS = np.array([0, 0, 0, 5 * MINUTE, HOUR, 3 * HOUR, DAY, 2 * DAY], np.int64)
"""From an event to a question about it, and to the end of a row that is a state."""
_KINDS = np.array(["view", "click", "buy", ""])


@final
@dataclass(frozen=True, slots=True)
class Simulation:
    """A history and questions about it.

    Attributes:
        events: rows in their order of arrival: `user` (integers), `item` (strings), `time` (integer microseconds), and
            the values `quantity`, `price` (with null and NaN), `amount` (of either sign, over 20 orders of magnitude),
            `kind`, `flag`, `seen`, and the vectors `image` (of 3) and `style` (lists of 2), each null at times; when
            the row could be known, `known` (most often at once, else up to two days late), and `rank` (small integers).
            As states of entities rows end at `until`, and say by `gone` that there is none, both null at times.
        users: [q] int64, the users asked for; some have no event.
        items: [q] int64, the ids of the items asked for; some have no event.
        times: [q] int64 microseconds, the times asked for: around events, window edges and hops.
    """

    events: pl.DataFrame
    users: Int64s
    items: Int64s
    times: Int64s

    def keys(self, entities: Sequence[Entity]) -> Int64s:
        """[q, entities] int64: the keys asked for, for a view of `USER`, `ITEM` or both."""
        columns = {USER.name: self.users, ITEM.name: self.items}
        return np.stack([columns[e.name] for e in entities], axis=1)

    def since(self, time: int) -> Simulation:
        """The same history with only the questions at or after a time."""
        kept = self.times >= time
        return Simulation(self.events, self.users[kept], self.items[kept], self.times[kept])


def simulate(
    seed: int,
    events: int = 200,
    questions: int = 60,
    users: int = 4,
    items: int = 3,
    span: int = SPAN,
    pace: int = SPAN // 200,
) -> Simulation:
    """A simulated history.

    Args:
        seed: equal seeds give equal histories.
        events: how many rows; the first ones are the same for any number.
        questions: how many rows to ask for.
        users: how many users have events, at most; one more is asked for.
        items: how many items have events, at most; one more is asked for.
        span: how long the history is, microseconds; then its times begin anew.
        pace: how long it is from one event to the next, at most; microseconds.

    >>> simulate(7, events=50).events.head(20).equals(simulate(7, events=20).events)
    True
    """
    frame = _events(seed, events, users, items, span, pace)
    draw = np.random.default_rng([seed, 100])
    names = [f"item {i}" for i in range(items + 1)]
    return Simulation(
        events=frame,
        users=draw.integers(0, users + 1, questions),
        items=np.array(string_ids(names), np.int64)[draw.integers(0, items + 1, questions)],
        times=_questions(draw, frame["time"].to_numpy(), questions),
    )


def _events(seed: int, count: int, users: int, items: int, span: int, pace: int) -> pl.DataFrame:
    streams = iter(np.random.default_rng([seed, i]) for i in range(60))
    times = _times(streams, count, span, pace)
    prices = np.round(next(streams).random(count) * 100, 2)
    nan = next(streams).random(count) < 0.05
    frame = pl.DataFrame(
        {
            "user": np.minimum(_whole(next(streams), 0, users, count), _whole(next(streams), 0, users, count)),
            "item": [f"item {i}" for i in _whole(next(streams), 0, items, count)],
            "time": times,
            "quantity": _nullable(_whole(next(streams), -3, 20, count), next(streams)),
            "price": _nullable(np.where(nan, np.nan, prices), next(streams)),
            "amount": _nullable(_amounts(seed, count), np.random.default_rng([seed, 201])),
            "kind": _nullable(_KINDS[_whole(next(streams), 0, len(_KINDS), count)], next(streams)),
            "flag": _nullable(next(streams).random(count) < 0.5, next(streams)),
            "seen": _nullable(times - _whole(next(streams), 0, DAY, count), next(streams)),
        },
        schema_overrides={"user": pl.Int64, "item": pl.String, "kind": pl.String},
    )
    repeated = next(streams).random(count) < 0.05
    until = times + _SHIFTS[_whole(next(streams), 0, len(_SHIFTS), count)]
    frame = frame.with_columns(
        _nullable(until, next(streams)).alias("until"),
        _nullable(next(streams).random(count) < 0.1, next(streams)).alias("gone"),
    )
    frame = frame.with_columns(image=_vectors(streams, count, 3), style=_vectors(streams, count, 2))
    frame = frame.with_columns(pl.col("style").arr.to_list())
    rows = np.where(repeated, np.maximum(np.arange(count) - 1, 0), np.arange(count))
    frame = frame[rows].with_columns(pl.col("seen").cast(pl.Datetime("us")))
    more = iter(np.random.default_rng([seed, i]) for i in range(300, 306))
    return frame.with_columns(known=_known(frame["time"].to_numpy(), more), rank=_whole(next(more), 0, 3, count))


def _known(times: Int64s, streams: Iterator[np.random.Generator]) -> Int64s:
    """When events could be known: most of them at once, some by their own times late, some together with others."""
    count, kind = len(times), next(streams).random(len(times))
    late = times + _whole(next(streams), 0, 2 * DAY, count)
    together = times - times % HOUR + HOUR * _whole(next(streams), 1, 12, count)
    result = np.where(kind < 0.25, late, np.where(kind < 0.45, together, times))
    return np.where(kind > 0.95, times - MINUTE, result)


def _times(streams: Iterator[np.random.Generator], count: int, span: int, pace: int) -> Int64s:
    """Times that mostly grow with arrival: on edges, beside them, tied with an earlier one, or late."""
    base = START + _whole(next(streams), 0, pace, count).cumsum() % span
    kind = next(streams).random(count)
    step = _STEPS[_whole(next(streams), 0, len(_STEPS), count)]
    beside = base - base % step + _whole(next(streams), -1, 2, count)
    times = np.where(kind < 0.4, beside, base)
    times = np.where(kind > 0.85, np.concatenate((times[:1], times[:-1])), times)
    late = next(streams).random(count)
    times = np.where(late < 0.06, times - _whole(next(streams), 0, 2 * DAY, count), times)
    earlier = (np.arange(count) * next(streams).random(count)).astype(np.int64)
    return np.where(late > 0.9, times[earlier], times)  # late, and at the time of an event that was in time


def _whole(draw: np.random.Generator, low: int, high: int, count: int) -> Int64s:
    """Integers in [low, high) of which the first ones do not depend on `count`, unlike `Generator.integers`."""
    return low + (draw.random(count) * (high - low)).astype(np.int64)


def _amounts(seed: int, count: int) -> Array:
    """Numbers of either sign from 1 to 1e20: sums of them lose digits wherever one is subtracted from another."""
    drawn = np.random.default_rng([seed, 200]).random((count, 2))
    return np.where(drawn[:, 0] < 0.5, -1, 1) * 10 ** (20 * drawn[:, 1])


def _nullable(values: Array, draw: np.random.Generator) -> pl.Series:
    series = pl.Series(values)
    return pl.select(pl.when(pl.Series(draw.random(len(series)) > 0.1)).then(series)).to_series()


def _vectors(streams: Iterator[np.random.Generator], count: int, width: int) -> pl.Series:
    """Vectors of `width` numbers, null at times, and at times with a null in them."""
    whole = _nullable(_whole(next(streams), -8, 9, count * width) / 4, next(streams))
    rows = pl.Series(next(streams).random(count) < 0.1)
    lists = whole.reshape((count, width)) if count else pl.Series([], dtype=pl.Array(pl.Float64, width))
    return pl.select(pl.when(~rows).then(lists)).to_series()


def _questions(draw: np.random.Generator, times: Int64s, count: int) -> Int64s:
    anchors = times if len(times) else np.array([START], np.int64)
    near = anchors[draw.integers(0, len(anchors), count)] + _SHIFTS[draw.integers(0, len(_SHIFTS), count)]
    near += draw.integers(-1, 2, count)
    snapped = near - near % _STEPS[draw.integers(0, len(_STEPS), count)]
    return np.where(draw.random(count) < 0.3, snapped, near)


def every_aggregation() -> dict[str, Aggregation]:
    """Features that use every aggregation, on every input type, with and without windows and conditions."""
    exact = [Window.of("1h", hop="exact", bound=3), Window.of("2d", hop="exact", bound=6)]
    windows = ["15m", "1h", "13h", Window.of("1d", hop="5m"), Window.of("2d", hop="1d")]
    bought = pl.col("kind") == "buy"
    return {
        "events": Count(),
        "events_in": Count(windows=windows),
        "buys": Count(windows=["1h", "1d"], where=bought),
        "kinds": Count("kind"),
        "near": Count(windows=exact),
        "quantity": Sum("quantity"),
        "quantity_in": Sum("quantity", windows=windows),
        "spend": Sum(pl.col("price") * pl.col("quantity"), windows=["1h", "1d"]),
        "flags": Sum("flag", windows="1d"),
        "near_spend": Sum("price", windows=exact),
        "price": Mean("price", windows=windows),
        "price_bought": Mean("price", where=bought),
        "lowest": Min("quantity", windows=windows),
        "cheapest": Min("price"),
        "dearest": Max("price", windows=["1h", "1d", "2d"]),
        "near_dearest": Max("price", windows=exact),
        "newest": Max("seen", where=bought),
        "last_price": Last("price"),
        "last_price_in": Last("price", windows=["1h", "1d"]),
        "last_kind": Last("kind"),
        "last_flag": Last("flag"),
        "last_seen": Last("seen"),
        "last_item": Last("item", where=bought),
        "last_image": Last("image"),
        "last_image_in": Last("image", windows=["1h", "1d"], where=bought),
        "last_style": Last(vector("style", 2)),
        "near_image": Last("image", windows=exact),
        "images": Count("image", windows=["1h", "1d"]),
        "near_kind": Last("kind", windows=exact),
        "recent": LastN(["item", "price"], 4, age="age"),
        "recent_in": LastN("quantity", 3, windows=["1h", "1d"]),
        "near_recent": LastN({"worth": pl.col("price") * 2, "what": "kind"}, 5, windows=exact),
        "flags_recent": LastN(["flag", "seen"], 2),
        "since": TimeSince(),
        "since_buy": TimeSince(where=bought),
        "since_in": TimeSince(windows=["15m", *exact]),
        "different": CountDistinct("item"),
        "different_in": CountDistinct("item", windows=["1h", "1d", "2d"]),
        "different_kinds": CountDistinct("kind", windows=windows, where=pl.col("flag")),
        "said_price": Attribute("price"),
        "said_kind": Attribute("kind", valid_to="until"),
        "said_flag": Attribute("flag", deleted="gone"),
        "said_seen": Attribute("seen", valid_to="until", deleted=pl.col("gone")),
        "said_image": Attribute("image", valid_to="until"),
        "said_style": Attribute(vector("style", 2), deleted="gone"),
        "said_worth": Attribute(pl.col("price") * pl.col("quantity"), deleted="gone"),
        "near_different": CountDistinct("quantity", windows=exact),
        **_of_values(windows, exact),
        **_of_numbers(windows, exact),
    }


def _of_values(windows: Sequence[Window | str], exact: Sequence[Window]) -> dict[str, Aggregation]:
    """Frequent values, histograms, sketches and last events of different values."""
    bought = pl.col("kind") == "buy"
    return {
        "top": TopK("item", 2, counts=True),
        "top_in": TopK("kind", 2, windows=windows),
        "top_numbers": TopK("quantity", 3, counts=True, windows=["15m", *exact], where=pl.col("flag")),
        "top_flag": TopK("flag", 1, windows="1d"),
        "by_kind": Histogram("kind", {"bought": "buy", "seen": "view"}),
        "by_quantity": Histogram("quantity", [1, -1, 30], share=True, windows=["15m", "2d", exact[0]]),
        "median": Quantile("price", 0.5),
        "ranks": Quantile("quantity", [0, 0.9, 1], error=0.05, windows=["15m", "13h", exact[1]]),
        "about_items": ApproxCountDistinct("item", error=0.1),
        "about": ApproxCountDistinct("seen", error=0.5, windows=["1h", "1d", exact[1]]),
        "about_bought": ApproxCountDistinct("quantity", error=0.5, windows=windows, where=bought),
        "last_items": LastN(["item", "price"], 2, distinct="item", age="age"),
        "last_kinds": LastN("quantity", 3, distinct="kind", windows=["1h", "1d", exact[1]], where=pl.col("flag")),
        "last_kind_of": LastN({"kind": "kind"}, 1, distinct="kind"),
    }


def _of_numbers(windows: Sequence[Window | str], exact: Sequence[Window]) -> dict[str, Aggregation]:
    """Sums of amounts, first values, variances, decayed sums, ratios and rates."""
    bought, viewed = pl.col("kind") == "buy", pl.col("kind") == "view"
    return {
        "amounts": Sum("amount"),
        "amounts_in": Sum("amount", windows=windows),
        "amount": Mean("amount", windows=windows),
        "near_amount": Mean("amount", windows=exact),
        "first_price": First("price"),
        "first_kind": First("kind", where=pl.col("flag")),
        "first_seen_in": First("seen", windows=["15m", "13h", *exact]),
        "first_item_in": First("item", windows=["1h", "1d", exact[1]], where=bought),
        "spread": Variance("price"),
        "spread_in": Variance("amount", windows=windows, sample=False),
        "spread_near": StdDev("quantity", windows=["15m", "1d", *exact], where=pl.col("flag")),
        "spread_far": StdDev(pl.col("price") + 1e9, windows=["1h", "2d"]),
        "spread_flag": StdDev("flag", sample=False),
        "decayed_events": DecayedCount(half_life="1m"),
        "decayed_kinds": DecayedCount("kind", half_life="7d", windows=["15m", "13h", *exact]),
        "decayed_sum": DecayedSum("amount", half_life="6h", windows=["15m", "13h", exact[1]]),
        "decayed_quantity": DecayedSum("quantity", half_life="1h", where=bought),
        "decayed_price": DecayedMean("price", half_life="30s"),
        "decayed_amount": DecayedMean("amount", half_life="2h", windows=["2d", exact[0]], where=pl.col("flag")),
        "click_rate": Ratio(Count(where=bought), Count(where=viewed)),
        "click_rate_in": Ratio(Count(where=bought), Count(), windows=windows, where=pl.col("flag"), smoothing=(1, 20)),
        "price_of": Ratio(Sum("price"), Max("quantity"), windows=["1h", "1d", exact[1]]),
        "last_over_first": Ratio(Last("price"), First("price")),
        "decayed_ratio": Ratio(DecayedSum("price", half_life="1h"), DecayedCount(half_life="2h"), windows="13h"),
        "rate": Rate(windows=windows),
        "rate_near": Rate(windows=exact),
        "rate_of_kinds": Rate("kind", windows=["15m", "2d"], where=bought, per="1h"),
    }


def simulated_view(
    simulation: Simulation,
    entities: Sequence[Entity] = (USER,),
    *,
    delay: int | None = None,
    ttl: int | None = None,
    features: dict[str, Aggregation] | None = None,
    available: str | None = None,
    sequence: str | None = None,
) -> CompiledView:
    """A compiled view named `simulated` over a simulated history, with `every_aggregation` unless features are given.

    Delay and ttl are microseconds; `available` and `sequence` are columns, for which `known` and `rank` are there.

    >>> view = simulated_view(simulate(1))
    >>> len(view.features) > 70
    True
    """
    shown = None if delay is None else format_duration(delay)
    source = Source("events", simulation.events, time="time", delay=shown, available=available, sequence=sequence)
    lifetime = None if ttl is None else format_duration(ttl)
    return FeatureView("simulated", list(entities), source, features or every_aggregation(), ttl=lifetime).compile()


def simulations(events: int = 120, questions: int = 40) -> SearchStrategy[Simulation]:
    """A Hypothesis strategy of simulated histories with at most so many events; needs `hypothesis`."""
    from hypothesis import strategies as st

    return st.builds(
        simulate,
        seed=st.integers(0, 2**32 - 1),
        events=st.integers(0, events),
        questions=st.just(questions),
        users=st.integers(1, 5),
        items=st.integers(1, 4),
    )


def delays() -> SearchStrategy[int | None]:
    """A Hypothesis strategy of delays of a source, None included; needs `hypothesis`."""
    from hypothesis import strategies as st

    return st.sampled_from([None, 1, 5 * MINUTE, HOUR, DAY])


def ttls() -> SearchStrategy[int | None]:
    """A Hypothesis strategy of times to live of a view, None included; needs `hypothesis`."""
    from hypothesis import strategies as st

    return st.sampled_from([None, 10 * MINUTE, HOUR, DAY])
