"""Which process something belongs to, and whether that is still there: so what a killed one left behind is known.

A process is named by machine, boot, process namespace, pid and start: a pid alone is used again, and containers on one
machine count their pids on their own.
"""

from __future__ import annotations

import functools
import hashlib
import os
import socket
from pathlib import Path

from bedplate.errors import ConfigError

MOST_PER_CORE = 8
"""So many threads or processes may be asked for, for each core: more only wait for each other, or are too many for the
system, which some libraries do not survive."""

_GONE = ("Z", "X", "x")
_BOOT, _SPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")


def cores() -> int:
    """How many cores of the machine this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_per_core(count: int, said: str, where: str) -> None:
    """Checks that so many threads or processes are not far more than the machine has cores.

    Args:
        count: how many are asked for.
        said: what says so, such as `n_jobs`.
        where: it is said.

    Raises:
        ConfigError: they are.

    >>> check_per_core(4, "n_jobs", "params")
    >>> check_per_core(100_000, "n_jobs", "params")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    bedplate.errors.ConfigError: params: n_jobs is 100,000, expected at most 16: 8 for each of this machine's 2 cores
    """
    own = cores()
    if count > MOST_PER_CORE * own:
        machine = f"this machine's {own} cores" if own > 1 else "this machine's cores, of which there is 1"
        raise ConfigError(
            f"{said} is {count:,}, expected at most {MOST_PER_CORE * own}: {MOST_PER_CORE} for each of {machine}",
            where=where,
        )


def process_token() -> str:
    """The name of this process, `machine-boot-namespace-pid-start`: letters, digits and hyphens, about 45 of them.

    >>> process_alive(process_token())
    True
    """
    return f"{_place()}-{os.getpid()}-{_start_of(os.getpid()) or '0'}"


def process_alive(token: str) -> bool:
    """Whether the process of a token may still be running.

    A process of another machine or another container can't be seen from here and counts as running.

    >>> machine, boot, space, pid, _ = process_token().split("-")
    >>> process_alive(f"{machine}-{boot}-{space}-{pid}-1")  # the pid was used again
    False
    """
    machine, boot, space, pid, start = (*token.split("-"), *[""] * 5)[:5]
    here_machine, here_boot, here_space = _place().split("-")
    if machine != here_machine:
        return True
    if boot != here_boot:
        return False
    if space != here_space or not pid.isdigit():
        return True
    found = _start_of(int(pid))
    return found is not None and found in (start, "0")


def process_gone(token: str) -> bool:
    """Whether the process of a token surely runs no more: as this one sees itself, on the same boot of the same kernel.

    Unlike `process_alive` it takes no machine of the same name for this one, and knows nothing where the system does
    not say on which boot and in which process namespace (container) it is: then it is False.

    >>> machine, boot, space, pid, start = process_token().split("-")
    >>> process_gone(f"{machine}-{boot}-{space}-{pid}-{start}")
    False
    >>> process_gone(f"{machine}-00000000-{space}-{pid}-{start}")  # another boot, or another machine of this name
    False
    """
    *place, pid, start = ("", "", *token.split("-"))[-5:]
    if "-".join(place) != _place() or not pid.isdigit() or not _sees_itself():
        return False
    found = _start_of(int(pid))
    return found is None or (found != start and "0" not in (found, start))


def _sees_itself() -> bool:
    """Whether `/proc` is the one of this process's namespace, and boot and namespace are known."""
    try:
        return _BOOT.exists() and _SPACE.is_symlink() and Path("/proc/self").readlink() == Path(str(os.getpid()))
    except OSError:
        return False


def _start_of(pid: int) -> str | None:
    """When a process started (clock ticks since boot; "0" where the system doesn't say), or None: it is not there."""
    try:
        # The command in parentheses may hold spaces and parentheses, the fields after it don't.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it is not there, or is somebody else's where /proc hides those
        return _signalled(pid)
    return None if fields[0] in _GONE else fields[19]


def _signalled(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "0"
    return "0"


@functools.cache
def _place() -> str:
    """Machine, boot and process namespace, 8 hexadecimal digits each."""
    parts = [
        socket.gethostname(),
        _BOOT.read_text() if _BOOT.exists() else "",
        str(_SPACE.readlink()) if _SPACE.is_symlink() else "",
    ]
    return "-".join(hashlib.blake2b(part.encode(), digest_size=4).hexdigest() for part in parts)
