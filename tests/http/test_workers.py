"""`bedplate serve --workers 2` as processes: one port, one set of metrics, and a worker that is killed."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import shop

from bedplate.features.graph import FeatureGraph

ROOT = Path(__file__).parents[2]
SERVICE = """
from bedplate.serving.service import Service
shop = Service("shop", ranking="ranker@champion", item="product")
"""
ASKED = json.dumps({"customer": 3, "candidates": ["P01", "P02"], "time": shop.NOW}).encode()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, features: FeatureGraph) -> Path:
    return shop.write_project(tmp_path_factory.mktemp("workers"), features, SERVICE)


def start(project: Path, *options: str, **streams: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bedplate", "serve", "--project", str(project), "--port", "0", "--json", *options],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams,
    )


class Group:
    """A running supervisor and its workers; `log` is where its standard error goes."""

    def __init__(self, process: subprocess.Popen[str], log: Path = Path(os.devnull)) -> None:
        assert process.stdout is not None
        self.process, self.log = process, log
        self.ready = json.loads(process.stdout.readline())
        self.port = int(self.ready["url"].rpartition(":")[2])
        self.killed = 0

    def workers(self) -> list[int]:
        pid = self.process.pid
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def ask(self, method: str = "POST", path: str = "/rank", body: bytes | None = ASKED) -> tuple[int, bytes]:
        """The answer on a connection of its own."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(client):
            client.request(method, path, body)
            answer = client.getresponse()
            return answer.status, answer.read()

    def metrics(self) -> dict[str, float]:
        lines = self.ask("GET", "/metrics", None)[1].decode().splitlines()
        return {key: float(value) for key, _, value in (x.rpartition(" ") for x in lines if not x.startswith("#"))}

    def settled(self) -> dict[str, float]:
        """The metrics once every worker has shown its own: who is asked for them does, and of eight each gets some."""
        kept = [http.client.HTTPConnection("127.0.0.1", self.port, timeout=20) for _ in range(8)]
        for client in kept:
            client.request("GET", "/metrics")
            client.getresponse().read()
        for client in kept:
            client.close()
        return self.metrics()

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Waits for what comes in its own time; a minute without it is a failure."""
        end = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)


@pytest.fixture(scope="module")
def group(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    log = tmp_path_factory.mktemp("log") / "stderr"
    with log.open("w") as stderr, start(project, "--workers", "2", "shop", stderr=stderr) as process:
        try:
            group = Group(process, log)
            yield group
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
    assert process.returncode == 0
    pauses = re.findall(r"was ended by SIGKILL; it is started again in ([\d.]+) s", log.read_text())
    assert len(pauses) == group.killed
    assert set(pauses[:1]) <= {"0.1"}
    assert set(pauses) <= {"0.1", "0.2"}, "twice as long for one that ends again within 30 s of being ready"
    assert "Traceback" not in log.read_text()


pytestmark = pytest.mark.xdist_group("workers")  # its tests share one supervisor
READY = 'bedplate_workers{state="ready"}'
RANKED = 'bedplate_requests_total{route="rank",status="200"}'


def test_workers_share_the_port_and_the_metrics_are_those_of_all(group: Group) -> None:
    assert (group.ready["workers"], len(group.workers())) == (2, 2)
    before = group.metrics()
    kept = [http.client.HTTPConnection("127.0.0.1", group.port, timeout=20) for _ in range(8)]
    for client in kept:
        client.request("POST", "/rank", ASKED)
        assert client.getresponse().read().startswith(b'{"ids":["P01","P02"]')
    until = time.monotonic() + 20  # what the others have counted may be a second old
    while (found := group.metrics()).get(RANKED, 0.0) - before.get(RANKED, 0.0) != 8:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert found["bedplate_connections"] >= 8
    assert found[READY] == 2
    shares = [len(sockets_of(pid, group.port)) for pid in group.workers()]
    assert min(shares) >= 2, shares
    for client in kept:
        client.close()


def sockets_of(pid: int, port: int) -> list[str]:
    """The connections of a process that end at a port."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    accepted = {line[9] for line in lines if line[1].endswith(f":{port:04X}") and line[3] == "01"}
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    return [link for link in links if link[8:-1] in accepted]


def test_a_worker_that_is_killed_fails_no_other_request_and_is_started_again(group: Group) -> None:
    counted, answers, over = group.metrics().get(RANKED, 0.0), list[int](), threading.Event()

    def client() -> None:
        while not over.is_set():
            try:
                answers.append(group.ask()[0])
            except (ConnectionError, http.client.HTTPException):
                answers.append(0)

    asking = threading.Thread(target=client)
    victim, _ = group.workers()
    asking.start()
    time.sleep(0.3)
    os.kill(victim, signal.SIGKILL)
    group.killed += 1
    group.wait_until(lambda: group.metrics()["bedplate_worker_restarts_total"] == 1)
    group.wait_until(lambda: group.metrics()[READY] == 2)
    found = group.metrics()
    over.set()
    asking.join()
    assert answers.count(0) <= 1  # the one that the dead one had under way
    assert set(answers) <= {0, 200}
    assert victim not in group.workers()
    assert found[RANKED] >= counted  # what the dead one had counted is not forgotten


