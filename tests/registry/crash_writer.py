"""Writes to a registry until it is killed, and prints a line for each thing that was acknowledged.

    crash_writer.py ROOT SEED           goes on until somebody kills it
    crash_writer.py ROOT SEED CALL      kills itself before the CALL-th call out of Bedplate's code, or prints `done`
    crash_writer.py ROOT SEED CALL remove   the same, while it removes all runs

The forms with CALL reach every point between two system calls, file operations and SQL statements.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from bedplate.registry.manifest import Environment, Git, Manifest
from bedplate.registry.registry import Registry

PACKAGE = f"{os.sep}bedplate{os.sep}"


def acknowledge(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def manifest(seed: int) -> Manifest:
    return Manifest(
        git=Git(reason="test"),
        definitions={},
        sources={"events": "s-1"},
        config={"seed": seed},
        seeds={},
        environment=Environment("3", "test", {}),
        metrics={},
    )


def write_round(root: Path, rng: random.Random) -> None:
    """One run with metrics, a version, a promotion and now and then a rollback."""
    registry = Registry(root / "registry")
    run = registry.start_run("train", {})
    acknowledge("started", run.id)
    for step in range(3):
        run.log_metrics(step, {"loss": 1.0 / (step + 1), "auc": 0.5})
        acknowledge("logged", run.id, step)
    for name in ("model", "deep/encoder"):
        path = run.artifact / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randint(1, 200_000)))
    version = registry.register("ranker", run.artifact, manifest=manifest(rng.getrandbits(40)), run_id=run.id)
    acknowledge("registered", version.version)
    change = registry.promote("ranker", version.version)
    acknowledge("changed", change.sequence, change.version)
    if rng.random() < 0.3 and change.previous is not None:
        change = registry.rollback("ranker")
        acknowledge("changed", change.sequence, change.version)
    run.finish()
    acknowledge("finished", run.id)
    shutil.rmtree(run.artifact)


def kill_before(call: int, code: tuple[str, ...] = (PACKAGE,)) -> None:
    """Kills this process before the `call`-th call from some code to a function that is written in C."""
    count = 0

    def count_calls(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        if event == "c_call" and any(part in frame.f_code.co_filename for part in code):
            count += 1
            if count == call:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count_calls)


def main() -> None:
    root, rng = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    acknowledge("ready")
    if "remove" in sys.argv:
        registry = Registry(root / "registry")
        runs = [run.id for run in registry.runs()]
        kill_before(int(sys.argv[3]), (PACKAGE, shutil.__file__))  # folders are deleted file by file there
        registry.remove_runs(runs)
        sys.setprofile(None)
        acknowledge("done")
        return
    if len(sys.argv) > 3:
        kill_before(int(sys.argv[3]))
        write_round(root, rng)
        sys.setprofile(None)
        acknowledge("done")
        return
    while True:
        write_round(root, rng)


if __name__ == "__main__":
    main()
