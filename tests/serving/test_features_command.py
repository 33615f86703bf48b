"""`bedplate features serve` as a process: the ready line, tokens, views that are resident or not loaded, SIGTERM."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path

import polars as pl
import pytest
import shop

from bedplate.features.graph import FeatureGraph
from bedplate.http.door import OPEN_PATHS
from bedplate.online.base import open_store
from bedplate.online.load import bulk_load
from bedplate.online.refresh import refresh
from bedplate.serving.feature_app import FeatureApp
from bedplate.testing.online_store import grouped
from bedplate.types import DAY, format_time

HERE = Path(__file__).parent
TOKEN = "a-token-of-the-web-team"
COMMAND = [sys.executable, "-m", "bedplate"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(HERE.parents[1])}


@contextlib.contextmanager
def ended(command: list[str], **more: str) -> Generator[subprocess.Popen[str]]:
    """A process that is ended, whatever happens."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=ENVIRONMENT | more, text=True, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.terminate()


def bedplate(*words: str) -> None:
    subprocess.run([*COMMAND, *words], env=ENVIRONMENT, check=True, capture_output=True)


def test_it_serves_what_is_loaded_to_those_with_a_token(tmp_path: Path, features: FeatureGraph) -> None:
    (tmp_path / "bedplate.toml").write_text(
        '[online]\nurl = "lmdb:online"\ndeadline = "5s"\nresident = ["customers"]\n'
    )
    text = f"import sys\nsys.path.insert(0, {str(HERE)!r})\nfrom shop import customers, hour, pairs, products, ratio\n"
    (tmp_path / "features.py").write_text(text)
    view = features.views["customers"]
    with open_store("lmdb:online", tmp_path) as store:
        bulk_load(store, view, [grouped(view, shop.events())], shop.NOW)
        refresh(store, view, tmp_path / ".bedplate/resident")
        # What the store holds by now is not what is resident: the answer shows which was read.
        bulk_load(store, view, [grouped(view, shop.events()[:1])], shop.NOW)
    command = [*COMMAND, "features", "serve", "--port", "0", "--json", "--project", str(tmp_path)]
    with ended(command, BEDPLATE_FEATURES_TOKEN=TOKEN) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert (ready["ready"], ready["pid"]) == (True, process.pid)
        body = json.dumps({"features": ["customers.all"], "keys": {"customer": 3}}).encode()
        request = urllib.request.Request(f"{ready['url']}/v1/features", body)
        for wrong in (request, *(f"{ready['url']}{path}" for path in FeatureApp().paths if path not in OPEN_PATHS)):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(wrong, timeout=30)
        with urllib.request.urlopen(f"{ready['url']}/openapi.json", timeout=30) as answer:
            assert json.loads(answer.read())["paths"]["/v1/features"]["post"]["security"] == [{"bearer": []}]
        request.add_header("Authorization", f"Bearer {TOKEN}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            found = json.loads(answer.read())
        assert found["values"]["customers.all"] == [count(3)]
        metrics = urllib.request.Request(f"{ready['url']}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(metrics, timeout=30) as answer:
            assert b'bedplate_resident_age_seconds{view="customers"}' in answer.read()
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert "not served: view 'products'" in errors
    assert "view 'customers'" not in errors
    assert TOKEN not in errors


def test_it_makes_no_store_where_there_is_none_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "bedplate.toml").write_text('[online]\nurl = "lmdb:online"\n')
    (tmp_path / "features.py").write_text(COUNTS % "2d")
    visits = pl.DataFrame({"user": [1], "time": pl.Series([shop.NOW]).cast(pl.Datetime("us"))})
    visits.write_parquet(tmp_path / "visits.parquet")
    with ended([*COMMAND, "features", "serve", "--port", "0", "--project", str(tmp_path)]) as process:
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (5, "")
    assert f"lmdb:{tmp_path}/online: the files of the online store are not there\n" in errors
    assert "bedplate materialize" in errors
    assert not (tmp_path / "online").exists()


def fill(folder: Path) -> None:
    """Builds a project's history and loads its online store."""
    for command in (["apply"], ["materialize", "--until", format_time(shop.NOW)]):
        bedplate(*command, "--project", str(folder))


COUNTS = """
import polars as pl
from bedplate import Count, Entity, FeatureView, Source
user = Entity("user", key="user")
visits = FeatureView("visits", user, Source("visits", "visits.parquet", time="time"), {"n": Count(windows="%s")})
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_definitions_are_loaded_again_on_a_signal_or_the_old_ones_go_on(tmp_path: Path, workers: int) -> None:
    (tmp_path / "bedplate.toml").write_text('[online]\ndeadline = "5s"\n')
    days = [shop.NOW - d * DAY for d in (1, 3, 20)]
    pl.DataFrame({"user": [1] * 3, "time": pl.Series(days).cast(pl.Datetime("us"))}).write_parquet(
        tmp_path / "visits.parquet"
    )

    def define(window: str) -> None:
        (tmp_path / "features.py").write_text(COUNTS % window)

    define("2d")
    fill(tmp_path)
    serving = [*COMMAND, "features", "serve", "--port", "0", "--json", "--workers", str(workers)]
    with ended([*serving, "--project", str(tmp_path)]) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = json.loads(process.stdout.readline())["url"]

        def told(what: str) -> None:
            """Sends the signal, and waits until each worker has said what became of it."""
            process.send_signal(signal.SIGHUP)
            assert process.stderr is not None
            for _ in range(workers):
                while what not in (line := process.stderr.readline()):
                    assert line

        def answers(name: str) -> set[int]:
            """What some calls, over connections of their own, answer."""
            body = json.dumps({"features": ["visits.*"], "keys": {"user": 1}, "time": shop.NOW}).encode()
            found: set[int] = set()
            for _ in range(8):
                with urllib.request.urlopen(f"{url}/v1/features", body, timeout=30) as answer:
                    found.update(json.loads(answer.read())["values"][name])
            return found

        assert answers("visits.n_2d") == {1}
        define("7d")
        told("what was served before still is: view 'visits'")
        assert answers("visits.n_2d") == {1}
        fill(tmp_path)
        told("loaded again")
        assert answers("visits.n_7d") == {2}
        for text, why in (("user = ", "features.py:1: SyntaxError"), ("", f"{tmp_path}: no feature is defined")):
            (tmp_path / "features.py").write_text(text)
            told(f"what was served before still is: {why}")
            assert answers("visits.n_7d") == {2}
        (tmp_path / "features.py").rename(tmp_path / "datasets.py")
        (tmp_path / "datasets.py").write_text(COUNTS % "30d")
        fill(tmp_path)
        told("loaded again")
        assert answers("visits.n_30d") == {3}
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
            shown = answer.read().decode()
        assert 'bedplate_reloads_total{result="loaded"}' in shown
        if workers == 1:  # what others counted is shown a second later
            assert all(
                f'bedplate_reloads_total{{result="{r}"}} {n}' in shown for r, n in (("loaded", 2), ("refused", 3))
            )
    assert process.wait(30) == 0


def test_stopped_while_it_loads_again_it_ends_in_order(tmp_path: Path) -> None:
    """What libraries do when the interpreter ends may abort under a thread that is still loading."""
    (tmp_path / "bedplate.toml").write_text('[online]\ndeadline = "5s"\n')
    times = pl.Series([shop.NOW - DAY]).cast(pl.Datetime("us"))
    pl.DataFrame({"user": [1], "time": times}).write_parquet(tmp_path / "visits.parquet")
    (tmp_path / "features.py").write_text(COUNTS % "2d")
    fill(tmp_path)
    with ended([*COMMAND, "features", "serve", "--port", "0", "--json", "--project", str(tmp_path)]) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        loads = "import atexit, os, sys, time\natexit.register(os.abort)\n"
        loads += "print('loading', file=sys.stderr, flush=True)\ntime.sleep(60)\n"
        (tmp_path / "features.py").write_text(loads)
        process.send_signal(signal.SIGHUP)
        while process.stderr.readline() != "loading\n":
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def count(customer: int) -> int:
    """How many orders a customer had before the load."""
    frame = shop.events()
    return frame.filter((frame["customer_id"] == customer) & (frame["time"].dt.epoch("us") < shop.NOW)).height
