"""Workers on Redis take in every event once, whatever is killed: they, their connections, or the server."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
import urllib.request
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from redis_server import Server, free_port, running

from bedplate.aggregations.arithmetic import Count
from bedplate.aggregations.ordered import Last
from bedplate.cli.main import run
from bedplate.features.rows import prepare_rows
from bedplate.features.view import FeatureView
from bedplate.offline.reference import Reference
from bedplate.online.base import OnlineStore, StoredTexts, open_store
from bedplate.online.fetch import OnlineReader
from bedplate.online.ingest import Ingest
from bedplate.online.load import bulk_load
from bedplate.online.redis import RedisStore
from bedplate.online.redis_script import Step
from bedplate.online.state import read_state
from bedplate.online.texts import drop_texts
from bedplate.project import Project
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches, plain
from bedplate.testing.online_store import grouped, write_files
from bedplate.testing.simulator import ITEM, START, USER, simulate, simulated_view
from bedplate.types import DAY, HOUR

EVENTS = 400


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    with running("--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


class Stream:
    """Two views loaded with the first events, and the others in files."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.files = url, folder / "files"
        self.simulation = simulate(5, events=EVENTS)
        self.views = [simulated_view(self.simulation, e, delay=HOUR) for e in ((USER,), (ITEM, USER))]
        first = self.simulation.events[:40]
        with open_store(url) as store:
            for view in self.views:
                until = int(prepare_rows(view, first.lazy()).visible.max(initial=0)) + 1
                bulk_load(store, view, [grouped(view, first)], until)
        write_files(self.simulation.events, self.files, range(40, EVENTS, 30))

    def ingest(self, store: OnlineStore) -> Ingest:
        return Ingest(store, self.views, self.files, batch=3, late=True)

    def check(self) -> None:
        """Takes in what is left, then compares everything with the oracle."""
        with open_store(self.url) as store:
            watermark = self.ingest(store).run().watermark
            assert [read_state(store, v).events for v in self.views] == [EVENTS] * 2
            for view in self.views:
                asked = self.simulation.since(watermark)
                names, keys = list(view.features), asked.keys(view.view.entities)
                times = np.maximum(asked.times, watermark)
                got = OnlineReader(store).read(view, names, keys, times)
                assert mismatches(got, Reference(view).read(view, names, keys, times)) == []


def test_a_worker_goes_on_when_connections_and_the_server_are_killed(server, tmp_path):
    stream = Stream(f"{server.url}/2", tmp_path)
    draw, over = random.Random(8), threading.Event()
    with open_store(stream.url, patience=0.3) as store:
        ingest = stream.ingest(store)

        def work() -> None:
            ingest.run()
            over.set()

        worker = threading.Thread(target=work)
        worker.start()
        for kills in range(12):
            over.wait(draw.uniform(0.0, 0.05))
            if kills % 4 == 3:
                errors = ingest.measures.store_errors
                server.kill()
                while ingest.measures.store_errors == errors and not over.wait(0.01):
                    pass
                server.start()
            else:
                server.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        worker.join()
        assert over.is_set()
        assert ingest.measures.store_errors
        assert ingest.events == EVENTS - 40  # though it was not told of each step
    stream.check()


@pytest.mark.parametrize("rows", [100, 50])
def test_a_worker_goes_on_when_the_server_has_lost_its_last_steps(tmp_path, rows):
    """As one with `appendonly yes` may when it is started again, or a replica that takes over."""
    times = [START + i * HOUR for i in range(100)]
    frame = pl.DataFrame({"user": range(100), "time": times, "page": [f"page {i}" for i in range(100)]})
    view = FeatureView("v", USER, Source("e", frame, time="time"), {"n": Count(), "page": Last("page")}).compile()
    write_files(frame, tmp_path / "files", range(0, 100, rows))
    with running() as server, open_store(server.url) as store:
        bulk_load(store, view, [], START)
        worker = Ingest(store, [view], tmp_path / "files", batch=10)
        for _ in range(3):
            worker.turn()
        server.client.save()
        for _ in range(4):
            worker.turn()
        server.kill()
        server.start()
        assert read_state(store, view).events == 30
        worker.run()
        assert read_state(store, view).events == 100
        keys, now = np.arange(100).reshape(-1, 1), np.full(100, START + 1000 * HOUR)
        found = OnlineReader(store).read(view, list(view.features), keys, now)
        assert [plain(found[name]) for name in view.features] == [[1] * 100, frame["page"].to_list()]


