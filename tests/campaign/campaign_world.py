"""The world of a parity campaign: a month of events, a project over them, and the commands that work on it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from campaign_feeds import Feed, Files, Topic, write

from bedplate.online.base import open_store
from bedplate.online.state import read_state
from bedplate.project import Project
from bedplate.testing.simulator import every_aggregation, simulate
from bedplate.types import DAY, MINUTE

MONTH = 30 * DAY
STUCK_EXIT = 3
"""Of a worker that found a partition which can't go on."""

SOURCES = ("events", "timely", "states")
VIEWS = ("by_user", "by_pair", "by_item", "says")

DEFINITIONS = """
import polars as pl

from bedplate import FeatureView, Source, Sum
from bedplate.features.links import Link
from bedplate.testing.simulator import ITEM, USER, every_aggregation

CHOSEN = {chosen}
HOURS = {hours}


def features(view):
    known = every_aggregation()
    return {{n: known[n] for n in CHOSEN[view]}} | {{"extra": Sum("quantity", windows=HOURS[view])}}


events = Source("events", "table.parquet", time="time", delay="5m"{sequence})
timely = Source("timely", "table.parquet", time="time", available="known", sequence="{rank}")
states = Source("states", "table.parquet", time="time"{sequence})
by_user = FeatureView("by_user", USER, events, features("by_user"))
by_pair = FeatureView("by_pair", [USER, ITEM], timely, features("by_pair"), ttl="1d")
by_item = FeatureView("by_item", ITEM, timely, features("by_item"), where=pl.col("quantity") > 0)
says = FeatureView("says", ITEM, states, features("says"), ttl="2h")
favourite = Link("favourite", "by_user.last_item", ITEM)
"""


class CommandError(Exception):
    """A command ended otherwise than it should."""


