"""`bedplate models quantize`: int8 within a bound that is measured, and proven again by every loader."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import shop

from bedplate.cli.main import run
from bedplate.errors import ArtifactError
from bedplate.features.artifact import RuntimeSpec, read_golden
from bedplate.registry.registry import Registry
from bedplate.serving.artifact import load_artifact, open_artifact


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "bedplate.toml").write_text(f'[registry]\npath = "{tmp_path / "registry"}"\n')
    shop.register(tmp_path, shop.graph())
    return tmp_path


def quantize(project: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(["models", "quantize", *words, "--project", str(project)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_variant_within_the_bound_is_the_next_version(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = quantize(project, capsys, "ranker:1", "--most", "0.5", "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    assert found["version"] == 2
    assert 0 < found["mean"] < found["largest"] <= 0.5
    registry = Registry(project / "registry")
    one, two = load_artifact(registry.get("ranker:1")), load_artifact(registry.get("ranker:2"))
    manifest = registry.get("ranker:2").manifest
    assert manifest.parents == ("ranker:1",)
    assert manifest.config["quantized"] == {n: v for n, v in found.items() if n not in ("name", "version")} | {
        "most": 0.5
    }
    golden = one.golden()
    assert len(golden) == len(two.golden())
    differences = [
        np.abs(a.model.run(g.inputs, ["score"])[0] - g.outputs["score"]).max() for g in golden for a in (one, two)
    ]
    assert max(differences[::2]) < 1e-5
    assert 1e-5 < max(differences[1::2]) <= 0.5
    # More rows than the golden ones were looked at: each candidate with each request.
    assert found["rows"] > sum(g.outputs["score"].size for g in golden)
    assert "quantised already" in quantize(project, capsys, "ranker:2", "--most", "0.5")[2]


def test_a_variant_beyond_the_bound_is_refused_with_the_numbers(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = quantize(project, capsys, "ranker:1", "--most", "1e-6")
    assert code == 7
    assert "int8 changes an output by 0." in err
    assert "expected at most 1e-06" in err
    assert Registry(project / "registry").versions("ranker") == [1]


def test_a_loader_proves_the_bound_again(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantize(project, capsys, "ranker:1", "--most", "0.5")
    folder = Registry(project / "registry").get("ranker:2").path
    copy = project / "copy"
    shutil.copytree(folder, copy)
    (copy / "manifest.json").unlink()
    (copy / "runtime.json").chmod(0o644)
    msgspec.structs.replace(RuntimeSpec.load(copy), absolute=1e-6).write(copy)
    with pytest.raises(ArtifactError, match=r"output 'score' differs by 0\.\d+.* and 1e-06"):
        open_artifact(copy, "ranker", "2")
    assert read_golden(copy)


def test_only_graphs_are_quantised(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import xgboost

    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    np.savez(project / "rows.npz", matrix=rows)
    data = xgboost.DMatrix(rows, label=(rows[:, 0] > 0).astype(int))
    xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 2).save_model(project / "t.json")
    words = ["models", "add", "trees", str(project / "t.json"), "--golden", str(project / "rows.npz")]
    assert run([*words, "--promote", "--project", str(project)]) == 0
    code, _, err = quantize(project, capsys, "trees", "--most", "1")
    assert code == 6
    assert "it is run by xgboost" in err
