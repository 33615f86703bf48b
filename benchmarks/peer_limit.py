"""Runs a graph on the tensors of one request, again and again; prints the calls a second, and p50 and p99 in ms.

    python benchmarks/peer_limit.py MODEL.onnx TENSORS.npz THREADS BEGIN SECONDS DISTANCE

It begins at a moment in seconds since the epoch, so that several processes run at the same time. The calls begin
DISTANCE seconds one after the other; 0: as soon as they can.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnxruntime


def main() -> None:
    model, path, threads = sys.argv[1:4]
    begin, seconds, distance = map(float, sys.argv[4:])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(threads), 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    tensors = dict(np.load(path))
    while time.time() < begin:
        session.run(["score"], tensors)
        time.sleep(min(0.01, max(0.0, begin - time.time())))
    taken, start = list[float](), time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        session.run(["score"], tensors)
        taken.append(time.perf_counter() - now)
        time.sleep(max(0.0, start + len(taken) * distance - time.perf_counter()) if distance else 0.0)
    rate = len(taken) / (time.perf_counter() - start)
    print(json.dumps([rate, *(1e3 * np.quantile(taken, (0.5, 0.99)))]))


if __name__ == "__main__":
    main()
