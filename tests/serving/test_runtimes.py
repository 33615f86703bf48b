"""Every runtime keeps the contract; one by another package is found by its entry point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shop
from onnx import helper

from bedplate.errors import ArtifactError
from bedplate.features.artifact import RuntimeSpec
from bedplate.features.encoding import TensorSpec
from bedplate.serving.runtime import Opening, open_runtime, runtimes
from bedplate.testing.runtimes import RuntimeCase, RuntimeContract

X = np.array([[1.0, 2.0], [0.5, -1.0], [3.0, 0.25]], np.float32)
W = np.array([[0.5], [-2.0]], np.float32)


class TestOnnx(RuntimeContract):
    runtime = "onnx"

    def make(self, folder: Path) -> RuntimeCase:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Neg", ["y"], ["z"])]
        inputs = [TensorSpec("x", "float32", ("rows", 2))]
        outputs = [TensorSpec(name, "float32", ("rows", 1)) for name in ("y", "z")]
        (folder / "model.onnx").write_bytes(shop.onnx_graph(nodes, inputs, outputs, {"w": W}))
        return RuntimeCase("model.onnx", {"x": X}, {"y": X @ W, "z": -X @ W}, {"x": X[:, :1]})


def test_an_unknown_runtime_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="unknown runtime 'onxn'") as error:
        open_runtime("onxn", Opening(tmp_path / "model", "model 'm:1'"))
    assert error.value.hint == "did you mean 'onnx'?"
    assert "onnx" in runtimes()


@pytest.mark.parametrize("content", [b"{", b'{"runtime": 1}', b'{"file": "../x"}', b'{"file": "/etc/x"}', b'{"a": 1}'])
def test_a_damaged_runtime_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "runtime.json").write_bytes(content)
    with pytest.raises(ArtifactError):
        RuntimeSpec.load(tmp_path)


def test_a_runtime_spec_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert RuntimeSpec.load(tmp_path) == RuntimeSpec()
    spec = RuntimeSpec("lightgbm", "model.txt", {"output": "score"}, 0.01)
    spec.write(tmp_path)
    assert RuntimeSpec.load(tmp_path) == spec
