"""The aggregations that ship, each as the contract suite makes it: one line registers one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import polars as pl

from bedplate.aggregations.arithmetic import Count, Mean, Sum
from bedplate.aggregations.base import Aggregation
from bedplate.aggregations.counts import Histogram, TopK
from bedplate.aggregations.decay import DecayedCount, DecayedMean, DecayedSum
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.extremes import Max, Min
from bedplate.aggregations.moments import StdDev, Variance
from bedplate.aggregations.ordered import First, Last, LastN, TimeSince
from bedplate.aggregations.ratio import Rate, Ratio
from bedplate.aggregations.sketches import ApproxCountDistinct, Quantile

CASES: Mapping[str, Callable[..., Aggregation]] = {
    "Count": Count,
    "Count of values": partial(Count, "kind"),
    "Sum": partial(Sum, "quantity"),
    "Sum of floats": partial(Sum, "amount"),
    "Mean": partial(Mean, "price"),
    "Min": partial(Min, "quantity"),
    "Max": partial(Max, "price"),
    "CountDistinct": partial(CountDistinct, "item"),
    "First": partial(First, "kind"),
    "First number": partial(First, "price"),
    "Last": partial(Last, "kind"),
    "LastN": partial(LastN, ["item", "price"], 3, age="age"),
    "LastN distinct": partial(LastN, ["item", "price"], 2, distinct="item"),
    "TimeSince": TimeSince,
    "Variance": partial(Variance, "amount"),
    "StdDev": partial(StdDev, pl.col("price") + 1e9, sample=False),
    "DecayedCount": partial(DecayedCount, half_life="1h"),
    "DecayedSum": partial(DecayedSum, "amount", half_life="7d"),
    "DecayedMean": partial(DecayedMean, "price", half_life="30s"),
    "Ratio": partial(Ratio, Count(where=pl.col("kind") == "buy"), Count(where=pl.col("kind") == "view")),
    "Ratio smoothed": partial(Ratio, Sum("price"), DecayedSum("quantity", half_life="1d"), smoothing=(1, 20)),
    "Rate": Rate,
    "TopK": partial(TopK, "kind", 2, counts=True),
    "Histogram": partial(Histogram, "kind", {"bought": "buy", "seen": "view"}),
    "Quantile": partial(Quantile, "price", [0, 0.5, 1]),
    "ApproxCountDistinct": partial(ApproxCountDistinct, "seen", error=0.5),
}
