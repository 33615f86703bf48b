"""Both online stores keep the contract; LMDB also grows, recovers and says what is wrong."""

from __future__ import annotations

import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bedplate.batch import Ids, column_to_series
from bedplate.errors import ConfigError, StoreError
from bedplate.features.derived import DerivedFeature, evaluate
from bedplate.online.base import Changes, OnlineStore, StoredTexts, open_store, text_puts
from bedplate.online.lmdb import LmdbStore
from bedplate.online.memory import MemoryStore
from bedplate.testing.online_store import OnlineStoreContract


class TestMemoryStore(OnlineStoreContract):
    def open(self, folder: Path) -> OnlineStore:
        return MemoryStore()


class TestLmdbStore(OnlineStoreContract):
    def open(self, folder: Path) -> OnlineStore:
        return LmdbStore(folder / "store", map_size=1 << 16)  # small, so that it grows in every test

    def test_content_outlives_the_process(self, tmp_path):
        with self.open(tmp_path) as store:
            store.commit(Changes([(b"k", b"v" * 300_000)]))
        with self.open(tmp_path) as store:
            assert list(store.read_many([b"k"])) == [b"v" * 300_000]

    def test_another_process_follows_a_grown_map(self, tmp_path):
        code = (
            "import sys; from pathlib import Path; from bedplate.online.lmdb import LmdbStore\n"
            "store = LmdbStore(Path(sys.argv[1]), map_size=1 << 16); print('open', flush=True); input()\n"
            "print(sum(map(len, store.read_many([b'%d' % i for i in range(40)]))), len(store.scan(b'')))\n"
        )
        with self.open(tmp_path) as store:
            command = [sys.executable, "-c", code, str(tmp_path / "store")]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
                assert reader.stdout.readline() == "open\n"
                store.commit(Changes([(b"%d" % i, b"v" * 20_000) for i in range(40)]))
                assert reader.communicate("\n")[0] == "800000 41\n"

    def test_growing_waits_for_readers_of_this_process(self, tmp_path):
        with self.open(tmp_path) as store:
            store.commit(Changes([(b"k", b"v")]))
            seen, is_over = set[bytes](), threading.Event()

            def read() -> None:
                while not is_over.is_set():
                    seen.update(store.read_many([b"k"] * 50))

            reader = threading.Thread(target=read)
            reader.start()
            for i in range(30):
                store.commit(Changes([(b"%d" % i, b"x" * 30_000)]))
            is_over.set()
            reader.join()
            assert seen == {b"v"}

    def test_a_killed_writer_gives_up_its_claim(self, tmp_path):
        code = (
            "import sys; from pathlib import Path; from bedplate.online.lmdb import LmdbStore\n"
            "with LmdbStore(Path(sys.argv[1])).writing(['view']): print('claimed', flush=True); input()\n"
        )
        with self.open(tmp_path) as store:
            command = [sys.executable, "-c", code, str(tmp_path / "store")]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
                assert writer.stdout.readline() == "claimed\n"
                with pytest.raises(StoreError, match="another writer"), store.writing(["view"]):
                    pytest.fail("claimed twice")
                writer.kill()
            with store.writing(["view"]):
                store.commit(Changes([(b"k", b"v")]))

    def test_another_format_is_refused(self, tmp_path):
        with self.open(tmp_path) as store:
            store.commit(Changes([(b"m:format", b"99")]))
        with pytest.raises(StoreError, match="format 99, expected 2"):
            self.open(tmp_path)

    def test_a_folder_that_holds_something_else(self, tmp_path):
        (tmp_path / "store").mkdir()
        (tmp_path / "store" / "data.mdb").write_bytes(b"not a database" * 1000)
        with pytest.raises(StoreError, match="can't open") as caught:
            self.open(tmp_path)
        assert "holds a store" in caught.value.hint

    def test_a_file_in_the_place_of_the_folder(self, tmp_path):
        (tmp_path / "store").write_text("")
        with pytest.raises(StoreError, match="can't open"):
            self.open(tmp_path)

    def test_a_read_only_folder(self, tmp_path):
        # Root may write everywhere, so the process becomes a user who may not.
        code = (
            "import os, sys; from pathlib import Path\n"
            "from bedplate.errors import StoreError; from bedplate.online.lmdb import LmdbStore\n"
            "folder = Path(sys.argv[1]); folder.chmod(0o555)\n"
            "if os.getuid() == 0:\n"
            "    for parent in folder.parents:\n"
            "        if not parent.stat().st_mode & 0o001: parent.chmod(0o755)\n"
            "    os.setuid(65534)\n"
            "try: LmdbStore(folder / 'store')\n"
            "except StoreError as error: print(error)\n"
        )
        said = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
        ).stdout
        assert "can't open" in said
        assert "must be writable" in said

    def test_a_full_disk_changes_nothing(self, tmp_path):
        # A limit on the size of files fails a write at the same place as a full disk does.
        code = (
            "import resource, signal, sys; from pathlib import Path\n"
            "from bedplate.online.base import Changes; from bedplate.online.lmdb import LmdbStore\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "store = LmdbStore(Path(sys.argv[1])); store.commit(Changes([(b'k', b'before')]))\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
            "try: store.commit(Changes([(b'k', b'after'), (b'l', b'x' * (4 << 20))]))\n"
            "except Exception as error: print(type(error).__name__, list(store.read_many([b'k', b'l'])))\n"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "store")]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert out == "StoreError [b'before', b'']\n"
        with self.open(tmp_path) as store:
            assert list(store.read_many([b"k", b"l"])) == [b"before", b""]

    def test_a_forked_process_is_refused(self, tmp_path):
        with self.open(tmp_path) as store:
            store._process += 1
            with pytest.raises(StoreError, match="forked"):
                store.read_many([b"k"])


