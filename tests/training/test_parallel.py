"""Several processes train the model of one, and none of them outlives another."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import run_parallel
import torch
import torch.distributed as dist
from run_parallel import command, has_ended
from torch.distributed import TCPStore
from trained_together import (
    assert_same,
    assert_same_state,
    check_interrupted_and_killed,
    check_poisoned,
    check_resumed,
    check_that_of_one_process,
    state,
    train_all,
)

from bedplate import Job, Number, process
from bedplate.errors import ConfigError
from bedplate.models.estimators import LightGBMConfig
from bedplate.training import processes
from bedplate.training.alone import Alone
from bedplate.training.joining import PeerLostError, WorkerError
from bedplate.training.learner import require_library
from bedplate.training.processes import _loopback, started
from bedplate.training.together import Together, _reaching
from bedplate.training.watching import Operations

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
    """What each job gives by two processes, and where its files are."""
    return train_all(run_parallel.TOGETHER, tmp_path_factory.mktemp("together"), run_parallel.__file__)


@pytest.mark.parametrize("name", ["dcn", "all", "own", "two_tower", "changing, resumed"])
def test_the_model_is_that_of_one_process(together, tmp_path, name):
    check_that_of_one_process(name, together, tmp_path)


def test_a_resumed_run_of_as_many_processes_is_the_same_bit_for_bit(together):
    check_resumed(together)


def test_what_is_not_finite_is_named_whoever_has_it(together):
    check_poisoned(together)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("norm", "'norm' is a BatchNorm1d, whose statistics are of a whole batch"),
        ("state", "'seen' is not the same in the processes of rank 0 and 1"),
        ("scalar", r"the output 'mean' has the shape \(\), expected a row"),
        ("input", "the loss reads the input 'item_dense'"),
        ("sparse", "model 'Own': the gradient of 'users.weight' is sparse, expected a dense one"),
        ("differing", r"rank 1 learns 'more.weight' \(2, 2\) where that of rank 0 learns 'more.weight' \(2, 1\)"),
    ],
)
def test_a_model_that_has_no_parts_is_refused(together, name, message):
    assert re.search(message, together[1][name])


def test_whichever_is_told_to_end_all_end_within_the_epoch(together):
    """The first process has no batch that the other had not read when it was told, and hears of it with the next."""
    said = re.search(r"interrupted after step (\d+)", together[1]["stopping"])
    assert said is not None, together[1]["stopping"]
    assert int(said[1]) <= 4


def test_each_process_draws_its_own_at_each_step(monkeypatch):
    def drawn(rank, seed, step):
        with monkeypatch.context() as patched:
            patched.setattr(dist, "get_rank", lambda: rank)
            patched.setattr(dist, "get_world_size", lambda: 2)
            Together(Operations.of(rank, 2, None)).draw(seed, step)
        return tuple(torch.rand(4).tolist())

    places = [(rank, seed, step) for rank in (0, 1) for seed in (5, 6) for step in (0, 1)]
    assert len({drawn(*place) for place in places}) == len(places)
    assert [drawn(*place) for place in places] == [drawn(*place) for place in places]


def test_only_errors_of_connections_are_taken_for_a_lost_process():
    operations: Any = SimpleNamespace(one=nullcontext)
    untyped: Any = torch
    with pytest.raises(RuntimeError, match="reshape is not implemented"), _reaching(operations):
        untyped.zeros(2, 2).to_sparse().reshape(-1)
    with pytest.raises(RuntimeError, match="size of tensor"), _reaching(operations):
        torch.zeros(2) + torch.zeros(3)
    with pytest.raises(PeerLostError, match="gone: Connection closed by peer"), _reaching(operations):
        raise RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    with pytest.raises(PeerLostError, match="gone: no answer"), _reaching(operations):
        raise dist.DistStoreError("no answer")


def test_an_interrupt_stops_all_and_a_killed_process_is_named(tmp_path):
    check_interrupted_and_killed(tmp_path, run_parallel.__file__)


def test_a_process_that_fails_says_why():
    failing = [sys.executable, "-c", "raise SystemExit('no such project')"]
    said = pytest.raises(WorkerError, match=r"rank 1 of 2 failed with exit code 1:\n  no such project")
    with started(failing, 2) as workers, said:
        workers.wait_until_ready()
    with pytest.raises(ConfigError, match="got 1 processes"), started([], 1):
        pass


def test_far_more_processes_than_cores_are_refused(monkeypatch):
    begun = []
    monkeypatch.setattr(process, "cores", lambda: 2)
    monkeypatch.setattr(processes.Workers, "start", lambda self, command: begun.append(self.place.count))
    with started([], 16):
        pass
    said = "the number of processes is 17, expected at most 16: 8 for each of this machine's 2 cores"
    with pytest.raises(ConfigError, match=said), started([], 17):
        pass
    assert begun == [16]


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


def test_torchrun_starts_the_same_processes(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([*torchrun, run_parallel.__file__, "dcn", str(tmp_path)], check=True, timeout=120, env=environment)
    run_parallel.run("dcn", Alone(), tmp_path / "alone")
    one, two = state(tmp_path / "alone" / "dcn"), state(tmp_path / "dcn")
    assert two["progress"]["step"] == one["progress"]["step"]
    assert_same(two["progress"]["history"], one["progress"]["history"])
    assert_same_state(two, one)


def test_processes_of_torchrun_say_who_held_them_up(tmp_path):
    """As torchrun starts them, whose store outlives them all; it would wait for half a minute until it kills one."""
    agent = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(agent.port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    place |= {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_USE_AGENT_STORE": "True", "GLOO_SOCKET_IFNAME": _loopback()}
    path = os.pathsep.join(filter(None, sys.path))
    first, second = (
        subprocess.Popen(
            [*command(["hung"], tmp_path), "4s"],
            env={**os.environ, **place, "PYTHONPATH": path, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    )
    try:
        _, said = first.communicate(timeout=120)
    finally:
        second.kill()
        second.communicate()
    assert first.returncode != 0
    assert "the process of rank 1 ended, or held up the others for 4s (trainer.process_timeout)" in said
    assert [path.name for path in tmp_path.glob("hung/checkpoint.pt")], "the last checkpoint is there to go on from"


def test_an_estimator_is_refused_before_a_run_begins():
    job = Job("trees", dataset="d", model=LightGBMConfig("label"), inputs={"a": Number()})
    with pytest.raises(ConfigError, match="the estimator of LightGBMConfig is trained by the threads of one process"):
        require_library(job, together=True)
