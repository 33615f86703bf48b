"""Files that are read again when they change, such as a certificate that is renewed or a list of tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

from bedplate.errors import BedplateError
from bedplate.http.board import Seat

log = logging.getLogger("bedplate.serving")


@final
class Watched:
    """Files and what to do when one of them is another one than before.

    Args:
        paths: the files. They may be links.
        reload: reads them. Where it raises, what was read before stays, and that is logged.
        seat: of this worker among those that see the same; the first of them logs. None: it is alone.
    """

    def __init__(self, paths: Sequence[Path], reload: Callable[[], None], seat: Seat | None = None) -> None:
        self._paths, self._reload, self._seat = paths, reload, seat
        self._seen = self._state()

    def look(self) -> None:
        """Reads the files again if one has changed."""
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        names = ", ".join(map(str, self._paths))
        says = self._seat is None or self._seat.is_first
        try:
            self._reload()
        except BedplateError as error:
            log.log(
                logging.ERROR if says else logging.DEBUG,
                "%s changed and can't be used; what was read before stays: %s",
                names,
                error,
            )
        else:
            log.log(logging.WARNING if says else logging.DEBUG, "%s changed and is in use", names)

    def _state(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                seen = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((seen.st_mtime_ns, seen.st_size, seen.st_ino))
        return found
