"""What workers know of each other, and how the process that keeps them alive does it, with workers of a few lines."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bedplate.errors import ConfigError
from bedplate.http import supervisor as module
from bedplate.http.board import DRAINING, READY, STARTING, STATES, Board, make_board
from bedplate.http.supervisor import Supervisor, WorkerError

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
    return {int(p) for p in Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()}


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
with open("starts", "a") as starts:
    starts.write(f"{index} {os.getpid()} {version}\\n")
if version == "broken":
    sys.exit(3)
"""
    + READY_AND_WELL
)


@pytest.mark.parametrize("version", ["new", "broken"])
def test_workers_are_replaced_one_after_the_other_while_the_others_are_ready(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "version").write_text("old")
    ready, said = list[int](), list[str]()

    def say(text: str) -> None:
        said.append(text)
        ready.append(one._board.states().count(READY))
        if version == "broken" and len(said) == 4:
            stop()

    def starts() -> list[list[str]]:
        return [line.split() for line in (tmp_path / "starts").read_text().splitlines()]

    def hang_up() -> None:
        (tmp_path / "version").write_text(version)
        os.kill(os.getpid(), signal.SIGHUP)
        if version == "new":
            threading.Thread(target=stop_when_replaced).start()

    def stop_when_replaced() -> None:
        while len(starts()) < 6 or one._board.states().count(READY) < 3:
            time.sleep(0.01)
        stop()

    one = supervisor(VERSIONED, 3, say=say, hangup=signal.SIGTERM)
    one.run(hang_up)
    assert ready == [2] * len(said), "all others were ready whenever one had ended"
    later = [(int(index), found) for index, _, found in starts()[3:]]
    if version == "new":
        assert later == [(0, "new"), (1, "new"), (2, "new")]
        assert all("another one takes its place" in text for text in said)
        assert one._board.restarts == 0
    else:
        assert {index for index, _ in later} == {0}, "the others go on with what they have"
        assert "another one takes its place" in said[0]
        assert all("ended with code 3; it is started again" in text for text in said[1:])


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
while first and any(s != READY for s in Board(board).states()):
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
        while time.monotonic() < end and not (one._board.restarts == 2 and one._board.states() == [READY, READY]):
            time.sleep(0.02)
        seen.append(one._board.states())
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
