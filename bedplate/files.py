"""Files and folders that are wholly there or not at all, whatever is killed and whenever.

Everything is written aside in the same folder, flushed to the disk and renamed. What a killed process left aside starts
with a dot and ends with `.tmp`, carries the name of its process, and `remove_leftovers` deletes it once that is gone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Generator
from pathlib import Path

import msgspec

from bedplate.errors import StoreError
from bedplate.process import process_alive, process_token

ASIDE_SUFFIX = ".tmp"


def aside(target: Path) -> Path:
    """A new name beside `target` for writing it: hidden, unique, and carrying the name of this process.

    >>> aside(Path("folder/7")).parent, aside(Path("folder/7")).name.startswith(".7.")
    (PosixPath('folder'), True)
    """
    return target.with_name(f".{target.name}.{process_token()}.{secrets.token_hex(4)}{ASIDE_SUFFIX}")


def fsync_file(path: Path) -> None:
    """Flushes the content of a file to the disk."""
    _fsync(path, os.O_RDONLY)


def fsync_dir(folder: Path) -> None:
    """Flushes a folder's list of names to the disk: what was created, renamed or deleted in it stays so."""
    _fsync(folder, os.O_RDONLY | os.O_DIRECTORY)


def fsync_tree(folder: Path) -> None:
    """Flushes every file and folder below `folder`, and itself, to the disk."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            fsync_file(Path(parent, name))
        fsync_dir(Path(parent))


def write_atomic(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or the next start after a crash, finds the old content or the new, never a part.

    Args:
        path: the file; its folder exists.
        content: the whole content.

    Raises:
        OSError: the folder is not there or can't be written, or the disk is full; the old content is untouched.
    """
    temporary = aside(path)
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def write_record(path: Path, record: bytes, what: str) -> None:
    """Writes a record of JSON, in the form that people read, unless the file says exactly this already.

    Args:
        path: the file; its folder is made if missing.
        record: the JSON.
        what: what a message calls it, such as "what was applied".

    Raises:
        StoreError: the file can't be written; the old record is untouched.
    """
    content = msgspec.json.format(record) + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != content:
            write_atomic(path, content)
    except OSError as error:
        raise StoreError(
            f"can't record {what}: {error.strerror or error}",
            where=str(path),
            hint="check free space and permissions; what was built is kept",
        ) from error


@contextlib.contextmanager
def new_folder(target: Path) -> Generator[Path]:
    """Gives an empty folder aside to be filled; it is moved to `target` at the end, or deleted if an error is raised.

    For content-addressed folders: when another process was first, its folder is kept and this one is deleted.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> with new_folder(root / "index") as folder:
    ...     _ = (folder / "part").write_bytes(b"...")
    >>> [str(p.relative_to(root)) for p in sorted(root.rglob("*"))]
    ['index', 'index/part']

    Raises:
        OSError: the folder can't be created, flushed or moved.
    """
    temporary = aside(target)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        fsync_tree(temporary)
        move_folder(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move_folder(folder: Path, target: Path) -> bool:
    """Renames a complete folder to `target` unless that is there already; True if this call put it there.

    The content must have been flushed (`fsync_tree`). An empty folder at `target` counts as not there.

    Raises:
        OSError: it can't be renamed, for another reason than that `target` is there.
    """
    try:
        folder.rename(target)
    except OSError:
        if target.is_dir():
            return False
        raise
    fsync_dir(target.parent)
    return True


def leftovers(folder: Path) -> list[Path]:
    """What processes that are gone left aside in a folder (not below it)."""
    if not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if p.name.startswith(".") and p.name.endswith(ASIDE_SUFFIX))
    return sorted(p for p in found if p.name.count(".") > 3 and not process_alive(p.name.split(".")[-3]))


def remove_leftovers(folder: Path) -> int:
    """Deletes what processes that are gone left aside in a folder (not below it); how many there were."""
    gone = leftovers(folder)
    for path in gone:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(gone)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
