"""Runs that are removed: which may be, that all or none go, and what a kill leaves."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bedplate.errors import ConfigError, NotFoundError, StoreError
from bedplate.registry.manifest import Manifest
from bedplate.registry.registry import Registry
from bedplate.registry.run import EndStatus, Run

Make = Callable[..., Path]


def ended(registry: Registry, name: str = "train", config: Any = None, status: EndStatus = "failed") -> str:
    """A run that has ended, with a checkpoint of 1,000 bytes."""
    run = registry.start_run(name, config or {})
    run.log_metrics(0, {"loss": 1.0})
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "last").write_bytes(bytes(1000))
    run.finish(status)
    return run.id


def rows(root: Path) -> list[str]:
    db = sqlite3.connect(root / "index.sqlite")
    found = [run for (run,) in db.execute("SELECT id FROM runs ORDER BY id")]
    db.close()
    return found


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "runs").iterdir())


@pytest.mark.parametrize("status", ["finished", "failed", "interrupted"])
def test_a_run_and_its_row_are_gone_and_others_stay(registry: Registry, status: EndStatus) -> None:
    gone, stays = ended(registry, status=status), ended(registry)
    size = sum(p.stat().st_size for p in (registry.root / "runs" / gone).rglob("*") if p.is_file())
    found = registry.remove_runs([gone])
    assert (found.removed, found.kept, found.bytes) == ((gone,), {}, size)
    assert size > 1000
    assert rows(registry.root) == folders(registry.root) == [stays]
    assert [run.id for run in registry.runs()] == [stays]
    with pytest.raises(NotFoundError, match="there is no run"):
        registry.run(gone)
    with pytest.raises(NotFoundError, match="there is no run"):
        registry.remove_runs([gone])


def test_a_beginning_of_an_id_will_do_where_it_is_of_one_run(registry: Registry) -> None:
    first, second = ended(registry), ended(registry)
    assert first[:15] != second[:15], "the clock ticks"
    with pytest.raises(ConfigError, match="2 runs begin with"):
        registry.remove_runs([first[:9]])
    assert registry.remove_runs([first[:15], first]).removed == (first,)


def test_a_dry_run_says_the_same_and_removes_nothing(registry: Registry) -> None:
    run = ended(registry)
    wanted = registry.remove_runs([run], dry_run=True)
    assert rows(registry.root) == folders(registry.root) == [run]
    assert registry.remove_runs([run]) == wanted


def running(registry: Registry, _: Make, __: Manifest) -> str:
    return registry.start_run("train", {}).id


def registered(registry: Registry, artifact: Make, manifest: Manifest) -> str:
    run = ended(registry, status="finished")
    registry.register("ranker", artifact(), manifest=manifest, run_id=run)
    return run


def registered_and_damaged(registry: Registry, artifact: Make, manifest: Manifest) -> str:
    run = ended(registry, "ranker")
    version = registry.register("ranker", artifact(), manifest=manifest, run_id=run)
    (version.path / "manifest.json").unlink()
    Registry.rebuild(registry.root)
    return run


def trial(registry: Registry, _: Make, __: Manifest) -> str:
    (registry.root / "studies" / "rates" / "ab12").mkdir(parents=True)
    return ended(registry, config={"searched": {"study": "ab12", "trial": "3"}})


def named(registry: Registry, _: Make, __: Manifest) -> str:
    run = ended(registry)
    ended(registry, config={"begins": [{"with": run}]})
    return run


CASES = {
    running: r"it is running \(process \d+ on ",
    registered: "it made model 'ranker:1'",
    registered_and_damaged: "it may have made model 'ranker:1', whose manifest is damaged",
    trial: "it is trial '3' of the study .*/studies/rates/ab12",
    named: "the config of run '.*' names it",
}


@pytest.mark.parametrize(("make", "text"), CASES.items())
def test_what_refers_to_a_run_is_said_and_none_is_removed(
    make: Callable[..., str], text: str, registry: Registry, artifact: Make, manifest: Manifest
) -> None:
    free, stays = ended(registry), make(registry, artifact, manifest)
    before = rows(registry.root)
    for runs in ([free, stays], [stays, free]):
        with pytest.raises(StoreError, match=f"1 of 2 runs have to stay, .*run '{stays}': {text}"):
            registry.remove_runs(runs)
        with pytest.raises(StoreError, match=text):
            registry.remove_runs(runs, dry_run=True)
    assert rows(registry.root) == folders(registry.root) == before
    found = registry.remove_runs([free, stays], skip_kept=True)
    assert (found.removed, list(found.kept)) == ((free,), [stays])
    assert stays in rows(registry.root)


def test_what_nothing_refers_to_any_longer_can_go(registry: Registry, artifact: Make, manifest: Manifest) -> None:
    of_study = trial(registry, artifact, manifest)
    (registry.root / "studies" / "rates" / "ab12").rmdir()
    a = ended(registry)
    b = ended(registry, config={"begins": a})
    c = ended(registry, config={"begins": b})
    registry.register("ranker", artifact(), manifest=manifest, run_id=c)
    assert set(registry.remove_runs([a, b, c], skip_kept=True, dry_run=True).kept) == {a, b, c}
    d = ended(registry, config={"begins": of_study})
    assert registry.remove_runs([of_study, d]).removed == (of_study, d)


def test_a_run_whose_process_was_killed_can_go(registry: Registry, python: Callable[..., str]) -> None:
    begun = (
        "import sys; from bedplate.registry.registry import Registry as R; print(R(sys.argv[1]).start_run('a', {}).id)"
    )
    run = python("-c", begun, str(registry.root)).strip()
    assert registry.run(run).died
    assert registry.remove_runs([run]).removed == (run,)


def test_a_run_whose_record_is_damaged_can_go_unless_it_is_at_work(registry: Registry) -> None:
    damaged, alive = ended(registry), registry.start_run("train", {})
    for run in (damaged, alive.id):
        (registry.root / "runs" / run / "run.json").write_bytes(b"{")
    assert registry.remove_runs([damaged]).removed == (damaged,)
    with pytest.raises(StoreError, match="it is running"):
        registry.remove_runs([alive.id])


def test_nothing_comes_back_of_a_run_that_is_removed_while_it_ends(
    registry: Registry, artifact: Make, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its `run.json` says that it has ended before the index does: another process may remove it in between."""
    run, other = registry.start_run("train", {}), Registry(registry.root)
    written = Run.finish.__globals__["write_record"]

    def then_removed(folder: Path, record: Any) -> None:
        written(folder, record)
        other.remove_runs([run.id])

    monkeypatch.setitem(Run.finish.__globals__, "write_record", then_removed)
    run.finish()
    assert rows(registry.root) == folders(registry.root) == []
    with pytest.raises(NotFoundError):
        registry.register("ranker", artifact(), manifest=manifest, run_id=run.id)


