"""An LMDB store whose disk is full, and one whose readers were killed."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bedplate.errors import StoreError
from bedplate.online import lmdb as lmdb_store
from bedplate.online.base import Changes
from bedplate.online.lmdb import LmdbStore

READ = """
import os, sys, lmdb
environment = lmdb.open(sys.argv[1], max_readers=1022)
transaction = environment.begin()
transaction.get(b"a")
print("reading", flush=True)
os.kill(os.getpid(), 9)
"""
READERS = "import sys, lmdb; print(lmdb.open(sys.argv[1], max_readers=1022).readers())"


def test_a_disk_without_room_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    with LmdbStore(tmp_path / "store") as store:
        store.commit(Changes([(b"a", b"1")]))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        try:
            with pytest.raises(StoreError) as caught:
                store.commit(Changes([(b"a", b"2"), (b"b", b"x" * 1_000_000)]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "disk of the folder" in str(caught.value.hint)
        assert "bytes free" in str(caught.value.hint)
        assert list(store.read_many([b"a", b"b"])) == [b"1", b""]
        store.commit(Changes([(b"b", b"x" * 1_000_000)]))


OPEN = """
import resource, sys
from pathlib import Path
from bedplate.errors import StoreError
from bedplate.online.lmdb import LmdbStore
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
try:
    print(list(LmdbStore(Path(sys.argv[1]), create=False).read_many([b"a"])))
except StoreError as error:
    print(error.hint)
"""


def opened(path: Path) -> str:
    """What a process reads, or is told, that can't write a byte into a file."""
    asked = [sys.executable, "-c", OPEN, str(path)]
    return subprocess.run(asked, stdout=subprocess.PIPE, check=True, text=True).stdout


def test_a_store_on_a_full_disk_can_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with LmdbStore(path) as store:
        store.commit(Changes([(b"a", b"1")]))
    assert opened(path) == "[b'1']\n"


def test_a_lock_file_has_its_room_on_the_disk_or_is_not_made(tmp_path: Path) -> None:
    """LMDB would write into its holes, which ends the process where the disk is full."""
    path = tmp_path / "store"
    with LmdbStore(path) as store:
        store.commit(Changes([(b"a", b"1")]))
        lock = (path / "lock.mdb").stat()
        assert lock.st_blocks * 512 >= lock.st_size > 0
    (path / "lock.mdb").unlink()
    files = sorted(path.iterdir())
    assert "disk of the folder" in opened(path)
    assert sorted(path.iterdir()) == files
    with LmdbStore(path, create=False) as store:
        assert list(store.read_many([b"a"])) == [b"1"]
        lock = (path / "lock.mdb").stat()
        assert lock.st_blocks * 512 >= lock.st_size > 0


def test_a_writer_frees_what_killed_readers_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_store, "_CHECK_SECONDS", 0.0)
    with LmdbStore(tmp_path / "store") as store:
        killed = subprocess.run([sys.executable, "-c", READ, str(store.path)], stdout=subprocess.PIPE, check=False)
        assert (killed.returncode, killed.stdout) == (-9, b"reading\n")

        def readers() -> str:
            asked = [sys.executable, "-c", READERS, str(store.path)]
            return subprocess.run(asked, stdout=subprocess.PIPE, check=True, text=True).stdout

        held = readers().count("\n")
        store.commit(Changes([(b"a", b"1")]))
        assert readers().count("\n") < held
