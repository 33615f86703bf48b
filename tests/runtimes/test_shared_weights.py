"""The weights of an ONNX file are mapped: processes that serve it hold them once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shop
from onnx import checker, helper, load_from_string

from bedplate.errors import ArtifactError
from bedplate.features.encoding import TensorSpec
from bedplate.features.weights import LARGE_BYTES, aligned, linked
from bedplate.runtimes.base import Opening, open_runtime

ROWS, WIDTH = 200_000, 64  # 51 MB
IDS, OUT = TensorSpec("ids", "int64", ("n",)), TensorSpec("rows", "float32", ("n", "width"))
WORKER = """
import json, re, sys
from pathlib import Path
import numpy as np
from bedplate.runtimes.base import Opening, open_runtime

def anonymous():
    return 1024 * int(re.search(r"Anonymous: +(\\d+)", Path("/proc/self/smaps_rollup").read_text())[1])

path = Path(sys.argv[1])
open_runtime("onnx", Opening(path.with_name("small.onnx"), "model")).run({"ids": np.arange(9)}, ["rows"])
before = anonymous()
runtime = open_runtime("onnx", Opening(path, "model"))
parts = (np.arange(i, i + 1000) for i in range(0, 200_000, 1000))
total = float(sum(runtime.run({"ids": ids}, ["rows"])[0].sum(dtype=float) for ids in parts))
print(json.dumps([total, anonymous() - before]), flush=True)
for _ in sys.stdin:
    parts = Path("/proc/self/smaps").read_text().split("VmFlags")
    mapped = sum(1024 * int(re.search(r"\\nPss: +(\\d+)", p)[1]) for p in parts if f"{path}\\n" in p)
    print(mapped, flush=True)
"""


def graph(table: Any) -> bytes:
    return shop.onnx_graph([helper.make_node("Gather", ["table", "ids"], ["rows"])], [IDS], [OUT], {"table": table})


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc")
def test_two_processes_hold_an_embedding_once(tmp_path: Path) -> None:
    table = np.arange(ROWS * WIDTH, dtype=np.float32).reshape(ROWS, WIDTH) % 1000
    path = tmp_path / "model.onnx"
    path.write_bytes(aligned(graph(table)))
    path.with_name("small.onnx").write_bytes(graph(table[:10]))
    command = [sys.executable, "-c", WORKER, str(path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as one, subprocess.Popen(command, **pipes) as two:

        def told(process: Any) -> Any:
            return json.loads(process.stdout.readline())

        for process in (one, two):
            total, grown = told(process)
            assert total == float(table.sum(dtype=np.float64))
            assert grown < 0.2 * table.nbytes
        for process in (one, two):
            process.stdin.write("\n")
            process.stdin.flush()
        held = [told(process) for process in (one, two)]
        for process in (one, two):
            process.stdin.close()
    # Each is charged its share of a page that others map too.
    assert 0.9 * table.nbytes < sum(held) < 1.1 * table.nbytes
    assert max(held) < 0.6 * table.nbytes


@pytest.mark.parametrize("kind", ["float32", "float64", "int64", "int8", "float16"])
def test_a_file_that_is_aligned_is_the_same_model_and_its_weights_lie_right(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    held = {"table": rng.normal(size=(LARGE_BYTES, 3)).astype(kind), "small": np.arange(7, dtype=np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["found"]),
        helper.make_node("Cast", ["found"], ["rows"], to=1),
    ]
    before = shop.onnx_graph(nodes, [IDS], [OUT], held)
    after = aligned(before)
    checker.check_model(load_from_string(after))
    assert aligned(after) == after
    at = after.index(held["table"].tobytes())
    assert at % 64 == 0
    short = linked(after, "model.onnx")
    assert short is not None
    assert len(short) < 1000
    path = tmp_path / "model.onnx"
    for content in (before, after):
        path.write_bytes(content)
        [found] = open_runtime("onnx", Opening(path, "model")).run({"ids": np.array([5, LARGE_BYTES - 1])}, ["rows"])
        assert (found == held["table"][[5, -1]].astype(np.float32)).all()


def test_small_weights_and_what_is_no_model_stay_as_they_are(tmp_path: Path) -> None:
    small = graph(np.ones((10, WIDTH), np.float32))
    assert linked(small, "model.onnx") is None
    whole = aligned(graph(np.ones((ROWS // 100, WIDTH), np.float32)))
    path = tmp_path / "model.onnx"
    for damaged in (b"", b"\xff" * 30, whole[:-100], whole[: len(whole) // 2], b"\x3b" + whole):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError):
            open_runtime("onnx", Opening(path, "model"))
