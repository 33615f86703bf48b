"""A view over a table, an offline store, an online store and a stream, for tests of what verification finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.base import Aggregation
from bedplate.aggregations.ordered import Last
from bedplate.features.view import CompiledView, FeatureView
from bedplate.health.verify import Verification, verify
from bedplate.offline.history import IndexedHistory
from bedplate.online import keys as store_keys
from bedplate.online.base import Changes, OnlineStore
from bedplate.online.ingest import Ingest
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.state import read_state
from bedplate.sources.base import Source
from bedplate.testing.simulator import START, USER
from bedplate.types import MINUTE, Int64s

FEATURES: dict[str, Aggregation] = {"n": Count(), "n_in": Count(windows="1h"), "x": Sum("x"), "kind": Last("kind")}
UNTIL = START + 60 * MINUTE


def rows(count: int = 100) -> pl.DataFrame:
    """Row i is of user i % 5 at START + i minutes; which of them are in a sum can be told from it."""
    return pl.DataFrame(
        {
            "user": [i % 5 for i in range(count)],
            "time": [START + i * MINUTE for i in range(count)],
            "known": [START + i * MINUTE for i in range(count)],
            "x": [100 + 1.01 * i for i in range(count)],
            "kind": [f"kind {i}" for i in range(count)],
        }
    )


class Case:
    """A view over a table in a file, an offline store, an online store, and a stream."""

    def __init__(self, folder: Path, store: OnlineStore | None = None, **source: object) -> None:
        self.folder, self.source = folder, source
        self.store, self.files = store or MemoryStore(), 0
        self.features: dict[str, Aggregation] = FEATURES

    def view(self, **features: object) -> CompiledView:
        source = Source("events", str(self.folder / "table.parquet"), time="time", **self.source)
        return FeatureView("v", USER, source, self.features | features).compile()

    def history(self, table: pl.DataFrame, **features: object) -> IndexedHistory:
        table.write_parquet(self.folder / "table.parquet")
        history = IndexedHistory(self.folder / "offline")
        history.build(self.view(**features)).run(lambda _: None)
        return history

    def load(self, table: pl.DataFrame, until: int = UNTIL) -> None:
        history = self.history(table)
        bulk_load(self.store, self.view(), history.grouped(self.view()), until)

    def stream(self, events: pl.DataFrame, *, late: bool = False) -> None:
        self.files += 1
        (self.folder / "stream").mkdir(exist_ok=True)
        events.write_parquet(self.folder / "stream" / f"{self.files:03}.parquet")
        Ingest(self.store, [self.view()], self.folder / "stream", late=late).run()

    def verify(self, table: pl.DataFrame, at: int | None = None, **features: object) -> Verification:
        history = self.history(table, **features)
        return verify(self.store, history, [self.view(**features)], at=at)

    def key(self, user: int) -> bytes:
        """Of a user's row."""
        state = read_state(self.store, self.view())
        return store_keys.row_keys(self.view(), np.array([[user]], np.int64), state.generation)[0]

    def change(self, user: int, change: Callable[[Int64s], Int64s]) -> None:
        """Changes the words of a user's row."""
        key = self.key(user)
        words = np.frombuffer(self.store.read_many([key]).data, np.int64).copy()
        self.store.commit(Changes([(key, change(words).tobytes())]))


def split(table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    return table.filter(pl.col("time") < UNTIL), table.filter(pl.col("time") >= UNTIL)


def filled(case: Case, table: pl.DataFrame | None = None) -> pl.DataFrame:
    """Loads and streams all of a table."""
    table = rows() if table is None else table
    case.load(split(table)[0])
    case.stream(split(table)[1])
    return table


def only(found: Verification, user: int, features: set[str]) -> tuple[str, str]:
    """The cause and evidence, where exactly these features of one user differ."""
    assert {(d.feature.removeprefix("v."), d.keys["user"]) for d in found.differences} == {(f, user) for f in features}
    assert found.differ == len(features)
    [shown] = {(d.cause, d.evidence) for d in found.differences}
    return shown
