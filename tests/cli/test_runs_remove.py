"""`bedplate runs remove`, by name and by selection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bedplate.cli.main import run
from bedplate.clock import system_clock
from bedplate.registry.manifest import Environment, Git, Manifest
from bedplate.registry.registry import Registry
from bedplate.registry.run import EndStatus
from bedplate.types import DAY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bedplate.toml").write_text("")
    return tmp_path


def made(folder: Path, name: str, status: EndStatus, days_ago: int) -> str:
    """A run that ended so many days ago."""
    now = system_clock() - days_ago * DAY
    begun = Registry(folder / ".bedplate" / "registry", clock=lambda: now).start_run(name, {})
    (begun.artifact / "model").write_bytes(bytes(3000))
    begun.finish(status)
    return begun.id


def registered(folder: Path, run: str) -> None:
    registry = Registry(folder / ".bedplate" / "registry")
    facts = Manifest(
        git=Git(reason="none"), definitions={}, sources={}, config={}, seeds={}, environment=Environment("3", "x", {}),
        metrics={},
    )  # fmt: skip
    registry.register("ranker", registry.run(run).artifact, manifest=facts, run_id=run)


def listed(folder: Path) -> set[str]:
    return {one.id for one in Registry(folder / ".bedplate" / "registry").runs()}


def test_by_name(folder: Path, call: Any) -> None:
    a, b = made(folder, "ranker", "failed", 1), made(folder, "ranker", "finished", 2)
    code, out, err = call("runs", "remove", a, "--dry-run")
    assert (code, err, listed(folder)) == (0, "", {a, b})
    assert out.splitlines()[1].split()[:3] == [a, "ranker", "failed"]
    assert out.splitlines()[-1].startswith("would remove 1 run, 3.")
    code, out, err = call("runs", "remove", a, b)
    assert (code, err, listed(folder)) == (0, "", set())
    assert out.splitlines()[-1].startswith("removed 2 runs, 6.")


def test_what_has_to_stay_is_refused_with_the_reason(folder: Path, call: Any) -> None:
    a, b = made(folder, "ranker", "failed", 1), made(folder, "ranker", "finished", 2)
    registered(folder, b)
    for words in ((a, b), (a, "ranker:1"), (b, "--dry-run", "--json")):
        code, out, err = call("runs", "remove", *words)
        assert (code, out) == (5, "")
        assert f"run '{b}': it made model 'ranker:1'" in err
    assert listed(folder) == {a, b}


def test_a_selection_leaves_out_what_has_to_stay(folder: Path, call: Any) -> None:
    old, new, kept = made(folder, "ranker", "failed", 40), made(folder, "ranker", "failed", 3), made(
        folder, "ranker", "finished", 50
    )  # fmt: skip
    other = made(folder, "tower", "interrupted", 60)
    registered(folder, kept)
    code, out, err = call("runs", "remove", "--older-than", "30d", "--name", "ranker", "--dry-run", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found.pop("bytes") > 3000
    assert found == {
        "dry_run": True,
        "removed": [old],
        "kept": [{"run": kept, "reasons": ["it made model 'ranker:1'"]}],
    }
    code, out, err = call("runs", "remove", "--older-than", "30d")
    assert (code, err, listed(folder)) == (0, "", {new, kept})
    assert f"kept {kept}: it made model 'ranker:1'" in out
    assert call("runs", "remove", "--status", "interrupted")[1] == "removed nothing\n"
    assert call("runs", "remove", "--status", "failed")[0] == 0
    assert (listed(folder), other in out) == ({kept}, True)


def test_a_run_of_unknown_time_is_not_older_than_anything(folder: Path, call: Any) -> None:
    damaged = made(folder, "ranker", "failed", 40)
    (folder / ".bedplate" / "registry" / "runs" / damaged / "run.json").write_bytes(b"{")
    assert call("models", "rebuild")[0] == 0
    assert call("runs", "remove", "--older-than", "1d")[1] == "removed nothing\n"
    assert call("runs", "remove", "--status", "damaged")[1].endswith("removed 1 run, 3.0 kB\n")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ((), 2, "no run is named"),
        (("2026", "--status", "failed"), 2, "names and options are both given"),
        (("2026",), 4, "there is no run '2026'"),
        (("--older-than", "30"), 2, "--older-than: got '30', expected a whole number and a unit"),
        (("--status", "running"), 2, "'running' is not one of"),
    ],
)
def test_mistakes(folder: Path, call: Any, words: tuple[str, ...], code: int, text: str) -> None:
    got, out, err = call("runs", "remove", *words)
    assert (got, out) == (code, "")
    assert text in err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "remove", "--help"]) == 0
    assert "bedplate runs remove --status failed --older-than 30d --dry-run" in capsys.readouterr().out
