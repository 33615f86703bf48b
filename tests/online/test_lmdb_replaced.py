"""An LMDB store whose files are taken away, or replaced by others, while a process has them open."""

from __future__ import annotations

import logging
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from bedplate.errors import StoreError
from bedplate.online import lmdb as lmdb_store
from bedplate.online.base import Changes
from bedplate.online.guard import GuardedStore, UnansweredError
from bedplate.online.lmdb import LmdbStore


@pytest.fixture(autouse=True)
def looks_at_each_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every read looks for the files; so often is not needed, and otherwise the tests would have to wait."""
    monkeypatch.setattr(lmdb_store, "_LOOK_SECONDS", 0.0)


def fill(path: Path, value: bytes) -> None:
    with LmdbStore(path) as store:
        store.commit(Changes([(b"a", value)]))


def replace(path: Path, value: bytes) -> None:
    """Deletes a store's files and puts those of another one there."""
    other = path.with_name("other")
    fill(other, value)
    shutil.rmtree(path)
    other.rename(path)


def test_files_that_others_replace_are_read_from_then_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "store"
    fill(path, b"old")
    with LmdbStore(path) as store:
        assert list(store.read_many([b"a"])) == [b"old"]
        assert list(store.read_many([b"a"])) == [b"old"]  # remembered from now on
        replace(path, b"new")
        with caplog.at_level(logging.WARNING, "bedplate.online"):
            assert list(store.read_many([b"a"])) == [b"new"]
        assert store.scan(b"a") == [(b"a", b"new")]
        assert list(store.read_many([b"a"])) == [b"new"]
        store.commit(Changes([(b"b", b"1")]))
    [said] = [record.getMessage() for record in caplog.records]
    assert str(path) in said
    with LmdbStore(path) as again:
        assert list(again.read_many([b"a", b"b"])) == [b"new", b"1"]


def test_a_store_that_is_moved_away_is_down_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "store"
    fill(path, b"1")
    guarded = GuardedStore(LmdbStore(path), 10.0, failures=1, pause_seconds=0.0)
    with guarded:
        path.rename(tmp_path / "away")
        with pytest.raises(UnansweredError, match="gone"):
            guarded.read_many([b"a"])
        assert not guarded.is_up
        with pytest.raises(StoreError, match="gone"):
            guarded.scan(b"a")
        with pytest.raises(StoreError, match="gone"):
            guarded.commit(Changes([(b"a", b"2")]))
        assert not path.exists()  # nothing is made in its place
        (tmp_path / "away").rename(path)
        assert list(guarded.read_many([b"a"])) == [b"1"]
        assert guarded.is_up


def test_who_only_reads_makes_no_store_in_the_place_of_one_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "store"
    fill(path, b"1")
    path.rename(tmp_path / "away")
    for _ in range(2):  # the folder is gone, then empty
        with pytest.raises(StoreError, match="are not there") as caught:
            LmdbStore(path, create=False)
        assert caught.value.where == f"lmdb:{path}"
        assert "put them back" in str(caught.value.hint)
        assert not list(path.glob("*"))
        path.mkdir(exist_ok=True)
    path.rmdir()
    (tmp_path / "away").rename(path)
    with LmdbStore(path, create=False) as store:
        assert list(store.read_many([b"a"])) == [b"1"]
        store.commit(Changes([(b"a", b"2")]))  # as a server says which views it reads
        assert list(store.read_many([b"a"])) == [b"2"]


def test_a_store_of_another_form_is_refused_and_a_right_one_after_it_read(tmp_path: Path) -> None:
    path = tmp_path / "store"
    fill(path, b"1")
    with LmdbStore(path) as store:
        with LmdbStore(tmp_path / "strange") as strange:
            strange.commit(Changes([(lmdb_store.keys.FORMAT_KEY, b"99")]))
        shutil.rmtree(path)
        (tmp_path / "strange").rename(path)
        for _ in range(2):
            with pytest.raises(StoreError, match="format 99, expected"):
                store.read_many([b"a"])
        replace(path, b"2")
        assert list(store.read_many([b"a"])) == [b"2"]


def test_a_store_that_is_only_being_made_is_down_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "store"
    fill(path, b"1")
    with LmdbStore(path) as store:
        shutil.rmtree(path)
        path.mkdir()
        (path / "data.mdb").touch()
        with pytest.raises(StoreError, match="only being made"):
            store.read_many([b"a"])
        replace(path, b"2")
        assert list(store.read_many([b"a"])) == [b"2"]


def test_who_has_claimed_a_view_does_not_go_on_in_other_files(tmp_path: Path) -> None:
    path = tmp_path / "store"
    fill(path, b"old")
    with LmdbStore(path) as store:
        with store.writing(["view"]):
            replace(path, b"new")
            with pytest.raises(StoreError, match="replaced while 'view' was being written"):
                store.commit(Changes([(b"a", b"lost")]))
            with pytest.raises(StoreError, match="replaced while 'view' was being written"):
                store.read_many([b"a"])
        assert list(store.read_many([b"a"])) == [b"new"]


def test_many_threads_read_on_while_files_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "store"
    fill(path, b"0")
    seen: list[bytes] = []
    wrong: list[Exception] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                seen.extend(store.read_many([b"a"]))
            except StoreError:  # the moment between two stores
                continue
            except Exception as error:  # noqa: BLE001  (whatever it is fails the test)
                wrong.append(error)

    with LmdbStore(path) as store:
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(1, 6):
            fill(tmp_path / "next", b"%d" % number)
            path.rename(tmp_path / f"before{number}")
            (tmp_path / "next").rename(path)
        over.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert set(seen) <= {b"%d" % number for number in range(6)}
        assert list(store.read_many([b"a"])) == [b"5"]


@pytest.mark.parametrize("when", ["first", "again"])
def test_files_that_are_replaced_while_they_are_being_opened_are_not_read_on(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    fill(path, b"1")
    fill(tmp_path / "second", b"2")
    fill(tmp_path / "third", b"3")
    opened = lmdb_store.lmdb.open

    def replaced(*details: Any, **options: Any) -> Any:
        monkeypatch.setattr(lmdb_store.lmdb, "open", opened)
        found = opened(*details, **options)
        path.rename(tmp_path / "away")
        (tmp_path / "third").rename(path)
        return found

    if when == "first":
        monkeypatch.setattr(lmdb_store.lmdb, "open", replaced)
    with LmdbStore(path) as store:
        if when == "again":
            path.rename(tmp_path / "before")
            (tmp_path / "second").rename(path)
            monkeypatch.setattr(lmdb_store.lmdb, "open", replaced)
        assert list(store.read_many([b"a"])) == [b"3"]
