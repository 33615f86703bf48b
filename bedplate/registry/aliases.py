"""Aliases of a model's versions, such as `champion`, with their whole history.

The history is the truth, and it is a plain file: `models/<name>/aliases.jsonl`, one line a change, appended and flushed
to the disk under the registry's write lock. SQLite mirrors it. A file was chosen over keeping it in SQLite alone
because then nothing is lost with the index, and a person can read who promoted what with any tool. A line that a killed
process left incomplete was never acknowledged; the next writer cuts it off.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bedplate.errors import StoreError
from bedplate.files import fsync_dir

LOG_NAME = "aliases.jsonl"


class AliasChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change of an alias.

    Attributes:
        sequence: from 1, over all aliases of the model.
        time: microseconds since the epoch.
        alias: the alias.
        action: `promote` or `rollback`.
        previous: the version that held it before, or None.
        version: the version that holds it from now on.
        who: `user@host`.
        reason: what was given as the reason.
    """

    sequence: int
    time: int
    alias: str
    action: str
    previous: int | None
    version: int
    who: str
    reason: str | None = None


def current_user() -> str:
    """`user@host` of this process; the user's number where it has no name.

    >>> "@" in current_user()
    True
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def holders(changes: Iterable[AliasChange]) -> list[int]:
    """The versions that one alias went through, oldest first, the present holder last; a rollback takes one away.

    >>> def change(action: str, version: int) -> AliasChange:
    ...     facts = {"sequence": 1, "time": 0, "alias": "champion", "previous": None, "who": "me@host"}
    ...     return AliasChange(action=action, version=version, **facts)
    >>> holders([change("promote", 1), change("promote", 2), change("rollback", 1), change("promote", 3)])
    [1, 3]
    """
    stack: list[int] = []
    for change in changes:
        if change.action == "rollback":
            stack.pop()
        else:
            stack.append(change.version)
    return stack


def read_log(path: Path, start: int = 0) -> tuple[list[AliasChange], int]:
    """The changes from byte `start` on, and the byte after the last complete line.

    Raises:
        StoreError: a complete line is damaged.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            content = file.read()
    except FileNotFoundError:
        return [], 0
    complete = content[: content.rfind(b"\n") + 1]
    changes: list[AliasChange] = []
    for line in complete.splitlines():
        try:
            changes.append(msgspec.json.decode(line, type=AliasChange))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError(
                f"a line of the alias history is damaged: {error}: {line[:80]!r}",
                where=str(path),
                hint="restore the file from a backup, or take the damaged line out by hand",
            ) from error
    return changes, start + len(complete)


def append_log(path: Path, change: AliasChange, end: int) -> int:
    """Appends a change after byte `end` and flushes it to the disk; the new end.

    What stands behind `end` is the incomplete line of a killed process and is cut off.

    Raises:
        OSError: it can't be written; the file is as it was.
    """
    line = msgspec.json.encode(change) + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.ftruncate(descriptor, end)
        try:
            written = os.pwrite(descriptor, line, end)
            if written != len(line):
                raise OSError(28, "the disk is full")
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)
    if end == 0:
        fsync_dir(path.parent)
    return end + len(line)
