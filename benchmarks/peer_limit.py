"""Runs a graph on the tensors of one request, again and again; prints the calls a second.

    python benchmarks/peer_limit.py MODEL.onnx TENSORS.npz THREADS BEGIN SECONDS

It begins at a moment in seconds since the epoch, so that several processes run at the same time.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import onnxruntime


def main() -> None:
    model, path, threads, begin, seconds = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(threads), 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    tensors = dict(np.load(path))
    while time.time() < float(begin):
        session.run(["score"], tensors)
        time.sleep(0.01)
    calls, start = 0, time.perf_counter()
    while time.perf_counter() < start + float(seconds):
        session.run(["score"], tensors)
        calls += 1
    print(calls / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
