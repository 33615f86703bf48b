"""The Redis store keeps the contract on one server and in a cluster, and takes every step once, whatever is cut."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from redis_server import Server, free_port, namespace, running, running_cluster

from bedplate.errors import ConfigError, ConflictError, DeadlineError, MissingExtraError, StoreError, UncertainError
from bedplate.online.base import Changes, OnlineStore, StoredTexts, open_store, text_puts
from bedplate.online.redis import RedisStore
from bedplate.online.redis_transaction import MANY
from bedplate.testing.online_store import OnlineStoreContract

STATE, ROW = b"v12345678", b"r12345678"


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    with running("--appendonly", "no") as server:
        yield server


@pytest.fixture(scope="module")
def cluster() -> Generator[list[Server]]:
    with running_cluster(2) as servers:
        yield servers


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("certificate")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem"
    command += " -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder


class TestRedisStore(OnlineStoreContract):
    @pytest.fixture(autouse=True)
    def _server(self, server: Server) -> None:
        self.server = server

    def open(self, folder: Path) -> OnlineStore:
        return open_store(f"{self.server.url}/3?namespace={namespace(folder)}")


class TestRedisCluster(OnlineStoreContract):
    @pytest.fixture(autouse=True)
    def _servers(self, cluster: list[Server]) -> None:
        self.servers = cluster

    def open(self, folder: Path) -> OnlineStore:
        return open_store(f"redis+cluster://127.0.0.1:{self.servers[1].port}?namespace={namespace(folder)}")


@pytest.fixture
def url(server: Server, tmp_path: Path) -> str:
    return f"{server.url}?namespace={namespace(tmp_path)}"


@pytest.fixture
def store(url: str) -> Generator[RedisStore]:
    with RedisStore(url, patience=5.0) as store:
        yield store


def test_a_key_may_have_any_bytes(store):
    views = [bytes([b] * 8) for b in (0, 10, 42, 63, 91, 92, 93, 123, 125, 255)]
    puts = [
        (letter + view + tail, tail or b"-") for letter in (b"r", b"v") for view in views for tail in (b"", b"\xff}")
    ]
    store.commit(Changes(puts))
    assert list(store.read_many([k for k, _ in puts])) == [v for _, v in puts]
    assert store.scan(b"r") == sorted(p for p in puts if p[0].startswith(b"r"))
    for view in views:
        assert store.scan(b"r" + view) == [p for p in puts if p[0].startswith(b"r" + view)]
        store.commit(Changes([], [b"r" + view + b"\xff"]))
        assert store.scan(b"r" + view) == [(b"r" + view, b"-")]
        store.commit(Changes([], [b"r" + view]))
        assert store.scan(b"r" + view) == []
        assert len(store.scan(b"v" + view)) == 2


def test_a_step_of_many_rows_is_taken_whole(store):
    puts = [(ROW + i.to_bytes(8, "big"), b"x" * 8) for i in range(20_001)]
    store.commit(Changes([*puts, (STATE, b"1")], expects=[(STATE, b"")]))
    assert len(store.scan(ROW)) == 20_001
    assert sum(map(len, store.pages(ROW, 500))) >= 20_001
    store.commit(Changes([(STATE, b"2")], drops=[k for k, _ in puts[1:]]))
    assert store.scan(ROW) == puts[:1]


def test_texts_are_in_one_hash_and_read_with_rows(store, server):
    texts = {i - 1500: f"text {i}" for i in range(3000)}
    store.commit(Changes([*text_puts(texts), (ROW + b"a", b"row")]))
    found = StoredTexts(store)
    assert dict(found) == texts
    (text, value), *_ = text_puts({5: "text 1505"})
    store.commit(Changes([(text, value)]))
    assert list(store.read_many([ROW + b"a", text, b"x", text])) == [b"row", value, b"", value]
    assert list(store.pages(text)) == [[(text, value)]]
    store.commit(Changes(drops=[text]))
    assert len(store.scan(b"t")) == 2999
    store.commit(Changes(deletes=[b"t"]))
    assert len(StoredTexts(store)) == 0


def test_states_are_found_without_a_walk_over_rows(store, server):
    store.commit(Changes([(STATE, b"1"), *((ROW + b"%d" % i, b"row") for i in range(100))]))
    server.client.config_resetstat()
    assert store.scan(b"v") == [(STATE, b"1")]
    store.commit(Changes([(STATE, b"2")], [b"r87654321", b"v", b"f12345678"]))
    assert "cmdstat_scan" not in server.client.info("commandstats")


def test_another_format_is_refused(store, url):
    store.commit(Changes([(b"m:format", b"99")]))
    with pytest.raises(StoreError, match="format 99, expected 1"):
        open_store(url)


def test_the_password_is_hidden(certificate, monkeypatch):
    word = "a very secret word"
    given = {"password": word, "ssl_check_hostname": False}
    with running("--requirepass", word, tls=certificate, **given) as server:
        where = f"127.0.0.1:{server.port}/0?ca={certificate.name}/cert.pem"
        with open_store(f"rediss://:a%20very%20secret%20word@{where}", certificate.parent) as store:
            store.commit(Changes([(b"k", b"v")]))
            assert store.url == f"rediss://:***@{where}"
            assert word not in repr(store._address)
        monkeypatch.setenv("STORE_PASSWORD", word)
        with open_store(f"rediss://{where}&password_env=STORE_PASSWORD", certificate.parent) as store:
            assert list(store.read_many([b"k"])) == [b"v"]
        monkeypatch.setenv("STORE_PASSWORD", "wrong word")
        for login, said in (("", "Authentication required"), ("default:wrong%20word@", "invalid username-password")):
            with pytest.raises(StoreError, match=said) as caught:
                open_store(f"rediss://{login}{where}", certificate.parent)
            assert "password_env" in caught.value.hint
            assert "wrong" not in str(caught.value)
        with pytest.raises(StoreError, match="certificate verify failed") as caught:
            open_store(f"rediss://127.0.0.1:{server.port}")
        assert "?ca=FILE" in caught.value.hint


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://", "expected redis://HOST:PORT/DB"),
        ("redis://:word@host:x", "expected redis://HOST:PORT/DB"),
        ("redis://host/one", "got the database 'one', expected a number"),
        ("redis://a,b", "got 2 hosts, expected one"),
        ("redis+cluster://a,b/1", "a cluster has only 0"),
        ("redis://host?password=word", "unknown option 'password'"),
        ("redis://host?namespace=", "the option 'namespace' is empty"),
        ("redis://host?namespace=a{b", "a namespace has no braces"),
        ("redis://host?ca=ca.pem", "there is no file '.*ca.pem'"),
        ("redis://:word@host?password_env=X", "expected one of them"),
        ("redis://host?password_env=NOT_SET", "'NOT_SET' is not set"),
        (
            "reddis://:word@host",
            r"got the online store 'reddis://:\*\*\*@host', expected lmdb:PATH, redis://HOST:PORT/DB",
        ),
    ],
)
def test_urls(url, said, tmp_path):
    with pytest.raises(ConfigError, match=said) as caught:
        open_store(url, tmp_path)
    assert ":word" not in str(caught.value)


def test_a_certificate_is_for_encrypted_connections(tmp_path):
    (tmp_path / "ca.pem").touch()
    with pytest.raises(ConfigError, match="only connections over TLS") as caught:
        open_store("redis://host?ca=ca.pem", tmp_path)
    assert "rediss://" in caught.value.hint


def test_the_extra_is_named_when_the_library_is_missing(monkeypatch):
    for name in [n for n in sys.modules if n.startswith("bedplate.online.redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'bedplate\[redis\]'"):
        open_store("redis://127.0.0.1")


def test_a_server_that_is_not_there(cluster, server):
    with pytest.raises(StoreError, match="can't open") as caught:
        open_store(f"redis://127.0.0.1:{free_port()}")
    assert "running" in caught.value.hint
    with pytest.raises(ConfigError, match="belongs to a cluster"):
        open_store(cluster[0].url)
    with pytest.raises(StoreError, match="cluster"):
        open_store(f"redis+cluster://127.0.0.1:{server.port}")


def test_who_only_reads_makes_no_store_where_the_server_holds_none(server, url):
    before = server.client.dbsize()
    with pytest.raises(StoreError, match="holds no online store") as caught:
        open_store(url, create=False)
    assert "restore it" in caught.value.hint
    assert "bedplate materialize" in caught.value.hint
    assert server.client.dbsize() == before
    open_store(url).close()
    with open_store(url, create=False) as store:
        assert store.scan(b"v") == []


def test_a_server_that_forgets_rows_is_warned_of(tmp_path):
    with running("--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru") as server:
        with pytest.warns(RuntimeWarning, match="maxmemory-policy volatile-lru"):
            open_store(server.url).close()
        server.client.config_set("maxmemory-policy", "noeviction")
        with open_store(server.url) as store:
            store.commit(Changes([(ROW + b"%d" % i, b"x") for i in range(10)] + [(STATE, b"1")]))
            server.client.config_set("maxmemory", 1)
            with pytest.raises(StoreError, match="maxmemory") as caught:
                store.commit(Changes([(STATE, b"2")], [ROW]))
            assert "make room" in caught.value.hint
            assert store.scan(b"v") == [(STATE, b"1")]
            assert len(store.scan(ROW)) == 10


def test_a_cluster_keeps_a_view_on_one_server(cluster, tmp_path):
    where = f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster[0].port}?namespace={namespace(tmp_path)}"
    views = [bytes([b]) * 8 for b in range(100, 130)]
    with open_store(where) as store:
        puts = [(letter + v + b"x", v) for v in views for letter in (b"r", b"v", b"f")]
        store.commit(Changes(puts, expects=[(b"v" + v + b"x", b"") for v in views]))
        assert all(s.client.dbsize() > 30 for s in cluster)
        assert list(store.read_many([k for k, _ in puts])) == [v for _, v in puts]
        assert store.scan(b"v") == sorted(p for p in puts if p[0].startswith(b"v"))
        assert store.scan(b"r") == sorted(p for p in puts if p[0].startswith(b"r"))
        with pytest.raises(ConflictError):
            store.commit(Changes([(b"v" + v + b"x", b"2") for v in views], expects=[(b"v" + views[7] + b"x", b"3")]))
        assert store.scan(b"v") == sorted(p for p in puts if p[0].startswith(b"v"))


def test_a_cluster_takes_the_step_of_many_rows_of_each_view(cluster, tmp_path):
    views = [bytes([b]) * 8 for b in range(100, 104)]
    puts = [(b"r" + view + b"%d" % i, view) for view in views for i in range(MANY)]
    with open_store(f"redis+cluster://127.0.0.1:{cluster[0].port}?namespace={namespace(tmp_path)}") as store:
        store.commit(Changes(puts, expects=[(b"v" + view, b"") for view in views]))
        assert store.scan(b"r") == sorted(puts)


def test_a_slot_that_moves_is_followed(cluster, tmp_path):
    with open_store(f"redis+cluster://127.0.0.1:{cluster[0].port}?namespace={namespace(tmp_path)}") as store:
        store.commit(Changes([(STATE, b"1"), (ROW + b"a", b"row")]))
        (name,) = store._names.of([STATE])
        slot = cluster[0].client.execute_command("CLUSTER", "KEYSLOT", name)
        old = store._servers.of(name, time.monotonic() + 1.0).port
        a, b = sorted(cluster, key=lambda s: s.port != old)
        ids = [s.client.execute_command("CLUSTER", "MYID") for s in (a, b)]
        b.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        a.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        while names := a.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            a.client.execute_command("MIGRATE", "127.0.0.1", b.port, "", 0, 5000, "KEYS", *names)
        for s in (b, a):
            s.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
        assert list(store.read_many([STATE, ROW + b"a"])) == [b"1", b"row"]
        store.commit(Changes([(STATE, b"2")], expects=[(STATE, b"1")]))
        assert store.scan(b"v") == [(STATE, b"2")]


def test_a_step_whose_answer_is_lost_is_taken_once(through, proxy):
    through.commit(Changes([(STATE, b"0")]))
    for i in range(3):
        proxy.cuts_answers = i + 1
        through.commit(Changes([(STATE, b"%d" % (i + 1))], expects=[(STATE, b"%d" % i)]))
        assert proxy.cuts_answers == 0
        assert list(through.read_many([STATE])) == [b"%d" % (i + 1)]


def test_a_step_that_comes_after_its_successors_is_not_taken(through, proxy, store):
    through.commit(Changes([(STATE, b"0")]))
    proxy.holds_requests = True
    threading.Timer(0.2, lambda: setattr(proxy, "holds_requests", False)).start()
    through.commit(Changes([(STATE, b"1")]))
    through.commit(Changes([(STATE, b"2")]))
    assert b"$5\r\nTAKEN\r\n" in proxy.let_go()
    assert list(through.read_many([STATE])) == [b"2"]


def test_what_became_of_a_step_is_known_or_said_not_to_be(through, proxy, store):
    through.commit(Changes([(STATE, b"0")]))
    proxy.cuts_answers = 1 << 30
    with pytest.raises(UncertainError, match="whether the step was taken is not known") as caught:
        through.commit(Changes([(STATE, b"1")], expects=[(STATE, b"0")]))
    assert "goes on" in caught.value.hint
    assert list(store.read_many([STATE])) == [b"1"]
    proxy.cuts_answers = 0
    assert list(through.read_many([STATE])) == [b"1"]


def test_what_became_of_a_step_that_was_overtaken_is_not_known(through, proxy, store):
    through.commit(Changes([(STATE, b"0")]))
    proxy.cuts_answers = 1
    proxy.meanwhile = lambda: store.commit(Changes([(STATE, b"2")]))
    with pytest.raises(UncertainError, match="another writer came after"):
        through.commit(Changes([(STATE, b"1")], expects=[(STATE, b"0")]))
    assert list(through.read_many([STATE])) == [b"2"]
    with pytest.raises(ConflictError):
        through.commit(Changes([(STATE, b"1")], expects=[(STATE, b"0")]))


def test_writers_whose_connections_are_cut_count_everything_once(url, server, tmp_path):
    """Each writer keeps its own count in a value that all share, and reads it again when it can't know."""
    over, wrong = threading.Event(), list[tuple[int, set[int]]]()

    def write(me: int) -> None:
        possible = {0}
        with RedisStore(url) as mine:
            while possible != {60}:
                (value,) = mine.read_many([STATE])
                counts = [int(x) for x in value.split()] or [0, 0, 0]
                if counts[me] not in possible:
                    wrong.append((counts[me], possible))
                if counts[me] == 60:
                    return
                before = counts[me]
                counts[me] += 1
                try:
                    mine.commit(Changes([(STATE, b"%d %d %d" % tuple(counts))], expects=[(STATE, value)]))
                    possible = {before + 1}
                except ConflictError:
                    possible = {before}
                except UncertainError:
                    possible = {before, before + 1}

    writers = [threading.Thread(target=write, args=(i,)) for i in range(3)]
    for writer in writers:
        writer.start()
    while any(w.is_alive() for w in writers):
        server.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        over.wait(0.004)
    with RedisStore(url) as store:
        assert list(store.read_many([STATE])) == [b"60 60 60"]
    assert wrong == []


