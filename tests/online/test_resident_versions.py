"""Versions of resident views: one at a time, switched to when whole, never of another definition, and none too old."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import multiprocessing
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from resident_views import FEATURES, KEYS, NOW, DeafStore, items, load, of, refreshed, value

from bedplate.aggregations.ordered import LastN
from bedplate.errors import ConflictError, StoreError
from bedplate.files import leftovers
from bedplate.online.base import OnlineStore
from bedplate.online.fetch import OnlineReader
from bedplate.online.lmdb import LmdbStore
from bedplate.online.memory import MemoryStore
from bedplate.online.resident import ResidentReader, ResidentViews
from bedplate.types import HOUR, MINUTE

VIEW = items()


@pytest.fixture
def store() -> Iterator[OnlineStore]:
    with MemoryStore() as store:
        load(store, VIEW, 1.0)
        yield store


def views(root: Path, now: int = NOW, view=VIEW) -> ResidentViews:
    return ResidentViews(root, [view], clock=lambda: now)


def versions(root: Path) -> list[str]:
    return sorted(path.name for path in (root / VIEW.id).iterdir() if path.is_dir())


def test_a_new_version_is_read_after_the_next_look_and_old_ones_go(store, tmp_path):
    assert refreshed(store, VIEW, tmp_path).version == 1
    resident = views(tmp_path)
    reader = ResidentReader(DeafStore(), resident)
    for step in (2.0, 3.0, 4.0):
        load(store, VIEW, step)
        assert refreshed(store, VIEW, tmp_path).kept is False
        # What is mapped is read on, though its files may be gone.
        assert value(reader, VIEW) == step - 1
        resident.look()
        assert value(reader, VIEW) == step
    assert versions(tmp_path) == ["3", "4"]


def test_what_has_not_changed_is_kept_until_a_window_moves_on(store, tmp_path):
    first = refreshed(store, VIEW, tmp_path)
    assert (first.kept, first.rows, first.watermark) == (False, KEYS, NOW)
    resident = views(tmp_path, NOW + 2 * MINUTE)
    kept = refreshed(store, VIEW, tmp_path, NOW + 2 * MINUTE)
    assert (kept.kept, kept.version) == (True, 1)
    assert resident.ages() == {"items": 120.0}
    resident.look()
    assert resident.ages() == {"items": 0.0}
    assert refreshed(store, VIEW, tmp_path, NOW + 5 * MINUTE).version == 2
    # Nothing of this view changes with the time alone.
    steady = items({"x": FEATURES["x"]})
    load(store, steady, 1.0)
    assert [refreshed(store, steady, tmp_path, NOW + i * HOUR).kept for i in range(3)] == [False, True, True]


def test_a_version_that_is_too_old_is_not_read(store, tmp_path):
    refreshed(store, VIEW, tmp_path)
    load(store, VIEW, 2.0)
    for age, expected in ((5 * MINUTE, 1.0), (5 * MINUTE + 1, 2.0)):
        assert value(ResidentReader(store, views(tmp_path, NOW + age)), VIEW) == expected


def test_a_version_that_is_behind_the_freshness_of_its_view_is_not_read(tmp_path):
    view = items(freshness="2m")
    with MemoryStore() as store:
        load(store, view, 1.0)
        refreshed(store, view, tmp_path)
        load(store, view, 2.0)
        reader = ResidentReader(store, views(tmp_path, view=view))
        assert value(reader, view, NOW + 2 * MINUTE) == 1.0
        assert value(reader, view, NOW + 2 * MINUTE + 1) == 2.0


def test_a_changed_view_is_not_read_from_a_version_of_the_old_one(store, tmp_path, caplog):
    refreshed(store, VIEW, tmp_path)
    changed = items({**FEATURES, "recent": LastN("x", 3)})
    load(store, changed, 2.0)
    assert value(ResidentReader(store, views(tmp_path, view=changed)), changed) == 2.0
    # Not even where its files lie in the place of the new one's.
    shutil.copytree(tmp_path / VIEW.id, tmp_path / changed.id)
    with caplog.at_level(logging.WARNING):
        assert value(ResidentReader(store, views(tmp_path, view=changed)), changed) == 2.0
    assert "of another definition" in caplog.text
    assert refreshed(store, changed, tmp_path).kept is False
    assert value(ResidentReader(DeafStore(), views(tmp_path, view=changed)), changed) == 2.0


@pytest.mark.parametrize("name", ["records.bin", "words.bin", "offsets.bin", "slots.bin", "manifest.json"])
@pytest.mark.parametrize("how", ["shorter", "changed", "gone"])
def test_a_damaged_version_is_not_read(store, tmp_path, caplog, name, how):
    refreshed(store, VIEW, tmp_path)
    resident = views(tmp_path)
    reader = ResidentReader(store, resident)
    load(store, VIEW, 2.0)
    refreshed(store, VIEW, tmp_path)
    path = tmp_path / VIEW.id / "2" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1 if name != "manifest.json" else 0xFF
    path.write_bytes(content[:-8] if how == "shorter" else content)
    if how == "gone":
        path.unlink()
    with caplog.at_level(logging.WARNING):
        resident.look()
    assert value(reader, VIEW) == 1.0
    assert value(ResidentReader(store, views(tmp_path)), VIEW) == 2.0
    if how != "gone":
        assert name in caplog.text
    load(store, VIEW, 3.0)
    refreshed(store, VIEW, tmp_path)
    resident.look()
    assert value(reader, VIEW) == 3.0


def test_one_refresh_of_a_view_at_a_time(store, tmp_path):
    refreshed(store, VIEW, tmp_path)
    with (tmp_path / VIEW.id / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="another refresh"):
            refreshed(store, VIEW, tmp_path)
    refreshed(store, VIEW, tmp_path)


def test_a_view_that_the_store_does_not_hold_is_not_refreshed(store, tmp_path):
    other = items({"x": FEATURES["x"]})
    with pytest.raises(StoreError, match="does not hold this version"):
        refreshed(store, other, tmp_path)
    assert views(tmp_path, view=other).ages() == pytest.approx({"items": float("nan")}, nan_ok=True)


class PagingStore(MemoryStore):
    """Gives pages as a shared store may: out of order, some keys twice; and does something between them."""

    between = staticmethod(lambda: None)

    def pages(self, prefix: bytes, size: int = 0) -> Iterator[list[tuple[bytes, bytes]]]:
        found = self.scan(prefix)
        random.Random(1).shuffle(found)
        yield found[: KEYS // 2]
        self.between()
        yield found[KEYS // 3 :]


def test_pages_in_any_order_and_keys_that_come_twice(tmp_path):
    with PagingStore() as store:
        load(store, VIEW, 1.0)
        refreshed(store, VIEW, tmp_path)
        reader = ResidentReader(DeafStore(), views(tmp_path))
        assert value(reader, VIEW) == 1.0
        assert reader.read(VIEW, ["items.n"], of(1, 5, 10**9), np.full(3, NOW))["items.n"].values.tolist() == [0] * 3


def test_a_generation_that_is_switched_meanwhile_is_copied_anew(tmp_path):
    with PagingStore() as store:
        load(store, VIEW, 1.0)
        todo = [2.0]
        store.between = lambda: load(store, VIEW, todo.pop()) if todo else None  # type: ignore[method-assign]
        done = refreshed(store, VIEW, tmp_path)
        assert value(ResidentReader(DeafStore(), views(tmp_path)), VIEW) == 2.0
        assert versions(tmp_path) == [str(done.version)]


def test_a_view_with_rows_of_its_old_version_is_read_from_the_store(store, tmp_path):
    from bedplate.online.adoption import adopt

    shorter = items({**FEATURES, "recent": LastN("x", 1)})
    assert adopt(store, [shorter])
    with pytest.raises(StoreError, match="online compact"):
        refreshed(store, shorter, tmp_path)
    assert value(ResidentReader(store, views(tmp_path, view=shorter)), shorter) == 1.0


def test_a_full_disk_leaves_what_was_there(store, tmp_path, monkeypatch):
    refreshed(store, VIEW, tmp_path)
    resident = views(tmp_path)
    load(store, VIEW, 2.0)
    real, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > passing:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    outcomes: list[bool] = []
    for passing in range(20):  # noqa: B007
        calls = 0
        with contextlib.suppress(StoreError):
            refreshed(store, VIEW, tmp_path)
            outcomes.append(True)
            break
        outcomes.append(False)
        resident.look()
        assert value(ResidentReader(DeafStore(), resident), VIEW) in (1.0, 2.0)
        assert not [path for path in (tmp_path / VIEW.id).iterdir() if path.name.endswith(".tmp")]
    assert outcomes[0] is False
    assert outcomes[-1] is True
    assert len(outcomes) > 5
    resident.look()
    assert value(ResidentReader(DeafStore(), resident), VIEW) == 2.0


def test_readers_see_whole_versions_while_they_are_switched(store, tmp_path):
    refreshed(store, VIEW, tmp_path)
    resident = ResidentViews(tmp_path, [VIEW], clock=lambda: NOW)
    resident.watch(0.001)
    over = threading.Event()

    def read() -> list[float]:
        reader, seen = ResidentReader(DeafStore(), resident), list[float]()
        while not over.is_set():
            seen.append(value(reader, VIEW))
            time.sleep(0.001)
        return seen

    with ThreadPoolExecutor(2) as pool:
        reads = [pool.submit(read) for _ in range(2)]
        for step in range(2, 12):
            load(store, VIEW, float(step))
            refreshed(store, VIEW, tmp_path)
            began = time.monotonic()
            while value(ResidentReader(DeafStore(), resident), VIEW) != step and time.monotonic() < began + 30:
                time.sleep(0.001)
        over.set()
        seen = [done.result() for done in reads]
    resident.close()
    for values in seen:
        assert values == sorted(values)
        assert {*values} <= {float(step) for step in range(1, 12)}
        assert len({*values}) > 3


def _refresh_for_ever(path: str, root: str) -> None:
    with LmdbStore(Path(path)) as store:
        while True:
            load(store, VIEW, value(OnlineReader(store), VIEW) + 1.0)
            refreshed(store, VIEW, Path(root))


def _read_for_ever(root: str, wrong: str, ready: str) -> None:
    resident = ResidentViews(Path(root), [VIEW], clock=lambda: NOW)
    resident.watch(0.002)
    reader, last = ResidentReader(DeafStore(), resident), 0.0
    Path(ready).touch()
    while True:
        seen = value(reader, VIEW)
        if not seen >= last:
            Path(wrong).write_text(f"{seen} after {last}")
        last = seen
        time.sleep(0.002)


def test_a_refresh_that_is_killed_leaves_whole_versions_for_every_process(tmp_path):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["test_resident_versions"])
    root, path, wrong = tmp_path / "resident", tmp_path / "store", tmp_path / "wrong"
    ready = [tmp_path / f"ready {i}" for i in range(2)]
    with LmdbStore(path) as store:
        load(store, VIEW, 1.0)
        refreshed(store, VIEW, root)
    readers = [
        processes.Process(target=_read_for_ever, args=(str(root), str(wrong), str(r)), daemon=True) for r in ready
    ]
    for reader in readers:
        reader.start()
    while not all(r.exists() for r in ready):
        time.sleep(0.01)
    draw, resident = random.Random(3), views(root)
    for _ in range(3):
        writer = processes.Process(target=_refresh_for_ever, args=(str(path), str(root)), daemon=True)
        writer.start()
        before, began = (root / VIEW.id / "current.json").read_bytes(), time.monotonic()
        while (root / VIEW.id / "current.json").read_bytes() == before and time.monotonic() < began + 60:
            time.sleep(0.002)
        time.sleep(draw.uniform(0.0, 0.1))
        writer.kill()
        writer.join()
        resident.look()
        assert value(ResidentReader(DeafStore(), resident), VIEW) >= 2.0
    assert all(reader.is_alive() for reader in readers)
    for reader in readers:
        reader.kill()
        reader.join()
    assert not wrong.exists()
    with LmdbStore(path) as store:
        refreshed(store, VIEW, root)
        resident.look()
        assert value(ResidentReader(DeafStore(), resident), VIEW) == value(OnlineReader(store), VIEW)
    assert leftovers(root / VIEW.id) == []
    assert len(versions(root)) <= 2