class World:
    """A project in a folder, and how far its table and its stream are.

    Args:
        folder: where it is, made if missing.
        seed: of events, definitions and the order of what happens.
        events: how many events the month has.
        store: the URL of the online store.
        stream: `files` of a directory, in `parts` of one, or a `topic`.
        workers: so many share the stream.

    Attributes:
        events: all events of the month in order of arrival.
        loaded: so many of them are in the table that was loaded.
        sent: so many are in the table or in files of the stream.
        draw: the randomness of what happens.
    """

    def __init__(
        self, folder: Path, seed: int, events: int, store: str, stream: str = "files", workers: int = 1
    ) -> None:
        self.folder, self.seed, self.store = folder, seed, store
        self.draw = np.random.default_rng([seed, 1])
        self.events = simulate(seed, events, users=6, items=4, span=MONTH, pace=2 * MONTH // events).events
        self.loaded = self.sent = max(1, events // 10)
        self.workers, self._is_apart = workers, stream != "files"
        if self._is_apart:  # events of one item and time come from several partitions: a column says their order
            number = pl.int_range(pl.len()).alias("turn")
            self.events = self.events.with_columns(number, pl.col("price").fill_nan(None))
        self._chosen = {view: self._names(view) for view in VIEWS}
        self._hours = dict.fromkeys(VIEWS, "3h")
        self._took: dict[str, float] = {}
        self._logs: list[Path] = []
        self._log_of: dict[int, Path] = {}
        folder.mkdir(parents=True)
        self.feed: Feed = self._feed(stream)
        (folder / "bedplate.toml").write_text(f'[online]\nurl = "{store}"\n')
        self._write_table()
        self._define()

    def _feed(self, stream: str) -> Feed:
        if stream == "topic":
            return Topic(self.folder, self.events, self.loaded)
        return Files(self.folder / "stream", self.events, self.loaded, 3 if stream == "parts" else 1)

    def project(self) -> Project:
        """The project as it is defined now."""
        return Project(self.folder)

    def send(self, count: int) -> None:
        """Appends the next events to the stream."""
        end = min(len(self.events), self.sent + count)
        if end > self.sent:
            self.feed.send(self.sent, end)
            self.sent = end

    def change(self, view: str) -> None:
        """Gives a view other features."""
        self._chosen[view] = self._names(view)
        self._hours[view] = f"{self.draw.integers(2, 100)}h"
        self._define()

    def catch_up(self) -> None:
        """Lets the table hold all that was sent; the stream begins anew after that."""
        self.loaded = self.sent
        self._write_table()

    def clear(self) -> None:
        """Begins the stream anew, without what the load that follows has from the table."""
        self.feed.begin_anew(self.loaded)

    def take_in(self, code: int = 0, *, kill: bool = False) -> bool:
        """Lets the workers take in what was sent; with `kill` at least one of them is killed meanwhile.

        Returns:
            whether a worker was killed at work.

        Raises:
            CommandError: a worker ended with another code.
        """
        processes, killed = [self._worker() for _ in range(self.workers)], False
        if kill:
            time.sleep(self.draw.random() * 1.1 * self._took.get("ingest", 2.0))
            for process in processes[: self.draw.integers(1, self.workers + 1)]:
                process.kill()
                killed |= process.wait() == -signal.SIGKILL
            if not self.feed.has_end:
                processes += [self._worker()]
        began = time.monotonic()
        try:
            if not self.feed.has_end:
                self._wait_until_taken()
                self._wait_until_following(processes)
                for process in processes:
                    process.send_signal(signal.SIGTERM)
            for process in processes:
                # One that never had the partition which can't go on knows nothing of it.
                if process.wait(600) not in (code, -signal.SIGKILL if kill else code, 0):
                    raise CommandError(f"a worker ended with {process.returncode}, not {code}: {self._said(process)}")
            if code and all(process.returncode != code for process in processes):
                raise CommandError(f"no worker ended with {code}: {self._said(processes[0])}")
        finally:
            for process in processes:
                process.kill()
                process.wait()
        self._took["ingest"] = time.monotonic() - began
        return killed

    def _worker(self, *more: str) -> subprocess.Popen[str]:
        words = ("ingest", *self.feed.words, *(("--late", *more) if self.feed.has_end else ("--follow",)))
        number = len(self._logs)
        self._logs.append(self.folder / f"worker-{number}.log")
        with self._logs[-1].open("w") as log:
            process = subprocess.Popen(self._command(words), cwd=self.folder, stdout=log, stderr=log, text=True)
        self._log_of[process.pid] = self._logs[-1]
        return process

    def _said(self, process: subprocess.Popen[str]) -> str:
        return self._log_of[process.pid].read_text()[-2000:]

    def _wait_until_following(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        for process in processes:
            while "follow" not in self._said(process) and process.poll() is None:
                time.sleep(0.02)

    def _wait_until_taken(self) -> None:
        project, began = self.project(), time.monotonic()
        with open_store(self.store, self.folder) as store:
            while not all(self.feed.is_taken(read_state(store, project.views[name])) for name in VIEWS):
                if time.monotonic() > began + 300:
                    raise CommandError("the workers do not take in what was sent")
                time.sleep(0.05)

    def run(self, *words: str, code: int = 0) -> str:
        """Runs a command to its end; what it wrote to stderr.

        Raises:
            CommandError: it ended with another code.
        """
        began = time.monotonic()
        done = subprocess.run(self._command(words), cwd=self.folder, capture_output=True, text=True, check=False)
        self._took[words[0]] = time.monotonic() - began
        if done.returncode != code:
            raise CommandError(f"bedplate {' '.join(words)} ended with {done.returncode}, not {code}: {done.stderr}")
        return done.stderr

    def run_and_kill(self, *words: str) -> bool:
        """Runs a command and kills it with SIGKILL at some moment of its usual time; whether it was still at work."""
        moment = self.draw.random() * 1.1 * self._took.get(words[0], 2.0)
        with subprocess.Popen(
            self._command(words), cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.kill()
            return process.wait() == -signal.SIGKILL

    def follow_and_stop(self, count: int, stop: signal.Signals, meanwhile: Callable[[], object] = int) -> None:
        """Lets workers follow the stream while events are appended to it, then sends each a signal.

        Args:
            count: of events.
            stop: the signal.
            meanwhile: done while they are at work.
        """
        processes = [self._worker("--follow") for _ in range(self.workers)]
        try:
            self._wait_until_following(processes)
            for _ in range(3):
                self.send(count // 3 + 1)
                time.sleep(self.draw.random() * 0.5)
            meanwhile()
            for process in processes:
                process.send_signal(stop)
            for process in processes:
                if process.wait(60) != (0 if stop is signal.SIGTERM else -stop):
                    code = process.returncode
                    raise CommandError(f"a worker that got {stop.name} ended with {code}: {self._said(process)}")
        finally:
            for process in processes:
                process.kill()
                process.wait()

    def _command(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "bedplate", *words]

    def _names(self, view: str) -> list[str]:
        names = np.array(list(every_aggregation()))
        # One view has them all, the others most, so that layouts differ.
        kept = names[self.draw.random(len(names)) < (1 if view == "by_user" else 0.7)].tolist()
        return sorted({*kept, "events"})

    def _define(self) -> None:
        sequence, rank = (', sequence="turn"', "turn") if self._is_apart else ("", "rank")
        text = DEFINITIONS.format(chosen=self._chosen, hours=self._hours, sequence=sequence, rank=rank)
        aside = self.folder / "features.tmp"
        aside.write_text(text)
        aside.rename(self.folder / "features.py")

    def _write_table(self) -> None:
        write(self.events[: self.loaded], self.folder / "table.parquet")


def questions(draw: np.random.Generator, watermark: int, count: int) -> np.ndarray:
    """[count] times to ask for: at the watermark, a little before it, at the edges of hops and windows after it."""
    steps = np.array([0, 0, 1, MINUTE, 15 * MINUTE, 60 * MINUTE, 13 * 60 * MINUTE, DAY, 2 * DAY, 3 * DAY])
    times = watermark + steps[draw.integers(0, len(steps), count)] - draw.integers(-1, 2, count)
    hops = np.array([MINUTE, 5 * MINUTE, 60 * MINUTE, DAY])[draw.integers(0, 4, count)]
    snapped = times - times % hops + hops
    before = watermark - draw.integers(0, MINUTE, count)
    kind = draw.random(count)
    return np.where(kind < 0.25, snapped, np.where(kind < 0.4, before, np.maximum(times, watermark)))
