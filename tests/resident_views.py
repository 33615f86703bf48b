"""What the tests of resident views share: a view whose values say by which load they came, and a store of none."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import polars as pl

from bedplate.aggregations.arithmetic import Count
from bedplate.aggregations.base import Aggregation
from bedplate.aggregations.ordered import Last, LastN
from bedplate.features.entity import Entity
from bedplate.features.reader import Reader
from bedplate.features.view import CompiledView, FeatureView
from bedplate.online.base import Changes, OnlineStore, Values
from bedplate.online.load import bulk_load
from bedplate.online.refresh import Refreshed, refresh
from bedplate.sources.base import Source
from bedplate.testing.online_store import grouped
from bedplate.types import DAY, MINUTE, Int64s

NOW, KEYS = 20_000 * DAY, 300
ITEM = Entity("item", key="item")
FEATURES: dict[str, Aggregation] = {
    "n": Count(),
    "x": Last("x"),
    "recent": LastN("x", 2),
    "lately": Count(windows="1h"),
}


class DeafStore(OnlineStore):
    """A store that nobody may ask."""

    @property
    def url(self) -> str:
        return "deaf:"

    def read_many(self, wanted: Sequence[bytes], runs: Sequence[slice] = (), deadline: float | None = None) -> Values:
        raise AssertionError("the store is asked")

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        raise AssertionError("the store is asked")

    def writing(self, names: Sequence[str]) -> AbstractContextManager[None]:
        raise AssertionError("the store is asked")

    def commit(self, changes: Changes) -> None:
        raise AssertionError("the store is asked")

    def close(self) -> None:
        pass


def events(value: float, count: int = KEYS) -> pl.DataFrame:
    """One event a key, all of one value."""
    times = np.full(count, NOW - 10 * MINUTE)
    return pl.DataFrame({"item": np.arange(count) * 3, "time": times, "x": np.full(count, value)})


def items(features: dict[str, Aggregation] | None = None, **options: str) -> CompiledView:
    """The view."""
    source = Source("events", events(1.0), time="time")
    return FeatureView("items", ITEM, source, features or FEATURES, **options).compile()


def load(store: OnlineStore, view: CompiledView, value: float, count: int = KEYS) -> None:
    """Makes the store hold events of one value."""
    bulk_load(store, view, [grouped(view, events(value, count))], NOW)


def refreshed(store: OnlineStore, view: CompiledView, root: Path, now: int = NOW) -> Refreshed:
    """A refresh as of a time."""
    return refresh(store, view, root, clock=lambda: now)


def of(*wanted: int) -> Int64s:
    """Keys, [n, 1]."""
    return np.array(wanted, np.int64).reshape(-1, 1)


def value(reader: Reader, view: CompiledView, now: int = NOW) -> float:
    """The one value that all keys have, in cells and in lists; NaN: they are of different loads."""
    keys = of(*range(0, 3 * KEYS, 3))
    found = reader.read(view, ["items.x", "items.recent"], keys, np.full(KEYS, now))
    seen = {*found["items.x"].values.tolist(), *found["items.recent"].values.values.tolist()}  # type: ignore[union-attr]
    return seen.pop() if len(seen) == 1 else float("nan")
