"""Putting finished folders in place: flushed to the disk, then renamed, while the next ones are being filled."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, final

from bedplate.files import aside, fsync_tree, move_folder


@final
class Sealer:
    """Gives empty folders aside, and puts them in place in the order in which they were filled.

    Leaving the block waits for all of them. A folder whose filling failed is deleted; those filled before stay. When
    another process was first, its folder is kept.

    Args:
        root: where folders are filled; on the file system of their targets.
    """

    __slots__ = ("_pool", "_root", "_waiting")

    def __init__(self, root: Path) -> None:
        self._root = root
        self._pool = ThreadPoolExecutor(1)
        self._waiting: list[Future[None]] = []

    def __enter__(self) -> Self:
        """The sealer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Waits for every folder; raises the first error of putting one in place."""
        self._pool.shutdown(wait=True)
        for future in self._waiting:
            if error is None:
                future.result()

    @contextlib.contextmanager
    def folder(self, target: Path) -> Generator[Path]:
        """An empty folder that will be at `target`; files in it may be mapped at once and stay mapped."""
        temporary = aside(self._root / target.name)
        temporary.mkdir()
        try:
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._waiting.append(self._pool.submit(_seal, temporary, target))


def _seal(folder: Path, target: Path) -> None:
    try:
        fsync_tree(folder)
        move_folder(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
