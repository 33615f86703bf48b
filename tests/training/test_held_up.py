"""A process of a training that is stopped or hangs holds up the others for no longer than they were told to wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import run_parallel
from run_parallel import command, has_ended
from synthetic import Source

from bedplate.errors import ConfigError
from bedplate.training import watching
from bedplate.training.alone import Alone
from bedplate.training.config import TrainerConfig
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.joining import WorkerError
from bedplate.training.processes import started

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.xdist_group("parallel"),
    pytest.mark.timeout(120, method="thread"),  # what hangs here can't be interrupted
]

PARENT = """
import signal, sys, threading, time
from pathlib import Path
import run_parallel, torch
from bedplate.training import together, watching
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.processes import started

def tell():
    numbers = []  # of the operation that is waited for; the same one for half a second is held up
    while len(numbers) < 50 or len({*numbers[-50:]}) > 1:
        numbers.append(operations.number if operations.waiting else -len(numbers))
        time.sleep(0.01)
    print(child.pid, flush=True)

def stop(status):
    if status.batch == 3:
        child.send_signal(signal.SIGSTOP)
        threading.Thread(target=tell).start()

watching.AFTER_INTERRUPT = 1e9
together._SPARSE_ROWS = 1
torch.set_num_threads(1)
signal.signal(signal.SIGTERM, signal.default_int_handler)
folder = Path(sys.argv[1])
try:
    with started(run_parallel.command(["slow"], folder), 2) as workers:
        child, operations = workers._processes[1], workers.place.operations
        with workers.connect() as exchange:
            run_parallel.run("slow", exchange, folder, show=stop)
except (KeyboardInterrupt, TrainingInterruptedError):
    sys.exit(130)
"""


@pytest.fixture(autouse=True)
def _told_row_by_row(monkeypatch):
    """Every table's gradients, as the other processes of these tests do it."""
    monkeypatch.setattr("bedplate.training.together._SPARSE_ROWS", 1)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("slow", r"rank 1 of 2 was stopped by a signal, was waited for 1s and then ended \(trainer.process_timeout\)"),
        ("hung", "rank 1 of 2 made no progress, was waited for 1s and then ended"),
    ],
)
def test_the_process_that_holds_up_the_others_is_ended_and_named(tmp_path, job, message):
    def stop(status):
        if status.batch == 3:
            workers._watch._patience = 0.5  # from here on, however slow the machine was before
            if job == "slow":
                children[1].send_signal(signal.SIGSTOP)

    with started(command([job], tmp_path), 2) as workers:
        children = workers._processes
        with pytest.raises(WorkerError, match=message), workers.connect() as exchange:
            run_parallel.run(job, exchange, tmp_path, show=stop)
    assert children[1].returncode == -signal.SIGKILL
    resumed = run_parallel.run(job, Alone(), tmp_path, source=Source(8))
    assert resumed.resumed_step == 3
    whole = run_parallel.run(job, Alone(), tmp_path / "whole", source=Source(8))
    assert resumed.metrics == pytest.approx(whole.metrics, rel=1e-3)


def test_an_interrupt_waits_for_a_process_that_is_stopped_for_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "AFTER_INTERRUPT", 0.5)

    def stop(status):
        if status.batch == 3:
            children[1].send_signal(signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGINT)

    said = pytest.raises(TrainingInterruptedError, match="rank 1 of 2 was stopped by a signal, was waited for 1s")
    with started(command(["slow"], tmp_path), 2) as workers:
        children = workers._processes
        with said, workers.connect() as exchange:
            run_parallel.run("slow", exchange, tmp_path, show=stop)
    assert run_parallel.run("slow", Alone(), tmp_path, source=Source(8)).resumed_step == 3


def test_a_second_signal_ends_all_at_once(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        for number in (signal.SIGINT, signal.SIGTERM):  # two of one number may count as one
            parent.send_signal(number)
        assert parent.wait(30) == 130
        assert has_ended(child)
        parent.stdout.close()
    finally:
        parent.kill()
        parent.wait()


def test_a_wait_that_does_not_notice_that_the_others_are_gone_is_abandoned(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "_AWAY", 0.2)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    operations, abandoned = watching.Operations.of(0, 2, tmp_path / "operations"), threading.Event()
    with watching.Watch(operations, {1: other}, 0.2, abandoned.set).watching(), operations.one():
        assert abandoned.wait(60)
    assert other.wait(60) == -signal.SIGKILL


def test_how_long_to_wait_is_a_duration():
    with pytest.raises(ConfigError, match="trainer: process_timeout: got '10', expected a whole number and a unit"):
        TrainerConfig(process_timeout="10")
