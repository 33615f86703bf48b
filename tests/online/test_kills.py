"""Several workers share a stream and are killed at random moments: nothing is lost and nothing counts twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Generator
from pathlib import Path

import polars as pl
import pytest
from redis_server import running
from stream_worker import work, world

from bedplate.features.rows import prepare_rows
from bedplate.features.view import CompiledView
from bedplate.offline.reference import Reference
from bedplate.online.base import OnlineStore, open_store
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.load import bulk_load
from bedplate.online.state import read_state
from bedplate.online.streams import Position
from bedplate.testing.columns import mismatches
from bedplate.testing.online_store import grouped, write_files
from bedplate.testing.simulator import START, Simulation

KILLS = int(os.environ.get("BEDPLATE_KILLS", "4"))
WORKERS, PARTITIONS, LOADED = 3, 4, 40


def prepare(store: OnlineStore, folder: Path, simulation: Simulation, views: list[CompiledView]) -> None:
    """The first events are loaded, the others in a partition by user."""
    first = simulation.events[:LOADED]
    for view in views:
        until = max(START, int(prepare_rows(view, first.lazy()).visible.max(initial=0)) + 1)
        bulk_load(store, view, [grouped(view, first)], until)
    for part in range(PARTITIONS):
        rows = simulation.events[LOADED:].filter(pl.col("user").hash(0) % PARTITIONS == part)
        write_files(rows, folder / f"{part}", range(0, len(rows), 30))


def ends(folder: Path) -> dict[str, Position]:
    """The end of each partition."""
    last = {part.name: max(part.iterdir()) for part in folder.iterdir()}
    return {name: Position(path.name, len(pl.read_parquet(path))) for name, path in last.items()}


def assert_whole(store: OnlineStore, folder: Path, simulation: Simulation, views: list[CompiledView]) -> None:
    """Takes in what is left, and compares every row with the oracle."""
    done = Ingest(store, views, folder, late=True).run()
    for view in views:
        state = read_state(store, view)
        assert (state.events, state.positions) == (len(simulation.events), ends(folder))
        asked = simulation.since(done.watermark)
        keys = asked.keys(view.view.entities)
        got = OnlineReader(store).read(view, list(view.features), keys, asked.times)
        assert mismatches(got, Reference(view).read(view, list(view.features), keys, asked.times)) == []


@pytest.fixture(params=["lmdb", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    if request.param == "lmdb":
        yield f"lmdb:{tmp_path / 'store'}"
        return
    with running("--appendonly", "no") as server:
        yield f"{server.url}/0"


def test_workers_that_are_killed_lose_nothing_and_count_nothing_twice(tmp_path: Path, url: str) -> None:
    simulation, views = world()
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["stream_worker"])
    draw, files = random.Random(11), tmp_path / "files"
    with open_store(url) as store:
        prepare(store, files, simulation, views)
        workers = [processes.Process(target=work, args=(url, str(files)), daemon=True) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        seen = [LOADED]
        for _ in range(KILLS):
            began = time.monotonic()
            while read_state(store, views[0]).events == seen[-1] and time.monotonic() < began + 60:
                time.sleep(0.002)
            time.sleep(draw.uniform(0.0, 0.1))
            seen.append(read_state(store, views[0]).events)
            place = draw.randrange(WORKERS)
            workers[place].kill()
            workers[place].join()
            workers[place] = processes.Process(target=work, args=(url, str(files)), daemon=True)
            workers[place].start()
        for worker in workers:
            worker.kill()
            worker.join()
        assert seen[1] < len(simulation.events)  # they were killed at work
        assert_whole(store, files, simulation, views)