def test_a_read_is_in_time_or_an_error(tmp_path):
    with running("--appendonly", "no") as server, RedisStore(server.url, patience=0.5) as store:
        store.commit(Changes([(STATE, b"1")]))
        server.freeze()
        for connected in (True, False):
            begin = time.monotonic()
            with pytest.raises(DeadlineError, match="needed earlier"):
                store.read_many([STATE], deadline=begin + 0.05)
            assert 0.04 < time.monotonic() - begin < 0.4, connected
        with pytest.raises(StoreError, match="can't read"):
            store.read_many([STATE])
        with pytest.raises(StoreError, match="can't write"):  # no connection could be made, so nothing was sent
            store.commit(Changes([(STATE, b"9")]))
        server.thaw()
        assert list(store.read_many([STATE])) == [b"1"]
        server.freeze()
        with pytest.raises(UncertainError):
            store.commit(Changes([(STATE, b"2")], expects=[(STATE, b"1")]))
        server.thaw()
        while list(store.read_many([STATE])) != [b"2"]:  # what was sent is taken when the server goes on
            pass
        with pytest.raises(ConflictError):
            store.commit(Changes([(STATE, b"3")], expects=[(STATE, b"1")]))
        server.kill()
        with pytest.raises(StoreError, match="Connection refused"):
            store.commit(Changes([(STATE, b"3")]))
        with pytest.raises(DeadlineError):
            store.read_many([STATE], deadline=time.monotonic() + 0.05)


