"""What projects need of a store is on record, and a record that can't be read is no reason to delete."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import polars as pl
import pytest

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.errors import NotFoundError, StoreError
from bedplate.features.view import FeatureView
from bedplate.offline import branches
from bedplate.offline.branches import Branches, branches_of
from bedplate.offline.collect import collect
from bedplate.offline.extend import needs_of
from bedplate.offline.history import IndexedHistory
from bedplate.offline.needs import claims_of_others, forgettable, needs_of_others, record_needs
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


def test_one_s_own_record_does_not_count_and_that_of_a_project_that_is_not_seen_does_until_it_is_forgotten(tmp_path):
    store, mine, other = tmp_path / "store", project(tmp_path / "mine"), project(tmp_path / "other")
    for root in (mine, other):
        record_needs(store, root, needs_of([build_of(store)]))
    assert len(needs_of_others(store, mine)) == 1
    assert [(c.root, c.unseen) for c in claims_of_others(store, mine)] == [(str(other), "")]
    (other / "bedplate.toml").unlink()
    other.rmdir()
    assert len(needs_of_others(store, mine)) == 1
    assert [(c.root, c.unseen) for c in claims_of_others(store, mine)] == [
        (str(other), "its folder can't be seen from here")
    ]
    assert needs_of_others(store, mine, [other]) == {}
    assert needs_of_others(tmp_path / "none", mine) == {}


def test_a_project_that_is_forgotten_is_deleted_from_the_record_but_not_by_a_dry_run(tmp_path):
    store, mine, other = tmp_path / "store", project(tmp_path / "mine"), project(tmp_path / "other")
    build = build_of(store)
    build.run()
    record_needs(store, other, needs_of([build]))
    assert collect(store, mine, [], dry_run=False) == []
    for dry_run in (True, False):
        assert [g.kind for g in collect(store, mine, [], dry_run=dry_run, forgotten=[other])] == ["segment"]
        assert len(claims_of_others(store, mine)) == dry_run
    with pytest.raises(NotFoundError, match="nothing is on record for the project"):
        forgettable(store, other)


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


def test_what_was_applied_at_a_commit_is_kept_while_a_branch_has_it(tmp_path):
    store, root = tmp_path / "store", project(tmp_path / "a")
    git(root, "init")
    git(root, "commit", "--allow-empty", "-m", "one")
    git(root, "switch", "--detach")
    git(root, "commit", "--allow-empty", "-m", "two")
    git(root, "branch", "later")
    build = build_of(store)
    build.run()
    record_needs(store, root, needs_of([build]))
    git(root, "switch", "main")
    assert collect(store, root, [], dry_run=True) == []
    (claim,) = claims_of_others(store, root)
    assert (len(claim.commit), claim.branch, claim.unseen) == (40, "", "")
    git(root, "branch", "-D", "later")
    assert [g.kind for g in collect(store, root, [], dry_run=True)] == ["segment"]
    git(root, "reflog", "expire", "--expire=now", "--all")
    git(root, "gc", "--prune=now", "--quiet")
    assert [g.kind for g in collect(store, root, [], dry_run=True)] == ["segment"]


def test_the_record_of_a_folder_without_a_repository_ends_with_the_first_of_a_branch(tmp_path):
    store, root, other = tmp_path / "store", project(tmp_path / "a"), project(tmp_path / "other")
    build = build_of(store)
    build.run()
    record_needs(store, root, needs_of([build]))
    git(root, "init")
    assert collect(store, other, [], dry_run=True) == []
    record_needs(store, root, {})
    assert [g.kind for g in collect(store, other, [], dry_run=True)] == ["segment"]


def test_more_needs_are_put_beside_those_on_record(tmp_path):
    store, root = tmp_path / "store", project(tmp_path / "a")
    one, other = needs_of([build_of(store)]), needs_of([build_of(store, {"n": Count(where=pl.col("x") > 1)})])
    record_needs(store, root, one, more=True)
    record_needs(store, root, other, more=True)
    ((timeline, needs),) = needs_of_others(store, tmp_path).items()
    assert needs.parts == one[timeline].parts | other[timeline].parts
    record_needs(store, root, other)
    assert needs_of_others(store, tmp_path)[timeline].parts == other[timeline].parts


def test_branches_are_those_of_the_repository(tmp_path):
    assert branches_of(tmp_path) is None
    git(tmp_path, "init")
    assert branches_of(tmp_path) == Branches("main", frozenset(["main"]))
    git(tmp_path, "commit", "--allow-empty", "-m", "one")
    git(tmp_path, "branch", "a/b")
    assert branches_of(tmp_path) == Branches("main", frozenset(["main", "a/b"]))
    git(tmp_path, "switch", "--detach")
    found = branches_of(project(tmp_path / "inside"))
    assert found is not None
    assert (found.current, found.there, len(found.commit)) == ("", frozenset(["main", "a/b"]), 40)


BROKEN = {
    "missing": ("", "there is no 'git' on the PATH"),
    "fails": ("echo 'fatal: detected dubious ownership in repository' >&2; exit 128", "detected dubious ownership"),
    "hangs": ("exec sleep 60", "git took more than 0.2 s"),
}


def break_git(folder: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    if how != "missing":
        (folder / "git").write_text(f"#!/bin/sh\nPATH={os.environ['PATH']}\n{BROKEN[how][0]}\n")
        (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(branches, "_SECONDS", 0.2)


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("whose", ["mine", "another's"])
def test_nothing_is_deleted_while_git_cannot_tell_the_branches(tmp_path, monkeypatch, how, whose):
    store, root, other = tmp_path / "store", project(tmp_path / "a"), project(tmp_path / "other")
    git(root, "init")
    build = build_of(store)
    build.run()
    record_needs(store, root, needs_of([build]))
    break_git(tmp_path / "bin", how, monkeypatch)
    caller = root if whose == "mine" else other
    with pytest.raises(StoreError, match="can't tell which git branches there are") as error:
        collect(store, caller, [], dry_run=False)
    assert BROKEN[how][1] in error.value.message
    assert str(error.value.hint).endswith(f"bedplate offline gc --forget {root}")
    assert build_of(store).is_complete
    record_needs(store, root, {})  # an apply there does not take the branch's record for its own
    with pytest.raises(StoreError, match="can't tell which git branches"):
        collect(store, caller, [], dry_run=False)
    assert [g.kind for g in collect(store, caller, [], dry_run=False, forgotten=[root])] == ["segment"]


def test_what_was_applied_while_git_could_not_tell_the_branch_is_kept(tmp_path, monkeypatch):
    store, root = tmp_path / "store", project(tmp_path / "a")
    git(root, "init")
    build = build_of(store)
    build.run()
    with monkeypatch.context() as broken:
        break_git(tmp_path / "bin", "missing", broken)
        record_needs(store, root, needs_of([build]))
        assert [g.kind for g in collect(store, root, [], dry_run=True)] == [
            "segment"
        ]  # its own, and no branch on record
    assert [c.unseen for c in claims_of_others(store, root)] == ["git could not tell its branch"]
    assert collect(store, root, [], dry_run=True) == []


def test_a_branch_is_kept_while_its_repository_cannot_be_seen(tmp_path):
    store, root = tmp_path / "store", project(tmp_path / "a")
    git(root, "init")
    build = build_of(store)
    build.run()
    record_needs(store, root, needs_of([build]))
    (root / ".git").rename(tmp_path / "elsewhere")
    assert collect(store, root, [], dry_run=True) == []
    assert [(c.branch, c.unseen) for c in claims_of_others(store, root)] == [
        ("main", "its git repository can't be seen from here")
    ]


def test_without_git_a_folder_that_is_no_repository_has_one_record(tmp_path, monkeypatch):
    store, mine = tmp_path / "store", project(tmp_path / "mine")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert branches_of(mine) is None
    build = build_of(store)
    build.run()
    record_needs(store, mine, needs_of([build]))
    assert [g.kind for g in collect(store, mine, [], dry_run=False)] == ["segment"]
