"""What workers know of each other, and how the process that keeps them alive does it, with workers of a few lines."""

from __future__ import annotations

import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.errors import ConfigError
from bedplate.http import worker as module
from bedplate.http.board import DRAINING, READY, STARTING, STATES, Board, make_board
from bedplate.http.supervisor import Supervisor, WorkerError
from bedplate.process import MOST_PER_CORE, cores

HERE = Path(__file__).parents[2]
BEGIN = f"""
import os, select, sys, time
sys.path.insert(0, {str(HERE)!r})
from bedplate.http.board import READY, VARIABLE, Board
index, listening, board, life = map(int, os.environ[VARIABLE].split(":"))
seat = Board(board).seat(index)
"""
READY_AND_WELL = """
seat.set_state(READY)
while not select.select([life], [], [], 0.02)[0]:
    seat.beat()
seat.clear()
"""


def supervisor(program: str, count: int = 1, **options: Any) -> Supervisor:
    options = {"host": "127.0.0.1", "port": 0, "grace_seconds": 10.0, "say": lambda _: None} | options
    return Supervisor([sys.executable, "-c", BEGIN + program], count, **options)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def children() -> set[int]:
    return children_of(threading.get_native_id())


def children_of(thread: int) -> set[int]:
    return {int(p) for p in Path(f"/proc/self/task/{thread}/children").read_text().split()}


def test_workers_end_with_their_supervisor_and_signals_are_as_before() -> None:
    before, running = children(), list[set[int]]()
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]

    def ready() -> None:
        running.append(children() - before)
        stop()

    supervisor(READY_AND_WELL, 2).run(ready)
    assert len(running[0]) == 2
    assert not children() & running[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)] == handlers


def test_a_worker_that_ends_is_started_again_later_each_time() -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            stop()

    one = supervisor("seat.set_state(READY)\ntime.sleep(0.3)\nos.kill(os.getpid(), 9 if index else 15)", say=say)
    one.run(lambda: None)
    waits = [text.rpartition("in ")[2] for text in said]
    assert waits == ["0.1 s", "0.2 s", "0.4 s"]
    assert all("worker 1 (process " in text and "was ended by SIGTERM" in text for text in said)
    assert one._board.restarts == 2


VERSIONED = (
    """
from pathlib import Path
version = Path("version").read_text()
ready = Board(board).states().count(READY)
with open("starts", "a") as starts:
    starts.write(f"{version} {ready} {seat.failures} {os.getpid()}\\n")
while version == "slow" and not Path("go").exists():
    time.sleep(0.01)
if version == "broken":
    sys.exit(3)
"""
    + READY_AND_WELL
)


class Start(NamedTuple):
    """What a worker found when it started: how many were ready, and how many before it never were."""

    version: str
    ready: int
    failures: int
    pid: int


class Rollout:
    """Three workers of a version; what `said` gets is seen by `heard`, too."""

    def __init__(self, heard: Callable[[str], None] = lambda _: None) -> None:
        self.said, self.heard = list[str](), heard
        self.set_version("old")
        self.one = supervisor(VERSIONED, 3, say=self.hear, hangup=signal.SIGTERM)

    def hear(self, text: str) -> None:
        self.said.append(re.sub(r"process \d+", "process PID", text))
        self.heard(text)

    def set_version(self, version: str) -> None:
        Path("version").write_text(version)

    @property
    def ready(self) -> int:
        return self.one._board.states().count(READY)

    @property
    def starts(self) -> list[Start]:
        lines = [line.split() for line in Path("starts").read_text().splitlines()]
        return [Start(line[0], *map(int, line[1:])) for line in lines if len(line) == 4]

    def run(self, scene: Callable[[], None]) -> None:
        """Runs the supervisor, and the scene on a thread once it is ready; ends with it."""
        failures = list[BaseException]()

        def play() -> None:
            try:
                scene()
            except BaseException as error:  # noqa: BLE001  (raised again below)
                failures.append(error)
            stop()

        playing = threading.Thread(target=play)
        self.one.run(playing.start)
        playing.join()
        if failures:
            raise failures[0]

    def wait_until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < end, (self.said, self.starts)
            time.sleep(0.01)


def hang_up() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


REPLACED = "worker {} (process PID) was ended by SIGTERM; another one has taken its place"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("folder")
def test_workers_are_replaced_one_after_the_other_by_one_that_is_ready() -> None:
    ready = list[int]()
    one = Rollout(lambda _: ready.append(one.ready))

    def scene() -> None:
        one.set_version("new")
        hang_up()
        one.wait_until(lambda: len(one.said) == 3)

    one.run(scene)
    assert one.said == [REPLACED.format(number) for number in (1, 2, 3)]
    assert [(start.version, start.ready) for start in one.starts[3:]] == [("new", 3)] * 3, "all served meanwhile"
    assert ready == [3] * 3
    assert one.one._board.restarts == 0
    assert not children() & {start.pid for start in one.starts}


