"""A step of many rows, which Redis takes as a transaction: whole or not at all, and once, whatever is cut."""

from __future__ import annotations

import threading
from collections.abc import Generator
from pathlib import Path

import pytest
from redis_server import Server, namespace, running

from bedplate.errors import ConflictError, StoreError, UncertainError
from bedplate.online.base import Changes
from bedplate.online.redis import RedisStore
from bedplate.online.redis_transaction import MANY

STATE, ROW = b"v12345678", b"r12345678"
NAMES = [ROW + b"%d" % i for i in range(MANY)]


def rows(value: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name in NAMES]


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    with running("--appendonly", "no") as server:
        yield server


@pytest.fixture
def store(server: Server, tmp_path: Path) -> Generator[RedisStore]:
    with RedisStore(f"{server.url}?namespace={namespace(tmp_path)}") as store:
        yield store


def test_no_script_sees_the_rows(store, server):
    store.commit(Changes([(STATE, b"0")]))
    server.client.config_resetstat()
    store.commit(Changes([*rows(b"a"), (STATE, b"1")], expects=[(STATE, b"0")]))
    assert not {"cmdstat_eval", "cmdstat_evalsha"} & server.client.info("commandstats").keys()
    assert set(store.read_many(NAMES)) == {b"a"}
    assert store.scan(b"v") == [(STATE, b"1")]


def test_the_first_step_of_a_view_is_listed(store):
    store.commit(Changes(rows(b"a")))
    assert len(store.scan(b"r")) == MANY


def test_a_step_whose_answer_is_lost_is_taken_once(through, proxy, store):
    through.commit(Changes([(STATE, b"0")]))

    def cut_next() -> None:
        proxy.cuts_answers, proxy.before_transaction = 1, int

    proxy.before_transaction = cut_next
    proxy.meanwhile = lambda: store.commit(Changes([(STATE, b"2"), (NAMES[0], b"later")]))
    through.commit(Changes([*rows(b"a"), (STATE, b"1")], expects=[(STATE, b"0")]))
    assert proxy.cuts_answers == 0
    assert list(store.read_many([*NAMES[:2], STATE])) == [b"later", b"a", b"2"]


def test_a_step_that_comes_late_is_not_taken(through, proxy, store):
    through.commit(Changes([(STATE, b"0")]))
    proxy.holds_transactions = True
    threading.Timer(0.2, lambda: setattr(proxy, "holds_transactions", False)).start()
    through.commit(Changes(rows(b"a"), expects=[(STATE, b"0")]))
    through.commit(Changes(rows(b"b"), expects=[(STATE, b"0")]))
    assert proxy.held
    proxy.let_go(b"*-1\r\n")
    assert set(store.read_many(NAMES)) == {b"b"}


def test_another_writer_was_first(through, proxy, store):
    through.commit(Changes([(STATE, b"0")]))
    with pytest.raises(ConflictError):
        through.commit(Changes(rows(b"a"), expects=[(STATE, b"1")]))
    proxy.before_transaction = lambda: store.commit(Changes([(STATE, b"2")]))
    with pytest.raises(ConflictError):
        through.commit(Changes([*rows(b"a"), (STATE, b"1")], expects=[(STATE, b"0")]))
    assert store.scan(b"r") == []
    proxy.before_transaction = int
    through.commit(Changes([*rows(b"a"), (STATE, b"3")], expects=[(STATE, b"2")]))
    assert len(store.scan(b"r")) == MANY


def test_what_became_of_a_step_may_not_be_known(through, proxy, store):
    through.commit(Changes([(STATE, b"0")]))
    proxy.before_transaction = lambda: setattr(proxy, "cuts_answers", 1 << 30)
    with pytest.raises(UncertainError, match="whether the step was taken is not known"):
        through.commit(Changes([*rows(b"a"), (STATE, b"1")], expects=[(STATE, b"0")]))
    assert list(store.read_many([STATE])) == [b"1"]


def test_rows_are_deleted(store):
    store.commit(Changes(rows(b"a")))
    longer = [(name + b"+", b"b" * i) for i, name in enumerate(NAMES, 1)]
    store.commit(Changes([(b"f12345678b", b"1")]))
    store.commit(Changes([*longer, (b"f12345678a", b"1")], drops=[*NAMES, b"f12345678b"]))
    assert store.scan(b"r") == sorted(longer)
    assert store.scan(b"f") == [(b"f12345678a", b"1")]


def test_full_memory_refuses_a_step_whole():
    with running("--appendonly", "no") as small, RedisStore(small.url) as store:
        store.commit(Changes([(STATE, b"0")]))
        small.client.config_set("maxmemory", 1)
        with pytest.raises(StoreError, match="maxmemory") as caught:
            store.commit(Changes([*rows(b"a"), (STATE, b"1")], expects=[(STATE, b"0")]))
        assert "make room" in caught.value.hint
        small.client.config_set("maxmemory", 0)
        assert store.scan(b"r") == []
        assert list(store.read_many([STATE])) == [b"0"]
