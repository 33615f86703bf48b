"""A process that dies at any moment of a step leaves the store as it was before the step, or after it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from mortal import LOADED, load
from mortal_world import NURSERY, World, assert_oracle, content, values
from planted import PLANTED
from redis_server import running, running_cluster

from bedplate.errors import StoreError
from bedplate.online import keys
from bedplate.online.base import Changes, OnlineStore, open_store
from bedplate.online.compact import compact
from bedplate.online.ingest import Ingest
from bedplate.online.redis_transaction import MANY
from bedplate.online.streams import StuckError
from bedplate.testing.online_store import write_files

KILLS = int(os.environ.get("BEDPLATE_KILLS", "4"))
EVENTS = LOADED + 3 + KILLS
STORES = ["lmdb", "redis"] if KILLS <= 4 else ["lmdb", "redis", "redis+cluster"]


@pytest.fixture(scope="module", params=STORES)
def server(request: pytest.FixtureRequest) -> Generator[str]:
    """The URL of a server without its database; empty: there is none."""
    if request.param == "lmdb":
        yield ""
    elif request.param == "redis":
        with running("--appendonly", "no") as one:
            yield one.url
    else:
        with running_cluster(1) as (one,):
            yield one.url.replace("redis", "redis+cluster", 1)


@pytest.fixture(scope="module", autouse=True)
def nursery() -> Generator[None]:
    """Ends where the tests' processes come from."""
    yield
    NURSERY.close()


@pytest.fixture
def url(server: str, tmp_path: Path) -> str:
    """Of an empty store."""
    return f"{server}?namespace={tmp_path.name}" if server else f"lmdb:{tmp_path / 'store'}"


def die_at_every_moment(world: World, store: OnlineStore, planted: str = "") -> tuple[int, int]:
    """Workers take in a stream, each of which dies one moment later than the one before it, until a step is taken.

    Returns:
        how many died before a step was taken, and how many after that.
    """
    moment, before, after, at = 1, 0, 0, world.steps(store)
    while world.live("ingest", moment, planted):
        now = world.steps(store)
        assert 0 <= sum(now) - sum(at) <= 1
        if now == at:
            moment, before = moment + 1, before + 1
        else:
            moment, after, at = 1, after + 1, now
    assert world.steps(store) == at == [len(world.expected) - 1] * len(at)
    return before, after


def test_a_worker_may_die_at_any_moment(tmp_path: Path, url: str) -> None:
    world = World(url, tmp_path, (EVENTS, 4))
    with open_store(url) as store:
        load(store, world.views, world.rows[:LOADED], 100)
        before, after = die_at_every_moment(world, store)
        assert after == 2 * (len(world.expected) - 1)
        assert before >= 2 * after
        assert_oracle(store, world.views, world.rows)


@pytest.mark.parametrize("server", ["redis"], indirect=True)
def test_a_worker_may_die_at_any_moment_of_a_transaction(tmp_path: Path, url: str) -> None:
    world = World(url, tmp_path, (LOADED + MANY + 50, MANY + 50), MANY + 50)
    with open_store(url) as store:
        load(store, world.views, world.rows[:LOADED], 100)
        before, after = die_at_every_moment(world, store)
        assert after == 2
        assert before >= 8  # texts, what is watched, the transaction


@pytest.mark.parametrize("server", ["lmdb", "redis"], indirect=True)
@pytest.mark.parametrize("planted", [name for name in PLANTED if name != "nothing expected"])
def test_a_step_that_is_several_is_found(tmp_path: Path, url: str, planted: str) -> None:
    world = World(url, tmp_path, (LOADED + 5, 4))
    with open_store(url) as store:
        load(store, world.views, world.rows[:LOADED], 100)
        with pytest.raises(AssertionError):
            die_at_every_moment(world, store, planted)


def test_a_load_may_die_at_any_moment(tmp_path: Path, url: str) -> None:
    world = World(url, tmp_path, (LOADED + 5, 4), batch=4)
    with open_store(url) as store:
        load(store, world.views, world.rows[:3], 100)
        old, new = content(store, world.views)[0], world.expected[0][0]
        read = values(store, world.views, world.rows)[0], world.values[0][0]
        moment, seen = 1, list[int]()
        while world.live("load", moment):
            moment += 1
            (now, _), (got, _) = content(store, world.views), values(store, world.views, world.rows)
            seen.append([old, new].index(now))
            assert got == read[seen[-1]]
        assert seen == sorted(seen)
        assert seen.count(0) >= 6 <= len(seen) - 1
        assert not world.live("load_all", 0)
        assert world.steps(store) == [0, 0]
        world.ingest(store).run()
        assert_oracle(store, world.views, world.rows)


def test_a_first_load_that_died_is_not_read(tmp_path: Path, url: str) -> None:
    world = World(url, tmp_path, (LOADED + 1, 4))
    with open_store(url) as store:
        for moment in range(1, 4):
            assert world.live("load", 3 * moment)
            with pytest.raises(StoreError, match=r"does not hold|only in part"):
                content(store, world.views)
        assert not world.live("load_all", 0)
        assert world.steps(store) == [0, 0]


def test_compaction_may_die_at_any_moment_beside_a_worker(tmp_path: Path, url: str) -> None:
    world = World(url, tmp_path, (60, 4), batch=9)
    with open_store(url) as store:
        load(store, world.views, world.rows[:LOADED], 100)
        worker, moment = world.ingest(store), 1
        taken = 0
        for _ in range(3):
            taken += worker.turn().taken
        while world.live("compact", moment):
            moment += 1
            assert values(store, world.views, world.rows) == world.values[taken]
            taken += worker.turn().taken
        assert moment > 3  # before, within and after a step
        assert sum(done.shrunk + done.deleted for done in compact(store, world.views)) == 0
        worker.run()
        assert values(store, world.views, world.rows) == world.values[-1]
        assert_oracle(store, world.views, world.rows)


def overtake(store: OnlineStore, world: World, files: Path) -> tuple[int, int]:
    """A worker takes in a stream while another takes steps of other partitions before each of its own; their events."""
    first, other = (Ingest(store, world.views, files, batch=2) for _ in range(2))
    commit, is_nested = store.commit, False

    def late(changes: Changes) -> None:
        nonlocal is_nested
        if not is_nested and any(key.startswith(keys.ROWS) for key, _ in changes.puts):
            is_nested = True
            other.turn()
            is_nested = False
        commit(changes)

    patched: Any = store
    patched.commit = late
    first.run()
    del patched.commit
    return first.events, other.events


@pytest.mark.parametrize("planted", ["", "nothing expected"])
def test_a_worker_that_another_overtakes_begins_its_step_anew(
    tmp_path: Path, url: str, planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(url, tmp_path, (LOADED + 12, 4))
    rest = world.rows[LOADED:]
    for part in range(4):
        write_files(rest.filter(rest["user"].str.ends_with(str(part))), tmp_path / "parts" / str(part), [0])
    with open_store(url) as store:
        load(store, world.views, world.rows[:LOADED], 100)
        if planted:
            monkeypatch.setattr(type(store), "commit", type(store).commit)
            PLANTED[planted](store)
        # A position that went back before one that was taken in to its end is found by the worker itself.
        with pytest.raises((AssertionError, StuckError)) if planted else contextlib.nullcontext():
            events = overtake(store, world, tmp_path / "parts")
            assert min(events)
            assert_oracle(store, world.views, world.rows)
