"""Bedplate's server beside Triton, MLServer, BentoML, LitServe, Ray Serve, KServe and FastAPI: one model, one payload.

    python benchmarks/serving_peers.py [--peers NAME=VENV ...] [--only PART ...] [--seconds N] [--rounds N]

Requests rank 200 candidates with a DCN-V2 of 26 ids and 13 numbers (the project of ranking_project.py). A peer is
NAME=VENV, the name of a file `peer_NAME.py` here (`rayserve-haproxy` is Ray Serve's HAProxy mode) and the folder of a
virtual environment that has the framework and onnxruntime. Each peer is asked in the leanest form that it takes: the
Open Inference Protocol's binary tensors, a raw body, or base64 in JSON. MLServer 1.7 with two workers needs
`uvloop<0.22` beside it: with a later one its worker processes end with "There is no current event loop".

Answers are first checked to be equal to 1e-5.
The load generator is a process of its own (open_loop.py) that keeps 1, 8 or 32 requests under way; it shares the cores
with the server, and its CPU time a request is printed. Where there are two workers, peers have two processes, instances
or replicas that run the model with one thread each. Servers are asked in turn, and medians of the rounds count.

    null      CPU of all of a server's processes for a request with a model that gives zeros, one worker, 8 clients
    tensor    the usual row-wise graph given tensors; `limit`: two processes that only run the graph; and `rank`, our
              request-once graph given ids, which reads features from LMDB: as it is by default, where a worker keeps
              what it computes of the 5,000 items alone, and with `--item-cache 0`, where it computes all of it
    sequence  the same for a network that encodes the last 100 actions, peers with both graphs
    open      requests at 70 % of what a closed loop reached: latencies when they come at equal distances, also of the
              graph alone in two processes, and when they come at random moments, where a queue of two servers that
              always take the same time has a p99 of 3.5 p50
    start     from the command to ready, and memory (PSS) with the model of zeros

Parts and peers can be measured in pieces: `--only tensor --peers ... --merge FILE` adds to a file. Ratios are always of
servers of one piece. Without peers, Bedplate is compared with the limit only. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from peer_models import Question, prepare, questions
from peers import Running, bedplate, limit, peer
from record import judge, machine, save
from served import generate
from serving_verdict import targets

CLIENTS = (1, 8, 32)
EQUAL = 1e-5
LIMITS = {"limit": "rows", "limit once": "once"}
"""The graphs that two processes run without a server; the second bounds what ids in could reach."""
PARTS = ("null", "tensor", "sequence", "open", "start")
Starting = Callable[[], AbstractContextManager[Running]]


class Piece:
    """What one run measures: a project, its requests, and the peers."""

    def __init__(self, root: Path, asked: list[Question], options: argparse.Namespace) -> None:
        self.root, self.asked, self.options = root, asked, options
        self.peers: dict[str, Path] = dict(options.peers)

    def ours(self, graph: str, workers: int, wire: str, *options: str) -> Starting:
        return functools.partial(bedplate, self.root, graph, workers, wire, self.asked, options)

    def theirs(self, graph: str, workers: int, wire: str) -> list[Starting]:
        model = graph if graph == "null" else str(self.root / f"{graph}.onnx")
        return [functools.partial(peer, k, v, model, workers, wire, self.asked) for k, v in self.peers.items()]

    def start(self, stack: ExitStack, starting: list[Starting], *, is_null: bool = False) -> list[Running]:
        """The servers that become ready, their answers checked. A peer that does not start is said and left out."""
        found: list[Running] = []
        for start in starting:
            try:
                running = stack.enter_context(start())
                expected = [np.zeros_like(q.scores) if is_null else q.scores for q in self.asked]
                worst = max(
                    float(np.abs(running.ask(r) - s).max()) for r, s in zip(running.requests, expected, strict=True)
                )
            except (SystemExit, OSError) as error:
                if start.func is bedplate:  # type: ignore[attr-defined]
                    raise
                print(f"left out: {error}", flush=True)
                continue
            if worst > EQUAL:
                raise SystemExit(f"{running.name}: scores differ by {worst:.1e}, expected at most {EQUAL:g}")
            found.append(running)
        return found

    def closed(self, running: Running, clients: int, seconds: float) -> dict[str, float]:
        """A closed loop: requests a second, milliseconds, and CPU milliseconds a request of server and generator."""
        phase = {"clients": clients, "seconds": seconds}
        generate(running.port, running.requests, [phase | {"seconds": 0.5}])
        before = running.cpu()
        (seen,) = generate(running.port, running.requests, [phase])
        spent, answered = running.cpu() - before, seen["statuses"].count(200)
        if answered < len(seen["statuses"]) or not answered:
            raise SystemExit(f"{running.name}: {len(seen['statuses']) - answered} requests failed")
        return {
            "requests/s": answered / seconds,
            **{f"p{q}": float(np.quantile(seen["milliseconds"], q / 100)) for q in (50, 99)},
            "cpu ms": spent / answered * 1e3,
            "generator cpu ms": seen["cpu"] / answered * 1e3,
        }

    def loops(self, servers: list[Running], graph: str, clients: tuple[int, ...] = CLIENTS) -> dict[str, Any]:
        """Servers in turn, for each number of clients; medians of the rounds, and the limit of the graph."""
        seconds, rounds = self.options.seconds, range(self.options.rounds)
        found: dict[str, Any] = {}
        for number in clients:
            taken: dict[str, list[dict[str, float]]] = {}
            for _ in rounds:
                for name, of in LIMITS.items() if graph != "null" else ():
                    many = min(number, 2)
                    calls, *_ = limit(self.root / f"{of}.onnx", self.asked[0], many, 2 // many, seconds)
                    taken.setdefault(name, []).append({"requests/s": calls})
                for running in servers:
                    taken.setdefault(running.name, []).append(self.closed(running, number, seconds))
            for name, rows in taken.items():
                medians = {k: statistics.median(r[k] for r in rows) for k in rows[0]}
                found.setdefault(name, {})[str(number)] = medians
                shown = "  ".join(f"{k} {v:.3g}" for k, v in medians.items())
                print(f"{number:3} clients  {name:28} {shown}", flush=True)
        return found

    def null(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for wire in ("binary", "json"):
            with ExitStack() as stack:
                starting = [self.ours("null", 1, wire), *self.theirs("null", 1, wire)]
                found |= self.loops(self.start(stack, starting, is_null=True), "null", (8,))
        return found

    def tensor(self) -> dict[str, Any]:
        starting = [self.ours("rows", 1, "binary"), self.ours("rows", 2, "binary"), self.ours("once", 2, "rank")]
        starting.append(self.ours("once", 2, "rank", "--item-cache", "0"))
        with ExitStack() as stack:
            return self.loops(self.start(stack, starting + self.theirs("rows", 2, "binary")), "rows")

    def sequence(self) -> dict[str, Any]:
        starting = [self.ours("once", 2, "rank"), self.ours("once", 2, "binary")]
        starting += self.theirs("rows", 2, "binary") + self.theirs("once", 2, "binary")
        with ExitStack() as stack:
            return self.loops(self.start(stack, starting), "rows", (8,))

    def open(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        starting = [self.ours(graph, n, wire) for graph, wire in (("rows", "binary"), ("once", "rank")) for n in (1, 2)]
        starting += self.theirs("rows", 2, "binary")
        for name, of in LIMITS.items():
            graph, seconds = (self.root / f"{of}.onnx", self.asked[0], 2, 1), self.options.seconds
            rate, p50, p99 = limit(*graph, seconds, 0.7 * limit(*graph, seconds)[0])
            found[name] = {"requests/s": rate, "even": {"p50": p50, "p99": p99, "p99 / p50": p99 / p50}}
            print(f"open loop  {name:28} {found[name]}", flush=True)
        with ExitStack() as stack:
            for running in self.start(stack, starting):
                capacity = self.closed(running, 8, self.options.seconds)["requests/s"]
                found[running.name] = {"requests/s": 0.7 * capacity}
                for arrivals in ("even", "random"):
                    found[running.name][arrivals] = self.paced(running, 0.7 * capacity, even=arrivals == "even")
                print(f"open loop  {running.name:28} {found[running.name]}", flush=True)
        return found

    def paced(self, running: Running, rate: float, *, even: bool) -> dict[str, float]:
        """An open loop at a rate: medians of the rounds of milliseconds."""
        phase = {"rate": rate, "seconds": self.options.seconds, "even": even}
        phases = [phase | {"seed": i} for i in range(self.options.rounds + 1)]
        seen = generate(running.port, running.requests, phases)[1:]
        rows = [{f"p{q}": float(np.quantile(s["milliseconds"], q / 100)) for q in (50, 99)} for s in seen]
        return {
            **{k: statistics.median(r[k] for r in rows) for k in rows[0]},
            "p99 / p50": statistics.median(r["p99"] / r["p50"] for r in rows),
            "generator late ms": max(s["late"] for s in seen) * 1e3,
        }

    def begin(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for start in [self.ours("null", 1, "binary"), *self.theirs("null", 1, "binary")]:
            rows: list[dict[str, float]] = []
            for _ in range(self.options.rounds):
                with ExitStack() as stack:
                    for running in self.start(stack, [start], is_null=True):
                        rows.append({"ready s": running.started, "MB": running.megabytes()})
            if rows:
                found[running.name] = {k: statistics.median(r[k] for r in rows) for k in rows[0]}
                print(f"start  {running.name:28} {found[running.name]}", flush=True)
        return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for sequence in (False, True):
        parts = [p for p in options.only if (p == "sequence") == sequence]
        if not parts:
            continue
        with tempfile.TemporaryDirectory() as folder:
            bench = prepare(Path(folder), sequence=sequence)
            piece = Piece(Path(folder), questions(bench, options.requests), options)
            for part in parts:
                found[part] = piece.begin() if part == "start" else getattr(piece, part)()
    return found


def named(text: str) -> tuple[str, Path]:
    name, _, venv = text.partition("=")
    if not (Path(venv) / "bin" / "python").exists():
        raise argparse.ArgumentTypeError(f"got '{text}', expected NAME=VENV, VENV being a virtual environment")
    return name, Path(venv).absolute()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", default=[], type=named, metavar="NAME=VENV")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=40, help="different requests")
    parser.add_argument("--merge", type=Path, help="add to this result and judge all of it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pieces: list[dict[str, Any]] = []
    if options.merge is not None and options.merge.exists():
        pieces = json.loads(options.merge.read_text())["pieces"]
    settings = {"seconds": options.seconds, "rounds": options.rounds, "requests": options.requests}
    pieces.append({"machine": machine(), **settings, "parts": measure(options)})
    result: dict[str, Any] = {"pieces": pieces}
    code = judge(result, targets(pieces))
    print(f"wrote {save('serving_peers', result, options.merge or options.json)}")
    sys.exit(code)


if __name__ == "__main__":
    main()
