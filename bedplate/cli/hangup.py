"""SIGHUP while a server's process begins: before anything is loaded there is nothing to load again."""

from __future__ import annotations

import signal
from collections.abc import Sequence


def defer_hangups(args: Sequence[str]) -> None:
    """Lets SIGHUP wait until `take_hangups`, where a command line has a server begin: it would end the process.

    Args:
        args: the words after `bedplate`.
    """
    words = [word for word in args if not word.startswith("-")]
    if words[:1] == ["serve"] or words[:2] == ["features", "serve"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def take_hangups(*, is_awaited: bool) -> None:
    """Lets SIGHUP through again.

    Args:
        is_awaited: whether the process will listen to it, and needs not before; otherwise it ends the process. Call it
            on the main thread, before another thread or process begins.
    """
    if is_awaited and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _pass_over)  # workers would inherit that it is ignored
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def _pass_over(*_: object) -> None:
    """A signal that asks for what is so anyway."""
