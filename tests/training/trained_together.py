"""What is true of a training by several processes, whether each has whole tables or some rows of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import run_parallel
import torch
from synthetic import Source

from bedplate.errors import DataError
from bedplate.training.alone import Alone
from bedplate.training.checkpoint import load_state
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.joining import WorkerError
from bedplate.training.processes import started
from bedplate.training.tables import Sharding
from bedplate.training.wrong_rows import FILE

Found = tuple[Path, dict[str, str]]
"""Where the files of jobs are, and what each gave."""


def state(folder: Path) -> dict[str, Any]:
    """The last checkpoint."""
    return load_state(folder / "checkpoint.pt")


def assert_same(history: Sequence[Mapping[str, float]], expected: Sequence[Mapping[str, float]]) -> None:
    """Up to rounding; two scores that are nearly equal may change places."""
    assert len(history) == len(expected)
    for got, metrics in zip(history, expected, strict=True):
        assert got == pytest.approx(metrics, rel=1e-3)
        assert got["loss"] == pytest.approx(metrics["loss"], rel=1e-5)


def assert_same_state(two: Mapping[str, Any], one: Mapping[str, Any]) -> None:
    for key, expected in one["model"].items():
        np.testing.assert_allclose(two["model"][key].numpy(), expected.numpy(), rtol=1e-4, atol=1e-6, err_msg=key)
    torch.testing.assert_close(two["optimizer"], one["optimizer"], rtol=1e-3, atol=1e-6)


def train_all(names: Sequence[str], folder: Path, script: str, shard: Sharding | None = None) -> Found:
    """What each job gives by two processes; torch is started once for all of them."""
    found: dict[str, str] = {}
    command = run_parallel.command([*names], folder, script)
    with started(command, 2) as workers, workers.connect(shard) as exchange:
        for name in names:
            found[name] = run_parallel.attempt(name, exchange, folder)
            if name == "changing, broken":  # one process goes on with whole tables, to another batch
                with pytest.raises(DataError, match="is broken"):
                    run_parallel.run(name, Alone(), folder, source=run_parallel.Failing(5, 4))
    return folder, found


def check_that_of_one_process(name: str, found: Found, own: Path) -> Mapping[str, Any]:
    """Whether a job gave what it gives by one process; the checkpoint of that one."""
    folder, gave = found
    alone = run_parallel.run(name, Alone(), own)
    assert_same(json.loads(gave[name]), alone.history)
    one, two = (state(f / name.partition(",")[0]) for f in (own, folder))
    assert two["progress"] | {"history": 0} == pytest.approx(one["progress"] | {"history": 0}, rel=1e-5)
    assert_same_state(two, one)
    return one


def check_resumed(found: Found) -> None:
    """Whether a resumed run of as many processes gave the same bit for bit."""
    _, gave = found
    assert "is broken" in gave["dropping, broken"]
    assert gave["dropping, resumed"] == gave["dropped"]


def check_poisoned(found: Found) -> None:
    """Whether what is not finite is named, whoever has it."""
    folder, gave = found
    assert "not finite: request_dense (user.taste)" in gave["poisoned"]
    assert pl.read_parquet(folder / "poisoned" / "rank-1" / FILE)["request_id"].to_list() == [15]


def check_interrupted_and_killed(folder: Path, script: str, shard: Sharding | None = None) -> None:
    """Whether an interrupt stops all, a killed process is named, and both leave a checkpoint to go on from."""
    whole = run_parallel.run("slow", Alone(), folder / "whole", source=Source(8))
    seen: list[int] = []

    def stop(status: Any) -> None:
        seen.append(status.batch)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    def kill(status: Any) -> None:
        seen.append(status.batch)
        if len(seen) == 7:
            children[1].kill()

    killed = pytest.raises(WorkerError, match=r"rank 1 of 2 was killed by signal 9 \(SIGKILL\)")
    with started(run_parallel.command(["slow", "slow"], folder, script), 2) as workers:
        children = workers._processes
        with killed, workers.connect(shard) as exchange:
            with pytest.raises(TrainingInterruptedError, match="after step 4"):
                run_parallel.run("slow", exchange, folder, show=stop)
            run_parallel.run("slow", exchange, folder, show=kill)
    assert children[1].returncode == -signal.SIGKILL
    resumed = run_parallel.run("slow", Alone(), folder, source=Source(8))
    assert resumed.resumed_step in (7, 8)
    assert_same(resumed.history, whole.history)
    assert_same_state(state(folder / "slow"), state(folder / "whole" / "slow"))
