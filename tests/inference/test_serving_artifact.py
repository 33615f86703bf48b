"""Loading an artifact: unchanged files, matching tensors, reproduced golden scores."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import shop
from onnx import numpy_helper

from bedplate.errors import ArtifactError
from bedplate.features import artifact as files
from bedplate.features.graph import FeatureGraph
from bedplate.inference.artifact import load_artifact, open_artifact
from bedplate.registry.registry import Registry


@pytest.fixture
def folder(tmp_path: Path, features: FeatureGraph) -> Path:
    shop.write_ranker(tmp_path / "ranker", features)
    return tmp_path / "ranker"


def change_weight(path: Path, by: float) -> None:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "b":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(by), "b"))
    path.write_bytes(model.SerializeToString())


def test_an_artifact_that_reproduces_its_golden_scores_is_loaded(folder: Path) -> None:
    artifact = open_artifact(folder, "ranker", "1")
    assert list(artifact.model.outputs) == ["score"]
    assert artifact.catalogue is None


def test_changed_weights_are_refused_with_the_difference(folder: Path) -> None:
    change_weight(folder / files.GRAPH, 1e-3)
    with pytest.raises(ArtifactError, match=r"model 'ranker:1', golden request 0: output 'score' differs by 0\.\d+"):
        open_artifact(folder, "ranker", "1")


def test_a_changed_file_is_refused_before_it_is_used(tmp_path: Path, features: FeatureGraph) -> None:
    registry = shop.register(tmp_path, features)
    version = registry.get("ranker@champion")
    path = version.path / files.GRAPH
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match=r"'model.onnx' has changed"):
        load_artifact(version)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (files.GRAPH, b"nonsense", "can't be loaded"),
        (files.GRAPH, None, "the graph can't be read"),
        ("signature.json", b"{}", "signature"),
        ("encoder/encoder.json", b"{", "encoder"),
        ("golden/requests.json", None, "golden"),
        ("golden/0.npz", b"PK", "golden"),
    ],
)
def test_a_damaged_folder_is_refused(folder: Path, name: str, content: bytes | None, message: str) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        open_artifact(folder, "ranker", "1")


def test_a_graph_of_another_model_is_refused(folder: Path, registry: Registry) -> None:
    shutil.copy(registry.get("towers").path / files.GRAPH, folder / files.GRAPH)
    with pytest.raises(ArtifactError, match="the graph's input 'item_dense' is missing"):
        open_artifact(folder, "ranker", "1")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (files.KEYS, np.zeros(31, np.int32), "expected 1 axes of int64"),
        (files.KEYS, np.arange(3), "3 keys"),
        (files.VECTORS, np.zeros((31, 7), np.float32), "7 numbers"),
    ],
)
def test_a_damaged_retrieval_index_is_refused(
    tmp_path: Path, features: FeatureGraph, name: str, array: Any, message: str
) -> None:
    shop.write_tower(tmp_path / "towers", features)
    np.save(tmp_path / "towers" / name, array)
    with pytest.raises(ArtifactError, match=message):
        open_artifact(tmp_path / "towers", "towers", "1")
