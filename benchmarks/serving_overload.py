"""What becomes of a service that is asked for three times what it can do.

    python benchmarks/serving_overload.py [--seconds N] [--workers N] [--json FILE]

The project, the DCN and the requests of 200 candidates are those of `ranking_project.py`. `bedplate serve` runs as a
process of its own, the load generator (`open_loop.py`) as another one. In one run:

    capacity    8 clients in a closed loop, without deadlines: requests answered a second
    overload    three times as many requests a second at random moments, each with 50 ms, for 60 s
    recovery    half of the capacity, at once after the overload

Accepted is what was answered, or given up after it had waited for its turn. Targets: at least 99 % of the accepted
answered within their 50 ms, as the client measures them; answers in time at least 85 % of the capacity; no more memory
at the end of the overload than a tenth into it (2 % for what an allocator does); and from 2 s
after it on, 99 % of the requests of every second answered in time again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from ranking_project import Bench, rank_request
from record import machine
from served import Served, command, generate

DEADLINE_MS = 50.0
RECOVERY_SECONDS = 6.0
STEP = 0.25
"""Seconds over which recovery is looked at."""


def refused_late(before: dict[str, float], after: dict[str, float]) -> float:
    """Requests that were given up after they had waited: those that had entered the queue and had no turn."""
    names = ('bedplate_given_up_total{reason="deadline"}', 'bedplate_given_up_total{reason="expired"}')
    return sum(after.get(name, 0.0) - before.get(name, 0.0) for name in names)


def recovered_after(phase: dict[str, Any]) -> float:
    """The seconds after which 99 % of the requests of every second are answered in time; infinity: never."""
    moments = np.array(phase["moments"])
    good = (np.array(phase["statuses"]) == 200) & (np.array(phase["milliseconds"]) <= DEADLINE_MS)
    recovered = 0.0
    for begin in np.arange(0.0, RECOVERY_SECONDS - 1.0, STEP):
        within = (moments >= begin) & (moments < begin + 1.0)
        if good[within].mean() < 0.99:
            recovered = float(begin) + STEP
    return recovered if recovered < RECOVERY_SECONDS - 2.0 else float("inf")


def measure(root: Path, seconds: float, workers: int) -> dict[str, Any]:
    bench = Bench(root)
    requests = [rank_request(*bench.draw()) for _ in range(200)]
    header = {"X-Request-Timeout-Ms": f"{DEADLINE_MS:g}"}
    with Served(root, "serve", "full", "--workers", str(workers)) as served, served.watched() as watched:
        closed = {"clients": 8, "seconds": 3.0}
        generate(served.port, requests, [closed])
        seen = generate(served.port, requests, [closed | {"seconds": 8.0}])[0]
        capacity = seen["statuses"].count(200) / 8.0
        before, begin = served.metrics(), len(watched)
        overload = {"rate": 3 * capacity, "seconds": seconds, "headers": header}
        recovery = {"rate": capacity / 2, "seconds": RECOVERY_SECONDS, "headers": header}
        flood, after = generate(served.port, requests, [overload, recovery])
        samples = watched[begin : begin + int(seconds)]
        late = refused_late(before, served.metrics())
    statuses, taken = np.array(flood["statuses"]), np.array(flood["milliseconds"])
    in_time = int(((statuses == 200) & (taken <= DEADLINE_MS)).sum())
    accepted = int((statuses == 200).sum()) + late
    tenth = max(1, len(samples) // 10)
    memory = [s["MB"] for s in samples]
    counts = {str(s): int((statuses == s).sum()) for s in np.unique(statuses)}
    answered = taken[statuses == 200]
    return {
        "machine": machine(),
        "workers": workers,
        "seconds": seconds,
        "capacity requests/s": capacity,
        "capacity ms": {f"p{q}": float(np.quantile(seen["milliseconds"], q / 100)) for q in (50, 99)},
        "sent requests/s": len(statuses) / seconds,
        "statuses": counts,
        "given up after waiting": late,
        "answered ms": {f"p{q}": float(np.quantile(answered, q / 100)) for q in (50, 99, 99.9)},
        "refused ms": {f"p{q}": float(np.quantile(taken[statuses != 200], q / 100)) for q in (50, 99)},
        "in time of the accepted": in_time / accepted,
        "goodput of the capacity": in_time / seconds / capacity,
        "memory growth": float(np.median(memory[-tenth:]) / np.median(memory[tenth : 2 * tenth])) - 1.0,
        "recovered after s": recovered_after(after),
        "generator late ms": max(flood["late"], after["late"]) * 1e3,
        "descriptors": max(s["descriptors"] for s in samples),
        "memory MB": memory[-1],
    }


def targets(result: dict[str, Any]) -> dict[str, tuple[float, str, float]]:
    return {
        "in time of the accepted": (result["in time of the accepted"], ">=", 0.99),
        "goodput of the capacity": (result["goodput of the capacity"], ">=", 0.85),
        "memory growth": (result["memory growth"], "<=", 0.02),
        "recovered after s": (result["recovered after s"], "<=", 2.0),
    }


if __name__ == "__main__":
    sys.exit(command("serving_overload", __doc__, measure, targets, seconds=60.0, workers=1))
