"""Every runtime keeps the contract; one by another package is found by its entry point."""

from __future__ import annotations

import pickle
import re
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import shop
from onnx import helper

from bedplate.errors import ArtifactError, DataError
from bedplate.features.artifact import RuntimeSpec
from bedplate.features.encoding import TensorSpec
from bedplate.runtimes.base import Opening, open_runtime, runtimes
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


def anonymous() -> int:
    """Bytes of this process that no file holds."""
    found = re.search(r"Anonymous: +(\d+)", Path("/proc/self/smaps_rollup").read_text())
    assert found is not None
    return 1024 * int(found[1])


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs /proc")
def test_what_a_larger_call_took_is_given_back(tmp_path: Path) -> None:
    case = TestOnnx().make(tmp_path)
    opened = open_runtime("onnx", Opening(tmp_path / case.file, "ranker"))
    large = np.ones((16_000_000, 2), np.float32)
    opened.run(case.inputs, ["z"])
    before = anonymous()
    opened.run({"x": large}, ["z"])  # y, 64 MB, is between
    held = anonymous() - before
    opened.trim(case.inputs)
    left = anonymous() - before
    assert held > 60_000_000 > 4 * left


class TestOnnxBfloat16(RuntimeContract):
    """NumPy has no bfloat16: it is float32 whose lower half is zero, rounded to the nearest on the way in."""

    runtime = "onnx"

    def make(self, folder: Path) -> RuntimeCase:
        nodes = [helper.make_node("Cast", ["b"], ["y"], to=1), helper.make_node("Identity", ["b"], ["z"])]
        inputs = [TensorSpec("b", "bfloat16", ("rows", 2)), TensorSpec("x", "float32", ("rows",))]
        nodes.append(helper.make_node("Identity", ["x"], ["w"]))
        outputs = [TensorSpec("y", "float32", ("rows", 2)), TensorSpec("z", "bfloat16", ("rows", 2))]
        outputs.append(TensorSpec("w", "float32", ("rows",)))
        (folder / "model.onnx").write_bytes(shop.onnx_graph(nodes, inputs, outputs, {}))
        given = np.array([[1.0, -2.5], [1.00390625, 1001.0]], np.float32)  # the third is half way between two
        near = np.array([[1.0, -2.5], [1.0, 1000.0]], np.float32)
        one = np.ones(2, np.float32)
        wrong = {"b": given[:, :1], "x": one}
        return RuntimeCase("model.onnx", {"b": given, "x": one}, {"y": near, "z": near, "w": one}, wrong)


ROWS = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
ROWS[::7, 1] = np.nan
LIKED = (np.nan_to_num(ROWS).sum(axis=1) > 0).astype(np.float32)


class TestLightGBM(RuntimeContract):
    runtime = "lightgbm"

    def make(self, folder: Path) -> RuntimeCase:
        import lightgbm

        data = lightgbm.Dataset(ROWS, label=LIKED, params={"verbosity": -1})
        settings = {"objective": "binary", "verbosity": -1, "num_threads": 1, "num_leaves": 7}
        booster = lightgbm.train(settings, data, num_boost_round=5)
        booster.save_model(folder / "model.txt")
        return RuntimeCase("model.txt", {"matrix": ROWS}, {"score": booster.predict(ROWS)}, {"matrix": ROWS[:, :2]})


class TestXGBoost(RuntimeContract):
    runtime = "xgboost"
    suffix = "json"

    def make(self, folder: Path) -> RuntimeCase:
        import xgboost

        data = xgboost.DMatrix(ROWS, label=LIKED)
        booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, data, 5)
        file = f"model.{self.suffix}"
        booster.save_model(folder / file)
        return RuntimeCase(file, {"matrix": ROWS}, {"score": booster.predict(data)}, {"matrix": ROWS[:, :2]})


class TestXGBoostBinary(TestXGBoost):
    suffix = "ubj"


