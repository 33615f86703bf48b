"""Several workers share a stream and are killed at random moments under load: nothing is lost, nothing counts twice."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from mortal import LOADED, load
from mortal_world import NURSERY, World, assert_oracle

from bedplate.online.base import OnlineStore, open_store
from bedplate.online.ingest import Ingest
from bedplate.online.state import read_state
from bedplate.testing.online_store import write_files

KILLS = int(os.environ.get("BEDPLATE_KILLS", "4"))
WORKERS, PARTITIONS, USERS, BATCH = 3, 4, 12, 2
AHEAD, EACH = 120, 40
PATIENCE = 120.0  # seconds


@pytest.fixture(autouse=True)
def nursery() -> Generator[None]:
    """Ends where the tests' processes come from."""
    yield
    NURSERY.close()


class Crowd:
    """Workers on a stream to which events are appended, and a process that compacts; each is followed by another."""

    def __init__(self, world: World, store: OnlineStore, folder: Path) -> None:
        self._world, self._store, self._folder = world, store, folder
        self.files, self.sent = folder / "parts", LOADED
        self._lives = [self._begin("follow", i) for i in range(WORKERS)] + [self._begin("tidy", WORKERS)]

    def _begin(self, doing: str, place: int) -> tuple[int, Path, str]:
        done = self._folder / f"{place}-{time.monotonic_ns()}"
        number = self._world.start(doing, done=str(done), files=str(self.files), batch=BATCH)
        return number, done, doing

    def taken(self) -> int:
        """Events that a view has taken in."""
        return read_state(self._store, self._world.views[0]).events

    def send(self) -> None:
        """Appends events as long as few are left."""
        while self.sent < self.taken() + AHEAD:
            rows = self._world.rows[self.sent : self.sent + EACH]
            assert len(rows)
            for part in range(PARTITIONS):
                chosen = rows.filter(rows["user"].str.slice(5).cast(int) % PARTITIONS == part)
                folder = self.files / f"{part}"
                write_files(chosen, self._folder / "aside", [0])
                folder.mkdir(parents=True, exist_ok=True)
                for path in (self._folder / "aside").iterdir():
                    path.rename(folder / f"{self.sent:08}.parquet")
            self.sent += len(rows)

    def kill(self, place: int, before: int, pause: float) -> int:
        """Kills a process that is at work, once events have been taken in; how many had been."""
        number, done, doing = self._lives[place]
        until = time.monotonic() + PATIENCE
        while not done.exists() or not done.stat().st_size or self.taken() <= before:
            assert time.monotonic() < until
            self.send()
            time.sleep(0.001)
        time.sleep(pause)
        self.send()
        os.kill(number, signal.SIGKILL)
        assert NURSERY.ask(number) == -signal.SIGKILL
        taken = self.taken()
        assert before < taken < self.sent
        self._lives[place] = self._begin(doing, place)
        return taken

    def end(self) -> None:
        """Kills all."""
        for number, _, _ in self._lives:
            os.kill(number, signal.SIGKILL)
            assert NURSERY.ask(number) == -signal.SIGKILL


def test_workers_that_are_killed_lose_nothing_and_count_nothing_twice(tmp_path: Path, url: str) -> None:
    world, draw, taken = World(url, tmp_path, (6_000 * (KILLS + 5), USERS)), random.Random(11), LOADED
    with open_store(url) as store:
        load(store, world.views, world.rows[:LOADED], 100)
        crowd = Crowd(world, store, tmp_path)
        crowd.send()
        for kill in range(KILLS + 1):  # the first one that goes is the one that compacts
            place = WORKERS - kill % (WORKERS + 1)
            taken = crowd.kill(place, taken, draw.uniform(0.0, 0.05))
        crowd.end()
        Ingest(store, world.views, crowd.files).run()
        assert_oracle(store, world.views, world.rows[: crowd.sent])
