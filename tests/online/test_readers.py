"""Whoever reads a version of a view keeps its rows: compaction and drop say who it is, and delete them when told to."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from redis_server import namespace, running, running_cluster

from bedplate.aggregations.arithmetic import Count
from bedplate.errors import StoreError
from bedplate.features.view import CompiledView, FeatureView
from bedplate.online import keys
from bedplate.online.base import Changes, OnlineStore, open_store
from bedplate.online.compact import compact, drop
from bedplate.online.fetch import OnlineReader
from bedplate.online.load import bulk_load
from bedplate.online.readers import LASTS, Notices, readers, without_old_notices
from bedplate.process import process_token
from bedplate.registry.dependents import views_of_promoted
from bedplate.registry.manifest import gather
from bedplate.registry.registry import Registry
from bedplate.sources.base import Source
from bedplate.testing.online_store import grouped
from bedplate.testing.simulator import START, USER
from bedplate.types import DAY, HOUR

FRAME = pl.DataFrame({"user": [1, 2], "time": [START, START + HOUR]})
SOURCE = Source("events", FRAME, time="time")
OLD = FeatureView("v", USER, SOURCE, {"n": Count()}).compile()
NEW = FeatureView("v", USER, SOURCE, {"n": Count(windows="7d")}).compile()
NOW = START + DAY


@pytest.fixture(scope="module", params=["memory", "lmdb", "redis", "redis+cluster"])
def server(request: pytest.FixtureRequest) -> Generator[str]:
    """The URL of a store, of Redis without a namespace, or what it begins with."""
    if request.param == "redis":
        with running("--appendonly", "no") as one:
            yield one.url
    elif request.param == "redis+cluster":
        with running_cluster(2) as (one, _):
            yield one.url.replace("redis", "redis+cluster", 1)
    else:
        yield f"{request.param}:"


@pytest.fixture
def store(server: str, tmp_path: Path) -> Generator[OnlineStore]:
    url = f"{server}?namespace={namespace(tmp_path)}" if "//" in server else server
    with open_store(f"{url}{tmp_path / 'store'}" if url == "lmdb:" else url) as store:
        for view in (OLD, NEW):
            bulk_load(store, view, [grouped(view, FRAME)], NOW)
        yield store


def noted(store: OnlineStore, *views: CompiledView, now: int = NOW) -> Notices:
    notices = Notices(store, "the feature server", lambda: now)
    notices.put(views)
    return notices


def kept(store: OnlineStore, now: int = NOW, **options: bool) -> str | None:
    """Why the old version was kept; None: it is gone."""
    done = next(d for d in compact(store, [NEW], clock=lambda: now, **options) if d.id == OLD.id)
    return None if done.dropped else done.kept


def test_what_a_server_reads_is_kept_and_can_be_read(store: OnlineStore) -> None:
    notices = noted(store, OLD)
    assert kept(store) == "read by the feature server"
    found = OnlineReader(store).read(OLD, ["v.n"], np.array([[1]]), np.array([NOW]))
    assert found["v.n"].values.tolist() == [1]
    notices.close()
    assert kept(store) is None
    assert store.scan(keys.READERS) == []


def test_a_thread_says_so_at_once_and_takes_it_back(store: OnlineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    written, commit = threading.Event(), type(store).commit

    def seen(self: OnlineStore, changes: Changes) -> None:
        commit(self, changes)
        written.set()

    monkeypatch.setattr(type(store), "commit", seen)
    notices = Notices(store, "the feature server", lambda: NOW)
    notices.keep([OLD])
    assert written.wait(60)
    assert readers(store, NOW) == {OLD.id: ["the feature server"]}
    notices.close()
    assert store.scan(keys.READERS) == []


def test_of_two_servers_the_last_one_counts(store: OnlineStore) -> None:
    first, second = noted(store, OLD), noted(store, OLD, NEW)
    first.close()
    assert kept(store) == "read by the feature server"
    second.put([NEW])  # it has switched
    assert kept(store) is None
    second.close()


def test_the_notice_of_a_server_that_was_killed_is_over(store: OnlineStore) -> None:
    noted(store, OLD)
    assert kept(store, NOW + LASTS) == "read by the feature server"
    assert kept(store, NOW + LASTS + 1) is None
    assert store.scan(keys.READERS) == []


def test_a_server_that_was_killed_on_this_machine_reads_no_more_at_once(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    written = context.Event()
    server = context.Process(target=_serve, args=(url, written))
    server.start()
    with open_store(url) as store:
        assert written.wait(60)
        assert readers(store, NOW) == {OLD.id: ["a server"], NEW.id: ["a server"]}
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        server.join()
        assert readers(store, NOW) == {}
        without_old_notices(store, NOW)
        assert store.scan(keys.READERS) == []


def _serve(url: str, written: Event) -> None:
    with open_store(url) as store:
        Notices(store, "a server", lambda: NOW).put([OLD, NEW])
        written.set()
        while True:
            signal.pause()


@pytest.mark.parametrize("elsewhere", ["machine", "boot", "space", "unknown"])
def test_of_a_server_that_cannot_be_seen_from_here_a_notice_holds(
    store: OnlineStore, monkeypatch: pytest.MonkeyPatch, elsewhere: str
) -> None:
    names = ["machine", "boot", "space"]
    place = ["00000000" if n == elsewhere else p for n, p in zip(names, process_token().split("-"), strict=False)]
    token = "" if elsewhere == "unknown" else "-".join([*place, f"{1 << 23}", "1"])
    monkeypatch.setattr("bedplate.online.readers.process_token", lambda: token)
    noted(store, OLD)
    without_old_notices(store, NOW + LASTS)
    assert readers(store, NOW + LASTS) == {OLD.id: ["the feature server"]}
    assert readers(store, NOW + LASTS + 1) == {}


def test_a_notice_of_an_earlier_version_holds(store: OnlineStore) -> None:
    old = json.dumps({"view": OLD.id, "who": "an older server", "until": NOW}).encode()
    store.commit(Changes([(keys.of_view(keys.READERS, OLD.id) + b"1", old)]))
    assert readers(store, NOW) == {OLD.id: ["an older server"]}


@pytest.mark.parametrize("read", [OLD, NEW])
def test_a_view_that_is_read_is_not_dropped_unless_told_so(store: OnlineStore, read: CompiledView) -> None:
    notices = noted(store, read)
    before = store.scan(b"")
    with pytest.raises(StoreError, match=rf"'v' is read: version {read.id[:12]} by the feature server\n.*--in-use"):
        drop(store, "v", clock=lambda: NOW)
    assert store.scan(b"") == before
    with pytest.raises(StoreError, match=r"by ranker@champion and the feature server"):
        drop(store, "v", needed={read.id: "ranker@champion"}, clock=lambda: NOW)
    assert len(drop(store, "v", clock=lambda: NOW, in_use=True)) == 2
    assert readers(store, NOW) == {read.id: ["the feature server"]}  # it is told what is gone when it reads
    notices.close()


def test_a_view_that_nobody_reads_any_more_is_dropped(store: OnlineStore) -> None:
    noted(store, OLD).close()
    noted(store, NEW)
    assert len(drop(store, "v", clock=lambda: NOW + LASTS + 1)) == 2


def test_what_a_promoted_model_and_a_server_read_names_both(store: OnlineStore) -> None:
    noted(store, OLD)
    done = compact(store, [NEW], needed={OLD.id: "ranker@champion"}, clock=lambda: NOW, dry_run=True)
    assert [d.kept for d in done if d.id == OLD.id] == ["read by ranker@champion and the feature server"]


def test_it_goes_when_told_so(store: OnlineStore) -> None:
    noted(store, OLD)
    assert kept(store, in_use=True) is None


def test_a_dry_run_says_the_same_and_changes_nothing(store: OnlineStore) -> None:
    noted(store, OLD)
    before = store.scan(b"")
    assert kept(store, NOW + LASTS + 1, dry_run=True) is None
    assert kept(store, dry_run=True) == "read by the feature server"
    assert store.scan(b"") == before
    assert readers(store, NOW) == {OLD.id: ["the feature server"]}


def test_what_a_promoted_model_reads_is_kept(store: OnlineStore, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("1")
    facts = {"sources": {}, "config": {}, "seeds": {}, "metrics": {}}
    manifest = gather(tmp_path, definitions={"view v": OLD.id, "feature v.n": "f"}, **facts)
    version = registry.register("ranker", tmp_path / "model", manifest=manifest)
    assert views_of_promoted(registry) == {}
    registry.promote("ranker", version.version)
    needed = views_of_promoted(registry)
    assert needed == {OLD.id: "ranker@champion"}
    left = [d for d in compact(store, [NEW], needed=needed) if d.id == OLD.id]
    assert [(d.dropped, d.kept) for d in left] == [(False, "read by ranker@champion")]


def test_a_store_that_cannot_be_written_is_served_all_the_same(
    store: OnlineStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("it can only be read")

    monkeypatch.setattr(type(store), "commit", refuse)
    notices = Notices(store, "the feature server")
    notices.keep([OLD])
    notices.close()
    monkeypatch.undo()
    assert "can't know which views are read here" in caplog.text
