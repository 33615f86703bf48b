"""What a store holds where nobody dies, to compare one with whose processes did."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from mortal import LOADED, events, load, views

from bedplate.features.entity import encode
from bedplate.features.view import CompiledView
from bedplate.offline.reference import Reference
from bedplate.online import keys
from bedplate.online.base import OnlineStore, StoredTexts
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.memory import MemoryStore
from bedplate.online.state import read_state
from bedplate.testing.columns import mismatches, plain
from bedplate.testing.online_store import write_files
from bedplate.types import HOUR

BATCH = 5


class Nursery:
    """Where processes that die come from; see `mortal`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, what: object) -> int:
        """Starts a process, or waits for one to end."""
        if self._process is None:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "POLARS_MAX_THREADS": "1"}
            command = [sys.executable, str(Path(__file__).with_name("mortal.py"))]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, process_group=0
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(what)}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """Ends it, and what came from it and has not ended."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None


NURSERY = Nursery()


class World:
    """Views whose first events are loaded, the others in two files of a stream.

    Args:
        url: of an empty store.
        folder: for files.
        size: events and users.
        batch: events of a step.
    """

    def __init__(self, url: str, folder: Path, size: tuple[int, int], batch: int = BATCH) -> None:
        self.url, self.files, self.size, self.batch = url, folder / "files", size, batch
        self.rows = events(*size)
        self.views = views(self.rows)
        write_files(self.rows, self.files, [LOADED, LOADED + batch + 2])

    @cached_property
    def expected(self) -> list[list[dict[Any, Any]]]:
        """By step of the stream what the store holds of each view."""
        return [held for held, _ in self._whole]

    @cached_property
    def values(self) -> list[list[dict[str, list[object]]]]:
        """By step of the stream what is read."""
        return [read for _, read in self._whole]

    @cached_property
    def _whole(self) -> list[tuple[Any, Any]]:
        with MemoryStore() as whole:
            load(whole, self.views, self.rows[:LOADED], 100)
            worker, found = self.ingest(whole), list[tuple[Any, Any]]()
            while not found or worker.turn().taken:
                found.append((content(whole, self.views), values(whole, self.views, self.rows)))
        return found

    def start(self, doing: str, **options: Any) -> int:
        """A process that does something; its number."""
        common: dict[str, Any] = {
            "url": self.url,
            "files": str(self.files),
            "doing": doing,
            "size": self.size,
            "batch": self.batch,
        }
        return NURSERY.ask(common | options)

    def live(self, doing: str, moment: int, planted: str = "") -> bool:
        """Lets a process do something and die at a moment; whether it did."""
        code = NURSERY.ask(self.start(doing, moment=moment, planted=planted))
        assert code in (0, -signal.SIGKILL)
        return code != 0

    def ingest(self, store: OnlineStore) -> Ingest:
        """A worker that lives."""
        return Ingest(store, self.views, self.files, batch=self.batch)

    def steps(self, store: OnlineStore) -> list[int]:
        """How many steps each view is on, all of whose content is as it is where nobody dies."""
        found = list[int]()
        for i, held in enumerate(content(store, self.views)):
            whole = [step[i] for step in self.expected]
            assert held in whole
            found.append(whole.index(held))
        read = values(store, self.views, self.rows)
        assert read == [self.values[step][i] for i, step in enumerate(found)]
        return found


def content(store: OnlineStore, chosen: Sequence[CompiledView]) -> list[dict[Any, Any]]:
    """What a store holds of each view: counts and positions, files, rows, and the texts that may be named by rows."""
    while (found := _content(store, chosen)) != _content(store, chosen):
        pass  # what a process has sent may be at work when it is dead
    return found


def _content(store: OnlineStore, chosen: Sequence[CompiledView]) -> list[dict[Any, Any]]:
    found = list[dict[Any, Any]]()
    for view in chosen:
        state, files = read_state(store, view), keys.files_of(view)
        rows = keys.rows_of(view, state.generation)
        held: dict[Any, Any] = {n: getattr(state, n) for n in ("events", "newest", "watermark", "until", "positions")}
        held |= {key[len(rows) :]: value for key, value in store.scan(rows)}
        held |= {key[len(files) :].decode(): value for key, value in store.scan(files)}
        found.append(held)
    return found


def values(store: OnlineStore, chosen: Sequence[CompiledView], rows: Any) -> list[dict[str, list[object]]]:
    """What is read of each view and key some hours after all events, with texts."""
    found = list[dict[str, list[object]]]()
    for view in chosen:
        asked, times = questions(view, rows)
        columns = OnlineReader(store).read(view, list(view.features), asked, times)
        found.append({name: plain(column) for name, column in columns.items()})
    return found


def questions(view: CompiledView, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Keys and times, some hours after all events."""
    (entity,) = view.view.entities
    asked = encode(rows[entity.key].unique(maintain_order=True)).reshape(-1, 1)
    return asked, int(rows["time"].max()) + HOUR * (np.arange(len(asked)) % 3)


def assert_oracle(store: OnlineStore, chosen: Sequence[CompiledView], rows: Any) -> None:
    """Every event once: as counted, and as read."""
    for view in chosen:
        assert read_state(store, view).events == len(rows)
        asked, times = questions(view, rows)
        got = OnlineReader(store).read(view, list(view.features), asked, times)
        whole = Reference(view, rows.lazy()).read(view, list(view.features), asked, times)
        assert mismatches(got, whole) == []
    assert {*rows["user"], *rows["page"]} <= set(StoredTexts(store).values())
