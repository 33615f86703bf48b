"""Progress on standard error: on a terminal one line that is written over, else plain lines."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import Self, TextIO, final

_CLEAR = "\r\x1b[K"
_SECONDS = 0.1


@final
class ProgressLine:
    """Shows the steps of a command as they begin; used in a `with` block, which leaves no half line behind.

    Args:
        every: seconds between two plain lines; steps in between are not shown. A terminal's line changes at most ten
            times a second.
        stream: where to write; standard error unless given.
    """

    __slots__ = ("_every", "_shown", "_stream", "_terminal")

    def __init__(self, every: float = 0.0, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._every = _SECONDS if self._terminal else every
        self._shown = -self._every

    @property
    def is_terminal(self) -> bool:
        """Whether there is one line, which is written over."""
        return self._terminal

    def __call__(self, text: str) -> None:
        """Shows a step."""
        self.show(text)

    def show(self, text: str, *, at_once: bool = False) -> bool:
        """Shows a step, unless another one was shown a moment ago; whether it did.

        Args:
            text: the step.
            at_once: show it also then.
        """
        now = time.monotonic()
        if now - self._shown < self._every and not at_once:
            return False
        self._shown = now
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(_CLEAR + (text if len(text) <= width else text[: width - 3] + "..."))
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()
        return True

    def __enter__(self) -> Self:
        """The line itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Clears the terminal's line: what follows is the summary or an error."""
        if self._terminal:
            self._stream.write(_CLEAR)
            self._stream.flush()
