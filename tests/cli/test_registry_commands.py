"""`bedplate models` and `bedplate runs`, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bedplate.cli.main import run
from bedplate.registry.manifest import Environment, Git, Manifest
from bedplate.registry.registry import Registry
from bedplate.types import SECOND, to_micros

Call = Callable[..., tuple[int, str, str]]


class _Ticks:
    now = to_micros("2026-01-01")

    def __call__(self) -> int:
        self.now += SECOND
        return self.now


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with two runs and two versions of a model."""
    root = tmp_path / "shop"
    root.mkdir()
    (root / "bedplate.toml").write_text('[project]\nname = "shop"\n')
    registry = Registry(root / ".bedplate" / "registry", clock=_Ticks())
    for version in (1, 2):
        with registry.start_run("train", {"rate": 0.1 * version, "layers": [8, 4]}, project=root) as run:
            for step in range(4):
                run.log_metrics(step, {"loss": 1.0 / (step + version)})
            (run.artifact / "model").write_bytes(b"%d" % version)
            facts = Manifest(
                git=Git("0123abcd", dirty=True),
                definitions={"view sales": "aa11", "feature sales.spend_7d": "bb22"},
                sources={"orders": "s-1"},
                config={"rate": 0.1},
                seeds={"weights": 7},
                environment=Environment("3.11.0", "Linux", {"numpy": "2.4.0"}),
                metrics={"auc": 0.7 + version / 100},
            )
            registry.register("ranker", run.artifact, manifest=facts, run_id=run.id)
    registry.promote("ranker", 1, reason="first")
    return root


