"""`bedplate serve` as a process: a project's folder, the ready line, signals, exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import shop

from bedplate import Client
from bedplate.cli.main import run
from bedplate.cli.serve import _load
from bedplate.features.graph import FeatureGraph
from bedplate.http.message import Request
from bedplate.inference.repository import Repository
from bedplate.online import base
from bedplate.online.memory import MemoryStore
from bedplate.serving import load
from bedplate.serving.pipeline import Pipeline
from bedplate.serving.service_app import App

ROOT = Path(__file__).parents[2]

SERVICE = """
import polars as pl
from bedplate.serving.service import Retrieval, Service

shop = Service(
    "shop",
    ranking="ranker@champion",
    item="product",
    retrieval=Retrieval("towers@champion", count=20),
    filters=[pl.col("products.price").is_not_null()],
    exclude=["customers.bought"],
    top=5,
)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, features: FeatureGraph) -> Path:
    return shop.write_project(tmp_path_factory.mktemp("project"), features, SERVICE)


def start(project: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from bedplate.cli.main import main; main()", "serve"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, "--project", str(project), *options],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@contextmanager
def serving(project: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = start(project, "--port", "0", "shop")
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        match = re.fullmatch(r"ready on (http://127\.0\.0\.1:\d+) in \d+\.\d s\n", line)
        assert match is not None, line + (process.communicate(timeout=30)[1] if process.poll() is not None else "")
        yield process, match[1]
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()
        if process.stderr is not None:
            process.stderr.close()


def test_it_tells_a_program_that_it_is_ready(project: Path) -> None:
    with start(project, "--port", "0", "--json", "shop") as process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        assert set(line) == {"ready", "url", "seconds", "pid"}
        assert (line["ready"], line["pid"]) == (True, process.pid)
        with Client(line["url"]) as client:
            assert client.ready()
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == ""


def test_it_serves_what_the_definitions_say_and_drains_on_sigterm(project: Path, pipeline: Pipeline) -> None:
    with serving(project) as (process, url):
        with Client(url) as client:
            answer = client.recommend(customer=3, time=shop.NOW)
            expected = pipeline.recommend(pipeline.wire.recommend(b'{"customer": 3}'))
            # The store of the process says up to when its stream was taken in, the one of the test does not.
            assert msgspec.structs.replace(answer, behind_seconds=expected.behind_seconds) == expected
        host, port = url.removeprefix("http://").split(":")
        body = b'{"customer": 3, "candidates": ["P01"]}'
        head = f"POST /rank HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection((host, int(port)), timeout=10) as half:
            half.sendall(head + body[:10])
            half.sendall(body[10:20])
            with Client(url) as client:  # the server has read the half request: answers come in the order of arrival
                assert client.ready()
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            half.sendall(body[20:])
            answered = b""
            while data := half.recv(65536):
                answered += data
        assert answered.startswith(b"HTTP/1.1 200 OK")
        assert b"Connection: close" in answered
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_stopped_while_it_loads_it_ends_as_interrupted(
    tmp_path: Path, features: FeatureGraph, options: tuple[str, ...], number: signal.Signals
) -> None:
    """What libraries do when the interpreter ends may abort under a thread that is still loading."""
    loads = "import atexit, os, sys, time\natexit.register(os.abort)\n"
    loads += "print('loading', file=sys.stderr, flush=True)\ntime.sleep(60)\n"
    made = shop.write_project(tmp_path, features, loads)
    with start(made, "--port", "0", *options, "shop") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "loading\n"
        process.send_signal(number)
        assert process.wait(30) == 130
        assert process.stderr.read() == "\ninterrupted\n"  # one says it, not each worker


def test_ctrl_c_ends_it(project: Path) -> None:
    with serving(project) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def ended(project: Path, *options: str) -> tuple[int, str]:
    process = start(project, *options)
    out, err = process.communicate(timeout=60)
    assert "ready" not in out
    assert "Traceback" not in err
    return process.returncode, err


def test_a_service_that_is_not_there_ends_it_with_4(project: Path) -> None:
    code, err = ended(project, "--port", "0", "shpo")
    assert code == 4
    assert "shpo" in err
    assert "did you mean 'shop'?" in err


def test_a_port_in_use_ends_it_with_2(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, err = ended(project, "--port", str(port), "shop")
    assert code == 2
    assert f"127.0.0.1:{port}: the port is in use" in err


def test_a_model_that_changed_ends_it_with_6(project: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(project, other)
    graph = other / "registry/models/ranker/1/model.onnx"
    graph.chmod(0o644)
    graph.write_bytes(graph.read_bytes()[:-1])
    code, err = ended(other, "--port", "0", "shop")
    assert code == 6
    assert "model.onnx" in err


def test_an_empty_store_ends_it_with_5(project: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(project, other, ignore=shutil.ignore_patterns("online"))
    base.open_store("lmdb:online", other).close()
    code, err = ended(other, "--port", "0", "shop")
    assert code == 5
    assert "service 'shop': the online store" in err
    assert ": customers, pairs, products\n" in err
    assert err.count("bedplate materialize") == 1


@pytest.mark.parametrize("folder_stays", [True, False])
def test_a_store_whose_files_are_gone_ends_it_with_5_and_none_is_made(
    project: Path, tmp_path: Path, folder_stays: bool
) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(project, other, ignore=shutil.ignore_patterns("online"))
    if folder_stays:
        (other / "online").mkdir()
    before = sorted(path.name for path in other.rglob("*.mdb")), (other / "online").exists()
    code, err = ended(other, "--port", "0", "shop")
    assert code == 5
    assert f"lmdb:{other}/online: the files of the online store are not there\n" in err
    assert "put them back" in err
    assert "bedplate materialize" in err
    assert (sorted(path.name for path in other.rglob("*.mdb")), (other / "online").exists()) == before


def test_the_description_of_a_service_is_written_without_its_store(
    project: Path, app: App, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["openapi", "--project", str(project), "shop", "--json"]) == 0
    written = capsys.readouterr().out
    assert written.count("\n") == 1
    assert json.loads(written) == json.loads(app.handle(Request("GET", "/openapi.json", {}, b"")).body)
    assert run(["openapi", "--project", str(project)]) == 0
    assert capsys.readouterr().out.startswith('{\n  "openapi": "3.1.0"')
    assert run(["openapi", "--project", str(project), "shpo"]) == 4
    assert "did you mean 'shop'" in capsys.readouterr().err


def test_it_answers_over_grpc_and_loads_versions_where_it_is_told_to(project: Path) -> None:
    import tritonclient.grpc as triton

    server = start(project, "--port", "0", "--grpc-port", "0", "--model-control", "--json")
    try:
        assert server.stdout is not None
        said = json.loads(server.stdout.readline())
        with triton.InferenceServerClient(said["grpc"]) as client:
            assert client.is_server_ready()
            assert client.is_model_ready("ranker", "1")
            client.load_model("ranker")
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)
    assert server.returncode == 0


@pytest.mark.parametrize("option", ["--model-control", "--grpc-port=0"])
def test_what_workers_can_not_share_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--workers", "2", option]) == 2
    assert "needs --workers 1" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["1", "2"])
def test_one_port_for_both_protocols_is_refused_before_anything_is_bound(
    workers: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:  # whoever binds it says that it is in use
        port = str(other.getsockname()[1])
        options = ["--port", port, "--grpc-port", port, "--workers", workers, "--project", str(tmp_path)]
        assert run(["serve", *options]) == 2
    said = capsys.readouterr().err
    assert f"--port and --grpc-port are both {port}, expected two ports" in said
    assert "give one of them another" in said


@pytest.mark.parametrize(
    ("option", "expected"), [('budgets={"hydrate": "70ms"},', 0.07), ('deadline="30ms",', 0.03), ("", 0.045)]
)
def test_what_options_and_the_definition_say_of_reads_and_shared_calls_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, expected: float
) -> None:
    (tmp_path / "bedplate.toml").write_text('[online]\nurl = "lmdb:online"\ndeadline = "45ms"\n')
    (tmp_path / "features.py").write_text(shop.FEATURES)
    (tmp_path / "service.py").write_text(SERVICE.replace("top=5,", f"top=5, {option}"))
    seen: dict[str, Any] = {}

    def pipeline(definition: Any, graph: Any, reader: Any, registry: Any, *, loader: Any) -> SimpleNamespace:
        seen.update(name=definition.name, reader=reader, loader=loader)
        return SimpleNamespace(views=())

    monkeypatch.setattr(load, "load_pipeline", pipeline)
    monkeypatch.setattr(base, "open_store", lambda *_, **__: MemoryStore())
    repository = Repository()
    with contextlib.ExitStack() as ending:
        _load(tmp_path, None, repository, 3, 0.002, ending, 5)
    assert seen["name"] == "shop"
    assert seen["reader"].guard._seconds == pytest.approx(expected)
    loader = seen["loader"]
    assert (loader._threads, loader._delay, loader._item_bytes) == (3, 0.002, 5)
    assert repository._source is not None
    assert repository._source._loader is loader  # type: ignore[attr-defined]  # what is loaded is shared


@pytest.mark.parametrize("delay", ["-1", "101", "x"])
def test_a_delay_that_is_none_is_refused(delay: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--batch-delay", delay]) == 2
    assert "--batch-delay" in capsys.readouterr().err
