"""What processes do that tests kill: they take in a stream, load or compact, and may die at a moment that is chosen.

Run as a program it forks off a process for each line of its input, so that these need not import anything: a line is
what `live` is called with, and answered with the process's number; a number is answered with how that process ended.

A moment is before, within and after each write transaction of LMDB; before and after what a step sends to Redis, and
after the answer; before and after a file of dead letters. So between two of a store's round trips there is always one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numba.core.registry import cpu_target
from planted import PLANTED
from redis.connection import Connection

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.distinct import CountDistinct
from bedplate.aggregations.ordered import Last, LastN
from bedplate.features.entity import Entity
from bedplate.features.view import CompiledView, FeatureView
from bedplate.files import write_atomic
from bedplate.online import letters
from bedplate.online.base import OnlineStore, open_store
from bedplate.online.compact import compact
from bedplate.online.files import FileStream
from bedplate.online.ingest import Ingest
from bedplate.online.lmdb import LmdbStore
from bedplate.online.load import bulk_load
from bedplate.online.texts import drop_texts
from bedplate.sources.base import Source
from bedplate.testing.online_store import grouped
from bedplate.testing.simulator import START
from bedplate.types import HOUR

# What numba looks up at a process's first kernel, so that each of those that are forked off need not.
cpu_target.typing_context.refresh()
cpu_target.target_context.refresh()

LOADED = 6
"""So many events are loaded, the others come in a stream."""

_STEPS = (b"HSET", b"HDEL", b"SADD", b"WATCH", b"MULTI", b"EVALSHA", b"'CONFLICT'")


def events(count: int, users: int) -> pl.DataFrame:
    """Events of an hour after the other; event i is of user i % users, on pages that come anew all the time."""
    number = np.arange(count)
    return pl.DataFrame(
        {
            "user": [f"user {i}" for i in number % users],
            "page": [f"page {i}" for i in number // 4 - number % 3],
            "time": START + number * HOUR,
            "amount": number * number % 17 - 5,
        }
    )


def views(rows: pl.DataFrame) -> list[CompiledView]:
    """Two views of events: a row of each user and one of each page."""
    source = Source("events", rows, time="time")
    windows = ["2h", "1d"]
    by_user = {
        "n": Count(),
        "n_in": Count(windows=windows),
        "total": Sum("amount", windows=windows),
        "pages": CountDistinct("page", windows="1d"),
        "recent": LastN("page", 3),
    }
    by_page = {"n": Count(), "total": Sum("amount"), "total_in": Sum("amount", windows="1d"), "user": Last("user")}
    user, page = Entity("user", key="user"), Entity("page", key="page")
    return [
        FeatureView("by_user", user, source, by_user).compile(),
        FeatureView("by_page", page, source, by_page).compile(),
    ]


def load(store: OnlineStore, chosen: list[CompiledView], rows: pl.DataFrame, batch: int) -> None:
    """Loads views with events, which end before the stream begins."""
    until = int(rows["time"].to_numpy()[-1]) + 1
    for view in chosen:
        bulk_load(store, view, [grouped(view, rows)], until, batch=batch)


def live(
    url: str,
    files: str,
    doing: str,
    size: tuple[int, int],
    batch: int,
    moment: int = 0,
    planted: str = "",
    done: str = "",
    aside: str = "",
) -> None:
    """Does something in a process of its own.

    Args:
        url: of the store.
        files: the stream's directory.
        doing: `ingest`, `follow`, `load` (the first view), `load_all`, `compact`, or `tidy`: it compacts and drops
            texts without end.
        size: of the world, as for `events`.
        batch: events of a step.
        moment: at which it dies, counted from one; 0: none.
        planted: the fault that the store has, of `PLANTED`; empty: none.
        done: the file to which it adds a byte after each of its steps; empty: none.
        aside: where it keeps rows that can't be taken in; empty: such a row is an error.
    """
    rows = events(*size)
    chosen = views(rows)
    with open_store(url) as store:
        if planted:
            PLANTED[planted](store)
        if moment:
            _mortal(store, moment)
        with Path(done or os.devnull).open("ab", buffering=0) as counted:

            def count(_: object) -> None:
                counted.write(b".")

            if doing in ("load", "load_all"):
                load(store, chosen[:1] if doing == "load" else chosen, rows[:LOADED], batch)
            elif doing == "compact":
                compact(store, chosen)
            elif doing == "tidy":
                while True:
                    compact(store, chosen)
                    drop_texts(store)
                    count(None)
            else:
                stream = FileStream(Path(files), chosen[0], Path(aside)) if aside else Path(files)
                Ingest(store, chosen, stream, batch=batch).run(follow=doing == "follow", poll=0.01, progress=count)


def _mortal(store: OnlineStore, moment: int) -> None:
    """Lets this process die at the store's next moment of this number."""
    left = [moment]

    def pass_moment() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def write_mortally(path: Path, content: bytes) -> None:
        pass_moment()
        write_atomic(path, content)
        pass_moment()

    letters.write_atomic = write_mortally
    if isinstance(store, LmdbStore):
        store._environment = _Environment(store._environment, pass_moment)
    else:
        _watch_connections(pass_moment)


class _Environment:
    """LMDB's environment, with moments about each write transaction."""

    def __init__(self, environment: Any, pass_moment: Callable[[], None]) -> None:
        self._environment, self._pass_moment = environment, pass_moment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)

    @contextlib.contextmanager
    def begin(self, write: bool = False) -> Generator[Any]:
        pass_moment = self._pass_moment if write else int
        pass_moment()
        with self._environment.begin(write=write) as transaction:
            yield transaction
            pass_moment()
        pass_moment()


def _watch_connections(pass_moment: Callable[[], object]) -> None:
    """Moments about what is sent to Redis; leases, whose loss harms nobody, have none."""
    send, read = Connection.send_packed_command, Connection.read_response
    is_asked = [False]

    def sending(self: Connection, command: Any, check_health: bool = True) -> None:
        data = command if isinstance(command, bytes) else b"".join(command)
        is_step = any(word in data for word in _STEPS)
        if is_step:
            pass_moment()
        send(self, command, check_health)
        if is_step:
            pass_moment()
            is_asked[0] = True

    def reading(self: Connection, *arguments: Any, **options: Any) -> Any:
        answer = read(self, *arguments, **options)
        if is_asked[0]:
            is_asked[0] = False
            pass_moment()
        return answer

    Connection.send_packed_command, Connection.read_response = sending, reading


def _serve() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            _answer(os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1]))
        elif number := os.fork():
            _answer(number)
        else:
            try:
                live(**asked)
            except BaseException:  # noqa: BLE001  (a fork must not go on as its parent)
                traceback.print_exc()
                os._exit(1)
            os._exit(0)


def _answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve()
