"""Several processes train the model of one, and none of them outlives another."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import run_parallel
import torch
from run_parallel import command, has_ended
from synthetic import Source

from bedplate import Job, Number
from bedplate.errors import ConfigError, DataError
from bedplate.models.estimators import LightGBMConfig
from bedplate.training.checkpoint import load_state
from bedplate.training.exchange import Alone
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.joining import WorkerError
from bedplate.training.learner import require_library
from bedplate.training.processes import started
from bedplate.training.wrong_rows import FILE

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.xdist_group("parallel")]

PARENT = """
import sys, time
from bedplate.training.processes import started
with started(sys.argv[1:], 2) as workers:
    workers.wait_until_ready()
    print(workers._processes[1].pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True, scope="module")
def _told_row_by_row():
    """Every table's gradients, as the other processes of these tests do it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bedplate.training.together._SPARSE_ROWS", 1)
        yield


@pytest.fixture(scope="module")
def together(one_thread, _told_row_by_row, tmp_path_factory):
    """What each job gives by two processes, and where its files are; torch is started once for all of them."""
    folder, found = tmp_path_factory.mktemp("together"), {}
    with started(command(run_parallel.TOGETHER, folder), 2) as workers, workers.connect() as exchange:
        for name in run_parallel.TOGETHER:
            found[name] = run_parallel.attempt(name, exchange, folder)
            if name == "changing, broken":  # one process goes on, to another batch
                with pytest.raises(DataError, match="is broken"):
                    run_parallel.run(name, Alone(), folder, source=run_parallel.Failing(5, 4))
    return folder, found


def assert_same(history, expected):
    """Up to rounding; two scores that are nearly equal may change places."""
    assert len(history) == len(expected)
    for got, metrics in zip(history, expected, strict=True):
        assert got == pytest.approx(metrics, rel=1e-3)
        assert got["loss"] == pytest.approx(metrics["loss"], rel=1e-5)


def state(folder: Path) -> dict[str, Any]:
    return load_state(folder / "checkpoint.pt")


@pytest.mark.parametrize("name", ["dcn", "all", "own", "two_tower", "changing, resumed"])
def test_the_model_is_that_of_one_process(together, tmp_path, name):
    folder, found = together
    alone = run_parallel.run(name, Alone(), tmp_path)
    assert_same(json.loads(found[name]), alone.history)
    one, two = (state(f / name.partition(",")[0]) for f in (tmp_path, folder))
    assert two["progress"] | {"history": 0} == pytest.approx(one["progress"] | {"history": 0}, rel=1e-5)
    for key, expected in one["model"].items():
        np.testing.assert_allclose(two["model"][key].numpy(), expected.numpy(), rtol=1e-4, atol=1e-6, err_msg=key)
    torch.testing.assert_close(two["optimizer"], one["optimizer"], rtol=1e-3, atol=1e-6)


def test_a_resumed_run_of_as_many_processes_is_the_same_bit_for_bit(together):
    _, found = together
    assert "is broken" in found["dropping, broken"]
    assert found["dropping, resumed"] == found["dropped"]


def test_what_is_not_finite_is_named_whoever_has_it(together):
    folder, found = together
    assert "not finite: request_dense (user.taste)" in found["poisoned"]
    assert pl.read_parquet(folder / "poisoned" / "rank-1" / FILE)["request_id"].to_list() == [15]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("norm", "'norm' is a BatchNorm1d, whose statistics are of a whole batch"),
        ("state", "'seen' is not the same in the processes of rank 0 and 1"),
        ("scalar", r"the output 'mean' has the shape \(\), expected a row"),
        ("input", "the loss reads the input 'item_dense'"),
        ("differing", r"rank 1 learns 'more.weight' \(2, 2\) where that of rank 0 learns 'more.weight' \(2, 1\)"),
    ],
)
def test_a_model_that_has_no_parts_is_refused(together, name, message):
    assert re.search(message, together[1][name])


def test_an_interrupt_stops_all_and_a_killed_process_is_named(tmp_path):
    whole = run_parallel.run("slow", Alone(), tmp_path / "whole", source=Source(8))
    seen = []

    def stop(status):
        seen.append(status.batch)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    def kill(status):
        seen.append(status.batch)
        if len(seen) == 7:
            children[1].kill()

    killed = pytest.raises(WorkerError, match=r"rank 1 of 2 was killed by signal 9 \(SIGKILL\)")
    with started(command(["slow", "slow"], tmp_path), 2) as workers:
        children = workers._processes
        with killed, workers.connect() as exchange:
            with pytest.raises(TrainingInterruptedError, match="after step 4"):
                run_parallel.run("slow", exchange, tmp_path, show=stop)
            run_parallel.run("slow", exchange, tmp_path, show=kill)
    assert children[1].returncode == -signal.SIGKILL
    resumed = run_parallel.run("slow", Alone(), tmp_path, source=Source(8))
    assert resumed.resumed_step in (7, 8)
    assert_same(resumed.history, whole.history)


def test_a_process_that_fails_says_why():
    failing = [sys.executable, "-c", "raise SystemExit('no such project')"]
    said = pytest.raises(WorkerError, match=r"rank 1 of 2 failed with exit code 1:\n  no such project")
    with started(failing, 2) as workers, said:
        workers.wait_until_ready()
    with pytest.raises(ConfigError, match="got 1 processes"), started([], 1):
        pass


def test_processes_end_with_the_one_that_started_them(tmp_path):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *command(["slow"], tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    until = time.monotonic() + 20
    while not has_ended(child):
        assert time.monotonic() < until
        time.sleep(0.05)
    parent.stdout.close()


def test_an_estimator_is_refused_before_a_run_begins():
    job = Job("trees", dataset="d", model=LightGBMConfig("label"), inputs={"a": Number()})
    with pytest.raises(ConfigError, match="the estimator of LightGBMConfig is trained by the threads of one process"):
        require_library(job, together=True)
