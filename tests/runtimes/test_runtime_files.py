"""What runtimes refuse before they run: files of registered models that were touched, names and datatypes that there
are not; and models brought from elsewhere that no loader would prove."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shop
import test_runtimes as made
from onnx import TensorProto, helper

from bedplate.errors import ArtifactError, BedplateError, ConfigError, DataError, NotFoundError, RequestError
from bedplate.features.artifact import RuntimeSpec, compare
from bedplate.features.encoding import TensorSpec
from bedplate.inference.artifact import load_artifact, open_artifact
from bedplate.inference.loader import Loader
from bedplate.oip.codec import decode_infer
from bedplate.registry.manifest import gather
from bedplate.registry.registry import Registry
from bedplate.runtimes.adding import Brought, read_rows, write_brought
from bedplate.runtimes.base import Opening, check_tensors, open_runtime, runtimes, spec_of
from bedplate.runtimes.tensors import DATATYPES
from bedplate.serving.load import load_pipeline

PLACE = "model 'm:1'"
MEMBERS: dict[str, Any] = {
    "onnx": made.TestOnnx,
    "lightgbm": made.TestLightGBM,
    "xgboost": made.TestXGBoost,
    "xgboost binary": made.TestXGBoostBinary,
}
FACTS: dict[str, Any] = {"definitions": {}, "sources": {}, "config": {}, "seeds": {}, "metrics": {}}


@pytest.fixture(scope="module", params=list(MEMBERS))
def member(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """A runtime's contract, its case, and the folder that the model is in."""
    contract, folder = MEMBERS[request.param](), tmp_path_factory.mktemp("member")
    return contract, contract.make(folder), folder


def wrong_tensors(inputs: Any) -> Iterator[dict[str, Any]]:
    """Inputs with one that is of another dtype or form, and all without it."""
    for name, array in inputs.items():
        for dtype in ("float64", "int64", "bool", "float16"):
            if array.dtype != np.dtype(dtype):
                yield {**inputs, name: array.astype(np.float32).astype(dtype, casting="unsafe")}
        yield {**inputs, name: array.ravel()[:0]}
        yield {**inputs, name: array[None]}
        yield {n: a for n, a in inputs.items() if n != name}


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_tensors_of_another_dtype_or_form_are_the_clients_mistake(member: tuple[Any, Any, Path]) -> None:
    contract, case, folder = member
    opened = contract.open(folder, case)
    for tensors in wrong_tensors(case.inputs):
        with pytest.raises(RequestError) as caught:
            opened.run(tensors, list(case.outputs))
        assert caught.value.where == "model 'contract:1'"
    assert len(opened.run(case.inputs, list(case.outputs))) == len(case.outputs)


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"{}", b"tree", b"not a model", b"\x80\x04K\x01."])
def test_a_file_of_another_kind_is_refused(member: tuple[Any, Any, Path], tmp_path: Path, content: bytes) -> None:
    contract, case, _ = member
    path = tmp_path / case.file
    path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        open_runtime(contract.runtime, Opening(path, PLACE, 1, case.options))
    assert caught.value.where


