"""What sharing calls of a model between requests gives: `bedplate serve` with and without, the same requests.

    python benchmarks/shared_calls.py [--seconds N] [--json FILE]

The project and the DCN-V2 are those of ranking_project.py (26 ids, 13 numbers). For requests of 10 and of 200
candidates two servers are started, `--batch-delay 0` and `--batch-delay 1`, and asked for /rank in turn by 1, 8 and 32
connections that each wait for their answer. Printed are requests a second, the median and the 99th percentile, and what
the server decided. Scores must be equal to 1e-5; at one connection sharing may cost at most a tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from ranking_project import Bench, rank_request
from record import judge, machine, save
from served import Served

DELAYS = {"alone": "0", "shared": "1"}
CONNECTIONS = (1, 8, 32)


async def client(port: int, requests: list[bytes], first: int, end: float, taken: list[float]) -> dict[int, Any]:
    """Asks one request after the other until a time; the answers by the number of the request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers: dict[int, Any] = {}
    at = first
    while time.perf_counter() < end:
        begin = time.perf_counter()
        writer.write(requests[at % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(size)
        taken.append(time.perf_counter() - begin)
        assert head.startswith(b"HTTP/1.1 200"), body
        answers.setdefault(at % len(requests), body)
        at += 7
    writer.close()
    return answers


async def load(port: int, requests: list[bytes], connections: int, seconds: float) -> dict[str, Any]:
    taken: list[float] = []
    begin = time.perf_counter()
    found = await asyncio.gather(*(client(port, requests, 11 * i, begin + seconds, taken) for i in range(connections)))
    took = time.perf_counter() - begin
    answers = {i: msgspec.json.decode(body)["scores"] for answers in found for i, body in answers.items()}
    quantiles = {f"p{q}": float(np.quantile(taken, q / 100)) * 1e3 for q in (50, 99)}
    return {"requests/s": len(taken) / took, **quantiles, "answers": answers}


def measure(candidates: int, seconds: float) -> dict[str, Any]:
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder)
        bench = Bench(root, candidates=candidates)
        requests = [rank_request(*bench.draw()) for _ in range(200)]
        servers: dict[str, Served] = {}
        for name, delay in DELAYS.items():
            errors = stack.enter_context((root / f"{name}.log").open("w"))
            servers[name] = stack.enter_context(Served(root, "serve", "full", "--batch-delay", delay, errors=errors))
        worst = 0.0
        for connections in CONNECTIONS:
            found: dict[str, Any] = {}
            for name, server in servers.items():
                asyncio.run(load(server.port, requests, connections, 0.3))
                found[name] = asyncio.run(load(server.port, requests, connections, seconds))
            one, other = (found[name].pop("answers") for name in DELAYS)
            for i in one.keys() & other.keys():
                worst = max(worst, float(np.abs(np.array(one[i]) - np.array(other[i])).max()))
            result[str(connections)] = found
            gain = found["shared"]["requests/s"] / found["alone"]["requests/s"]
            print(f"{candidates} candidates, {connections} connections: {gain:.2f} times the requests/s", flush=True)
            for name, numbers in found.items():
                print("   ", name, {k: round(v, 2) for k, v in numbers.items()}, flush=True)
        decided = (root / "shared.log").read_text().strip()
        result |= {"decided": decided or "not shared", "worst score difference": worst}
        print("   ", result["decided"])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": machine()}
    result |= {str(n): measure(n, options.seconds) for n in (10, 200)}
    targets: dict[str, tuple[float, str, float]] = {}
    for n in ("10", "200"):
        rates = [result[n]["1"][name]["requests/s"] for name in DELAYS]
        targets[f"{n} candidates: requests/s of one connection, shared / alone"] = (rates[1] / rates[0], ">=", 0.9)
        targets[f"{n} candidates: largest difference of a score"] = (result[n]["worst score difference"], "<=", 1e-5)
    code = judge(result, targets)
    print(f"wrote {save('shared_calls', result, options.json)}")
    sys.exit(code)


if __name__ == "__main__":
    main()
