"""Killed with SIGKILL at any moment: what was acknowledged is there, what is there is whole, and nothing is left over.

BEDPLATE_KILLS sets how many kills each test makes; a few by default, hundreds for a campaign.
"""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bedplate.registry.registry import Registry

KILLS = int(os.environ.get("BEDPLATE_KILLS", "6"))
WRITER = str(Path(__file__).with_name("crash_writer.py"))
# Calls from Bedplate's code in one round of the writer, roughly (310 to 400); past the last the writer just ends.
CALLS = 400
# And while it removes three runs.
REMOVAL_CALLS = 180

Start = Callable[..., "subprocess.Popen[str]"]


class Acknowledged:
    """What the writers said was done."""

    def __init__(self) -> None:
        self.versions: set[int] = set()
        self.changes: dict[int, int] = {}
        self.started: set[str] = set()
        self.finished: set[str] = set()
        self.logged: dict[str, int] = {}

    def read(self, text: str) -> bool:
        """Takes the output of a writer; whether it came to its end."""
        for words in map(str.split, text.splitlines()):
            match words:
                case ["registered", version]:
                    self.versions.add(int(version))
                case ["changed", sequence, version]:
                    self.changes[int(sequence)] = int(version)
                case ["started", run]:
                    self.started.add(run)
                case ["finished", run]:
                    self.finished.add(run)
                case ["logged", run, step]:
                    self.logged[run] = int(step)
                case _:
                    assert words in (["ready"], ["done"])
        return text.endswith("done\n")

    def check(self, root: Path) -> None:
        registry = Registry(root)
        assert [str(p) for p in root.rglob(".*")] == [], "left over"
        names = [model.name for model in registry.models()]
        if names:
            versions = registry.versions("ranker")
            assert versions == list(range(1, len(versions) + 1))
            for version in versions:
                registry.get("ranker", version).verify()
            history = registry.history("ranker")
            assert [c.sequence for c in history] == list(range(1, len(history) + 1))
            assert [c.previous for c in history] == [None, *(c.version for c in history)][: len(history)]
            assert {c.version for c in history} <= set(versions)
            assert self.changes.items() <= {c.sequence: c.version for c in history}.items()
            assert registry.aliases("ranker") == ({"champion": history[-1].version} if history else {})
            assert self.versions <= set(versions)
        else:
            assert not self.versions
        status = {run.id: run.status for run in registry.runs()}
        assert self.started <= set(status)
        assert set(status.values()) <= {"finished", "interrupted"}
        assert all(status[run] == "finished" for run in self.finished)
        for run, step in self.logged.items():
            assert len(registry.run(run).metrics()["auc"]) >= step + 1
        before = _rows(root)
        Registry.rebuild(root)
        assert _statuses_aside(_rows(root)) == _statuses_aside(before), "the index is what the folders say"


def _rows(root: Path) -> dict[str, list[tuple[object, ...]]]:
    with sqlite3.connect(root / "index.sqlite") as db:
        tables = ("runs", "versions", "aliases", "changes", "logs")
        rows = {table: db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables}
    db.close()
    return rows


def _statuses_aside(rows: dict[str, list[tuple[object, ...]]]) -> dict[str, list[tuple[object, ...]]]:
    """Without the runs' written state, which `run.json` has and the index may lack after a kill between the two."""
    return {**rows, "runs": [(row[0],) for row in rows["runs"]]}


def test_killed_at_random_moments(start: Start, tmp_path: Path) -> None:
    rng, said = random.Random(20260101), Acknowledged()
    for kill in range(KILLS):
        process = start(WRITER, str(tmp_path), str(kill))
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.random() * 0.25)
        process.kill()
        out, err = process.communicate(timeout=60)
        said.read(out)
        assert err == ""
        said.check(tmp_path / "registry")
    assert said.started, "the writers were killed before they wrote anything"


def test_killed_between_any_two_calls(start: Start, tmp_path: Path) -> None:
    rng, said, ended = random.Random(7), Acknowledged(), 0
    # One in each stretch of the round, so that a few kills reach all of it.
    for kill in range(KILLS):
        call = CALLS * kill // KILLS + rng.randint(1, max(CALLS // KILLS, 1))
        process = start(WRITER, str(tmp_path), str(kill), str(call))
        out, err = process.communicate(timeout=60)
        ended += said.read(out)
        assert err == ""
        said.check(tmp_path / "registry")
    assert ended <= KILLS // 2, f"{ended} of {KILLS} writers came to their end: CALLS is too large"


def test_killed_in_a_crowd(start: Start, tmp_path: Path) -> None:
    said = Acknowledged()
    writers = [start(WRITER, str(tmp_path), str(100 + i)) for i in range(3)]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    time.sleep(0.4)
    for writer in writers:
        writer.kill()
    for writer in writers:
        out, err = writer.communicate(timeout=60)
        assert err == ""
        said.read(out)
    said.check(tmp_path / "registry")


def test_killed_while_runs_are_removed(start: Start, registry: Registry) -> None:
    """Each run is there whole or gone, nothing is left aside, and the index says what the folders say."""
    left, seen = dict[str, int](), set[int]()
    for kill in range(max(KILLS, 12)):
        while len(left) < 3:
            run = registry.start_run("train", {})
            run.log_metrics(0, {"loss": 1.0})
            (run.artifact / "model").write_bytes(bytes(1000 + kill))
            run.finish()
            left[run.id] = 1000 + kill
        call = REMOVAL_CALLS * kill // max(KILLS, 12)
        process = start(WRITER, str(registry.root.parent), "0", str(call), "remove")
        _, err = process.communicate(timeout=60)
        assert err == ""
        found = {run.id: run for run in Registry(registry.root).runs()}
        assert sorted(found) == [path.name for path in sorted((registry.root / "runs").iterdir())]
        for run, size in ((run, left[run]) for run in found):
            assert (found[run].artifact / "model").stat().st_size == size
            assert len(found[run].metrics()["loss"]) == 1
        before = _rows(registry.root)
        Registry.rebuild(registry.root)
        assert _rows(registry.root) == before
        left = {run: left[run] for run in found}
        seen.add(len(left))
    assert seen >= {0, 3}, "killed before the first, and after the last"
