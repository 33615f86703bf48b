"""The world of a parity campaign: a month of events, a project over them, and the commands that work on it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

from bedplate.project import Project
from bedplate.testing.simulator import every_aggregation, simulate
from bedplate.types import DAY, MINUTE

MONTH = 30 * DAY

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


events = Source("events", "table.parquet", time="time", delay="5m")
timely = Source("timely", "table.parquet", time="time", available="known", sequence="rank")
states = Source("states", "table.parquet", time="time")
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

    Attributes:
        events: all events of the month in order of arrival.
        loaded: so many of them are in the table that was loaded.
        sent: so many are in the table or in files of the stream.
        draw: the randomness of what happens.
    """

    def __init__(self, folder: Path, seed: int, events: int, store: str) -> None:
        self.folder, self.seed, self.store = folder, seed, store
        self.draw = np.random.default_rng([seed, 1])
        self.events = simulate(seed, events, users=6, items=4, span=MONTH, pace=2 * MONTH // events).events
        self.loaded = self.sent = max(1, events // 10)
        self._chosen = {view: self._names(view) for view in VIEWS}
        self._hours = dict.fromkeys(VIEWS, "3h")
        self._took: dict[str, float] = {}
        (folder / "stream").mkdir(parents=True)
        (folder / "bedplate.toml").write_text(f'[online]\nurl = "{store}"\n')
        self._write_table()
        self._define()

    @property
    def stream(self) -> Path:
        """The directory of the stream."""
        return self.folder / "stream"

    def project(self) -> Project:
        """The project as it is defined now."""
        return Project(self.folder)

    def send(self, count: int) -> None:
        """Appends the next events to the stream, as a file that is named by the first of them."""
        end = min(len(self.events), self.sent + count)
        if end > self.sent:
            self._write(self.events[self.sent : end], self.stream / f"{self.sent:08}.parquet")
            self.sent = end

    def send_again(self) -> str:
        """Delivers a file of the stream once more under its name; the name."""
        files = sorted(self.stream.glob("*.parquet"))
        if not files:
            return ""
        path = files[self.draw.integers(len(files))]
        self._write(pl.read_parquet(path), path)
        return path.name

    def poison(self) -> Path:
        """Appends a file that can't be taken in."""
        path = self.stream / f"{self.sent:08}a.parquet"
        kind, rows = self.draw.integers(4), self.events[self.sent - 1 : self.sent + 4]
        if kind == 0:
            path.write_bytes(b"PAR1 is how it begins")
        elif kind == 1:
            self._write(rows.with_columns(pl.lit("now").alias("time")), path)
        elif kind == 2:
            self._write(rows.with_columns(pl.when(pl.int_range(pl.len()) > 0).then("user").alias("user")), path)
        else:
            self._write(rows.with_columns(pl.lit(17, pl.Int64).alias("time")), path)
        return path

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
        """Removes the files of the stream, which the load that follows has from the table."""
        shutil.rmtree(self.stream)
        self.stream.mkdir()

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

    def follow_and_stop(self, count: int, stop: signal.Signals) -> None:
        """Lets a worker follow the stream while files are appended to it, then sends it a signal."""
        command = self._command(("ingest", "stream", "--late", "--follow"))
        with subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            process.stderr.readline()  # it follows now
            for _ in range(3):
                self.send(count // 3 + 1)
                time.sleep(self.draw.random() * 0.5)
            process.send_signal(stop)
            process.stderr.read()
            code = process.wait()
        if code != (0 if stop is signal.SIGTERM else -stop):
            raise CommandError(f"a worker that got {stop.name} ended with {code}")

    def _command(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "bedplate", *words]

    def _names(self, view: str) -> list[str]:
        names = np.array(list(every_aggregation()))
        # One view has them all, the others most, so that layouts differ.
        kept = names[self.draw.random(len(names)) < (1 if view == "by_user" else 0.7)].tolist()
        return sorted({*kept, "events"})

    def _define(self) -> None:
        text = DEFINITIONS.format(chosen=self._chosen, hours=self._hours)
        aside = self.folder / "features.tmp"
        aside.write_text(text)
        aside.rename(self.folder / "features.py")

    def _write_table(self) -> None:
        self._write(self.events[: self.loaded], self.folder / "table.parquet")

    @staticmethod
    def _write(rows: pl.DataFrame, path: Path) -> None:
        aside = path.with_name(f".{path.name}.tmp")
        rows.write_parquet(aside)
        aside.replace(path)


def questions(draw: np.random.Generator, watermark: int, count: int) -> np.ndarray:
    """[count] times to ask for: at the watermark, a little before it, at the edges of hops and windows after it."""
    steps = np.array([0, 0, 1, MINUTE, 15 * MINUTE, 60 * MINUTE, 13 * 60 * MINUTE, DAY, 2 * DAY, 3 * DAY])
    times = watermark + steps[draw.integers(0, len(steps), count)] - draw.integers(-1, 2, count)
    hops = np.array([MINUTE, 5 * MINUTE, 60 * MINUTE, DAY])[draw.integers(0, 4, count)]
    snapped = times - times % hops + hops
    before = watermark - draw.integers(0, MINUTE, count)
    kind = draw.random(count)
    return np.where(kind < 0.25, snapped, np.where(kind < 0.4, before, np.maximum(times, watermark)))
