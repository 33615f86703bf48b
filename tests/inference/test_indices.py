"""What tensor clients get wrong: indices out of their range, and values that messages name in few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shop
from onnx import helper
from tritonclient.utils import np_to_triton_dtype

from bedplate.errors import ArtifactError, RequestError
from bedplate.features.encoding import BagLayout, Layout, TensorSpec
from bedplate.http.message import Request
from bedplate.inference.indices import Indices
from bedplate.inference.loader import Loader
from bedplate.inference.repository import Repository
from bedplate.oip.messages import MESSAGES
from bedplate.oip.methods import InferenceService, Wait
from bedplate.registry.registry import Registry
from bedplate.runtimes.base import Opening, open_runtime
from bedplate.runtimes.onnx import OnnxRuntime
from bedplate.serving.service_app import App


def over_http(repository: Repository, tensors: dict[str, Any]) -> str:
    inputs = [
        {"name": n, "shape": a.shape, "datatype": np_to_triton_dtype(a.dtype), "data": a.ravel().tolist()}
        for n, a in tensors.items()
    ]
    content = json.dumps({"inputs": inputs}).encode()
    response: Any = App(repository).handle(Request("POST", "/v2/models/ranker/infer", {}, content))
    said = json.loads(response.body)
    assert response.status in (200, 400)
    assert response.status == 200 or said["error"].startswith(f"{said['where']}: ")
    return said.get("error", "")


def over_grpc(repository: Repository, tensors: dict[str, Any]) -> str:
    asked = MESSAGES["ModelInferRequest"](model_name="ranker")
    for name, array in tensors.items():
        asked.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
        asked.raw_input_contents.append(array.tobytes())
    try:
        InferenceService(repository, lambda: True).infer(asked, Wait())
    except RequestError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("ask", [over_http, over_grpc])
def test_an_index_out_of_range_is_refused_by_its_tensor_and_row(registry: Registry, ask: Any) -> None:
    artifact = Loader(registry).load("ranker:1")
    repository = Repository()
    repository.serve([artifact.model])
    tensors, rows = dict(artifact.golden()[0].inputs), artifact.encoder.layout.rows
    requests, items = len(tensors["request_dense"]), tensors["item_ids"]
    assert ask(repository, tensors) == ""
    for name, row, wrong, end in (
        ("item_ids", 0, -1, rows),
        ("item_ids", len(items) - 1, rows, rows),
        ("item_ids", 1, -(2**63), rows),
        ("request_of_item", 0, -1, requests),
        ("request_of_item", len(items) - 1, requests, requests),
    ):
        changed = tensors[name].copy()
        changed[row, ...] = wrong
        said = ask(repository, tensors | {name: changed})
        assert said == f"input '{name}': got {wrong} in row {row}, expected 0 to {end - 1}"
    largest = {"item_ids": np.full_like(items, rows - 1), "request_of_item": np.full(len(items), requests - 1)}
    assert ask(repository, tensors | largest) == ""
    (stats,) = repository.statistics("ranker")
    assert stats["inference_stats"]["fail"]["count"] == 5


def test_indices_of_models_without_items_or_requests() -> None:
    layout = Layout(rows=5, item_ids=1, bags=(BagLayout("words", "request"),))
    inputs = {t.name: t for t in layout.tensors()}
    nothing = {
        "item_ids": np.zeros((0, 1), np.int64),
        "bag_ids.words": np.zeros((0, 1), np.int64),
        "request_of_item": np.zeros(0, np.int64),
    }
    Indices(layout, inputs).check(nothing)
    with pytest.raises(RequestError, match="input 'request_of_item': got 0 in row 0, expected none"):
        Indices(layout, inputs).check(nothing | {"request_of_item": np.zeros(1, np.int64)})
    bag = np.array([[1, 2], [3, 5]], np.int64)
    with pytest.raises(RequestError, match=r"input 'bag_ids\.words': got 5 in row 1, expected 0 to 4"):
        Indices(layout, inputs).check(nothing | {"bag_ids.words": bag})
    alone = Layout(rows=5, item_dense=1)
    items = Indices(alone, {t.name: t for t in alone.tensors()})
    items.check({"request_of_item": np.array([7])})  # there are no requests to point at, and nothing reads it
    with pytest.raises(RequestError, match="got -7 in row 0"):
        items.check({"request_of_item": np.array([-7])})
    other = {"item_ids": TensorSpec("item_ids", "float32", ("n",))}  # somebody else's tensor of that name
    Indices(layout, other).check({"item_ids": np.full(1, -1, np.float32)})


def test_a_graph_that_can_not_run_says_nothing_of_where_its_source_lies(tmp_path: Path) -> None:
    spec = {"x": TensorSpec("x", "float32", ("n",)), "y": TensorSpec("y", "float32", ("k",))}
    graph = shop.onnx_graph(
        [helper.make_node("Add", ["x", "y"], ["z"])], list(spec.values()), [TensorSpec("z", "float32", ("m",))], {}
    )
    with pytest.raises(RequestError) as error:
        OnnxRuntime(graph, "m", 1, tmp_path).run({"x": np.zeros(3, np.float32), "y": np.zeros(2, np.float32)}, ["z"])
    assert error.value.message == (
        "the graph can't run on these tensors: Attempting to broadcast an axis by a dimension other than 1. 2 by 3"
    )


def test_bfloat16_beside_strings_is_refused_with_what_to_do(tmp_path: Path) -> None:
    tensors = [TensorSpec("b", "bfloat16", ("n",)), TensorSpec("s", "object", ("n",))]
    nodes = [helper.make_node("Identity", [n], [f"{n}o"]) for n in "bs"]
    outputs = [TensorSpec(f"{t.name}o", t.dtype, t.shape) for t in tensors]
    (tmp_path / "model.onnx").write_bytes(shop.onnx_graph(nodes, tensors, outputs, {}))
    with pytest.raises(ArtifactError, match="bfloat16 and the strings 's'") as error:
        open_runtime("onnx", Opening(tmp_path / "model.onnx", "m"))
    assert error.value.hint == "cast the bfloat16 tensors to float32 in the graph"


@pytest.mark.parametrize("size", [-16, 16.0, "16", True])
def test_a_binary_size_that_is_no_whole_number_says_so(registry: Registry, size: Any) -> None:
    one = {"name": "item_ids", "shape": [1, 1], "datatype": "INT64", "parameters": {"binary_data_size": size}}
    assert f"got binary_data_size {size!r}, expected a whole number from 0" in refused(registry, {"inputs": [one]})


def test_messages_stay_short_and_name_half_a_surrogate_pair(registry: Registry) -> None:
    one = {"name": "item_ids", "shape": [1] * 60, "datatype": "INT64", "data": [1]}
    said = refused(registry, {"inputs": [one]})
    assert "got shape [1, 1, 1, 1, 1, 1, 1, 1, ... of 60 sizes], expected [" in said
    assert "half of a surrogate pair" in refused(registry, {"inputs": [], "id": "\ud800"})
    assert "half of a surrogate pair" in refused(registry, {"inputs": [one | {"data": ["\ud83d"]}]})


def refused(registry: Registry, asked: Any) -> str:
    repository = Repository()
    repository.serve([Loader(registry).load("ranker:1").model])
    response: Any = App(repository).handle(Request("POST", "/v2/models/ranker/infer", {}, json.dumps(asked).encode()))
    assert response.status == 400
    assert len(response.body) < 400
    return json.loads(response.body)["error"]
