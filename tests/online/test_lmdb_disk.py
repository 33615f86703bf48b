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
