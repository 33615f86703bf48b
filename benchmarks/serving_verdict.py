"""What the pieces of serving_peers.py say together: every ratio is of servers of one piece."""

from __future__ import annotations

import statistics
from typing import Any

Targets = dict[str, tuple[float, str, float]]
LIMIT, ONE, TWO = "limit", "bedplate binary rows x1", "bedplate binary rows x2"
RANK = "bedplate rank once x2"


def targets(pieces: list[dict[str, Any]]) -> Targets:
    """The targets of all parts that were measured; a part of several pieces counts with the median of its ratios."""
    found: Targets = {}
    for judged in (_null, _tensor, _sequence, _open, _start):
        name = judged.__name__.strip("_")
        measured = [piece["parts"][name] for piece in pieces if name in piece["parts"]]
        if measured:
            found |= judged(measured)
    return found


def _null(parts: list[dict[str, Any]]) -> Targets:
    bounds = {"binary": 0.10, "json": 0.50}
    return {
        f"null model, CPU ms a {wire} request": (
            statistics.median(p[f"bedplate {wire} null x1"]["8"]["cpu ms"] for p in parts), "<=", bound,
        )
        for wire, bound in bounds.items()
    }  # fmt: skip


def _tensor(parts: list[dict[str, Any]]) -> Targets:
    found: Targets = {}
    for clients in ("8", "32"):
        shares = [max(rate(p, ONE, clients), rate(p, TWO, clients)) / rate(p, LIMIT, clients) for p in parts]
        found[f"tensors, {clients} clients: share of the limit"] = (statistics.median(shares), ">=", 0.9)
        found |= _beside(parts, clients, "ids in / best peer given tensors", "rows x2", 1.6)
    return found


def _sequence(parts: list[dict[str, Any]]) -> Targets:
    return _beside(parts, "8", "100 actions, ids in / best peer given tensors, row by row", "rows x2", 3.0)


def _beside(parts: list[dict[str, Any]], clients: str, what: str, kind: str, target: float) -> Targets:
    """Our ids-in requests against the peer that is best beside them; nothing where no peer was measured."""
    ratios = {
        name: rate(p, RANK, clients) / rate(p, name, clients)
        for p in parts
        for name in p
        if name.endswith(kind) and not name.startswith("bedplate")
    }
    if not ratios:
        return {}
    best = min(ratios, key=ratios.__getitem__)
    return {f"{what} ({best.split()[0]}), {clients} clients": (ratios[best], ">=", target)}


def _open(parts: list[dict[str, Any]]) -> Targets:
    """Even arrivals, the better number of workers; with random ones any server misses it, see serving_peers.py."""
    best = {
        what: min(statistics.median(p[name]["even"]["p99 / p50"] for p in parts) for name in names)
        for what, names in {"tensors": (ONE, TWO), "ids in": (RANK.replace("x2", "x1"), RANK)}.items()
    }
    return {f"{what} at 70 % of capacity: p99 / p50": (ratio, "<=", 1.5) for what, ratio in best.items()}


def _start(parts: list[dict[str, Any]]) -> Targets:
    ours = [p["bedplate binary null x1"] for p in parts]
    return {
        "from the command to ready, s": (statistics.median(o["ready s"] for o in ours), "<=", 1.0),
        "memory without a model, MB": (statistics.median(o["MB"] for o in ours), "<=", 80.0),
    }


def rate(part: dict[str, Any], name: str, clients: str) -> float:
    """Requests a second."""
    return float(part[name][clients]["requests/s"])
