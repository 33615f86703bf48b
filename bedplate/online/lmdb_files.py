"""The files of an LMDB store: its lock file, and whether anybody can change them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from bedplate.files import aside, remove_leftovers

DATA, LOCK = "data.mdb", "lock.mdb"

_LOCK_BYTES = 1 << 16  # a header and 64 bytes for each of 1022 readers
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


def make_lock_file(folder: Path) -> None:
    """Makes a store's lock file where there is none, with room on the disk for all of it.

    LMDB makes it with holes and writes it through a map: on a full disk that ends the process with SIGBUS.

    Raises:
        OSError: the disk is full, or the folder can't be written; there is no lock file then.
    """
    path = folder / LOCK
    if path.exists():
        return
    remove_leftovers(folder)
    made = aside(path)
    try:
        descriptor = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        # Closed before it has its name: who closes a lock file gives up the locks that its process has on it.
        try:
            os.posix_fallocate(descriptor, 0, _LOCK_BYTES)
        finally:
            os.close(descriptor)
        os.link(made, path)
    except FileExistsError:
        return  # another process was first
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    finally:
        made.unlink(missing_ok=True)