@pytest.mark.parametrize("name", ["onnx", "lightgbm", "xgboost", "torch", "python"])
def test_a_file_or_folder_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    options = {"function": "test_runtimes:none", "inputs": [], "outputs": []} if name == "python" else {}
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ArtifactError):
            open_runtime(name, Opening(path, PLACE, 1, options))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("onnxx", "did you mean 'onnx'?"),
        ("xgbost", "did you mean 'xgboost'?"),
        ("Torch", "did you mean 'torch'?"),
        ("../onnx", "onnx"),
        ("", "onnx"),
        ("batch_plan", "lightgbm, onnx, python, torch, xgboost"),
    ],
)
def test_an_unknown_runtime_is_refused_with_what_may_be_meant(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(ArtifactError, match="unknown runtime") as caught:
        open_runtime(name, Opening(tmp_path / "model", PLACE))
    assert hint in (caught.value.hint or "")
    assert name not in runtimes()


def registered(tmp_path: Path) -> tuple[Registry, Any]:
    registry = shop.register(tmp_path, shop.graph())
    return registry, registry.get("ranker:1")


def test_a_file_that_was_touched_after_registration_is_not_loaded(tmp_path: Path) -> None:
    registry, version = registered(tmp_path)
    names = [p.relative_to(version.path) for p in version.path.rglob("*") if p.is_file() and p.name != "manifest.json"]
    assert len(names) > 4
    for name in names:
        path = version.path / name
        content, mode = path.read_bytes(), path.stat().st_mode
        path.chmod(0o644)
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ArtifactError, match=str(name.name)):
            load_artifact(registry.get("ranker:1"))
        path.write_bytes(content)
        path.chmod(mode)
    assert load_artifact(registry.get("ranker:1")).golden()


