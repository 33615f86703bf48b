"""What projects need of a store is on record, and a record that can't be read is no reason to delete."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.errors import StoreError
from bedplate.features.view import FeatureView
from bedplate.offline.branches import Branches, branches_of
from bedplate.offline.collect import collect
from bedplate.offline.extend import needs_of
from bedplate.offline.history import IndexedHistory
from bedplate.offline.needs import needs_of_others, record_needs
from bedplate.sources.base import Source
from bedplate.testing.simulator import START, USER

FRAME = pl.DataFrame({"user": [1, 2], "time": [START, START + 1], "x": [1, 2]})


def build_of(store: Path, features=None):
    view = FeatureView("v", USER, Source("events", FRAME, time="time"), features or {"s": Sum("x")}).compile()
    return IndexedHistory(store).build(view)


def project(folder: Path) -> Path:
    folder.mkdir()
    (folder / "bedplate.toml").touch()
    return folder


def test_the_needs_of_views_that_share_a_timeline_are_put_together(tmp_path):
    one, other = build_of(tmp_path), build_of(tmp_path, {"n": Count()})
    assert one.folder == other.folder
    (needs,) = needs_of([one, other]).values()
    assert len(needs.segments) == 1
    assert {name.split("/")[0] for name in needs.parts} == {"columns", "reductions"}
    assert len(needs.parts) == 3
    assert needs.work  # what an interrupted build of it would go on from
    one.run()
    assert needs_of([one])[one.folder.name].segments == needs.segments


def test_a_record_is_of_the_last_apply_and_written_where_it_changed(tmp_path):
    store, root = tmp_path / "store", project(tmp_path / "a")
    record_needs(store, root, needs_of([build_of(store)]))
    (path,) = (store / "needs").iterdir()
    before = path.stat().st_mtime_ns, path.read_bytes()
    record_needs(store, root, needs_of([build_of(store)]))
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    record_needs(store, root, needs_of([build_of(store, {"n": Count()})]))
    assert len(list((store / "needs").iterdir())) == 1
    assert json.loads(path.read_bytes())["root"] == str(root)
    assert path.read_bytes() != before[1]


def test_one_s_own_record_and_those_of_projects_that_are_gone_do_not_count(tmp_path):
    store, mine, other = tmp_path / "store", project(tmp_path / "mine"), project(tmp_path / "other")
    for root in (mine, other):
        record_needs(store, root, needs_of([build_of(store)]))
    assert len(needs_of_others(store, mine)) == 1
    (other / "bedplate.toml").unlink()
    assert needs_of_others(store, mine) == {}
    assert needs_of_others(tmp_path / "none", mine) == {}


def test_nothing_is_deleted_while_a_record_cannot_be_read(tmp_path):
    store, other = tmp_path / "store", project(tmp_path / "other")
    build = build_of(store)
    build.run()
    record_needs(store, other, needs_of([build]))
    (path,) = (store / "needs").iterdir()
    path.write_text("{")
    with pytest.raises(StoreError, match="can't read what another project needs") as error:
        collect(store, tmp_path / "mine", [], dry_run=False)
    assert error.value.hint == "delete the file, and run 'bedplate apply' in that project"
    assert build_of(store).is_complete


def test_a_record_that_cannot_be_written_says_so(tmp_path):
    store = tmp_path / "store"
    store.write_text("a file")
    with pytest.raises(StoreError, match="can't record what the project needs"):
        record_needs(store, tmp_path, needs_of([]))


def git(folder: Path, *words: str) -> None:
    named = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", "-C", str(folder), *named, *words], check=True, capture_output=True)


def test_what_another_branch_of_the_folder_needs_is_kept_until_the_branch_is_deleted(tmp_path):
    store, root = tmp_path / "store", project(tmp_path / "a")

    def applied(features=None):
        build = build_of(store, features)
        build.run()
        record_needs(store, root, needs_of([build]))
        return build

    git(root, "init")
    applied()  # before there is a branch
    git(root, "add", ".")
    git(root, "commit", "-m", "one")
    git(root, "switch", "-c", "try/more")
    applied({"s": Sum("x"), "n": Count(where=pl.col("x") > 1)})
    git(root, "switch", "main")
    mine = applied()
    assert collect(store, root, [mine], dry_run=True) == []
    git(root, "switch", "--detach")
    assert collect(store, root, [mine], dry_run=True) == []
    git(root, "branch", "-D", "try/more")
    assert [g.kind for g in collect(store, root, [mine], dry_run=False)] == ["column"]
    assert build_of(store).is_complete
    assert not build_of(store, {"n": Count(where=pl.col("x") > 1)}).is_complete
    git(root, "switch", "main")
    other = project(tmp_path / "other")
    assert collect(store, other, [], dry_run=True) == []


def test_branches_are_those_of_the_repository(tmp_path):
    assert branches_of(tmp_path) == Branches("", frozenset([""]))
    git(tmp_path, "init")
    assert branches_of(tmp_path) == Branches("", frozenset([""]))
    git(tmp_path, "commit", "--allow-empty", "-m", "one")
    git(tmp_path, "branch", "a/b")
    assert branches_of(tmp_path) == Branches("main", frozenset(["main", "a/b"]))
    git(tmp_path, "switch", "--detach")
    assert branches_of(tmp_path) == Branches("", frozenset(["", "main", "a/b"]))


def test_without_git_there_is_one_record(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert branches_of(tmp_path) == Branches("", frozenset([""]))
