"""`bedplate models quantize`: int8 within a bound that is measured, and proven again by every loader."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import shop

from bedplate.cli.main import run
from bedplate.errors import ArtifactError, ConfigError, ProofError
from bedplate.features.artifact import RuntimeSpec, read_golden
from bedplate.inference.artifact import load_artifact, open_artifact
from bedplate.registry.registry import Registry
from bedplate.training.quantize import quantize as register


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


@pytest.mark.parametrize("most", ["nan", "inf", "-inf", "0"])
def test_a_bound_that_no_loader_could_read_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str], most: str
) -> None:
    code, _, err = quantize(project, capsys, "ranker:1", "--most", most)
    assert code == 2
    assert "--most" in err
    registry = Registry(project / "registry")
    with pytest.raises(ConfigError, match=f"most is {most}, expected above 0 and finite"):
        register(registry.get("ranker:1"), registry, float(most))
    assert registry.versions("ranker") == [1]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (RuntimeSpec(absolute=math.inf), "absolute is inf"),
        (RuntimeSpec(options={"a": {"b": [1.0, math.nan]}}), r"options\.a\.b\[1\] is nan"),
    ],
)
def test_what_a_runtime_is_told_holds_no_number_that_json_has_no_form_for(
    tmp_path: Path, spec: RuntimeSpec, said: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^runtime\.json: {said}, expected a finite number"):
        spec.write(tmp_path)
    assert list(tmp_path.iterdir()) == []


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


def test_the_numbers_of_a_refusal_are_those_that_are_measured(project: Path) -> None:
    registry = Registry(project / "registry")
    version = registry.get("ranker:1")
    with pytest.raises(ProofError) as caught:
        register(version, registry, 1e-6)
    made, found = register(version, registry, 0.5)
    said = re.search(r"by (\S+) \(on average by (\S+), over ([\d,]+)\), expected at most 1e-06", caught.value.message)
    assert said is not None
    assert said.groups() == (f"{found.largest:.3g}", f"{found.mean:.3g}", f"{found.rows:,}")
    assert caught.value.where == "model 'ranker:1'"
    assert "nothing was registered" in (caught.value.hint or "")
    assert registry.versions("ranker") == [1, made.version]
    assert (found.before_ms > 0, found.after_ms > 0) == (True, True)
    with pytest.raises(ProofError):  # the bound itself is allowed, and the next smaller number is not
        register(version, registry, float(np.nextafter(found.largest, 0)))
    assert register(version, registry, found.largest)[1].largest == found.largest


def test_rows_beside_the_golden_ones_count(project: Path) -> None:
    registry = Registry(project / "registry")
    version = registry.get("ranker:1")
    _, usual = register(version, registry, 0.5)
    [golden] = read_golden(version.path)
    large = {**golden.inputs, "item_dense": golden.inputs["item_dense"] * 50}
    with pytest.raises(ProofError, match=f"over {usual.rows + golden.outputs['score'].size:,}\\)"):
        register(version, registry, usual.largest, [large])
    _, more = register(version, registry, 1e6, [large, golden.inputs])
    assert more.largest > usual.largest
    assert more.rows == usual.rows + 2 * golden.outputs["score"].size


def test_a_score_that_becomes_no_number_is_beyond_every_bound(project: Path) -> None:
    registry = Registry(project / "registry")
    version = registry.get("ranker:1")
    [golden] = read_golden(version.path)
    dense = golden.inputs["item_dense"].copy()
    dense[0, 0] = np.inf  # the range of the call, by which all of its rows are made 8 bits wide
    with pytest.raises(ProofError, match="changes an output by inf"):
        register(version, registry, 1e30, [{**golden.inputs, "item_dense": dense}])
    assert registry.versions("ranker") == [1]


def test_a_graph_that_was_touched_is_not_quantised(project: Path) -> None:
    registry = Registry(project / "registry")
    graph = registry.get("ranker:1").path / "model.onnx"
    graph.chmod(0o644)
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        register(registry.get("ranker:1"), registry, 0.5)
    assert registry.versions("ranker") == [1]