@pytest.mark.usefixtures("folder")
def test_a_worker_stays_where_the_one_in_its_place_does_not_start() -> None:
    one = Rollout()

    def scene() -> None:
        one.set_version("broken")
        hang_up()
        one.wait_until(lambda: bool(one.said))
        for _ in range(5):  # nor is another one tried
            os.kill(os.getpid(), signal.SIGCHLD)
            time.sleep(0.01)
        assert (len(one.starts), one.ready) == (4, 3)
        assert {start.pid for start in one.starts[:3]} <= children_of(main)
        one.set_version("new")
        hang_up()
        one.wait_until(lambda: len(one.said) == 4)

    main = threading.get_native_id()
    one.run(scene)
    (refused, *replaced) = one.said
    assert refused.startswith(
        "worker 1 (process PID) ended with code 3 before it was ready: what it is to serve can't be"
    )
    assert "the one that it was to replace stays, and so do all others: send SIGHUP again" in refused
    assert replaced == [REPLACED.format(number) for number in (1, 2, 3)]
    assert one.one._board.restarts == 0


@pytest.mark.usefixtures("folder")
def test_signals_that_come_often_leave_no_worker_out() -> None:
    one = Rollout(lambda _: hang_up())  # whenever one was replaced

    def scene() -> None:
        hang_up()
        one.wait_until(lambda: len(one.said) >= 6)

    one.run(scene)
    assert one.said[:6] == [REPLACED.format(number) for number in (1, 2, 3, 1, 2, 3)]


@pytest.mark.usefixtures("folder")
def test_the_one_that_is_to_replace_a_worker_takes_its_place_where_that_ends_before() -> None:
    one = Rollout()

    def scene() -> None:
        one.set_version("slow")
        hang_up()
        one.wait_until(lambda: len(one.starts) == 4)
        os.kill(one.starts[0].pid, signal.SIGKILL)
        one.wait_until(lambda: bool(one.said))
        Path("go").touch()
        one.wait_until(lambda: len(one.said) == 3 and one.ready == 3)

    one.run(scene)
    assert one.said == [
        "worker 1 (process PID) was ended by SIGKILL; the one that was to replace it is starting already",
        *(REPLACED.format(number) for number in (2, 3)),
    ]
    assert (len(one.starts), one.one._board.restarts) == (6, 1)


@pytest.mark.usefixtures("folder")
def test_a_worker_that_can_not_start_any_more_is_tried_later_each_time_and_at_once_after_a_signal() -> None:
    one = Rollout()

    def scene() -> None:
        one.set_version("broken")
        worker = one.one._workers[1]
        assert worker.process is not None
        worker.process.kill()
        one.wait_until(lambda: len(one.said) == 4)
        one.set_version("new")
        worker.again = math.inf
        hang_up()
        one.wait_until(lambda: len(one.said) == 6)

    one.run(scene)
    first, *tried = one.said[:4]
    assert first == "worker 2 (process PID) was ended by SIGKILL; it is started again in 0.1 s"
    failed = "worker 2 (process PID) ended with code 3 before it was ready: what it is to serve can't be loaded"
    assert tried == [f"{failed}, as it has said; it is started again in {wait} s" for wait in ("0.2", "0.4", "0.8")]
    assert [start.failures for start in one.starts[3:]] == [0, 1, 2, 3, 0, 0]
    assert one.said[4:] == [REPLACED.format(number) for number in (1, 3)], "the other one had loaded what there is"


@pytest.mark.parametrize(("code", "expected", "how"), [(3, 3, "ended with code 3"), (0, 1, "ended with code 0")])
def test_what_keeps_the_first_from_starting_ends_the_command_with_its_code(code: int, expected: int, how: str) -> None:
    started: list[str] = []
    with pytest.raises(WorkerError, match=f"the first worker {how} before it was ready") as caught:
        supervisor(f"sys.exit({code})", 3, say=started.append).run(lambda: started.append("ready"))
    assert caught.value.exit_code == expected
    assert started == []


def test_a_worker_that_does_not_come_round_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HUNG_SECONDS", 0.4)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        stop()

    supervisor("seat.set_state(READY)\ntime.sleep(600)", say=say, grace_seconds=0.0).run(lambda: None)
    assert "did not come round for 0.4 s and was killed" in said[0]


def test_a_worker_that_will_not_stop_is_killed_after_the_time_of_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()
    supervisor("seat.set_state(READY)\ntime.sleep(600)", grace_seconds=-1.9).run(stop)
    assert children() <= before


