"""Counters and latencies of a server, and what its store did not answer, in the Prometheus text format, 0.0.4."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from typing import final

from bedplate.exposition import family, header, sample
from bedplate.online.fallback import Degraded
from bedplate.online.guard import GuardedStore
from bedplate.online.resident import ResidentViews

_BOUNDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)


@final
class Metrics:
    """Requests by route and status, the seconds they took in the handler, and degraded rows by view.

    >>> metrics = Metrics()
    >>> metrics.observe("rank", 200, 0.0004)
    >>> print(metrics.text().splitlines()[2])
    bedplate_requests_total{route="rank",status="200"} 1
    """

    __slots__ = (
        "_behind", "_counts", "_degraded", "_histograms", "_joined", "_others", "_resident", "_steps", "_store",
    )  # fmt: skip

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], int] = {}
        self._degraded: dict[tuple[str, str], int] = {}
        self._steps: dict[tuple[str, str], int] = {}
        self._behind: Mapping[str, float] = {}
        self._store: GuardedStore | None = None
        self._resident: ResidentViews | None = None
        self._joined: Callable[[str], str] | None = None
        self._others: list[Callable[[], list[str]]] = []
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

    def observe_degraded(self, degraded: Mapping[str, Degraded]) -> None:
        """Counts the rows of one answer that are not as they should be, by the view's name, and the steps."""
        for view, found in degraded.items():
            if found.why:
                key = (view.removeprefix("step."), found.why)
                self._steps[key] = self._steps.get(key, 0) + 1
            for how, rows in found.counts().items():
                self._degraded[view, how] = self._degraded.get((view, how), 0) + rows

    def observe_behind(self, behind: Mapping[str, float]) -> None:
        """Keeps how far each view of an answer was behind, seconds by the view's name."""
        if behind.keys() == self._behind.keys():
            self._behind = behind
        else:
            self._behind = {**self._behind, **behind}

    def watch(self, store: GuardedStore, resident: ResidentViews | None = None) -> None:
        """Shows from now on how the reads of a store fail, and how old what is resident is."""
        self._store, self._resident = store, resident

    def add(self, lines: Callable[[], list[str]]) -> None:
        """Shows these lines too, which are asked for whenever somebody reads the metrics."""
        self._others.append(lines)

    def join(self, with_others: Callable[[str], str]) -> None:
        """From now on `text` is what this makes of the process's own text: with those of the processes beside it."""
        self._joined = with_others

    def text(self) -> str:
        """All of it, for a scraper."""
        return self.own_text() if self._joined is None else self._joined(self.own_text())

    def own_text(self) -> str:
        """What this process has counted."""
        counts = [({"route": r, "status": s}, count) for (r, s), count in sorted(self._counts.items())]
        lines = family("bedplate_requests_total", "counter", "Requests answered.", counts)
        lines += header("bedplate_request_seconds", "histogram", "Time in the handler.")
        for route, (buckets, total) in sorted(self._histograms.items()):
            seen = 0
            for bound, count in zip((*_BOUNDS, "+Inf"), buckets, strict=True):
                seen += count
                lines.append(sample("bedplate_request_seconds_bucket", {"route": route, "le": bound}, seen))
            lines.append(sample("bedplate_request_seconds_sum", {"route": route}, f"{total[0]:.6f}"))
            lines.append(sample("bedplate_request_seconds_count", {"route": route}, seen))
        others = [line for found in self._others for line in found()]
        return (
            "\n".join(
                [*lines, *self._of_degraded(), *self._of_behind(), *self._of_store(), *self._of_resident(), *others]
            )
            + "\n"
        )

    def _of_degraded(self) -> list[str]:
        steps = family(
            "bedplate_degraded_steps_total",
            "counter",
            "Answers in which a step of the pipeline was late, failed or was skipped.",
            [({"step": step, "why": why}, count) for (step, why), count in sorted(self._steps.items())],
        )
        return [*steps, *self._of_views()] if self._steps else self._of_views()

    def _of_views(self) -> list[str]:
        return family(
            "bedplate_degraded_rows_total",
            "counter",
            "Rows answered from the cache, without values, or without stale ones.",
            [({"view": view, "how": how}, rows) for (view, how), rows in sorted(self._degraded.items())],
        )

    def _of_behind(self) -> list[str]:
        if not self._behind:
            return []
        what = "How long before the time asked for a view's stream was last known to be taken in, in its last answer."
        shown = [({"view": view}, f"{seconds:.3f}") for view, seconds in sorted(self._behind.items())]
        return family("bedplate_behind_seconds", "gauge", what, shown)

    def _of_store(self) -> list[str]:
        if self._store is None:
            return []
        up = "Whether the online store is asked; 0: its reads failed a moment ago."
        failed = "Reads that the online store did not answer."
        counts = [({"reason": why}, count) for why, count in self._store.failed.items()]
        return [
            *family("bedplate_online_up", "gauge", up, [({}, int(self._store.is_up))]),
            *family("bedplate_online_failed_reads_total", "counter", failed, counts),
        ]

    def _of_resident(self) -> list[str]:
        if self._resident is None:
            return []
        ages = [({"view": view}, f"{age:.3f}") for view, age in sorted(self._resident.ages().items())]
        what = "How long ago the online store held what is resident; NaN: nothing."
        return family("bedplate_resident_age_seconds", "gauge", what, ages)


def view_lines(views: Collection[str], missing: Collection[str]) -> list[str]:
    """Whether the store holds each view.

    Args:
        views: the names of all that are served.
        missing: those that it does not hold.

    >>> view_lines(["lists", "wins"], ["wins"])[-2:]
    ['bedplate_view_up{view="lists"} 1', 'bedplate_view_up{view="wins"} 0']
    """
    what = "Whether the online store holds the view; 0: answers are made without it."
    return family("bedplate_view_up", "gauge", what, [({"view": view}, int(view not in missing)) for view in views])
