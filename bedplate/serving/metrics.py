"""Counters and latencies in the Prometheus text format, version 0.0.4."""

from __future__ import annotations

from bisect import bisect_left
from typing import final

_BOUNDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)


@final
class Metrics:
    """Requests by route and status, and the seconds they took in the handler.

    >>> metrics = Metrics()
    >>> metrics.observe("rank", 200, 0.0004)
    >>> print(metrics.text().splitlines()[2])
    bedplate_requests_total{route="rank",status="200"} 1
    """

    __slots__ = ("_counts", "_histograms")

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], int] = {}
        self._histograms: dict[str, tuple[list[int], list[float]]] = {}

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Counts one answered request."""
        key = (route, status)
        self._counts[key] = self._counts.get(key, 0) + 1
        found = self._histograms.get(route)
        if found is None:
            found = self._histograms[route] = ([0] * (len(_BOUNDS) + 1), [0.0])
        found[0][bisect_left(_BOUNDS, seconds)] += 1
        found[1][0] += seconds

    def text(self) -> str:
        """All of it, for a scraper."""
        lines = [
            "# HELP bedplate_requests_total Requests answered.",
            "# TYPE bedplate_requests_total counter",
            *(
                f'bedplate_requests_total{{route="{route}",status="{status}"}} {count}'
                for (route, status), count in sorted(self._counts.items())
            ),
            "# HELP bedplate_request_seconds Time in the handler.",
            "# TYPE bedplate_request_seconds histogram",
        ]
        for route, (buckets, total) in sorted(self._histograms.items()):
            seen = 0
            for bound, count in zip((*_BOUNDS, "+Inf"), buckets, strict=True):
                seen += count
                lines.append(f'bedplate_request_seconds_bucket{{route="{route}",le="{bound}"}} {seen}')
            lines.append(f'bedplate_request_seconds_sum{{route="{route}"}} {total[0]:.6f}')
            lines.append(f'bedplate_request_seconds_count{{route="{route}"}} {seen}')
        return "\n".join(lines) + "\n"
