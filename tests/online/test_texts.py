"""Texts stay as long as a key or a row names them, whichever generation or version the row is of."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bedplate.aggregations.ordered import Last, LastN
from bedplate.canonical import string_ids
from bedplate.errors import ConflictError
from bedplate.features.entity import Entity
from bedplate.features.rows import GroupedRows
from bedplate.features.view import CompiledView, FeatureView
from bedplate.online import keys
from bedplate.online.adoption import adopt
from bedplate.online.base import Changes, OnlineStore, StoredTexts, open_store, text_puts
from bedplate.online.compact import compact
from bedplate.online.generations import Loading
from bedplate.online.ingest import Ingest
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.texts import drop_texts
from bedplate.sources.base import Source
from bedplate.testing.online_store import grouped, write_files
from bedplate.types import DAY, HOUR

NOW = 20_000 * DAY
FRAME = pl.DataFrame(
    {"user": ["a", "b", "b"], "time": [NOW - 3 * DAY, NOW - 2 * DAY, NOW - DAY], "page": ["x", "y", "z"]}
)


def view(features: dict[str, Last | LastN]) -> CompiledView:
    return FeatureView("v", Entity("user", key="user"), Source("events", FRAME, time="time"), features).compile()


def load(store: OnlineStore, of: CompiledView, frame: pl.DataFrame) -> None:
    bulk_load(store, of, [grouped(of, frame)], NOW)


def left(store: OnlineStore) -> list[str]:
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


def of_one(pages: list[str]) -> pl.DataFrame:
    """Events of one user."""
    return pl.DataFrame({"user": "a", "time": [NOW + i * HOUR for i in range(len(pages))], "page": pages})


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[OnlineStore]:
    with open_store({"memory": "memory:", "lmdb": f"lmdb:{tmp_path}/store"}[request.param]) as store:
        yield store


def working(store: OnlineStore, folder: Path) -> Ingest:
    """A worker that takes in one event a turn: the row then names its page, and the one before, which is folded."""
    last = view({"page": Last("page")})
    load(store, last, FRAME[:0])
    write_files(of_one(["x", "y", "z", "x"]), folder, [0])
    return Ingest(store, [last], folder, batch=1)


def test_a_worker_puts_a_text_again_that_was_dropped_since_it_put_it(store: OnlineStore, tmp_path: Path) -> None:
    worker, found = working(store, tmp_path / "files"), list[str]()
    for _ in range(4):
        worker.turn()
        drop_texts(store)
        found.append("".join(left(store)))
    assert found == ["ax", "axy", "ayz", "axz"]


def test_a_step_that_was_on_hand_when_texts_were_dropped_names_none_of_them(
    store: OnlineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = working(store, tmp_path / "files")
    for _ in range(3):
        worker.turn()
    meanwhile(monkeypatch, store, lambda: drop_texts(store))
    worker.turn()
    assert (left(store), worker.events) == (["a", "x", "y", "z"], 4)
    assert (drop_texts(store), left(store)) == (1, ["a", "x", "z"])


def test_a_text_that_is_named_after_the_rows_were_looked_through_is_kept(
    store: OnlineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, kind = working(store, tmp_path / "files"), type(store)
    pages = kind.pages
    for _ in range(3):
        worker.turn()

    def late(self: OnlineStore, prefix: bytes, size: int = 100) -> Iterator[list[tuple[bytes, bytes]]]:
        yield from pages(self, prefix, size)
        if prefix == keys.ROWS:
            worker.turn()

    monkeypatch.setattr(kind, "pages", late)
    assert (drop_texts(store), worker.events) == (0, 4)
    monkeypatch.setattr(kind, "pages", pages)
    assert left(store) == ["a", "x", "y", "z"]
    assert (drop_texts(store), left(store)) == (1, ["a", "x", "z"])


def test_texts_are_dropped_while_a_view_is_loaded(store: OnlineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    last = view({"page": Last("page")})
    store.commit(Changes(text_puts({i: t for t, i in zip("abz", string_ids([*"abz"]), strict=True)})))
    blocks = [grouped(last, FRAME[:1]), grouped(last, FRAME[1:])]

    def feed() -> Generator[GroupedRows]:
        for block in blocks:
            meanwhile(monkeypatch, store, lambda: drop_texts(store))
            yield block

    bulk_load(store, last, feed(), NOW)
    drop_texts(store)
    assert left(store) == ["a", "b", "x", "z"]


def test_a_load_that_another_one_overtook_ends_though_texts_are_dropped() -> None:
    store, last = MemoryStore(), view({"page": Last("page")})

    def feed() -> Generator[GroupedRows]:
        Loading.begin(store, last, NOW)
        drop_texts(store)
        yield grouped(last, FRAME)

    with pytest.raises(ConflictError, match="another load has begun"):
        bulk_load(store, last, feed(), NOW)


def test_rows_that_are_moved_while_texts_are_dropped_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    store, changed = MemoryStore(), view({"pages": LastN("page", 2)})
    load(store, view({"three": LastN("page", 3)}), FRAME)
    adopt(store, [changed])
    pages, moved = MemoryStore.pages, list[bytes]()

    def move(self: MemoryStore, prefix: bytes, size: int = 100) -> Iterator[list[tuple[bytes, bytes]]]:
        if prefix == keys.ROWS and not moved:  # what is looked at first is nowhere later
            moved.append(prefix)
            compact(store, [changed])
            return iter([])
        return pages(self, prefix, size)

    monkeypatch.setattr(MemoryStore, "pages", move)
    assert drop_texts(store) == 0
    assert left(store) == ["a", "b", "x", "y", "z"]


def test_views_that_are_loaded_all_the_time_keep_their_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    store, last = MemoryStore(), view({"page": Last("page")})
    load(store, last, FRAME)
    pages = MemoryStore.pages

    def loaded(self: MemoryStore, prefix: bytes, size: int = 100) -> Iterator[list[tuple[bytes, bytes]]]:
        if prefix == keys.ROWS:
            load(store, last, FRAME)
        return pages(self, prefix, size)

    monkeypatch.setattr(MemoryStore, "pages", loaded)
    with pytest.raises(ConflictError, match="loaded or deleted meanwhile"):
        drop_texts(store)
    assert "x" in left(store)


def test_texts_of_a_store_from_before_there_were_marks_are_read_and_dropped() -> None:
    store = MemoryStore()
    store.commit(Changes([(key, b"=" + value[9:]) for key, value in text_puts({1: "#old", 2: ""})]))
    assert dict(StoredTexts(store)) == {1: "#old", 2: ""}
    assert (drop_texts(store), left(store)) == (2, [])


def meanwhile(monkeypatch: pytest.MonkeyPatch, store: OnlineStore, do: Callable[[], object]) -> None:
    """Lets something happen before the next step, once it is made."""
    kind = type(store)
    commit = kind.commit

    def late(self: OnlineStore, changes: Changes) -> None:
        monkeypatch.setattr(kind, "commit", commit)
        do()
        commit(self, changes)

    monkeypatch.setattr(kind, "commit", late)
