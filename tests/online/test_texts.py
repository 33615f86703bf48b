"""Texts stay as long as a key or a row names them, whichever generation or version the row is of."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.ordered import Last, LastN
from bedplate.features.entity import Entity
from bedplate.features.view import CompiledView, FeatureView
from bedplate.online import keys
from bedplate.online.adoption import adopt
from bedplate.online.base import Changes, StoredTexts, text_puts
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.texts import drop_texts
from bedplate.sources.base import Source
from bedplate.testing.online_store import grouped
from bedplate.types import DAY

NOW = 20_000 * DAY
FRAME = pl.DataFrame(
    {"user": ["a", "b", "b"], "time": [NOW - 3 * DAY, NOW - 2 * DAY, NOW - DAY], "page": ["x", "y", "z"]}
)


def view(features: dict[str, Last | LastN]) -> CompiledView:
    return FeatureView("v", Entity("user", key="user"), Source("events", FRAME, time="time"), features).compile()


def load(store: MemoryStore, of: CompiledView, frame: pl.DataFrame) -> None:
    bulk_load(store, of, [grouped(of, frame)], NOW)


def left(store: MemoryStore) -> list[str]:
    return sorted(StoredTexts(store).values())


def test_what_the_next_load_no_longer_names_is_dropped():
    store = MemoryStore()
    load(store, view({"page": Last("page")}), FRAME)
    assert left(store) == ["a", "b", "x", "y", "z"]  # the load stored what its events named
    assert (drop_texts(store, dry_run=True), len(left(store))) == (1, 5)
    assert (drop_texts(store), left(store)) == (1, ["a", "b", "x", "z"])
    load(store, view({"page": Last("page")}), FRAME[:1])
    assert (drop_texts(store), left(store)) == (2, ["a", "x"])
    assert drop_texts(store) == 0


def test_rows_of_an_old_version_name_texts_too():
    store, changed = MemoryStore(), view({"pages": LastN("page", 2)})
    load(store, view({"three": LastN("page", 3)}), FRAME)
    assert list(adopt(store, [changed])) == [changed.id]
    assert (drop_texts(store), left(store)) == (0, ["a", "b", "x", "y", "z"])


@pytest.mark.parametrize("count", [0, 1, 3000])
def test_texts_that_nothing_names_go_whatever_their_ids(count):
    store = MemoryStore()
    ids = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, count).tolist()
    store.commit(Changes(text_puts({i: str(i) for i in ids})))
    assert drop_texts(store) == count
    assert store.scan(keys.TEXTS) == []