class TestXGBoostClasses(RuntimeContract):
    runtime = "xgboost"

    def make(self, folder: Path) -> RuntimeCase:
        import xgboost

        data = xgboost.DMatrix(ROWS, label=np.arange(len(ROWS)) % 3)
        settings = {"objective": "multi:softprob", "num_class": 3, "max_depth": 2, "nthread": 1}
        booster = xgboost.train(settings, data, 3)
        booster.save_model(folder / "model.json")
        expected = {"score": booster.predict(data, output_margin=True)}
        wrong = {"matrix": ROWS.astype(np.float64)}
        return RuntimeCase("model.json", {"matrix": ROWS}, expected, wrong, {"raw": True})


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported once: it takes seconds."""
    import torch

    class Towers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding.from_pretrained(torch.arange(20.0)[:, None].repeat(1, 2))

        def forward(self, request_dense: Any, item_ids: Any, request_of_item: Any) -> tuple[Any, Any]:
            query = 2 * request_dense
            return (query[request_of_item] * self.table(item_ids)).sum(1), query

    requests, items = torch.export.Dim("requests"), torch.export.Dim("items")
    example = torch.zeros(3, 2), torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)
    sizes = ({0: requests}, {0: items}, {0: items})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(Towers().eval(), example, dynamic_shapes=sizes)
        path = tmp_path_factory.mktemp("program") / "model.pt2"
        torch.export.save(exported, path)
    return path


class TestTorch(RuntimeContract):
    runtime = "torch"

    @pytest.fixture(autouse=True)
    def _program(self, program: Path) -> None:
        self.path = program

    def make(self, folder: Path) -> RuntimeCase:
        shutil.copy(self.path, folder / "model.pt2")
        ids, of_item = np.array([1, 5, 2, 3]), np.array([0, 1, 1, 2])
        inputs = {"request_dense": X, "item_ids": ids, "request_of_item": of_item}
        score = (2 * X[of_item] * ids[:, None]).sum(axis=1).astype(np.float32)
        return RuntimeCase(
            "model.pt2", inputs, {"score": score, "query": 2 * X}, inputs | {"item_ids": ids + 20},
            {"outputs": ["score", "query"]},
        )  # fmt: skip


def rewritten(program: Path, to: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(program) as archive, zipfile.ZipFile(to, "w") as copy:
        for name in archive.namelist():
            copy.writestr(*change(name, archive.read(name)))
    return to


@pytest.mark.parametrize(
    ("name", "was", "becomes"),
    [
        ("models/model.json", b"torch.ops.aten.embedding.default", b"torch.hub.load"),
        ("models/model.json", b"positive=True, integer=True)", b"positive=exit())"),
        ("model_weights_config.json", b'"use_pickle": false', b'"use_pickle": true'),
    ],
)
def test_a_program_that_would_run_code_is_refused(
    tmp_path: Path, program: Path, name: str, was: bytes, becomes: bytes
) -> None:
    changed = rewritten(program, tmp_path / "changed.pt2", lambda n, c: (n, c.replace(was, becomes)))
    assert changed.stat().st_size
    with pytest.raises(ArtifactError, match="which is more than data"):
        open_runtime("torch", Opening(changed, "model 'p:1'"))


def test_a_file_that_a_program_does_not_need_is_refused(tmp_path: Path, program: Path) -> None:
    changed = rewritten(
        program, tmp_path / "changed.pt2", lambda n, c: (n.replace("weights/weight_0", "constants/custom_obj_0"), c)
    )
    with pytest.raises(ArtifactError, match="custom_obj_0', which is more than data"):
        open_runtime("torch", Opening(changed, "model 'p:1'"))


def test_no_pickle_of_a_program_is_read(tmp_path: Path, program: Path) -> None:
    evil = pickle.dumps(Evil())
    changed = rewritten(program, tmp_path / "changed.pt2", lambda n, c: (n, evil if n.endswith(".pt") else c))
    assert open_runtime("torch", Opening(changed, "model 'p:1'")).inputs
    assert not Evil.ran


class Evil:
    ran: ClassVar[list[int]] = []

    def __reduce__(self) -> Any:
        return Evil.ran.append, (1,)


FUNCTION = """
import numpy as np
from bedplate.errors import RequestError

