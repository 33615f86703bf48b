"""An LMDB store on a file system that is mounted read-only: it is read without the lock file that nobody could write.

What the kernel says of mounts is a file here: mounting needs rights that tests don't have.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bedplate.errors import StoreError
from bedplate.online import lmdb_files
from bedplate.online.base import Changes
from bedplate.online.lmdb import LmdbStore


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store's folder without a lock file, so that it shows who makes one."""
    path = tmp_path / "store"
    with LmdbStore(path) as store:
        store.commit(Changes([(b"a", b"1")]))
    (path / "lock.mdb").unlink()
    return path


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mountinfo"
    monkeypatch.setattr(lmdb_files, "_MOUNTS", path)
    return path


def mounted(folder: Path, *, kind: str = "ext4", mount: str = "ro", whole: str = "ro") -> str:
    """Two file systems: one that is read-only in any case, and that of a folder."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    other = "22 27 251:9999 / /oth\udce9r\u2028 ro,relatime - ext4 /dev/other ro\n"
    return f"{other}29 1 {number} / / {mount},relatime shared:1 master:2 - {kind} /dev/vda {whole},discard\n"


def written(mounts: Path, text: str) -> None:
    mounts.write_bytes(text.encode(errors="surrogateescape"))


def test_it_is_read_and_nothing_is_written(store: Path, mounts: Path) -> None:
    written(mounts, mounted(store))
    before = sorted(store.iterdir())
    with LmdbStore(store, create=False) as opened:
        assert list(opened.read_many([b"a", b"b"])) == [b"1", b""]
        assert opened.scan(b"a") == [(b"a", b"1")]
        with pytest.raises(StoreError, match="can't write"):
            opened.commit(Changes([(b"a", b"2")]))
        assert list(opened.read_many([b"a"])) == [b"1"]
    assert sorted(store.iterdir()) == before


def test_once_it_can_be_written_it_is_read_with_locks(store: Path, mounts: Path) -> None:
    written(mounts, mounted(store))
    with LmdbStore(store, create=False) as opened:
        assert list(opened.read_many([b"a"])) == [b"1"]
        assert not (store / "lock.mdb").exists()
        written(mounts, mounted(store, mount="rw", whole="rw"))
        assert list(opened.read_many([b"a"])) == [b"1"]
        assert (store / "lock.mdb").exists()
        opened.commit(Changes([(b"a", b"2")]))
        assert list(opened.read_many([b"a"])) == [b"2"]


@pytest.mark.parametrize("how", ["read_many", "scan"])
def test_what_was_read_while_it_became_writable_is_read_again(
    store: Path, mounts: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The file system is mounted anew, and written, after the look before a read."""
    written(mounts, mounted(store))
    looks = list[str]()

    def looked(folder: Path) -> bool:
        found = lmdb_files.is_frozen(folder)
        looks.append("")
        if len(looks) == 1:
            written(mounts, mounted(store, whole="rw"))
        return found

    with LmdbStore(store, create=False) as opened:
        monkeypatch.setattr("bedplate.online.lmdb.is_frozen", looked)
        found = list(opened.read_many([b"a"])) if how == "read_many" else [v for _, v in opened.scan(b"a")]
        assert found == [b"1"]
        assert (store / "lock.mdb").exists()


def test_one_that_the_kernel_writes_no_more_after_an_error_of_its_disk_is_read(store: Path, mounts: Path) -> None:
    written(mounts, mounted(store, mount="rw", whole="rw,emergency_ro"))
    with LmdbStore(store, create=False) as opened:
        assert list(opened.read_many([b"a"])) == [b"1"]
    assert not (store / "lock.mdb").exists()


def test_files_that_are_gone_when_it_can_be_written_again_are_not_made_anew(store: Path, mounts: Path) -> None:
    written(mounts, mounted(store))
    with LmdbStore(store, create=False) as opened:
        assert list(opened.read_many([b"a"])) == [b"1"]
        written(mounts, mounted(store, whole="rw"))
        away = (store / "data.mdb").rename(store / "away")
        for _ in range(2):
            with pytest.raises(StoreError, match="the files of the online store are gone"):
                opened.read_many([b"a"])
        assert [file.name for file in store.iterdir()] == ["away"]
        away.rename(store / "data.mdb")
        assert list(opened.read_many([b"a"])) == [b"1"]


@pytest.mark.parametrize(
    "unsure", [{"whole": "rw"}, {"kind": "nfs4"}, {"kind": "overlay"}], ids=["only the mount", "network", "overlay"]
)
def test_where_others_may_write_it_is_read_with_locks(store: Path, mounts: Path, unsure: dict[str, str]) -> None:
    written(mounts, mounted(store, **unsure))
    with LmdbStore(store, create=False) as opened:
        assert list(opened.read_many([b"a"])) == [b"1"]
        assert (store / "lock.mdb").exists()


def test_without_a_word_of_the_kernel_it_is_read_with_locks(store: Path, mounts: Path) -> None:
    assert not mounts.exists()
    with LmdbStore(store, create=False) as opened:
        assert list(opened.read_many([b"a"])) == [b"1"]
        assert (store / "lock.mdb").exists()
