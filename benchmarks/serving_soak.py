"""A long run of a service under a mixed load: nothing may grow.

    python benchmarks/serving_soak.py [--seconds N] [--workers N] [--json FILE]

Thirty minutes unless it is told otherwise; `--seconds 20` shows that it works. The project, the DCN and the requests
are those of `ranking_project.py`, the service runs in processes of its own. Half of its capacity is asked for by the
load generator (`open_loop.py`), with deadlines of 50 ms, while this process does what clients do wrong: it connects
and leaves, sends half a request, malformed ones and ones for what is not there, and goes away without reading
answers.

Memory and descriptors of all processes are sampled every second. Targets: the median memory of the last quarter is at
most 3 % above that of the second one (of 20 s too, where it is only a check that the command works), and a second
after the end there are no more descriptors than before; no answer is a 500.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from ranking_project import Bench, rank_request
from record import machine
from served import Served, command, generate

WRONG = (
    b"",
    b"POST /rank HTTP/1.1\r\nHost: s\r\nContent-Length: 100\r\n\r\n{",
    b"nonsense\r\n\r\n",
    b"POST /rank HTTP/1.1\r\nHost: s\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /nowhere HTTP/1.1\r\nHost: s\r\n\r\n",
    b"POST /v2/models/dcn/infer HTTP/1.1\r\nHost: s\r\nContent-Length: 4\r\n\r\n\xff\x00[]",
)


def misbehave(port: int, requests: list[bytes], over: threading.Event) -> None:
    """Does one thing wrong after the other, about 50 a second."""
    for sent in itertools.cycle((*WRONG, requests[0])):
        if over.wait(0.02):
            return
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(sent)
            if sent and sent[-1:] != b"{" and sent is not requests[0]:
                client.recv(4096)


def measure(root: Path, seconds: float, workers: int) -> dict[str, Any]:
    bench = Bench(root)
    requests = [rank_request(*bench.draw()) for _ in range(200)]
    with Served(root, "serve", "full", "--workers", str(workers)) as served, served.watched() as watched:
        seen = generate(served.port, requests, [{"clients": 8, "seconds": min(5.0, seconds / 4)}])[0]
        capacity = len(seen["statuses"]) / min(5.0, seconds / 4)
        time.sleep(1.0)
        before, begin, over = served.sample(), len(watched), threading.Event()
        wrong = threading.Thread(target=misbehave, args=(served.port, requests, over))
        wrong.start()
        headers = {"X-Request-Timeout-Ms": "50"}
        steps = [{"rate": capacity / 2, "seconds": min(60.0, seconds), "headers": headers}]
        statuses: dict[str, int] = {}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for status in generate(served.port, requests, steps)[0]["statuses"]:
                statuses[str(status)] = statuses.get(str(status), 0) + 1
        over.set()
        wrong.join()
        samples = watched[begin:]
        time.sleep(2.0)
        after, metrics = served.sample(), served.metrics()
    memory, quarter = [s["MB"] for s in samples], max(1, len(samples) // 4)
    return {
        "machine": machine(),
        "workers": workers,
        "seconds": seconds,
        "capacity requests/s": capacity,
        "statuses": statuses,
        "errors": sum(count for name, count in metrics.items() if "_requests_total" in name and 'status="500"' in name),
        "memory MB": [float(np.median(memory[i * quarter : (i + 1) * quarter])) for i in range(4)],
        "memory growth": float(np.median(memory[-quarter:]) / np.median(memory[quarter : 2 * quarter])) - 1.0,
        "descriptors": [before["descriptors"], max(s["descriptors"] for s in samples), after["descriptors"]],
        "cpu s": after["cpu"] - before["cpu"],
    }


def targets(result: dict[str, Any]) -> dict[str, tuple[float, str, float]]:
    return {
        "memory growth": (result["memory growth"], "<=", 0.03),
        "descriptors left": (result["descriptors"][2] - result["descriptors"][0], "<=", 0),
        "answers with 500": (result["errors"], "<=", 0),
    }


if __name__ == "__main__":
    sys.exit(command("serving_soak", __doc__, measure, targets, seconds=1800.0, workers=2))