def blend(tensors):
    x = tensors["x"]
    if (x > 1e6).any():
        raise RequestError("x is too large")
    return {"sum": x.sum(axis=1), "twice": 2 * x}

def fails(tensors):
    return {"sum": tensors["x"].sum(axis=1)[:1], "twice": 1 / 0}

def ends(tensors):
    raise SystemExit("no licence")

def other(tensors):
    return {"sum": tensors["x"].sum(axis=1)[:1], "twice": [1]}
"""
SPECS = {
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["rows", 2]}],
    "outputs": [
        {"name": "sum", "dtype": "float32", "shape": ["rows"]},
        {"name": "twice", "dtype": "float32", "shape": ["rows", 2]},
    ],
}


@pytest.fixture(autouse=True, scope="module")
def scoring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("functions")
    (folder / "contract_scoring.py").write_text(FUNCTION)
    sys.path.insert(0, str(folder))
    yield folder / "contract_scoring.py"
    sys.path.remove(str(folder))


class TestPython(RuntimeContract):
    runtime = "python"

    def make(self, folder: Path) -> RuntimeCase:
        (folder / "model.py").write_text(FUNCTION)
        options = {"function": "contract_scoring:blend", **SPECS}
        return RuntimeCase("model.py", {"x": X}, {"sum": X.sum(axis=1), "twice": 2 * X}, {"x": X + 1e9}, options)


def open_function(tmp_path: Path, name: str) -> Any:
    (tmp_path / "model.py").write_text(FUNCTION)
    options = {"function": f"contract_scoring:{name}", **SPECS}
    return open_runtime("python", Opening(tmp_path / "model.py", "model 'f:1'", 1, options))


@pytest.mark.parametrize(
    ("name", "output", "message"),
    [
        ("fails", "sum", "the function fails: ZeroDivisionError"),
        ("ends", "sum", "the function fails: SystemExit: no licence"),
        ("other", "sum", r"gives 'sum' as float32 \[1\], expected float32 \[3\]"),
        ("other", "twice", "gives no array 'twice'"),
    ],
)
def test_a_function_that_fails_is_not_the_clients_mistake(tmp_path: Path, name: str, output: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_function(tmp_path, name).run({"x": X}, [output])


def test_a_function_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has no function 'none'"):
        open_function(tmp_path, "none")


def test_a_module_that_ends_the_program_is_one_that_fails(tmp_path: Path, scoring: Path) -> None:
    (scoring.parent / "ending_scoring.py").write_text("raise SystemExit('no licence')")
    options = {"function": "ending_scoring:blend", **SPECS}
    (tmp_path / "model.py").write_text("")
    with pytest.raises(ArtifactError, match="the module 'ending_scoring' fails: SystemExit: no licence") as caught:
        open_runtime("python", Opening(tmp_path / "model.py", "m", 1, options))
    assert str(caught.value.for_client()) == "m: the module 'ending_scoring' fails; the server's log says more"


def test_the_code_of_an_artifact_is_never_run(tmp_path: Path, scoring: Path) -> None:
    (tmp_path / "model.py").write_text("raise SystemExit('run')" + FUNCTION)
    with pytest.raises(ArtifactError, match="is another one than when the function"):
        open_runtime("python", Opening(tmp_path / "model.py", "m", 1, {"function": "contract_scoring:blend", **SPECS}))


@pytest.mark.parametrize("options", [{"raw": 1}, {"depth": True}])
def test_an_option_that_is_not_known_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    case = TestLightGBM().make(tmp_path)
    with pytest.raises(ArtifactError, match="raw"):
        open_runtime("lightgbm", Opening(tmp_path / case.file, "m", 1, options))


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