def test_no_version_is_registered_of_a_run_that_goes_meanwhile(
    registry: Registry, artifact: Make, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, copied = ended(registry), Registry.register.__globals__["copy_artifact"]

    def and_removed(*arguments: Any) -> Any:
        Registry(registry.root).remove_runs([run])
        return copied(*arguments)

    monkeypatch.setitem(Registry.register.__globals__, "copy_artifact", and_removed)
    with pytest.raises(NotFoundError, match="the run's folder is no longer there"):
        registry.register("ranker", artifact(), manifest=manifest, run_id=run)
    assert registry.models() == []


def test_a_failure_in_between_leaves_all_where_they_were(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [ended(registry) for _ in range(3)]
    rename, last = Path.rename, registry.root / "runs" / runs[2]

    def refused(self: Path, target: Path) -> Path:
        if self == last:
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(StoreError, match="Permission denied"):
        registry.remove_runs(runs)
    assert rows(registry.root) == folders(registry.root) == runs


def test_the_index_forgets_a_run_whose_folder_was_deleted_by_hand(registry: Registry) -> None:
    gone, stays = ended(registry), ended(registry)
    (registry.root / "runs" / gone).rename(registry.root / "elsewhere")
    assert [run.id for run in Registry(registry.root).runs()] == [stays]
