"""Starting the other processes of a training, watching them, and ending them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, final

from bedplate.errors import BedplateError, ConfigError
from bedplate.process import check_per_core, cores
from bedplate.training.interrupt import TrainingInterruptedError
from bedplate.training.joining import PeerLostError, WorkerError
from bedplate.training.watching import Operations, Watch
from bedplate.types import SECOND, parse_duration

if TYPE_CHECKING:
    from bedplate.training.exchange import Exchange
    from bedplate.training.tables import Sharding

PLACE = "BEDPLATE_TRAINING_PLACE"
"""The environment variable that makes a process one of a training: `RANK/COUNT/FOLDER`."""

FOREVER = "6h"
"""How long a process waits at most where another one judges; that one has ended is noticed at once."""

_STORE = "store"
_OPERATIONS = "operations"
_INTERFACE = "GLOO_SOCKET_IFNAME"
_PATIENCE = 5.0  # seconds until a process that is gone, or was asked to go, is seen to be gone
_LINES = 20


@final
class Place:
    """Which process of a training this is.

    Args:
        rank: from 0.
        count: how many there are.
        folder: where they meet; None: where torchrun says.
    """

    def __init__(self, rank: int, count: int, folder: Path | None) -> None:
        self.rank, self.count, self.folder = rank, count, folder
        self.operations = Operations.of(rank, count, None if folder is None else folder / _OPERATIONS)

    @contextmanager
    def connect(self, shard: Sharding | None = None, timeout: str = FOREVER) -> Generator[Exchange]:
        """Says that this process can be met, and meets the others.

        Args:
            shard: spreads embedding tables over the processes; None: each has them whole.
            timeout: how long an operation may wait for the others, of processes that torchrun started. Those of
                `Workers` wait for as long as the first one is there, which has a `Watch`.
        """
        from bedplate.training.together import AGENT, connected

        self.operations.announce()
        meeting = AGENT if self.folder is None else f"file://{self.folder / _STORE}"
        with connected(self.operations, self.count, meeting, FOREVER if self.folder else timeout, shard) as exchange:
            yield exchange

    def end_with_parent(self) -> None:
        """Ends this process when the one that started it is gone, in whatever way: standard input ends then.

        One that torchrun started is ended by torchrun.
        """
        folder = self.folder
        if folder is None:
            return

        def watch() -> None:
            with suppress(OSError):
                while os.read(sys.stdin.fileno(), 1024):
                    pass
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(PeerLostError.exit_code)

        threading.Thread(target=watch, name="bedplate-parent", daemon=True).start()


def own_place() -> Place | None:
    """The place of a process that `Workers` or torchrun started; None in any other."""
    known = os.environ
    if PLACE in known:
        rank, count, folder = known[PLACE].split("/", 2)
        return Place(int(rank), int(count), Path(folder))
    if "TORCHELASTIC_RUN_ID" in known and int(known["WORLD_SIZE"]) > 1:
        return Place(int(known["RANK"]), int(known["WORLD_SIZE"]), None)
    return None


@final
class Workers:
    """The processes of rank 1 and more, all on this machine.

    Args:
        count: how many processes there are, this one included.
        folder: a new folder of theirs.
        timeout: how long one of them may hold up the others, see `TrainerConfig.process_timeout`.
    """

    def __init__(self, count: int, folder: Path, timeout: str) -> None:
        self.place, self._folder = Place(0, count, folder), folder
        self._logs = {rank: folder / f"{rank}.log" for rank in range(1, count)}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        patience = parse_duration(timeout, where="process_timeout") / SECOND
        self._watch = Watch(self.place.operations, self._processes, patience, self._abandon)

    def start(self, command: Sequence[str]) -> None:
        """Starts them.

        Args:
            command: what each runs; it finds its place by `own_place`.
        """
        for rank, log in self._logs.items():
            place = f"{rank}/{self.place.count}/{self._folder}"
            path = os.pathsep.join(entry for entry in sys.path if entry)
            environment = {**_environment(self.place.count), PLACE: place, "PYTHONPATH": path}
            with log.open("wb") as output:
                self._processes[rank] = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    start_new_session=True,  # Ctrl-C of a terminal reaches the first process alone, which tells them
                )

    @contextmanager
    def connect(self, shard: Sharding | None = None) -> Generator[Exchange]:
        """What this process and the others tell each other.

        Args:
            shard: as for `Place.connect`.

        Raises:
            WorkerError: one has ended before this one is through, or held it up for too long.
            TrainingInterruptedError: this one was told to end while one of them held it up.
        """
        os.environ.setdefault(_INTERFACE, _loopback())
        try:
            with self._watch.watching():
                self.wait_until_ready()
                with self.place.connect(shard) as exchange:
                    yield exchange
        except PeerLostError as error:
            raise self.error() from error

    def wait_until_ready(self) -> None:
        """Waits until all can be met.

        Raises:
            WorkerError: one has ended.
        """
        with self.place.operations.arrival():
            while self.place.operations.late():
                if any(process.poll() is not None for process in self._processes.values()):
                    raise self.error()
                time.sleep(0.02)

    def error(self) -> BedplateError:
        """What ended them: the first one that did not end because of another."""
        until = time.monotonic() + _PATIENCE
        ended: dict[int, int] = {}
        while time.monotonic() < until:
            codes = {rank: process.poll() for rank, process in self._processes.items()}
            ended = {rank: code for rank, code in codes.items() if code not in (None, 0, PeerLostError.exit_code)}
            if ended:
                break
            time.sleep(0.02)
        if not ended:
            return WorkerError("another process of the training can't be reached", where="training")
        rank = next((rank for rank in ended if rank in self._watch.ended), next(iter(ended)))
        return self._error(rank, ended[rank])

    def _error(self, rank: int, code: int) -> BedplateError:
        """What ended one of them, and the training with it."""
        who = f"the process of rank {rank} of {self.place.count}"
        if rank in self._watch.ended and self._watch.interrupts:
            why = f"{who} {self._watch.ended[rank]}; what was done since the last checkpoint is lost"
            return TrainingInterruptedError(f"interrupted: {why}", where="training")
        if rank in self._watch.ended:
            how = f"{self._watch.ended[rank]} (trainer.process_timeout)"
        elif code < 0:
            how = f"was killed by signal {-code} ({signal.Signals(-code).name})"
        else:
            how = f"failed with exit code {code}"
        lines = self._logs[rank].read_text(errors="replace").strip().splitlines()[-_LINES:]
        said = ":\n  " + "\n  ".join(lines) if lines else ""
        error = WorkerError(f"{who} {how}{said}", where="training")
        error.exit_code = code if code > 0 else WorkerError.exit_code
        return error

    def _abandon(self) -> None:
        """Ends this process, whose main thread waits for processes that are gone and can't be told so."""
        rank = next(iter(self._watch.ended))
        error = self._error(rank, -signal.SIGKILL)
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
        self._kill()
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(error.exit_code)

    def end(self) -> None:
        """Ends those that are still there."""
        until = time.monotonic() + _PATIENCE
        for process in self._processes.values():
            if process.stdin is not None:
                process.stdin.close()  # see `end_with_parent`
        try:
            for process in self._processes.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until - time.monotonic()))
        finally:  # also where an impatient Ctrl-C ends the waiting
            self._kill()

    def _kill(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


@contextmanager
def started(command: Sequence[str], count: int, timeout: str = FOREVER) -> Generator[Workers]:
    """The other processes of a training, which are gone when the context is left.

    Args:
        command: what each runs.
        count: how many processes there are in all, at least 2.
        timeout: how long one of them may hold up the others, see `TrainerConfig.process_timeout`.

    Raises:
        ConfigError: the count is below 2, or far more than the machine has cores.
    """
    if count < 2:
        raise ConfigError(f"got {count} processes, expected at least 2", where="training by several processes")
    check_per_core(count, "the number of processes", "training by several processes")
    folder = Path(tempfile.mkdtemp(prefix="bedplate-training-"))
    workers = Workers(count, folder, timeout)
    try:
        workers.start(command)
        yield workers
    finally:
        workers.end()
        shutil.rmtree(folder, ignore_errors=True)


def _environment(count: int) -> dict[str, str]:
    """That of a process that has its share of the machine's cores, and talks to others of this machine alone."""
    return {_INTERFACE: _loopback(), "OMP_NUM_THREADS": str(max(1, cores() // count)), **os.environ}


def _loopback() -> str:
    """The name of the network interface that reaches only this machine."""
    return "lo" if sys.platform == "linux" else "lo0"