@pytest.mark.parametrize("program", ["time.sleep(600)", "signal.signal(15, lambda *_: None)\ntime.sleep(600)"])
def test_workers_that_are_starting_do_not_hold_up_the_end(program: str) -> None:
    """They have nothing under way, and can't look at the pipe while they import what they need."""
    before, begin = children(), time.monotonic()
    threading.Timer(0.3, stop).start()
    with pytest.raises(KeyboardInterrupt):
        supervisor(f"import signal\n{program}", 2, grace_seconds=300.0).run(lambda: pytest.fail("ready"))
    assert time.monotonic() - begin < 60
    assert children() <= before


def test_workers_that_end_at_the_same_time_are_started_again_together() -> None:
    """The first one started again is ready only when the other one starts, too."""
    one = supervisor(
        """
import pathlib
seat.set_state(READY)
first = Board(board).restarts == 0
while first and any(s != READY for s in Board(board).states()[:2]):
    time.sleep(0.01)
if first:
    time.sleep(0.2)
    os.kill(os.getpid(), 9)
seat.set_state(STARTING)
while Board(board).restarts < 2:
    time.sleep(0.01)
""".replace("seat.set_state(STARTING)", "seat.set_state(1)")
        + READY_AND_WELL,
        2,
        say=lambda _: None,
    )
    seen: list[list[int]] = []

    def watch() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and not (one._board.restarts == 2 and one._board.states()[:2] == [READY, READY]):
            time.sleep(0.02)
        seen.append(one._board.states()[:2])
        stop()

    watching = threading.Thread(target=watch)
    one.run(watching.start)
    watching.join()
    assert seen == [[READY, READY]]


def test_nobody_is_kept_from_going_on_by_output_that_can_not_be_written() -> None:
    told: list[int] = []

    def full(text: str) -> None:
        told.append(1)
        if len(told) == 2:
            stop()
        raise OSError(28, "No space left on device")

    supervisor("seat.set_state(READY)\ntime.sleep(0.2)", say=full).run(lambda: full("ready"))
    assert len(told) == 2


def test_a_port_in_use_is_known_before_a_worker_starts() -> None:
    first = supervisor(READY_AND_WELL)
    with pytest.raises(ConfigError, match="in use"):
        supervisor(READY_AND_WELL, port=first.port)
    first._end()


@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=300)), max_size=20))
def test_what_a_worker_published_last_is_what_the_others_read(texts: list[tuple[int, str]]) -> None:
    descriptor = make_board(3)
    mine, theirs = Board(descriptor), Board(descriptor)
    last = [""] * 3
    for index, text in texts:
        assert mine.seat(index).publish(text)
        last[index] = text
        assert [theirs.seat(i).text() for i in range(3)] == last
    mine.seat(1).clear()
    assert theirs.seat(1).text() == last[1]
    os.close(descriptor)


def test_a_text_that_is_too_long_leaves_the_one_before() -> None:
    seat = Board(make_board(1)).seat(0)
    assert seat.publish("before")
    assert not seat.publish("é" * 200_000)
    assert seat.text() == "before"
    assert seat.publish("é" * 100_000)
    assert seat.text() == "é" * 100_000


WORKER = st.tuples(st.sampled_from([0, *STATES]), st.integers(0, 5))


@given(st.lists(WORKER, min_size=1, max_size=5))
def test_a_connection_goes_to_a_ready_worker_that_has_no_more_than_any_other(workers: list[tuple[int, int]]) -> None:
    descriptor = make_board(len(workers))
    board = Board(descriptor)
    for i, (state, connections) in enumerate(workers):
        board.seat(i).set_state(state)
        board.seat(i).set_connections(connections)
    assert board.states() == [state for state, _ in workers]
    takers = [i for i, (_, connections) in enumerate(workers) if board.seat(i).takes_next(connections)]
    ready = [connections for state, connections in workers if state == READY]
    if ready:
        assert takers == [i for i, worker in enumerate(workers) if worker == (READY, min(ready))]
    else:
        assert takers == list(range(len(workers)))  # better slow than not at all
    for i, (state, connections) in enumerate(workers):  # where those with fewer don't come round
        assert board.seat(i).takes_next(connections, waited=True) == (state == READY or not ready)
    os.close(descriptor)


def test_a_seat_says_since_when_its_worker_is_alive() -> None:
    board = Board(make_board(2))
    seat = board.seat(1)
    assert (seat.beaten, board.restarts) == (0.0, 0)
    for state in (STARTING, READY, DRAINING):
        before = seat.beaten
        seat.set_state(state)
        assert seat.beaten > before
    board.count_restart()
    seat.set_connections(7)
    seat.clear()
    assert (board.states(), seat.connections, board.restarts) == ([0, 0], 0, 1)


def test_more_workers_than_the_machine_can_bear_are_refused() -> None:
    most = MOST_PER_CORE * cores()
    with pytest.raises(ConfigError, match=f"the number of workers is {most + 1}, expected at most {most}: 8 for each"):
        supervisor("", most + 1)  # which starts none before it runs
