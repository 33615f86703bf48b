"""Reads of a store that is slow, down or behind: the rows seen last, then no values, said and counted; never a hang."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic

import numpy as np
import polars as pl
import pytest
from troubled_store import TroubledStore

from bedplate.aggregations.arithmetic import Count, Sum
from bedplate.aggregations.ordered import Last, LastN
from bedplate.errors import DefinitionError, StoreError
from bedplate.features.derived import DerivedFeature
from bedplate.features.entity import Entity
from bedplate.features.graph import FeatureGraph
from bedplate.features.lookup import lookup
from bedplate.features.reader import Read
from bedplate.features.view import CompiledView, FeatureView
from bedplate.online.fallback import Degraded, FallbackReader, texts_read
from bedplate.online.fetch import OnlineReader
from bedplate.online.guard import THREADS, GuardedStore, UnansweredError
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches, plain
from bedplate.testing.online_store import grouped
from bedplate.types import HOUR, MINUTE, to_micros

NOW = to_micros("2026-03-01")
USER = Entity("user", key="user")
EVENTS = pl.DataFrame(
    {
        "user": [1, 1, 2, 3],
        "time": [NOW - 50 * MINUTE, NOW - 2 * MINUTE, NOW - 40 * MINUTE, NOW - 30 * MINUTE],
        "price": [1.0, 2.0, 3.0, 4.0],
        "kind": ["mug", "cup", "pan", "mug"],
    }
)
SOURCE = Source("events", EVENTS, time="time")
FEATURES = {
    "n": Count(),
    "spend": Sum("price", windows="1h"),
    "kind": Last("kind"),
    "kinds": LastN("kind", 2),
}
SECONDS = 0.05
EVERYTHING_ABSENT = {"v.n": [None], "v.spend_1h": [None], "v.kind": [None], "v.kinds": [[]]}


def view(**options: str) -> FeatureView:
    return FeatureView("v", USER, SOURCE, FEATURES, **options)


def filled(compiled: CompiledView, until: int = NOW) -> TroubledStore:
    store = MemoryStore()
    bulk_load(store, compiled, [grouped(compiled, EVENTS)], until)
    return TroubledStore(store)


VIEW = view().compile()


@pytest.fixture
def store() -> Iterator[TroubledStore]:
    with filled(VIEW) as store:
        yield store


def ask(*users: int, time: int = NOW, of: CompiledView = VIEW) -> list[Read]:
    return [Read(of, list(of.features), np.array(users).reshape(-1, 1), np.full(len(users), time))]


def shown(columns: object) -> dict[str, list[object]]:
    return {n: plain(c) for n, c in columns.items()}  # type: ignore[attr-defined]


def test_a_store_that_is_well_is_read_as_ever(store):
    reading = FallbackReader(store, 5.0).begin(texts_of={"v.kind"})
    [got] = reading.read_all(ask(1, 2, 9))
    [expected] = OnlineReader(store).read_all(ask(1, 2, 9))
    assert mismatches(got, expected) == []
    assert (reading.degraded, reading.failure) == ({}, None)


@pytest.mark.parametrize("mood", ["down", "broken", "silent"])
def test_known_keys_have_their_last_rows_and_others_no_values(store, mood):
    reader = FallbackReader(store, SECONDS)
    texts = {"v.kind", "v.kinds"}
    reader.begin(texts).read_all(ask(1, 9))
    store.mood = mood
    begin, reading = monotonic(), reader.begin(texts)
    later = NOW + 30 * MINUTE
    [got] = reading.read_all(ask(1, 2, 9, time=later))
    assert monotonic() - begin < 5
    [expected] = OnlineReader(store.store).read_all(ask(1, 2, 9, time=later))
    for name, column in shown(got).items():
        was = plain(expected[name])
        # The window moves on without the store. Of 9 it is known that it has no events; of 2 nothing is known.
        assert column == [was[0], [] if name == "v.kinds" else None, was[2]]
    assert shown(got)["v.n"] == [2, None, 0]
    assert shown(got)["v.spend_1h"] == [2.0, None, 0.0]
    flag = reading.degraded["v"]
    assert (flag.cached, flag.default, flag.stale) == (2, 1, 0)
    assert 0 <= flag.age_seconds < 60
    assert isinstance(reading.failure, UnansweredError)


def test_values_whose_text_was_never_read_are_absent(store):
    reader = FallbackReader(store, SECONDS)
    reader.begin(texts_of=["v.kinds"]).read_all(ask(2))
    reader.begin().read_all(ask(1))
    store.mood = "down"
    [got] = reader.begin(texts_of=["v.kind", "v.kinds"]).read_all(ask(1, 2))
    assert shown(got)["v.kind"] == [None, "pan"]
    assert shown(got)["v.kinds"] == [[], ["pan"]]
    assert shown(got)["v.n"] == [2, 1]


def test_texts_that_fail_after_the_rows_fall_back_too(store):
    reader = FallbackReader(store, SECONDS)
    real, store.asked = store.read_many, 0

    def rows_only(*wanted: object) -> object:
        store.mood = "well" if store.asked == 0 else "down"
        return real(*wanted)  # type: ignore[arg-type]

    store.read_many = rows_only  # type: ignore[method-assign]
    reading = reader.begin(texts_of=["v.kind", "v.kinds"])
    [got] = reading.read_all(ask(1))
    assert (shown(got)["v.kind"], shown(got)["v.kinds"]) == ([None], [[]])
    assert shown(got)["v.n"] == [2]
    assert reading.degraded["v"].cached == 1


def test_an_answer_asks_a_store_that_failed_once(store):
    reader = FallbackReader(store, SECONDS)
    store.mood = "down"
    reading = reader.begin()
    for _ in range(3):
        assert shown(reading.read_all(ask(1))[0]) == EVERYTHING_ABSENT
    assert store.asked == 1
    assert reading.degraded["v"] == Degraded(default=3)


def test_what_is_wrong_with_the_store_is_no_outage():
    empty = FallbackReader(TroubledStore(MemoryStore()), SECONDS)
    with pytest.raises(StoreError, match="does not hold this version"):
        empty.read_all(ask(1))


def test_a_circuit_leaves_the_store_alone_and_tries_again(store):
    now = [100.0]
    guard = GuardedStore(store, SECONDS, failures=2, pause_seconds=1.0, clock=lambda: now[0])
    store.mood = "down"
    for _ in range(5):
        with pytest.raises(UnansweredError):
            guard.read_many([b"a"])
    assert (store.asked, guard.is_up) == (2, False)
    now[0] += 1.1
    for _ in range(2):
        with pytest.raises(UnansweredError):
            guard.read_many([b"a"])
    assert store.asked == 3
    now[0] += 0.5
    store.mood = "well"
    with pytest.raises(UnansweredError, match="a moment ago"):
        guard.read_many([b"a"])
    now[0] += 0.6
    assert list(guard.read_many([b"a"])) == [b""]
    assert guard.is_up
    assert guard.failed == {"deadline": 0, "error": 3, "skipped": 5}
    assert list(guard.read_many([b"a"])) == [b""]


def test_reads_of_a_silent_store_wait_for_nobody(store):
    guard = GuardedStore(store, SECONDS, failures=10**9)
    store.mood = "silent"
    before = threading.active_count()
    begin = monotonic()
    for _ in range(THREADS + 4):
        with pytest.raises(UnansweredError):
            guard.read_many([b"a"])
    assert monotonic() - begin < 20
    assert threading.active_count() - before == THREADS
    assert guard.failed["deadline"] == THREADS + 4
    store.mood = "well"
    store.free.set()
    deadline = monotonic() + 20
    while monotonic() < deadline:
        try:
            assert list(guard.read_many([b"a"])) == [b""]
            break
        except UnansweredError:
            continue
    assert guard.is_up


def test_threads_share_a_guard(store):
    guard, failures = GuardedStore(store, 20.0), []

    def work() -> None:
        for _ in range(50):
            if list(guard.read_many([b"a", b"b"])) != [b"", b""]:
                failures.append(1)

    threads = [threading.Thread(target=work) for _ in range(2 * THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failures, store.asked) == ([], 100 * THREADS)


def test_the_room_for_rows_is_bounded_and_the_oldest_go_first(store):
    reader = FallbackReader(store, SECONDS, recent_bytes=100_000)
    for user in range(1, 1000):
        reader.read_all(ask(user))
    store.mood = "down"
    reading = reader.begin()
    reading.read_all(ask(*range(1, 1000)))
    flag = reading.degraded["v"]
    assert 50 < flag.cached < 400
    reading = reader.begin()
    reading.read_all(ask(999, 998, 997))
    assert reading.degraded["v"].cached == 3


@pytest.mark.parametrize("mood", ["well", "down"])
def test_a_view_that_is_too_far_behind_has_no_values(mood):
    bound = view(freshness="1h").compile()
    with filled(bound) as store:
        reader = FallbackReader(store, SECONDS)
        [got] = reader.begin().read_all(ask(1, 2, of=bound, time=NOW + HOUR))
        assert shown(got)["v.n"] == [2, 1]
        store.mood = mood
        reading = reader.begin()
        late = ask(1, 2, of=bound)[0]._replace(times=np.array([NOW + HOUR, NOW + HOUR + 5_000_000]))
        [got] = reading.read_all([late])
        assert shown(got)["v.n"] == [2, None]
        flag = reading.degraded["v"]
        assert flag.stale == 1
        assert flag.behind_seconds == 3605.0
        assert flag.counts().get("cached", 0) == (0 if mood == "well" else 2)


def test_freshness_is_no_part_of_what_values_are():
    assert view(freshness="1h").compile().id == VIEW.id
    with pytest.raises(DefinitionError, match="view 'v': freshness"):
        view(freshness="soon")


def test_derived_features_of_absent_values_are_absent(store):
    kind = DerivedFeature("shout", pl.col("v.kind").str.to_uppercase())
    graph = FeatureGraph([view()], [kind, DerivedFeature("twice", pl.col("v.n") * 2)])
    selected = graph.select(["shout", "twice"])
    assert texts_read(selected) == {"v.kind"}
    assert texts_read(graph.select(["v.kinds"]), ["v.kinds"]) == {"v.kinds"}
    reader = FallbackReader(store, SECONDS)
    keys, times = {"user": np.array([1, 2])}, np.full(2, NOW)
    lookup(selected, reader.begin(texts_read(selected)), {"user": np.array([1])}, times[:1])
    store.mood = "down"
    got = lookup(selected, reader.begin(texts_read(selected)), keys, times)
    assert shown(got) == {"shout": ["CUP", None], "twice": [4, None]}
