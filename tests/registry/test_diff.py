"""What differs between two runs: config by path, and code as git knows it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bedplate.registry.diff import Change, changes, code_changes, environment_changes
from bedplate.registry.environment import keep_environment, read_environment
from bedplate.registry.manifest import Environment, Git, environment, git_state


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(root), "-c", "user.name=n", "-c", "user.email=e", *words], check=True)


def test_changes_are_named_by_path() -> None:
    a = {"model": {"class": "DCN", "rank": 8}, "inputs": {"u.n": {"kind": "number"}}, "settings": ["x"], "n": None}
    b = {"model": {"class": "DCN", "rank": 9}, "inputs": {}, "settings": []}
    assert changes(a, b, without=("settings",)) == [
        Change("model.rank", 8, 9),
        Change("inputs.u.n.kind", "number", None),
        Change("n", None, None),
        Change("inputs", None, {}),
    ]
    assert changes(a, a) == []


def test_files_between_two_commits_are_those_of_the_project(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    git(tmp_path, "init", "-q")
    for name in ("project/a.py", "project/gone.py", "outside.py"):
        (tmp_path / name).write_text(f"# {name}\n" * 9)
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "one")
    first = git_state(project)
    (project / "a.py").write_text("b = 1\n")
    (project / "gone.py").rename(project / "moved ö.py")
    (project / "new.py").write_text("c = 1\n")
    (tmp_path / "outside.py").write_text("d = 1\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "two")
    second = git_state(project)
    found = code_changes(project, first, second)
    assert found.files is not None
    assert sorted(found.files) == ["added new.py", "changed a.py", "renamed gone.py to moved ö.py"]
    assert found.note == ""
    assert code_changes(project, second, second).files == ()
    dirty = code_changes(project, first, Git(second.commit, dirty=True))
    assert "B had changes that were not committed" in dirty.note
    lost = code_changes(project, Git("0" * 40, dirty=False), second)
    assert lost.files is None
    assert "git can't compare" in lost.note
    assert "of A (git is not installed)" in code_changes(project, Git(reason="git is not installed"), second).note


def test_the_environment_of_a_run_is_kept_and_compared(tmp_path: Path) -> None:
    assert read_environment(tmp_path) is None
    keep_environment(tmp_path)
    kept = read_environment(tmp_path)
    assert kept == environment()
    assert environment_changes(kept, kept) == []
    assert environment_changes(kept, None) is None
    a, b = Environment("3.11.1", "Linux", {"numpy": "2.1", "x": "1"}), Environment("3.11.2", "Linux", {"numpy": "2.2"})
    assert environment_changes(a, b) == [
        Change("python", "3.11.1", "3.11.2"), Change("numpy", "2.1", "2.2"), Change("x", "1", None),
    ]  # fmt: skip
