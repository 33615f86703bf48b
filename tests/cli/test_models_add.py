"""`bedplate models add`: models from elsewhere, registered as they are and served by their own runtimes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bedplate.cli.main import run
from bedplate.inference.artifact import load_artifact
from bedplate.registry.registry import Registry

Call = Callable[..., tuple[int, str, str]]
ROWS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)

SCORING = """
def blend(tensors):
    return {"sum": tensors["x"].sum(axis=1)}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "bedplate.toml").write_text('project.definitions = ["add_scoring.py"]\n')
    (tmp_path / "add_scoring.py").write_text(SCORING)
    np.savez(tmp_path / "rows.npz", matrix=ROWS)
    np.savez(tmp_path / "x.npz", x=ROWS)
    return tmp_path


@pytest.fixture
def call(project: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    def execute(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["models", "add", *words, "--project", str(project)])
        out, err = capsys.readouterr()
        return code, out, err

    return execute


def registered(project: Path, reference: str) -> Any:
    return load_artifact(Registry(project / ".bedplate/registry").get(reference))


def trees(path: Path) -> Any:
    import xgboost

    data = xgboost.DMatrix(ROWS, label=(ROWS.sum(axis=1) > 0).astype(int))
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 2, "nthread": 1}, data, 3)
    booster.save_model(path)
    return booster


def test_a_file_of_trees_is_registered_and_run_by_its_library(project: Path, call: Call) -> None:
    booster = trees(project / "spam.json")
    code, out, err = call("spam", str(project / "spam.json"), "--golden", str(project / "rows.npz"), "--promote")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "registered spam:1, run by xgboost",
        "  takes matrix: float32 [rows, 3]",
        "  gives score: float32 [rows]",
    ]
    artifact = registered(project, "spam@champion")
    assert artifact.model.platform == "xgboost_json"
    [score] = artifact.model.run({"matrix": ROWS}, ["score"])
    assert np.array_equal(score, booster.inplace_predict(ROWS))


def test_a_function_is_registered_and_its_module_must_stay_as_it_was(project: Path, call: Call) -> None:
    words = ("blend", str(project / "add_scoring.py"), "--function", "blend", "--golden", str(project / "x.npz"))
    code, out, err = call(*words, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["outputs"] == [{"name": "sum", "dtype": "float32", "shape": ["rows"]}]
    [found] = registered(project, "blend:1").model.run({"x": ROWS[:2]}, ["sum"])
    assert np.array_equal(found, ROWS[:2].sum(axis=1))
    (project / "add_scoring.py").write_text(SCORING + "# changed\n")
    with pytest.raises(Exception, match=r"add_scoring.py is another one than when the function"):
        registered(project, "blend:1")


@pytest.mark.parametrize(
    ("file", "words", "code", "message"),
    [
        ("spam.json", ["--runtime", "xgbost"], 2, "unknown runtime 'xgbost'"),
        ("spam.bin", [], 2, "'spam.bin' doesn't say its runtime"),
        ("spam.txt", [], 6, "the trees can't be loaded"),
        ("spam.json", ["--option", "depth=3"], 6, "unknown option 'depth'"),
        ("spam.json", ["--option", "depth"], 2, "expected NAME=VALUE"),
        ("spam.json", ["--golden", "x.npz"], 3, "the golden rows are of 'x', the model takes 'matrix' float32"),
        ("spam.json", ["--golden", "known.npz"], 6, "output 'score' differs by"),
        ("spam.json", ["--golden", "pickled.npz"], 3, "the golden rows can't be read"),
        ("spam.json", ["--golden", "empty.npz"], 3, "it holds no rows"),
        ("spam.pkl", ["--runtime", "onnx"], 6, "the graph can't be loaded"),
        ("add_scoring.py", ["--function", "none"], 6, "has no function 'none'"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_registered(
    project: Path, call: Call, monkeypatch: pytest.MonkeyPatch, file: str, words: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(project)
    trees(project / "spam.json")
    for name in ("spam.bin", "spam.txt", "spam.pkl"):
        (project / name).write_bytes((project / "spam.json").read_bytes())
    np.savez(project / "known.npz", **{"matrix": ROWS, "output.score": np.zeros(40, np.float32)})
    np.savez(project / "pickled.npz", matrix=np.array([{1: 2}], object))
    np.savez(project / "empty.npz", matrix=ROWS[:0])
    golden = [] if "--golden" in words else ["--golden", "rows.npz"]
    got, _, err = call("spam", file, *golden, *words)
    assert message in err
    assert got == code
    assert not Registry(project / ".bedplate/registry").models()
