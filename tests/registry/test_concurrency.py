"""Several processes at once: numbers without gaps, a whole history, readers that neither wait nor see halves."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from bedplate.registry.index import INDEX_NAME, FileIndex
from bedplate.registry.manifest import Manifest
from bedplate.registry.registry import Registry

WRITERS, ROUNDS = 3, 4

_WRITE = """
import sys
from pathlib import Path
from bedplate.registry.manifest import Environment, Git, Manifest
from bedplate.registry.registry import Registry
root, me, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
registry = Registry(root / "registry")
folder = root / me
folder.mkdir()
facts = Manifest(git=Git(), definitions={}, sources={}, config={}, seeds={}, metrics={},
                 environment=Environment("3", "test", {}))
for i in range(rounds):
    (folder / "model").write_text(f"{me} {i}")
    with registry.start_run("train", {"writer": me}) as run:
        run.log_metrics(i, {"loss": 1.0})
    version = registry.register("ranker", folder, manifest=facts, run_id=run.id)
    change = registry.promote("ranker", version.version, reason=me)
    print(version.version, change.sequence, flush=True)
"""

_READ = """
import sys
from pathlib import Path
from bedplate.registry.registry import Registry
registry, versions = Registry(Path(sys.argv[1])), []
print("ready", flush=True)
while len(versions) < int(sys.argv[2]):
    versions = registry.versions("ranker")
    found = registry.get("ranker@champion")
    found.verify()
    history = registry.history("ranker")
    assert [c.sequence for c in history] == list(range(1, len(history) + 1))
    assert versions == list(range(1, len(versions) + 1))
    assert len(registry.history("ranker")) >= len(history)
"""

_OPEN = """
import sys
from pathlib import Path
from bedplate.registry.registry import Registry
print(Registry(Path(sys.argv[1])).start_run("train", {}).id)
"""


def test_writers_at_once(
    start: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    registry: Registry,
    artifact: Callable[..., Path],
    manifest: Manifest,
) -> None:
    with registry.start_run("train", {}) as run:
        registry.register("ranker", artifact(), manifest=manifest, run_id=run.id)
    registry.promote("ranker", 1)
    total = list(range(1, WRITERS * ROUNDS + 2))
    reader = start("-c", _READ, str(registry.root), str(len(total)))
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    writers = [start("-c", _WRITE, str(tmp_path), f"w{i}", str(ROUNDS)) for i in range(WRITERS)]
    said = ["1 1"]
    for writer in writers:
        out, err = writer.communicate(timeout=120)
        assert err == ""
        said += out.splitlines()
    _, err = reader.communicate(timeout=120)
    assert err == ""
    pairs = [tuple(map(int, line.split())) for line in said]
    assert sorted(version for version, _ in pairs) == total
    assert sorted(sequence for _, sequence in pairs) == total
    assert registry.versions("ranker") == total
    history = registry.history("ranker")
    assert {(c.version, c.sequence) for c in history} == set(pairs)
    assert [c.previous for c in history] == [None, *(c.version for c in history[:-1])]
    assert registry.aliases("ranker") == {"champion": history[-1].version}
    assert len(registry.runs("train", status="finished")) == len(total)
    runs = {registry.get("ranker", version).manifest.run for version in total}
    assert runs == {run.id for run in registry.runs()}


def test_many_open_a_new_registry_at_once(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    openers = [start("-c", _OPEN, str(tmp_path / "registry")) for _ in range(5)]
    ids = set()
    for opener in openers:
        out, err = opener.communicate(timeout=60)
        assert err == ""
        ids.add(out.strip())
    assert {run.id for run in Registry(tmp_path / "registry").runs()} == ids
    assert len(ids) == 5


def test_a_reader_neither_waits_for_a_writer_nor_stops_one(
    registry: Registry, artifact: Callable[..., Path], manifest: Manifest
) -> None:
    registry.register("ranker", artifact(), manifest=manifest)
    index = FileIndex(registry.root / INDEX_NAME)
    with index.write() as writer:
        writer.execute("DELETE FROM versions")
        assert registry.get("ranker", 1).version == 1
        assert [m.name for m in registry.models()] == ["ranker"]
        writer.execute("ROLLBACK")
        writer.execute("BEGIN")
    with index.read() as reader:
        assert reader.execute("SELECT count(*) FROM versions").fetchone() == (1,)
        registry.promote("ranker", 1)
        assert reader.execute("SELECT count(*) FROM aliases").fetchone() == (0,), "one consistent state"
    assert registry.aliases("ranker") == {"champion": 1}