def test_what_a_writer_reads_is_not_remembered(tmp_path):
    keys = [b"r%06d" % i for i in range(12_000)]
    with LmdbStore(tmp_path) as store:
        store.commit(Changes([(key, b"v" * 1_000) for key in keys]))
        store.read_many(keys[:1])  # the step is known from now on
        tracemalloc.start()
        try:
            for count, least, most in ((12_000, 0, 1 << 18), (8_000, 8_000_000, 12_000_000)):
                for _ in range(2):
                    store.read_many(keys[:count])
                assert least <= tracemalloc.get_traced_memory()[0] <= most
        finally:
            tracemalloc.stop()


def test_texts_are_read_when_asked_for():
    store = MemoryStore()
    texts = {1: "one", -5: "", 7: "sieben ✓"}
    store.commit(Changes(text_puts(texts)))
    found = StoredTexts(store)
    assert {i: found[i] for i in texts} == texts
    assert dict(StoredTexts(store)) == texts
    assert len(found) == 3
    with pytest.raises(KeyError):
        found[2]


def test_many_texts_are_one_read(monkeypatch):
    store = MemoryStore()
    names = {i: f"text {i}" for i in range(50)}
    store.commit(Changes(text_puts(names)))
    reads: list[int] = []
    real = MemoryStore.read_many

    def counting(self, wanted, runs=()):
        reads.append(len(wanted))
        return real(self, wanted, runs)

    monkeypatch.setattr(MemoryStore, "read_many", counting)
    found = StoredTexts(store)
    ids = np.array([3, 1, 3, 40], np.int64)
    shown = column_to_series(Ids(ids, np.array([True, True, True, False]), found))
    assert shown.to_list() == ["text 3", "text 1", "text 3", None]
    assert reads == [2]
    feature = DerivedFeature("length", pl.col("s").str.len_chars())
    evaluate([feature], {"s": Ids(np.arange(50), None, found)}, np.zeros(50, np.int64))
    assert reads == [2, 48]
    evaluate([feature], {"s": Ids(np.arange(50), None, found)}, np.zeros(50, np.int64))
    assert reads == [2, 48]


def test_no_more_texts_are_kept_than_were_read_last():
    store = MemoryStore()
    store.commit(Changes(text_puts({i: f"text {i}" for i in range(1000)})))
    found = StoredTexts(store, most=20)
    for first in range(0, 1000, 10):
        ids = list(range(first, first + 10))
        found.load(ids)
        assert found.known(np.array(ids)).all()
    assert 20 <= found.known(np.arange(1000)).sum() <= 40
    assert [found[0], found[999]] == ["text 0", "text 999"]


def test_urls(tmp_path):
    with open_store("lmdb:data/online", tmp_path) as store:
        assert store.url == f"lmdb:{tmp_path}/data/online"
    for url in ("redis:x", "lmdb:", "memory:x", ""):
        with pytest.raises(ConfigError, match="expected lmdb:PATH, redis://HOST:PORT/DB or memory:"):
            open_store(url)
