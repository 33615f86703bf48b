"""Removing runs, so that a kill leaves each of them whole or gone.

The folder is renamed aside, where nobody sees it, then the row is deleted, then the files. A process that is killed
between these leaves what the next opening of the registry clears away (see `recovery`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bedplate.errors import StoreError
from bedplate.files import aside, fsync_dir
from bedplate.registry import recovery
from bedplate.registry.index import Index
from bedplate.registry.recovery import RUNS
from bedplate.registry.references import Removal, examine


def remove(root: Path, index: Index, ids: Sequence[str], *, skip_kept: bool) -> Removal:
    """Removes runs, see `Registry.remove_runs`.

    Raises:
        NotFoundError, StoreError: see there.
        OSError: a folder can't be renamed; all are where they were.
    """
    hidden: dict[Path, Path] = {}
    try:
        with index.write() as db:
            recovery.catch_up(root, db)  # a version that a killed process registered counts too
            found = examine(root, db, ids, skip_kept=skip_kept)
            for folder in found.folders(root):
                hidden[folder] = aside(folder)
                folder.rename(hidden[folder])
                recovery.delete_run(db, folder.name)
            fsync_dir(root / RUNS)
    except BaseException:
        for folder, other in hidden.items():
            if other.is_dir():
                other.rename(folder)
        raise
    size = sum(map(bytes_below, hidden.values()))
    for folder in hidden.values():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise StoreError(
                f"the runs are removed, but a file of theirs can't be deleted: {error.strerror or error}",
                where=str(error.filename or folder),
                hint=f"check who owns it, and delete what is left by hand: {folder}",
            ) from error
    return msgspec.structs.replace(found, bytes=size)


def bytes_below(folder: Path) -> int:
    """The bytes of all files in a folder and below it."""
    return sum(Path(parent, name).lstat().st_size for parent, _, names in os.walk(folder) for name in names)