@pytest.fixture
def call(project: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs `bedplate` on the project: exit code, stdout, stderr."""

    def execute(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([*words, "--project", str(project)])
        out, err = capsys.readouterr()
        return code, out, err

    return execute


def _json(call: Call, *words: str) -> Any:
    code, out, err = call(*words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_models_list(call: Call) -> None:
    code, out, err = call("models", "list")
    assert (code, err) == (0, "")
    header, row = out.splitlines()
    assert header.split() == ["MODEL", "LATEST", "VERSIONS", "REGISTERED", "ALIASES", "METRICS", "OF", "THE", "LATEST"]
    assert row.split()[:3] == ["ranker", "2", "2"]
    assert row.index("champion -> 1") == header.index("ALIASES"), "the columns are aligned"
    assert "auc 0.72" in row
    (model,) = _json(call, "models", "list")
    assert (model["name"], model["latest"], model["aliases"]) == ("ranker", 2, {"champion": 1})


def test_models_show(call: Call, project: Path) -> None:
    code, out, err = call("models", "show", "ranker@champion", "--verify")
    assert (code, err) == (0, "")
    for text in (
        "model       ranker:1",
        "champion",
        "each as in the manifest",
        "auc  0.71",
        "source orders: snapshot s-1",
        "view sales: aa11",
        "sales.spend_7d: bb22",
        "0123abcd with changes not committed",
        "promote",
        "first",
        "numpy 2.4.0",
    ):
        assert text in out
    shown = _json(call, "models", "show", "ranker")
    assert (shown["version"], shown["aliases"], shown["verified"]) == (2, [], False)
    assert shown["manifest"]["sources"] == shown["lineage"]["sources"] == {"orders": "s-1"}
    assert [change["version"] for change in shown["history"]] == [1]
    assert Path(shown["path"]) == project / ".bedplate/registry/models/ranker/2"
    assert _json(call, "models", "show", "ranker:1")["aliases"] == ["champion"]


def test_promote_and_rollback(call: Call) -> None:
    code, out, _ = call("models", "promote", "ranker", "2", "--reason", "better")
    assert (code, out) == (0, "ranker@champion is version 2, before: version 1\n")
    change = _json(call, "models", "rollback", "ranker", "--reason", "slow")
    assert (change["model"], change["previous"], change["version"], change["reason"]) == ("ranker", 2, 1, "slow")
    code, out, _ = call("models", "promote", "ranker", "2", "--alias", "candidate")
    assert (code, out) == (0, "ranker@candidate is version 2\n")
    assert _json(call, "models", "list")[0]["aliases"] == {"candidate": 2, "champion": 1}
    code, out, err = call("models", "rollback", "ranker")
    assert (code, out) == (4, "")
    assert "no version held the alias 'champion' before version 1" in err


def test_runs_list(call: Call) -> None:
    code, out, err = call("runs", "list")
    assert (code, err) == (0, "")
    header, newest, oldest = out.splitlines()
    assert header.split() == ["RUN", "NAME", "STATUS", "STARTED", "TOOK", "METRICS"]
    assert newest.index("loss 0.2") == header.index("METRICS")
    assert oldest.split()[1:3] == ["train", "finished"]
    code, out, _ = call("runs", "list", "--limit", "1")
    assert out.splitlines()[-1] == "... 1 older ones; --limit 2 shows all"
    rows = _json(call, "runs", "list")
    assert [(row["name"], row["status"], row["died"]) for row in rows] == [("train", "finished", False)] * 2
    assert rows[0]["started"] > rows[1]["started"] > to_micros("2026-01-01")
    assert _json(call, "runs", "list", "--status", "failed") == []
    assert call("runs", "list", "--name", "tune")[1] == "no such runs\n"


def test_runs_show(call: Call) -> None:
    first = _json(call, "runs", "list")[1]["id"]
    code, out, err = call("runs", "show", first)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"run      {first}"
    assert "  layers  [8,4]" in lines
    metrics = next(line for line in lines if line.startswith("loss"))
    assert metrics.split() == ["loss", "0.25", "0.25", "at", "3", "1", "at", "0", "4", "█▃▂▁"]
    shown = _json(call, "runs", "show", first)
    assert [(p["step"], p["value"]) for p in shown["points"]["loss"]][:2] == [(0, 1.0), (1, 0.5)]
    assert (shown["status"], shown["config"]) == ("finished", {"rate": 0.1, "layers": [8, 4]})


def test_rebuild(call: Call, project: Path) -> None:
    (project / ".bedplate/registry/index.sqlite").write_bytes(b"damaged" * 1000)
    code, out, err = call("models", "list")
    assert (code, out) == (5, "")
    assert "bedplate models rebuild" in err
    code, out, err = call("models", "rebuild")
    assert (code, out, err) == (0, "the index holds 1 models, 2 versions, 2 runs\n", "")
    assert _json(call, "models", "rebuild") == {"models": 1, "versions": 2, "runs": 2}
    assert _json(call, "models", "list")[0]["aliases"] == {"champion": 1}


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("models", "show", "rankr"), 4, "did you mean 'ranker'?"),
        (("models", "show", "ranker:7"), 4, "versions: 1, 2"),
        (("models", "show", "ranker:x"), 2, "NAME:VERSION"),
        (("models", "promote", "ranker", "7"), 4, "versions: 1, 2"),
        (("models", "promote", "ranker", "x"), 2, "expected the number of a version"),
        (("runs", "show", "nothing"), 4, "there is no run 'nothing'"),
        (("runs", "list", "--status", "x"), 2, "'x' is not one of"),
    ],
)
def test_mistakes(call: Call, words: tuple[str, ...], code: int, text: str) -> None:
    got, out, err = call(*words)
    assert (got, out) == (code, "")
    assert text in err


def test_a_changed_file_is_an_artifact_error(call: Call, project: Path) -> None:
    model = project / ".bedplate/registry/models/ranker/1/model"
    model.chmod(0o644)
    model.write_bytes(b"other")
    code, out, err = call("models", "show", "ranker:1", "--verify", "--json")
    assert (code, out) == (6, "")
    assert "the file 'model' has changed" in err


def test_an_empty_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bedplate.toml").write_text("")
    for group, text in (("models", "no models yet"), ("runs", "no runs yet")):
        assert run([group, "list", "--project", str(tmp_path)]) == 0
        assert text in capsys.readouterr().out
        assert run([group, "list", "--json", "--project", str(tmp_path)]) == 0
        assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    "words",
    [
        *("models", "models list", "models show", "models promote", "models rollback", "models rebuild"),
        *("runs", "runs list", "runs show"),
    ],
)
def test_help_has_an_example(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "Examples:" in out
    assert f"bedplate {words} " in out or f"bedplate {words}\n" in out
