"""What a scraper reads of the load: who waits, who was refused and why, and how connections stand."""

from __future__ import annotations

from bedplate.exposition import family
from bedplate.http.turns import GONE, HIGH, LOW, NORMAL, PROBE, Turns

_NAMES = {PROBE: "probe", HIGH: "high", NORMAL: "normal", LOW: "low", GONE: "closed"}


def load_lines(turns: Turns, connections: int) -> list[str]:
    """The samples of one process's queue.

    Args:
        turns: the queue.
        connections: that are open.

    >>> print(load_lines(Turns(), 3)[2])
    bedplate_connections 3
    """
    tally = turns.tally
    refused = [
        ({"reason": reason, "priority": _NAMES[priority]}, count)
        for (reason, priority), count in sorted(tally.refused.items())
    ]
    given_up = [({"reason": reason}, count) for reason, count in sorted(tally.given_up.items())]
    return [
        *family("bedplate_connections", "gauge", "Connections that are open.", [({}, connections)]),
        *family("bedplate_waiting_requests", "gauge", "Requests that wait for their turn.", [({}, turns.waiting)]),
        *family(
            "bedplate_expected_wait_seconds",
            "gauge",
            "What a request of normal priority would wait now, by estimate.",
            [({}, f"{turns.expected_wait:.6f}")],
        ),
        *family("bedplate_turns_total", "counter", "Requests that had their turn.", [({}, tally.turns)]),
        *family(
            "bedplate_wait_seconds_total",
            "counter",
            "What these have waited for it in all.",
            [({}, f"{tally.wait_seconds:.6f}")],
        ),
        *family("bedplate_refused_total", "counter", "Requests that were not worked on.", refused),
        *family("bedplate_given_up_total", "counter", "Those of them that had waited for their turn.", given_up),
        *family("bedplate_late_total", "counter", "Requests answered after their deadline.", [({}, tally.late)]),
    ]
