"""The first signal asks work to end, the second one ends it; a wait ends with the first."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import threading
from collections.abc import Generator

import pytest

from bedplate.stopping import Stop, stop_signals


class Ended(Exception):
    """What the handler before does."""


@pytest.fixture(autouse=True)
def before() -> Generator[None]:
    def end(number: int, frame: object) -> None:
        raise Ended(number)

    kept = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_first_asks_and_the_second_acts_as_before(first: signal.Signals, second: signal.Signals) -> None:
    with stop_signals() as stop:
        assert not stop.asked
        os.kill(os.getpid(), first)
        assert stop.asked
        with pytest.raises(Ended):
            os.kill(os.getpid(), second)


def test_handlers_are_given_back() -> None:
    with stop_signals():
        pass
    with pytest.raises(Ended):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_wait_ends_with_the_signal() -> None:
    with stop_signals() as stop:
        assert stop.wait(0.0) is False
        teller = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        teller.start()
        assert stop.wait(600.0), "for as long as a test may last, or until the signal"
        assert stop.wait(600.0)
        teller.join()


def test_a_process_with_many_open_files_waits_too() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < 2048:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    read, write = os.pipe()
    try:
        high = fcntl.fcntl(read, fcntl.F_DUPFD, 1500)
        assert Stop(high).wait(0.0) is False
        os.write(write, b"!")
        assert Stop(high).wait(600.0) is False, "it was woken, and nobody asked"
        os.close(high)
    finally:
        os.close(read)
        os.close(write)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_in_another_thread_nothing_is_asked_for() -> None:
    found: list[bool] = []

    def work() -> None:
        with stop_signals() as stop:
            found.append(stop.wait(0.0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
    with pytest.raises(Ended):
        os.kill(os.getpid(), signal.SIGTERM)
