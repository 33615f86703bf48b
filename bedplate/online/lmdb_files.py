"""The files of an LMDB store: its lock file, the disk that they are on, and whether anybody can change them."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from bedplate.files import aside, remove_leftovers

DATA, LOCK = "data.mdb", "lock.mdb"

_LOCK_BYTES = 1 << 16  # a header and 64 bytes for each of 1022 readers
_FULL = 64 << 20  # bytes: with less LMDB may have no room for a step
_MOUNTS = Path("/proc/self/mountinfo")
_OF_ONE_KERNEL = (b"ext2", b"ext3", b"ext4", b"xfs", b"f2fs", b"squashfs", b"erofs", b"iso9660", b"tmpfs")
"""File systems that only the machine that has them mounted can write, unlike those over a network or over others."""
_READ_ONLY = frozenset({b"ro", b"emergency_ro"})  # the second after an error of the disk, as newer kernels have it
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


def disk_of(folder: Path) -> str:
    """How the disk of a folder is, as a message says it: LMDB calls a full one an input/output error."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return "the disk of the folder can't be asked for its free space"
    limit = "full" if free < _FULL else "faulty, or there is a limit on the size of files"
    return f"the disk of the folder has {free:,} bytes free and is {limit}"


def is_frozen(folder: Path) -> bool:
    """Whether nobody can write into a folder, as its whole file system is mounted read-only; False where it is unsure.

    A mount that is read-only of a file system that is not can be written through another one, as into a container.
    """
    try:
        device = folder.stat().st_dev
        mounts = _MOUNTS.read_bytes().split(b"\n")  # paths may be of any bytes
    except OSError:
        return False
    wanted = f"{os.major(device)}:{os.minor(device)}".encode()
    for mount in mounts:
        # number parent device root place options [more...] - kind source options-of-the-file-system
        own, _, shared = mount.partition(b" - ")
        if own.split(b" ")[2:3] == [wanted]:
            kind, *_, options = shared.split(b" ")
            return kind in _OF_ONE_KERNEL and not _READ_ONLY.isdisjoint(options.split(b","))
    return False
