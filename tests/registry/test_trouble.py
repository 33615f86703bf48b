"""A damaged or missing index, folders that can't be written, full disks: clear errors, and nothing is lost."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bedplate.errors import StoreError
from bedplate.registry.index import INDEX_NAME, FileIndex
from bedplate.registry.manifest import Manifest
from bedplate.registry.registry import Registry


@pytest.fixture
def filled(registry: Registry, artifact: Callable[..., Path], manifest: Manifest) -> Registry:
    """A registry with a run, two versions and a history."""
    with registry.start_run("train", {"rate": 1}) as run:
        run.log_metrics(0, {"loss": 1.0})
    for content in (b"1", b"2"):
        registry.register("ranker", artifact(model=content), manifest=manifest, run_id=run.id)
    for version in (1, 2):
        registry.promote("ranker", version, reason="better")
    registry.rollback("ranker")
    return registry


def _everything(registry: Registry) -> object:
    return (
        registry.models(),
        [registry.get("ranker", version) for version in registry.versions("ranker")],
        registry.history("ranker"),
        [(run.id, run.record, run.metrics()) for run in registry.runs()],
    )


def _truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"not a database" * 100,
        _truncated,
        lambda content: content[:4096] + b"\xff" * (len(content) - 4096),
        lambda content: b"",
    ],
    ids=["other", "half", "overwritten", "empty"],
)
def test_a_damaged_index_says_rebuild_and_rebuild_brings_everything_back(
    filled: Registry, damage: Callable[[bytes], bytes]
) -> None:
    before = _everything(filled)
    path = filled.root / INDEX_NAME
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreError, match="bedplate models rebuild") as caught:
        _everything(Registry(filled.root))
    assert str(path) in str(caught.value)
    assert _everything(Registry.rebuild(filled.root)) == before
    assert _everything(Registry(filled.root)) == before


def test_a_sound_index_can_be_rebuilt_while_others_use_it(filled: Registry) -> None:
    before = _everything(filled)
    Registry.rebuild(filled.root)
    assert _everything(filled) == before
    filled.promote("ranker", 2)
    assert filled.aliases("ranker") == {"champion": 2}


def test_a_deleted_index_comes_back_by_itself(filled: Registry) -> None:
    before = _everything(filled)
    (filled.root / INDEX_NAME).unlink()
    # A log left of another file must not be replayed into the new one.
    (filled.root / f"{INDEX_NAME}-wal").write_bytes(b"left over")
    with pytest.raises(StoreError, match="can't be opened"):
        filled.models()
    assert _everything(Registry(filled.root)) == before
    assert _everything(filled) == before


def test_rows_that_a_killed_writer_did_not_write_are_taken_over(filled: Registry) -> None:
    before = _everything(filled)
    with FileIndex(filled.root / INDEX_NAME).write() as db:
        db.execute("DELETE FROM versions WHERE version = 2")
        db.execute("DELETE FROM changes WHERE sequence > 1")
        db.execute("UPDATE aliases SET version = 1")
        size = len((filled.root / "models/ranker/aliases.jsonl").read_bytes().splitlines(keepends=True)[0])
        db.execute("UPDATE logs SET bytes = ?", (size,))
        db.execute("DELETE FROM runs")
    assert _everything(Registry(filled.root)) == before


def test_a_damaged_version_does_not_hide_the_others(filled: Registry) -> None:
    (filled.root / "models/ranker/2/manifest.json").unlink()
    again = Registry.rebuild(filled.root)
    assert again.versions("ranker") == [1, 2]
    again.get("ranker", 1).verify()


def test_an_index_of_a_newer_version_is_not_touched(filled: Registry) -> None:
    with FileIndex(filled.root / INDEX_NAME).write() as db:
        db.execute("PRAGMA user_version=99")
    for opening in (Registry, Registry.rebuild):
        with pytest.raises(StoreError, match="install a newer version"):
            opening(filled.root)


def test_rebuilding_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no registry here"):
        Registry.rebuild(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_a_writer_that_never_ends_is_reported(filled: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bedplate.registry.index.BUSY_SECONDS", 0.05)
    blocker = sqlite3.connect(filled.root / INDEX_NAME, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another process held the write lock"):
        filled.promote("ranker", 2)
    blocker.close()
    assert filled.aliases("ranker") == {"champion": 1}
    assert [c.version for c in filled.history("ranker")] == [1, 2, 1]
    filled.promote("ranker", 2)


# Root may write everywhere, so the process becomes a user who may not.
_READ_ONLY = """
import os, sys
from pathlib import Path
from bedplate.errors import StoreError
from bedplate.registry.manifest import gather
from bedplate.registry.registry import Registry
root = Path(sys.argv[1])
facts = gather(root, definitions={}, sources={}, config={}, seeds={}, metrics={})
os.chmod(root / "registry", 0o555)
if os.getuid() == 0:
    for folder in (root, *root.parents):
        if not folder.stat().st_mode & 0o001:
            os.chmod(folder, 0o755)
    os.setuid(65534)
registry = Registry(root / "registry")
print(registry.get("ranker").version, len(registry.history("ranker")), len(registry.runs()))
for action in (
    lambda: registry.start_run("train", {}),
    lambda: registry.register("ranker", root, manifest=facts),
    lambda: registry.promote("ranker", 2),
    lambda: registry.rollback("ranker"),
    lambda: Registry(root / "registry" / "below"),
):
    try:
        action()
    except StoreError as error:
        print(error.hint)
