"""A command in a process of its own, which kills itself in a call of a function: MODULE:FUNCTION CALL WORDS..."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

from bedplate.cli.main import run


def main(point: str, call: str, *words: str) -> int:
    module, _, name = point.partition(":")
    owner: Any = importlib.import_module(module)
    for part in name.split(".")[:-1]:
        owner = getattr(owner, part)

    last = name.rpartition(".")[2]
    original, calls = getattr(owner, last), iter(range(1, int(call)))

    def killed(*args: object, **options: object) -> Any:
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **options)

    setattr(owner, last, killed)
    return run(words)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
