"""How the events of a parity campaign reach the workers: files, in partitions or not, or a topic of a mock cluster."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import polars as pl
from confluent_kafka import Producer

from bedplate.online.state import ViewState
from bedplate.online.streams import Position

POISON = "a"
"""Ends the names of poisoned files, which so come after the event before them."""


class Feed(ABC):
    """A stream that is fed with the events of a month, by their numbers.

    Args:
        events: all events of the month; those of one user are in one partition.
        loaded: so many of them are not in the stream.
        partitions: how many.

    Attributes:
        words: of the command that takes it in.
        has_end: whether that command ends by itself, or stops only at a signal.
    """

    words: tuple[str, ...]
    has_end: bool

    def __init__(self, events: pl.DataFrame, loaded: int, partitions: int) -> None:
        self._events, self._loaded = events, loaded
        self._part = events["user"].to_numpy() % partitions
        self._partitions = partitions

    def taken(self, state: ViewState) -> np.ndarray:
        """[events] bool: which events a view's state says are in the store."""
        found = np.arange(len(self._events)) < self._loaded
        for part in range(self._partitions):
            found[self._before(part, state.position(self._name(part)))] = True
        return found

    @abstractmethod
    def send(self, first: int, last: int) -> None:
        """Appends some events."""

    @abstractmethod
    def is_taken(self, state: ViewState) -> bool:
        """Whether all that was sent is in the store."""

    @abstractmethod
    def begin_anew(self, loaded: int) -> None:
        """Leaves out so many events, which the next load has."""

    @abstractmethod
    def _name(self, part: int) -> str:
        """What the store calls a partition."""

    @abstractmethod
    def _before(self, part: int, reached: Position) -> np.ndarray:
        """The numbers of the events of a partition before a position."""


class Files(Feed):
    """A directory, or some subdirectories of one, to which files are appended, named by the first event in them.

    Attributes:
        poisoned: files and rows that become dead letters of each source.
    """

    words, has_end = ("stream",), True

    def __init__(self, folder: Path, events: pl.DataFrame, loaded: int, partitions: int) -> None:
        super().__init__(events, loaded, partitions)
        self.folder, self.poisoned = folder, list[tuple[str, int]]()
        folder.mkdir(parents=True, exist_ok=True)

    def send(self, first: int, last: int) -> None:
        """Appends some events, as a file a partition."""
        for part in range(self._partitions):
            rows = self._events[first:last].filter(self._part[first:last] == part)
            if len(rows):
                write(rows, self.folder / self._name(part) / f"{first:08}.parquet")

    def again(self, draw: np.random.Generator) -> str:
        """Delivers a file once more under its name; the name."""
        files = sorted(self.folder.rglob("*.parquet"))
        if not files:
            return ""
        path = files[draw.integers(len(files))]
        write(pl.read_parquet(path), path)
        return str(path.relative_to(self.folder))

    def poison(self, draw: np.random.Generator, sent: int) -> Path | None:
        """Appends a file that can't be taken in; the file, or None where its rows become dead letters."""
        kind, rows = draw.integers(4), self._events[max(0, sent - 5) : sent]
        name = f"{sent - 1:08}{POISON}"
        while self._path(name).exists() or any(file.endswith(f"{name}.parquet") for file, _ in self.poisoned):
            name += POISON
        path = self._path(name)
        path.parent.mkdir(exist_ok=True)
        if kind == 0:
            path.write_bytes(b"PAR1 is how it begins")
        elif kind == 1:
            write(rows.with_columns(pl.lit("now").alias("time")), path)
        else:
            write(rows.with_columns(pl.lit(17 if kind == 2 else None, pl.Int64).alias("time")), path)
            self.poisoned += [(str(path.relative_to(self.folder)), row) for row in range(len(rows))]
        return path if kind < 2 else None

    def is_taken(self, state: ViewState) -> bool:
        """Whether all that was sent is in the store."""
        return True  # the command ended

    def begin_anew(self, loaded: int) -> None:
        """Removes all files."""
        self._loaded = loaded
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def _path(self, name: str) -> Path:
        return self.folder / self._name(0) / f"{name}.parquet"

    def _name(self, part: int) -> str:
        return "" if self._partitions == 1 else f"p{part}"

    def _before(self, part: int, reached: Position) -> np.ndarray:
        mine = np.flatnonzero(self._part == part)
        mine = mine[mine >= self._loaded]
        if not reached.name:
            return mine[:0]
        stem = reached.name.partition(".")[0]
        first = int(stem.rstrip(POISON))
        if stem.endswith(POISON):  # no row of it counts
            return mine[mine <= first]
        return mine[: int((mine < first).sum()) + reached.at]


class Topic(Feed):
    """A topic of librdkafka's mock cluster, which lives in its producer."""

    has_end = False

    def __init__(self, folder: Path, events: pl.DataFrame, loaded: int) -> None:
        super().__init__(events, loaded, 4)
        self._producer = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1})
        brokers = self._producer.list_topics(timeout=10).brokers
        self._address = ",".join(f"{b.host}:{b.port}" for b in brokers.values())
        self._settings, self._topics, self.poisoned = folder / "kafka.toml", 0, 0
        self._settings.write_text('"session.timeout.ms" = 6000\n"heartbeat.interval.ms" = 200\n')
        self.begin_anew(loaded)

    def send(self, first: int, last: int) -> None:
        """Appends some events."""
        for number in range(first, last):
            part, line = int(self._part[number]), self._events[number : number + 1].write_ndjson()
            self._sent[part].append(number)
            self._producer.produce(self._topic, line.strip().encode(), partition=part)
        self._producer.flush(10)

    def poison(self, draw: np.random.Generator) -> None:
        """Appends events that can't be taken in."""
        kinds = [b"no JSON", b'{"user": "one"}', None, b'{"item": "x", "time": 17}', b'{"user": null, "time": 9e99}']
        for kind in draw.permutation(len(kinds))[:3].tolist():
            part = int(draw.integers(self._partitions))
            self._sent[part].append(-1)
            self._producer.produce(self._topic, kinds[kind], partition=part)
            self.poisoned += 1
        self._producer.flush(10)

    def taken(self, state: ViewState) -> np.ndarray:
        """As for all; late events of a topic are passed over."""
        known = pl.max_horizontal("time", "known") if state.name in ("by_pair", "by_item") else pl.col("time")
        late = self._events.select(known).to_series().to_numpy() < state.until
        return super().taken(state) & ~(late & (np.arange(len(late)) >= self._loaded))

    def is_taken(self, state: ViewState) -> bool:
        """Whether all that was sent is in the store, or was put aside."""
        return all(state.position(self._name(p)).at >= len(sent) for p, sent in enumerate(self._sent))

    def begin_anew(self, loaded: int) -> None:
        """Begins another topic."""
        self._topics, self._loaded = self._topics + 1, loaded
        self._topic, self._sent = f"events{self._topics}", [list[int]() for _ in range(self._partitions)]
        self._producer.list_topics(self._topic, timeout=10)  # which makes it
        self.words = (f"kafka://{self._address}/{self._topic}", "--settings", str(self._settings))

    def _name(self, part: int) -> str:
        return f"{self._topic}/{part}"

    def _before(self, part: int, reached: Position) -> np.ndarray:
        found = np.array(self._sent[part][: reached.at], np.int64)
        return found[found >= 0]


def write(rows: pl.DataFrame, path: Path) -> None:
    """Writes a file aside and renames it."""
    path.parent.mkdir(exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    rows.write_parquet(aside)
    aside.replace(path)