def test_a_hang_up_replaces_all_workers_without_a_request_refused(group: Group) -> None:
    """Connections come all the time, while those that are replaced wait for requests that come slowly."""
    answers, over = list[int](), threading.Event()

    def client() -> None:
        while not over.is_set():
            answers.append(group.ask()[0])

    def slow_client() -> None:
        while not over.is_set():
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", group.port, timeout=20)) as half:
                half.putrequest("POST", "/rank")
                half.putheader("Content-Length", str(len(ASKED)))
                half.endheaders(ASKED[:10])
                over.wait(1.0)
                half.send(ASKED[10:])
                answers.append(half.getresponse().status)

    asking = [threading.Thread(target=target) for target in (client, slow_client) for _ in range(4)]
    before = set(group.workers())
    counted, said = group.settled(), len(group.log.read_text())
    for thread in asking:
        thread.start()
    group.process.send_signal(signal.SIGHUP)
    group.wait_until(lambda: not set(group.workers()) & before and len(group.workers()) == 2)
    group.wait_until(lambda: group.metrics()[READY] == 2)
    over.set()
    for thread in asking:
        thread.join()
    assert set(answers) == {200}
    ends = re.sub(r"process \d+", "process PID", group.log.read_text()[said:]).splitlines()
    assert ends == [f"worker {i} (process PID) ended with code 0; another one has taken its place" for i in (1, 2)]
    group.wait_until(lambda: group.metrics()[RANKED] - counted.get(RANKED, 0.0) == len(answers))
    restarts = "bedplate_worker_restarts_total"
    assert group.metrics()[restarts] == counted[restarts], "they did not end by themselves"


class Check:
    """A health check on a connection of its own; its end is yet to be sent."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: a\r\n")

    def end(self) -> tuple[int, str | None]:
        """The status, and what becomes of the connection."""
        with self.socket:
            self.socket.sendall(b"\r\n")
            answer = http.client.HTTPResponse(self.socket)
            answer.begin()
            assert json.loads(answer.read()) == {"ready": answer.status == 200}
            return answer.status, answer.getheader("Connection")


def test_a_worker_that_is_replaced_says_that_the_service_is_ready(group: Group) -> None:
    """Its connections end, the service does not: a health check over one of them is not to take it away."""
    before, checks = set(group.workers()), [Check(group.port) for _ in range(8)]
    group.settled()  # each check is with a worker by now, or at least before what is asked later
    group.process.send_signal(signal.SIGHUP)
    group.wait_until(lambda: group.metrics()['bedplate_workers{state="draining"}'] == 1)
    ends = [check.end() for check in checks]
    assert {status for status, _ in ends} == {200}
    assert 0 < [closes for _, closes in ends].count("close") < 8, "one of two is replaced at a time"
    group.wait_until(lambda: not set(group.workers()) & before and len(group.workers()) == 2)
    group.wait_until(lambda: group.metrics()[READY] == 2)


def test_a_version_that_can_not_be_loaded_replaces_no_worker_and_is_said(group: Group, project: Path) -> None:
    before, said = set(group.workers()), len(group.log.read_text())
    model = project / "registry" / "models" / "ranker" / "1" / "model.onnx"
    away = model.rename(model.with_name("away"))
    try:
        group.process.send_signal(signal.SIGHUP)
        group.wait_until(lambda: "send SIGHUP again" in group.log.read_text()[said:])
        assert set(group.workers()) == before
        assert (group.metrics()[READY], group.ask()[0]) == (2, 200)
        assert group.log.read_text()[said:].count("model.onnx") == 1, "the one in its place says why, once"
        for worker in before:
            os.kill(worker, signal.SIGKILL)
        group.killed += 2
        # Nobody can take their places; whoever asks is told, by those that try.
        group.wait_until(lambda: b"the models can't be loaded" in group.ask()[1])
        assert group.ask()[0] == 503
    finally:
        away.rename(model)
    group.process.send_signal(signal.SIGHUP)
    group.wait_until(lambda: group.ask()[0] == 200 and group.metrics()[READY] == 2)


def test_a_model_that_is_not_there_ends_the_command_as_without_workers(project: Path) -> None:
    with start(project, "--workers", "2", "shpo") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (4, "")
    assert err.count("did you mean 'shop'?") == 1
    assert "the first worker ended with code 4 before it was ready" in err


def test_it_serves_where_nothing_can_be_written_and_ends_in_order(project: Path) -> None:
    """The log is on a full disk, a worker dies, then the supervisor: workers drain without it."""
    with Path("/dev/full").open("w") as full, start(project, "--workers", "2", "shop", stderr=full) as process:
        group = Group(process)
        os.kill(group.workers()[0], signal.SIGKILL)
        time.sleep(0.5)
        half = http.client.HTTPConnection("127.0.0.1", group.port, timeout=20)
        half.putrequest("POST", "/rank")
        half.putheader("Content-Length", str(len(ASKED)))
        half.endheaders(ASKED[:10])
        check = Check(group.port)
        assert group.ask("GET", "/v2/health/ready", None)[0] == 200
        workers = group.workers()
        process.kill()  # it can tell the workers nothing; its pipe ends
        time.sleep(0.3)
        assert check.end() == (503, "close"), "there is no service any more"
        half.send(ASKED[10:])
        answer = half.getresponse()
        assert (answer.status, answer.getheader("Connection")) == (200, "close")
        answer.read()
        half.close()
        process.wait(20)
        end = time.monotonic() + 20
        while time.monotonic() < end and any(Path(f"/proc/{pid}/stat").exists() for pid in workers):
            time.sleep(0.05)
        assert not [pid for pid in workers if Path(f"/proc/{pid}/stat").exists()]