def test_a_file_more_or_less_is_not_loaded(tmp_path: Path) -> None:
    _, version = registered(tmp_path)
    version.path.chmod(0o755)
    (version.path / "more.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"more\.json"):
        load_artifact(version)
    (version.path / "more.json").unlink()
    (version.path / "model.onnx").rename(tmp_path / "away.onnx")
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        load_artifact(version)


def test_a_service_does_not_start_with_a_touched_model_and_says_which(tmp_path: Path, features: Any) -> None:
    registry, version = registered(tmp_path)
    graph = version.path / "model.onnx"
    graph.chmod(0o644)
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        load_pipeline(shop.service(), features, shop.Oracle(features), registry, clock=lambda: shop.NOW)
    with pytest.raises(NotFoundError, match="ranker"):
        load_pipeline(shop.service(ranking="ranker:7"), features, shop.Oracle(features), registry)


def test_an_artifact_with_an_unknown_runtime_is_refused(tmp_path: Path) -> None:
    shop.write_ranker(tmp_path / "ranker", shop.graph())
    RuntimeSpec("onnxruntime", "model.onnx").write(tmp_path / "ranker")
    with pytest.raises(ArtifactError, match="unknown runtime 'onnxruntime'") as caught:
        open_artifact(tmp_path / "ranker", "ranker", "1")
    assert caught.value.where == "model 'ranker:1'"
    RuntimeSpec("lightgbm", "model.onnx").write(tmp_path / "ranker")
    with pytest.raises(ArtifactError, match="the trees can't be loaded"):
        open_artifact(tmp_path / "ranker", "ranker", "1")


@pytest.mark.parametrize("kind", ["COMPLEX64", "COMPLEX128", "FLOAT8E4M3FN", "UINT4"])
def test_a_graph_of_numbers_that_no_request_can_bring_is_refused(tmp_path: Path, kind: str) -> None:
    number = getattr(TensorProto, kind)
    values = [helper.make_tensor_value_info(name, number, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError):
        open_runtime("onnx", Opening(tmp_path / "model.onnx", PLACE))


def test_tensors_are_of_the_datatypes_of_the_protocol_and_checked_by_these() -> None:
    for dtype in DATATYPES:
        assert spec_of("x", dtype, ("n",), PLACE) == TensorSpec("x", dtype, ("n",))
    for dtype in ("complex64", "float8e4m3fn", "uint4", "str96", ""):
        with pytest.raises(ArtifactError, match="expected a tensor of bool, uint8"):
            spec_of("x", dtype, ("n",), PLACE)
    halves = {"x": TensorSpec("x", "bfloat16", ("n",))}
    assert check_tensors(halves, {"x": np.zeros(3, np.float32)}, PLACE) == {"n": 3}
    with pytest.raises(RequestError, match="expected bfloat16"):
        check_tensors(halves, {"x": np.zeros(3, np.float16)}, PLACE)
    tied = {n: TensorSpec(n, "float32", ("rows", 2)) for n in ("a", "b")}
    with pytest.raises(RequestError, match=r"'b' is float32 \[4, 2\], expected float32 \[rows = 3, 2\]"):
        check_tensors(tied, {"a": np.zeros((3, 2), np.float32), "b": np.zeros((4, 2), np.float32)}, PLACE)


def test_a_program_in_bfloat16_takes_and_gives_float32(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Doubles(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return x + x

    example = (torch.zeros(4, dtype=torch.bfloat16),)
    torch.export.save(torch.export.export(Doubles(), example), tmp_path / "model.pt2")
    opened = open_runtime("torch", Opening(tmp_path / "model.pt2", PLACE, 1, {"outputs": ["y"]}))
    assert [s.dtype for s in (*opened.inputs.values(), *opened.outputs.values())] == ["bfloat16"] * 2
    [found] = opened.run({"x": np.array([1.0, 1.00390625, -2.5, 3e38], np.float32)}, ["y"])
    assert found.dtype == np.float32
    assert found.tolist()[:3] == [2.0, 2.0, -5.0]  # the second is half way between two of bfloat16
    with pytest.raises(RequestError, match="expected bfloat16"):
        opened.run({"x": np.zeros(4, np.float64)}, ["y"])


@pytest.mark.parametrize("function", [".relative:f", "..x:f", "no.such:f", "math", "math:", ":", "", "os:sep"])
def test_a_function_by_a_name_that_is_none_is_refused(tmp_path: Path, function: str) -> None:
    (tmp_path / "model.py").write_text("")
    options = {"function": function, "inputs": [], "outputs": []}
    with pytest.raises(ArtifactError, match=r"no module|has no function"):
        open_runtime("python", Opening(tmp_path / "model.py", PLACE, 1, options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"function": "m:f"},
        {"function": 7, "inputs": [], "outputs": []},
        {"function": "m:f", "inputs": [], "outputs": [], "more": 1},
        {"function": "m:f", "inputs": [{"name": "x"}], "outputs": []},
    ],
)
def test_options_of_a_function_that_are_none_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    (tmp_path / "model.py").write_text("")
    with pytest.raises(ArtifactError, match="the function can't be read"):
        open_runtime("python", Opening(tmp_path / "model.py", PLACE, 1, options))


FUNCTIONS = """
import itertools
import numpy as np

count = itertools.count()

def nan(tensors):
    return {"y": tensors["x"] * np.nan}

def infinite(tensors):
    return {"y": np.full_like(tensors["x"], np.inf)}

def other(tensors):
    return {"y": tensors["x"] + np.float32(next(count))}

def words(tensors):
    return {"y": np.array(["a" * int(v) for v in tensors["x"]], object)}

def louder(tensors):
    assert tensors["x"].dtype == object
    return {"y": np.array([v.upper() for v in tensors["x"]])}
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "brought_functions.py"
    path.write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    sys.modules.pop("brought_functions", None)


@pytest.mark.parametrize("name", ["nan", "infinite", "other"])
def test_a_model_that_no_loader_would_prove_is_not_brought(functions: Path, tmp_path: Path, name: str) -> None:
    rows = {"x": np.arange(3, dtype=np.float32)}
    with pytest.raises(ArtifactError, match="output 'y' differs by"):
        write_brought(Brought(functions, "python", {"function": name}), tmp_path / "made", rows, {})
    assert not (tmp_path / "made").exists()


def test_a_model_that_gives_texts_is_brought_and_proven_by_its_loader(functions: Path, tmp_path: Path) -> None:
    rows = {"x": np.arange(3, dtype=np.float32)}
    write_brought(Brought(functions, "python", {"function": "words"}), tmp_path / "made", rows, {})
    registry = Registry(tmp_path / "registry")
    registry.register("words", tmp_path / "made", manifest=gather(tmp_path, **FACTS))
    loaded = load_artifact(registry.get("words:1"))
    assert loaded.model.run(rows, ["y"])[0].tolist() == ["", "a", "aa"]
    assert loaded.model.outputs["y"].dtype == "object"
    known = {"y": np.array(["", "a", "b"])}
    with pytest.raises(ArtifactError, match="value 2 is 'aa', expected 'b'"):
        write_brought(Brought(functions, "python", {"function": "words"}), tmp_path / "more", rows, known)


def test_a_function_of_texts_is_brought_and_answers_requests(functions: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.array(["a", "ß", "", "long"]))
    rows, known = read_rows(tmp_path / "rows.npz")
    write_brought(Brought(functions, "python", {"function": "louder"}), tmp_path / "made", rows, known)
    registry = Registry(tmp_path / "registry")
    registry.register("louder", tmp_path / "made", manifest=gather(tmp_path, **FACTS))
    model = load_artifact(registry.get("louder:1")).model
    assert (model.inputs["x"].dtype, model.outputs["y"].dtype) == ("object", "object")
    body = b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [2], "data": ["b", "longer than any before"]}]}'
    asked = decode_infer(body, None, model.inputs, ["y"])
    assert model.run(asked.tensors, ["y"])[0].tolist() == ["B", "LONGER THAN ANY BEFORE"]


@pytest.mark.parametrize("kind", ["bfloat16", "object"])
def test_graphs_of_every_datatype_are_brought_and_loaded_where_calls_may_be_shared(tmp_path: Path, kind: str) -> None:
    number = {"bfloat16": TensorProto.BFLOAT16, "object": TensorProto.STRING}[kind]
    values = [helper.make_tensor_value_info(name, number, ["rows"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "same.onnx").write_bytes(model.SerializeToString())
    given: Any = np.array([1.0, -2.5, 0.0], np.float32) if kind == "bfloat16" else np.array(["a", "", "é🙂"])
    write_brought(Brought(tmp_path / "same.onnx"), tmp_path / "made", {"x": given}, {"y": given})
    registry = Registry(tmp_path / "registry")
    registry.register("same", tmp_path / "made", manifest=gather(tmp_path, **FACTS))
    said: list[str] = []
    loaded = Loader(registry, delay=0.001, say=said.append).load("same:1").model
    assert (loaded.inputs["x"].dtype, loaded.batcher, said) == (kind, None, [])
    assert loaded.calls.startswith("each request is a call of its own")
    assert loaded.run({"x": given.astype(object) if kind == "object" else given}, ["y"])[0].tolist() == given.tolist()


def test_golden_rows_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    for arrays in ({}, {"x": np.float32(3)}, {"x": np.zeros(0)}, {"output.y": np.zeros(3)}):
        np.savez(path, **arrays)  # type: ignore[arg-type]
        with pytest.raises(DataError, match="it holds no rows"):
            read_rows(path)
    np.savez(path, x=np.array([{}], object))
    with pytest.raises(DataError, match="can't be read"):
        read_rows(path)
    path.write_bytes(b"PK\3\4 and no more")
    with pytest.raises(DataError, match="can't be read"):
        read_rows(path)


def test_a_runtime_that_is_not_said_is_asked_for(tmp_path: Path) -> None:
    for file, runtime, message in (("m.bin", None, "doesn't say its runtime"), ("m.onnx", "onix", "unknown runtime")):
        with pytest.raises(ConfigError, match=message) as caught:
            Brought(tmp_path / file, runtime, {}).chosen()
        assert "onnx" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ([np.nan], [np.nan]),
        ([np.inf], [np.inf]),
        ([np.inf], [5.0]),
        ([-np.inf], [np.inf]),
        ([1.0], [np.inf]),
        ([1.0, 2.0], [1.0, np.nan]),
    ],
)
def test_what_is_not_finite_is_not_reproduced(expected: list[float], got: list[float]) -> None:
    with pytest.raises(BedplateError, match="output 'y' differs"):
        compare({"y": np.array(expected)}, {"y": np.array(got)}, "golden")