"""


def test_a_folder_that_cannot_be_written_can_be_read(filled: Registry, python: Callable[..., str]) -> None:
    said = python("-c", _READ_ONLY, str(filled.root.parent)).splitlines()
    filled.root.chmod(0o755)
    assert said[0] == "1 3 1"
    assert len(said) == 6
    assert all("check the owner and the mode" in line for line in said[1:])


# A limit on the size of files stands in for a full disk: the same calls fail in the same places.
_FULL = """
import resource, sys
from pathlib import Path
from bedplate.errors import StoreError
from bedplate.registry.manifest import gather
from bedplate.registry.registry import Registry
root = Path(sys.argv[1])
registry = Registry(root / "registry")
facts = gather(root, definitions={}, sources={}, config={}, seeds={}, metrics={})
run = registry.start_run("train", {})
run.log_metrics(0, {"loss": 1.0})
(root / "big").mkdir()
(root / "big" / "model").write_bytes(bytes(3_000_000))

def limited(size, action):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        action()
    except StoreError as error:
        print(error.hint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

logged = (run.folder / "metrics.jsonl").stat().st_size
log = root / "registry" / "models" / "ranker" / "aliases.jsonl"
limited(1_000_000, lambda: registry.register("ranker", root / "big", manifest=facts))
limited(logged + 5, lambda: run.log_metrics(1, {"loss": 2.0}))
limited(logged, lambda: run.log_metrics(1, {"loss": 2.0}))
limited(log.stat().st_size + 5, lambda: registry.promote("ranker", 2))
limited(0, lambda: registry.start_run("train", {}))
limited(0, lambda: run.finish())
assert sorted(p.name for p in (root / "registry" / "models" / "ranker").iterdir()) == ["1", "2", "aliases.jsonl"]
assert len(registry.history("ranker")) == 3
run.log_metrics(2, {"loss": 3.0})
run.finish()
assert [(p.step, p.value) for p in registry.run(run.id).metrics()["loss"]] == [(0, 1.0), (2, 3.0)]
registry.register("ranker", root / "big", manifest=facts).verify()
registry.promote("ranker", 3)
print(len(Registry.rebuild(root / "registry").history("ranker")), len(registry.runs()))
"""


def test_a_full_disk_loses_nothing(filled: Registry, python: Callable[..., str]) -> None:
    said = python("-c", _FULL, str(filled.root.parent)).splitlines()
    assert len(said) == 7
    assert all("free some space" in line for line in said[:6]), said
    assert said[6] == "4 2"


_FULL_READ = """
import logging, resource, sys
from pathlib import Path
from bedplate.errors import StoreError
from bedplate.registry.index import INDEX_NAME, FileIndex
from bedplate.registry.registry import Registry
logging.basicConfig(stream=sys.stdout, format="%(message)s")
root, when = Path(sys.argv[1]) / "registry", sys.argv[2]
if when == "behind":
    with FileIndex(root / INDEX_NAME).write() as db:
        for table in ("runs", "versions", "aliases", "changes", "logs"):
            db.execute(f"DELETE FROM {table}")
if when == "index lost":
    (root / INDEX_NAME).unlink()
if when == "open":
    registry = Registry(root)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
if when != "open":
    registry = Registry(root)
registry.get("ranker@champion").verify()
found = registry.get("ranker").version, registry.versions("ranker"), len(registry.history("ranker"))
print(*found, len(registry.runs()))
try:
    registry.promote("ranker", 2)
except StoreError as error:
    print(error.hint)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
registry.promote("ranker", 2)
print(registry.get("ranker").version, Registry(root).get("ranker").version)
"""


@pytest.mark.parametrize("when", ["closed", "open", "behind", "index lost"])
def test_a_registry_on_a_full_disk_can_be_read(filled: Registry, python: Callable[..., str], when: str) -> None:
    *warned, found, refused, later = python("-c", _FULL_READ, str(filled.root.parent), when).splitlines()
    assert warned
    assert all("read from its folders" in line and INDEX_NAME in line for line in warned)
    assert found == "1 [1, 2] 3 1"
    assert "free some space" in refused
    assert later == "2 2"


def without_room(monkeypatch: pytest.MonkeyPatch, root: Path, number: int) -> None:
    """No folder can be made in one; those within others can."""
    made = Path.mkdir

    def mkdir(self: Path, *args: Any, **options: Any) -> None:
        if self.parent == root and not self.exists():
            raise OSError(number, os.strerror(number), str(self))
        made(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)


def test_a_lost_index_for_which_there_is_no_room_is_read_from_the_folders(
    filled: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (filled.root / INDEX_NAME).unlink()
    without_room(monkeypatch, filled.root, errno.ENOSPC)
    registry = Registry(filled.root)
    assert [registry.versions("ranker") for _ in range(3)] == [[1, 2]] * 3
    assert caplog.text.count("read from its folders") == 1
    with pytest.raises(StoreError, match="No space left") as caught:
        registry.promote("ranker", 2)
    assert "free some space" in str(caught.value.hint)
    monkeypatch.undo()
    registry.promote("ranker", 2)
    assert Registry(filled.root).get("ranker").version == 2


def test_folders_are_not_read_for_an_index_that_can_not_be_made_for_another_reason(
    filled: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    (filled.root / INDEX_NAME).unlink()
    without_room(monkeypatch, filled.root, errno.EACCES)
    with pytest.raises(StoreError, match="Permission denied"):
        Registry(filled.root)


# Another test in this process may have read a Lance table; the child does not.
@pytest.mark.filterwarnings("ignore:lance is not fork-safe:UserWarning")
def test_two_registries_side_by_side_after_a_fork(filled: Registry) -> None:
    child = os.fork()
    if child == 0:
        try:
            filled.promote("ranker", 2, "forked")
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    filled.promote("ranker", 1, "stayed")
    assert filled.aliases("ranker") == {"champion": 1, "forked": 2, "stayed": 1}