def test_what_no_buffer_holds_is_in_time_too():
    """The system takes in some megabytes for a server that stands still, then sending waits."""
    with running("--appendonly", "no") as server, RedisStore(server.url, patience=0.3) as store:
        names = [ROW + b"%01000d" % i for i in range(15_000)]
        store.read_many(names[:1])
        server.freeze()
        begin = time.monotonic()
        with pytest.raises(DeadlineError):
            store.read_many(names, deadline=begin + 0.2)
        with pytest.raises(StoreError):
            store.commit(Changes([(name, name) for name in names]))
        assert time.monotonic() - begin < 10  # the connection's own bound is longer
        server.thaw()
        assert list(store.read_many(names[:2])) == [b"", b""]


def test_reads_and_steps_wait_for_a_server_that_starts_again(tmp_path):
    with running("--appendonly", "yes", "--appendfsync", "always") as server, RedisStore(server.url) as store:
        store.commit(Changes([(STATE, b"1")]))
        for do in (lambda: store.read_many([STATE]), lambda: store.commit(Changes([(STATE, b"2")]))):
            server.kill()
            threading.Timer(0.2, server.start).start()
            do()
        assert list(store.read_many([STATE])) == [b"2"]


def test_a_lease_is_renewed_given_up_and_over(url, server):
    with RedisStore(url, lease=0.2) as store, RedisStore(url, lease=0.2) as other:
        with store.writing(["a"]):
            for _ in range(5):
                time.sleep(0.1)
                with pytest.raises(StoreError, match="another writer is at work on 'a'"):
                    other.writing(["a"]).__enter__()
        with other.writing(["a"]):
            assert server.client.keys("*!c*")
        assert server.client.keys("*!c*") == []
        server.client.set(other._names.claim(hashlib.blake2b(b"a", digest_size=10).hexdigest()), "elsewhere/1", px=150)
        with pytest.raises(StoreError, match=r"forgotten after 0\.2 seconds"):
            store.writing(["a"]).__enter__()
        time.sleep(0.2)
        with store.writing(["a"]):
            pass


def test_a_killed_writer_gives_up_its_claim(url):
    code = (
        "import sys; from bedplate.online.base import open_store\n"
        "with open_store(sys.argv[1]).writing(['view']): print('claimed', flush=True); input()\n"
    )
    with RedisStore(url) as store:
        command = [sys.executable, "-c", code, url]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout.readline() == "claimed\n"
            with pytest.raises(StoreError, match="another writer"), store.writing(["view"]):
                pytest.fail("claimed twice")
            writer.kill()
            writer.wait()
        with store.writing(["view"]):
            store.commit(Changes([(b"k", b"v")]))


_FORK = """
import os, sys
from bedplate.online.redis import RedisStore

state = sys.argv[2].encode()
with RedisStore(sys.argv[1], patience=5.0) as store:
    read = lambda: list(store.read_many([state])) == [b"1"]
    assert read()
    child = os.fork()
    if child == 0:
        os._exit(0 if read() else 1)
    assert read()
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_has_connections_of_its_own(store, url):
    store.commit(Changes([(STATE, b"1")]))
    # In a process of its own: libraries of other tests refuse to be forked.
    subprocess.run([sys.executable, "-c", _FORK, url, STATE], check=True)
