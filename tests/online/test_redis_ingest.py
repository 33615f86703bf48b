"""Workers on Redis take in every event once, whatever is killed: they, their connections, or the server."""

from __future__ import annotations

import random
import threading
from collections.abc import Generator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from redis_server import Server, running

from bedplate.aggregations.ordered import Last
from bedplate.cli.main import run
from bedplate.errors import StoreError
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
    over = threading.Event()

    def work() -> None:
        with open_store(stream.url) as store:
            while not over.is_set():
                try:
                    stream.ingest(store).run()
                    over.set()
                except StoreError:  # what was taken is read again
                    continue

    worker = threading.Thread(target=work)
    worker.start()
    draw = random.Random(8)
    for kills in range(12):
        over.wait(draw.uniform(0.0, 0.05))
        if kills % 4 == 3:
            server.kill()
            server.start()
        else:
            server.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    worker.join()
    stream.check()


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


def test_the_commands_work_on_redis(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STORE_PASSWORD", "a secret word")
    server.client.config_set("requirepass", "a secret word")
    server.client.execute_command("AUTH", "a secret word")
    try:
        (tmp_path / "features.py").write_text(FEATURES)
        url = f"{server.url}/3?password_env=STORE_PASSWORD"
        (tmp_path / "bedplate.toml").write_text(f'online.url = "{url}"')
        frame = pl.DataFrame(
            {"user": [1, 2, 1, 2], "time": [DAY * i for i in range(1, 5)], "page": ["a", "b", "c", "d"]}
        ).with_columns(pl.col("time").cast(pl.Datetime("us")))
        frame.write_parquet(tmp_path / "clicks.parquet")
        (tmp_path / "stream").mkdir()
        frame[2:].write_parquet(tmp_path / "stream" / "1.parquet")
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
