"""What the peers of serving_peers.py run: a graph in ONNX Runtime with one thread, its tensors decoded fast.

Each `peer_NAME.py` is run by the Python of that framework's environment, with what it is to do in the environment
variables MODEL (an ONNX file, or `null`: zeros for each candidate), PORT and WORKERS.
"""

from __future__ import annotations

import base64
import json
import os
from typing import Any

import numpy as np

PORT, WORKERS = int(os.environ.get("PORT", "0")), int(os.environ.get("WORKERS", "1"))
DTYPES = {"FP32": "<f4", "INT64": "<i8"}


class Scorer:
    """A loaded graph."""

    def __init__(self) -> None:
        path = os.environ["MODEL"]
        self.session: Any = None
        if path != "null":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            self.types = {i.name: np.int64 if "int64" in i.type else np.float32 for i in self.session.get_inputs()}

    def run(self, tensors: dict[str, Any]) -> Any:
        """[N] float32 scores of tensors by name."""
        if self.session is None:
            return np.zeros(len(tensors["request_of_item"]), np.float32)
        return self.session.run(["score"], tensors)[0]

    def binary(self, body: bytes, length: int) -> bytes:
        """The scores of the protocol's binary body, whose JSON has this length."""
        tensors, view, at = {}, memoryview(body), length
        for given in json.loads(bytes(view[:length]))["inputs"]:
            end = at + given["parameters"]["binary_data_size"]
            array = np.frombuffer(view[at:end], DTYPES[given["datatype"]])
            tensors[given["name"]], at = array.reshape(given["shape"]), end
        return self.run(tensors).tobytes()

    def base64(self, body: str | bytes, length: int) -> bytes:
        """As `binary`, of a body that is text."""
        return self.binary(base64.b64decode(body), length)

    def columns(self, given: dict[str, Any]) -> list[float]:
        """The scores of nested lists by name."""
        arrays = {n: np.array(v, np.float32 if n.endswith("dense") else np.int64) for n, v in given.items()}
        return self.run(arrays).tolist()
