"""How much memory is free, for work that can't be done in parts."""

from __future__ import annotations

from pathlib import Path

from bedplate.errors import DataError

_GROUP = Path("/sys/fs/cgroup")
_MEMORY = Path("/proc/meminfo")


def available() -> int | None:
    """Bytes that this process may still take, by the machine and by its control group; None: not known."""
    found: list[int] = []
    try:
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines() if ":" in line)
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass
    try:
        most = int((_GROUP / "memory.max").read_text())
        found.append(most - int((_GROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no such group, or no limit, which is the word "max"
        pass
    return min(found, default=None)


def require_memory(needed: int, what: str, place: str) -> None:
    """Checks that there is memory for what can't be done in parts.

    Args:
        needed: bytes.
        what: needs it.
        place: what a message calls the place.

    Raises:
        DataError: there is not.
    """
    free = available()
    if free is not None and needed > free:
        raise DataError(
            f"{what} needs about {needed / 1e9:.1f} GB of memory, and {max(free, 0) / 1e9:.1f} GB are free",
            where=place,
            hint="train on fewer rows or inputs, on a machine with more memory, or take a network, which is trained "
            "batch by batch",
        )