def test_texts_that_a_step_on_hand_has_put_are_dropped_and_put_again(server, tmp_path, monkeypatch):
    frame = pl.DataFrame({"user": 1, "time": [START + i * HOUR for i in range(4)], "page": ["x", "y", "z", "x"]})
    view = FeatureView("v", USER, Source("events", frame, time="time"), {"page": Last("page")}).compile()
    write_files(frame, tmp_path / "files", [0])
    take = RedisStore._take
    with RedisStore(f"{server.url}/4") as store:
        bulk_load(store, view, [], START)
        worker = Ingest(store, [view], tmp_path / "files", batch=1)
        for _ in range(3):
            worker.turn()

        def late(self: RedisStore, step: Step) -> None:  # its texts are there by now
            monkeypatch.setattr(RedisStore, "_take", take)
            drop_texts(store)
            assert sorted(StoredTexts(store).values()) == ["y", "z"]
            take(self, step)

        monkeypatch.setattr(RedisStore, "_take", late)
        worker.turn()
        assert sorted(StoredTexts(store).values()) == ["x", "y", "z"]
        assert drop_texts(store) == 1
        found = OnlineReader(store).read(view, ["v.page"], np.array([[1]]), np.array([START + DAY]))
        assert plain(found["v.page"]) == ["x"]


FEATURES = """
from bedplate import Count, Entity, FeatureView, Last, Source

user = Entity("user", key="user")
clicks = Source("clicks", "clicks.parquet", time="time")
activity = FeatureView("activity", user, clicks, {"n": Count(), "page": Last("page")})
"""


CLICKS = pl.DataFrame(
    {"user": [1, 2, 1, 2], "time": [DAY * i for i in range(1, 5)], "page": ["a", "b", "c", "d"]}
).with_columns(pl.col("time").cast(pl.Datetime("us")))


def make_project(folder: Path, url: str) -> None:
    """A project with clicks, of which the last two come in a stream."""
    (folder / "features.py").write_text(FEATURES)
    (folder / "bedplate.toml").write_text(f'online.url = "{url}"')
    CLICKS.write_parquet(folder / "clicks.parquet")
    (folder / "stream").mkdir()
    CLICKS[2:].write_parquet(folder / "stream" / "1.parquet")


def test_the_commands_work_on_redis(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STORE_PASSWORD", "a secret word")
    server.client.config_set("requirepass", "a secret word")
    server.client.execute_command("AUTH", "a secret word")
    try:
        url = f"{server.url}/3?password_env=STORE_PASSWORD"
        make_project(tmp_path, url)
        stream, project = str(tmp_path / "stream"), ["--project", str(tmp_path)]
        for command in (["apply"], ["materialize", "--until", "1970-01-04"], ["ingest", stream], ["ingest", stream]):
            assert run([*command, *project]) == 0
        view = Project(tmp_path).view("activity")
        with open_store(url) as store:
            now, names = np.full(2, 10 * DAY), list(view.features)
            columns = OnlineReader(store).read(view, names, np.array([[1], [2]]), now)
            assert [plain(columns[n]) for n in names] == [[2, 2], ["c", "d"]]
        monkeypatch.delenv("STORE_PASSWORD")
        assert run(["ingest", stream, *project]) == 2
        assert "'STORE_PASSWORD' is not set" in capsys.readouterr().err
    finally:
        server.client.config_set("requirepass", "")


def test_a_server_that_is_stopped_and_started_is_waited_for_and_counted(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bedplate.online.workers.STORE_PATIENCE", 0.05)
    make_project(tmp_path, f"{server.url}/4")
    project, port = ["--project", str(tmp_path)], free_port()
    for command in (["apply"], ["materialize", "--until", "1970-01-04"]):
        assert run([*command, *project]) == 0

    def wait_for(*wanted: str) -> None:
        began, shown = time.monotonic(), list[str]()
        while not set(wanted) <= set(shown) and time.monotonic() < began + 60:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                shown = [line.removeprefix("bedplate_ingest_") for line in answer.read().decode().splitlines()]
            time.sleep(0.01)

    def trouble() -> None:
        total, up = 'events_total{source="clicks",partition=""}', 'store_up{source="clicks"}'
        wait_for(f"{total} 2", f"{up} 1")
        server.kill()
        wait_for(f"{up} 0")
        server.start()
        more = CLICKS[:3].with_columns(pl.col("time") + timedelta(days=9))
        more.write_parquet(tmp_path / "stream" / ".2")
        (tmp_path / "stream" / ".2").rename(tmp_path / "stream" / "2.parquet")
        wait_for(f"{total} 5", f"{up} 1")
        os.kill(os.getpid(), signal.SIGTERM)

    capsys.readouterr()
    troubling = threading.Thread(target=trouble)
    troubling.start()
    assert run(["ingest", str(tmp_path / "stream"), "--follow", "--metrics", str(port), "--json", *project]) == 0
    troubling.join()
    printed = capsys.readouterr()
    (found,) = json.loads(printed.out)["sources"]
    assert (found["rows"], found["files"], found["lag"], found["conflicts"], found["letters"]) == (5, 2, 0, 0, 0)
    assert found["store_errors"] >= 1
    assert found["freshness"] > 0 < found["rows_per_second"]
    assert f"metrics at http://127.0.0.1:{port}/metrics\n" in printed.err
    away, back = [line for line in printed.err.splitlines() if "store error" in line]
    assert away.startswith("clicks: 1 store error, trying again: ")
    assert "events/s" in back
